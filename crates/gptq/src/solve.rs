//! The column loop.
//!
//! Columns are rounded one after another. The target of column `k` is its weight plus what the errors of the columns before it call for,
//!
//! > target_k = w_k + Σ_{j<k} (w_j − q_j) · M_jk,
//!
//! with `M` of [`Prepared`](crate::Prepared). Rows are independent: a task takes 64 of them. The sum runs left-looking, a panel of columns at a time:
//! the finished panels by one product, the columns within the panel by fours, the last three one by one.

use fewbit_format::Grid;
use fewbit_kernels::vectorize;
use rayon::prelude::*;

use crate::{
    FitFrom, Prepared,
    prepared::Factor,
    problem::{Candidate, Problem},
    strips::{Column, LANES, Lower, Product, QUAD, multiply, multiply_quad},
};

/// Sizes that change speed alone.
#[derive(Clone, Copy)]
pub(crate) struct Blocking {
    /// Columns of a panel; a multiple of 16.
    pub(crate) panel: usize,
    /// Rows of a task; a multiple of 16.
    pub(crate) rows: usize,
}

impl Default for Blocking {
    fn default() -> Self {
        Self { panel: 128, rows: 64 }
    }
}

/// Rounds all rows, with parameters `params` or, as the spec says, such as are fitted on the way.
pub(crate) fn solve<G: Grid>(
    problem: &Problem<'_, G>,
    prepared: &Prepared<'_>,
    mut params: Vec<G::Params>,
    blocking: Blocking,
) -> Candidate<G::Params> {
    let Some(factor) = prepared.factor() else {
        return problem.round(params);
    };
    let n = problem.shape.in_features;
    let refit = prepared.spec().fit == FitFrom::Updated && !problem.layout.whole_tensor;
    let columns = Columns { problem, prepared, factor, opens: opens(problem, prepared, refit) };
    let mut codes = vec![0; problem.weight.len()];
    let rows = blocking.rows;
    codes
        .par_chunks_mut(rows * n)
        .zip(params.par_chunks_mut(rows * problem.layout.n_groups))
        .enumerate()
        .for_each(|(task, (codes, params))| {
            vectorize(
                problem.level,
                #[inline(always)]
                || columns.round(task * rows, codes, params, blocking.panel),
            );
        });
    Candidate { codes, params }
}

/// For each column in order of rounding, the group whose first one it is, if parameters are to be fitted then.
fn opens<G: Grid>(
    problem: &Problem<'_, G>,
    prepared: &Prepared<'_>,
    refit: bool,
) -> Vec<Option<usize>> {
    let mut open = vec![!refit; problem.layout.n_groups];
    let groups = prepared.order().iter().map(|&column| problem.layout.group_of(column));
    groups.map(|group| (!core::mem::replace(&mut open[group], true)).then_some(group)).collect()
}

struct Columns<'a, G> {
    problem: &'a Problem<'a, G>,
    prepared: &'a Prepared<'a>,
    factor: &'a Factor,
    opens: Vec<Option<usize>>,
}

impl<G: Grid> Columns<'_, G> {
    /// Rounds the rows from `first_row` to which `codes` and `params` belong.
    #[inline(always)]
    fn round(&self, first_row: usize, codes: &mut [u8], params: &mut [G::Params], panel: usize) {
        let n = self.problem.shape.in_features;
        let n_groups = self.problem.layout.n_groups;
        let feedback = &self.factor.feedback;
        // Weights in order of rounding; the error of a column takes the place of its weights.
        let mut state = self.gather(first_row, codes.len() / n);
        let mut sums = vec![[0.0; LANES]; state.len() / n * panel];
        for start in (0..n).step_by(panel) {
            let end = (start + panel).min(n);
            sums.fill([0.0; LANES]);
            let strips: Vec<&[Column<f32>]> =
                (start / LANES..end.div_ceil(LANES)).map(|s| feedback.strip(s)).collect();
            let mut products: Vec<Product<'_, f32>> =
                state.chunks_exact(n).zip(sums.chunks_exact_mut(panel)).collect();
            multiply(&strips, 0..start, &mut products);

            let rows = codes.chunks_mut(LANES * n).zip(params.chunks_mut(LANES * n_groups));
            for ((state, sums), (codes, params)) in
                state.chunks_exact_mut(n).zip(sums.chunks_exact_mut(panel)).zip(rows)
            {
                for first in (start..end).step_by(QUAD) {
                    let (strip, quad) = (strips[(first - start) / LANES], first % LANES / QUAD);
                    let sums = &mut sums.as_chunks_mut::<QUAD>().0[(first - start) / QUAD];
                    multiply_quad(&strip[start..first], quad, &state[start..first], sums);
                    for i in 0..QUAD.min(n - first) {
                        self.round_column(first + i, &sums[i], state, codes, params);
                        for later in i + 1..QUAD {
                            let m = strip[first + i][quad * QUAD + later];
                            for lane in 0..LANES {
                                let error = state[first + i][lane];
                                sums[later][lane] = m.mul_add(error, sums[later][lane]);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Rounds column number `k` of 16 rows to the codes nearest to weight plus `feedback`.
    #[inline(always)]
    fn round_column(
        &self,
        k: usize,
        feedback: &Column<f32>,
        state: &mut [Column<f32>],
        codes: &mut [u8],
        params: &mut [G::Params],
    ) {
        let Problem { grid, layout, shape, .. } = self.problem;
        if let Some(group) = self.opens[k] {
            self.fit_group(group, k, state, params);
        }
        let column = self.prepared.order()[k];
        let (group, index) = (layout.group_of(column), layout.index_of(column));
        let rows =
            codes.chunks_exact_mut(shape.in_features).zip(params.chunks_exact(layout.n_groups));
        for (lane, (codes, params)) in rows.enumerate() {
            let weight = state[k][lane];
            let code = grid.encode(params[group], index, weight + feedback[lane]);
            codes[column] = code;
            state[k][lane] = weight - grid.decode(params[group], index, code);
        }
    }

    /// Fits a group to its weights as compensated for columns `0..k`.
    #[inline(always)]
    fn fit_group(&self, group: usize, k: usize, state: &[Column<f32>], params: &mut [G::Params]) {
        let layout = &self.problem.layout;
        let members = layout.group(group);
        let importance: Vec<f32> = members.iter().map(|&c| self.prepared.importance()[c]).collect();
        let mut weights = vec![0.0; LANES * members.len()];
        for (i, &column) in members.iter().enumerate() {
            let position = self.prepared.position(column);
            let sums = feedback(&self.factor.feedback, position, &state[..k]);
            for lane in 0..LANES {
                weights[lane * members.len() + i] = state[position][lane] + sums[lane];
            }
        }
        let rows =
            weights.chunks_exact(members.len()).zip(params.chunks_exact_mut(layout.n_groups));
        for (weights, params) in rows {
            params[group] = self.problem.grid.fit(weights, &importance);
        }
    }

    /// Weights of rows in strips, columns in order of rounding; rows beyond the last are zero.
    #[inline(always)]
    fn gather(&self, first_row: usize, n_rows: usize) -> Vec<Column<f32>> {
        let n = self.problem.shape.in_features;
        let mut strips = vec![[0.0; LANES]; n_rows.div_ceil(LANES) * n];
        for row in 0..n_rows {
            let weights = self.problem.row(first_row + row);
            let strip = &mut strips[row / LANES * n..][..n];
            for (lanes, &column) in strip.iter_mut().zip(self.prepared.order()) {
                lanes[row % LANES] = weights[column];
            }
        }
        strips
    }
}

/// `Σ_j errors_j · M_jk`.
#[inline(always)]
fn feedback(m: &Lower<f32>, k: usize, errors: &[Column<f32>]) -> Column<f32> {
    let mut sums = [0.0; LANES];
    for (m, errors) in m.strip(k / LANES).iter().zip(errors) {
        for lane in 0..LANES {
            sums[lane] = m[k % LANES].mul_add(errors[lane], sums[lane]);
        }
    }
    sums
}
