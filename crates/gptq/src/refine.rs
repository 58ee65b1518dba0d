//! Coordinate descent on codes and scales.
//!
//! With all other codes fixed, the best value of weight `c` of a row is `ŵ_c − R_c/H_cc`, `R = e·H`: it is rounded to the grid, and the loss cannot
//! rise. With all codes fixed, the best factor for the scale of a group is `1 − R·ŵ_g / (ŵ_g·H·ŵ_gᵀ)`, `ŵ_g` the values of the group and zero
//! elsewhere; it is taken if the loss falls with the scale as stored.
//!
//! A pass takes the groups in turn, about 128 columns as a panel: `R` from the columns outside the panel is one product, the rest
//! is kept up to date within it. `H` is the damped Hessian, so that little-seen directions stay in check.

use fewbit_format::Grid;
use fewbit_kernels::vectorize;
use rayon::prelude::*;

use crate::{
    Prepared,
    problem::{Candidate, Problem},
    strips::{Column, LANES, Product, QUAD, multiply, multiply_quad},
};

/// Columns of a panel, if groups allow it.
const PANEL: usize = 128;
/// Rows of a task.
const ROWS: usize = 64;
/// Rows whose errors are held at once.
const CHUNK: usize = 1024;

/// Runs `passes` passes; returns which rows changed. Each change lowers the damped loss of its row.
pub(crate) fn refine<G: Grid>(
    problem: &Problem<'_, G>,
    prepared: &Prepared<'_>,
    candidate: &mut Candidate<G::Params>,
    passes: u32,
) -> Vec<bool> {
    let n = problem.shape.in_features;
    let n_groups = problem.layout.n_groups;
    let mut changed = vec![false; problem.shape.out_features];
    if n == 0 || passes == 0 {
        return changed;
    }
    let group = problem.layout.group_size;
    let width =
        if problem.layout.whole_tensor { PANEL.min(n) } else { group * (PANEL / group).max(1) };
    let rows =
        candidate.codes.chunks_mut(CHUNK * n).zip(candidate.params.chunks_mut(CHUNK * n_groups));
    for (chunk, ((codes, params), changed)) in rows.zip(changed.chunks_mut(CHUNK)).enumerate() {
        let mut tasks: Vec<Rows<'_, G>> = codes
            .chunks_mut(ROWS * n)
            .zip(params.chunks_mut(ROWS * n_groups))
            .zip(changed.chunks_mut(ROWS))
            .enumerate()
            .map(|(task, ((codes, params), changed))| Rows {
                problem,
                first: chunk * CHUNK + task * ROWS,
                codes,
                params,
                changed,
                errors: Vec::new(),
            })
            .collect();
        tasks.par_iter_mut().for_each(Rows::gather_errors);
        for _ in 0..passes {
            for start in (0..n).step_by(width) {
                let panel = Panel::new(problem, prepared, start, (start + width).min(n));
                tasks.par_iter_mut().for_each(|rows| {
                    vectorize(
                        problem.level,
                        #[inline(always)]
                        || rows.refine(&panel),
                    );
                });
            }
        }
    }
    changed
}

/// Columns `start..end` of the damped Hessian, places in the order of the groups.
struct Panel {
    start: usize,
    end: usize,
    strips: Vec<Vec<Column<f32>>>,
}

impl Panel {
    fn new<G: Grid>(
        problem: &Problem<'_, G>,
        prepared: &Prepared<'_>,
        start: usize,
        end: usize,
    ) -> Self {
        let members = &problem.layout.members;
        let (sum, per_token) = (prepared.hessian().sum(), prepared.hessian().per_token());
        let lambda = prepared.lambda();
        let strip = |first: usize| {
            let mut strip = vec![[0.0; LANES]; members.len()];
            let mut row = vec![0.0; members.len()];
            for (lane, i) in (first..end.min(first + LANES)).enumerate() {
                sum.symmetric_row(members[i], &mut row);
                for (lanes, &column) in strip.iter_mut().zip(members) {
                    lanes[lane] = (row[column] * per_token) as f32;
                }
                strip[i][lane] = (row[members[i]] * per_token + lambda) as f32;
            }
            strip
        };
        let firsts: Vec<usize> = (start..end).step_by(LANES).collect();
        Self { start, end, strips: firsts.into_par_iter().map(strip).collect() }
    }

    #[inline(always)]
    fn diagonal(&self, column: usize) -> f32 {
        self.strips[column / LANES][self.start + column][column % LANES]
    }
}

/// Rows of a task.
struct Rows<'a, G: Grid> {
    problem: &'a Problem<'a, G>,
    first: usize,
    codes: &'a mut [u8],
    params: &'a mut [G::Params],
    changed: &'a mut [bool],
    /// Value minus weight, in strips, columns in the order of the groups.
    errors: Vec<Column<f32>>,
}

impl<G: Grid> Rows<'_, G> {
    fn gather_errors(&mut self) {
        let Problem { grid, layout, shape, .. } = self.problem;
        let n = shape.in_features;
        self.errors = vec![[0.0; LANES]; self.changed.len().div_ceil(LANES) * n];
        for row in 0..self.changed.len() {
            let weights = self.problem.row(self.first + row);
            let codes = &self.codes[row * n..][..n];
            let params = &self.params[row * layout.n_groups..][..layout.n_groups];
            let errors = &mut self.errors[row / LANES * n..][..n];
            for (place, &column) in layout.members.iter().enumerate() {
                let (group, index) = (place / layout.group_size, place % layout.group_size);
                errors[place][row % LANES] =
                    grid.decode(params[group], index, codes[column]) - weights[column];
            }
        }
    }

    #[inline(always)]
    fn refine(&mut self, panel: &Panel) {
        let Problem { layout, shape, .. } = self.problem;
        let n = shape.in_features;
        let width = panel.end - panel.start;
        let strips: Vec<&[Column<f32>]> = panel.strips.iter().map(Vec::as_slice).collect();
        let padded = strips.len() * LANES;
        let mut outside = vec![[0.0; LANES]; self.errors.len() / n * padded];
        let mut products: Vec<Product<'_, f32>> =
            self.errors.chunks_exact(n).zip(outside.chunks_exact_mut(padded)).collect();
        multiply(&strips, 0..panel.start, &mut products);
        multiply(&strips, panel.end..n, &mut products);

        let tasks = self.errors.chunks_exact_mut(n).zip(outside.chunks_exact(padded)).enumerate();
        for (strip, (errors, outside)) in tasks {
            let mut rows = Strip {
                problem: self.problem,
                panel,
                outside,
                errors: &mut errors[panel.start..panel.end],
                weights: vec![[0.0; LANES]; width],
                codes: vec![[0; LANES]; width],
                changed: [false; LANES],
            };
            let first = strip * LANES;
            let n_rows = LANES.min(self.changed.len() - first);
            for lane in 0..n_rows {
                let weights = self.problem.row(self.first + first + lane);
                let codes = &self.codes[(first + lane) * n..][..n];
                for (i, &column) in layout.members[panel.start..panel.end].iter().enumerate() {
                    rows.weights[i][lane] = weights[column];
                    rows.codes[i][lane] = codes[column];
                }
            }
            let group_size = layout.group_size;
            for group in panel.start / group_size..panel.end.div_ceil(group_size) {
                let from = (group * group_size).max(panel.start) - panel.start;
                let to = ((group + 1) * group_size).min(panel.end) - panel.start;
                let params: Column<G::Params> = core::array::from_fn(|lane| {
                    self.params[(first + lane.min(n_rows - 1)) * layout.n_groups + group]
                });
                rows.refine_codes(from..to, &params);
                if !layout.whole_tensor {
                    let params = rows.refit_scales(from..to, &params);
                    for lane in 0..n_rows {
                        self.params[(first + lane) * layout.n_groups + group] = params[lane];
                    }
                }
            }
            for lane in 0..n_rows {
                self.changed[first + lane] |= rows.changed[lane];
                let codes = &mut self.codes[(first + lane) * n..][..n];
                for (i, &column) in layout.members[panel.start..panel.end].iter().enumerate() {
                    codes[column] = rows.codes[i][lane];
                }
            }
        }
    }
}

/// 16 rows of a panel.
struct Strip<'a, G> {
    problem: &'a Problem<'a, G>,
    panel: &'a Panel,
    /// `R` from the columns outside the panel.
    outside: &'a [Column<f32>],
    errors: &'a mut [Column<f32>],
    weights: Vec<Column<f32>>,
    codes: Vec<Column<u8>>,
    changed: Column<bool>,
}

impl<G: Grid> Strip<'_, G> {
    /// Index within its group of a column of the panel.
    #[inline(always)]
    fn index(&self, column: usize) -> usize {
        (self.panel.start + column) % self.problem.layout.group_size
    }

    /// Four columns of the panel times columns `from` and following, whose errors are `b`, added to `sums`.
    #[inline(always)]
    fn add_product(
        &self,
        first: usize,
        from: usize,
        b: &[Column<f32>],
        sums: &mut [Column<f32>; QUAD],
    ) {
        let strip = &self.panel.strips[first / LANES][self.panel.start + from..][..b.len()];
        multiply_quad(strip, first % LANES / QUAD, b, sums);
    }

    /// `R` of four columns.
    #[inline(always)]
    fn gradient(&self, first: usize) -> [Column<f32>; QUAD] {
        let mut sums = self.outside.as_chunks::<QUAD>().0[first / QUAD];
        self.add_product(first, 0, self.errors, &mut sums);
        sums
    }

    #[inline(always)]
    fn refine_codes(&mut self, columns: core::ops::Range<usize>, params: &Column<G::Params>) {
        let grid = self.problem.grid;
        for first in (columns.start / QUAD * QUAD..columns.end).step_by(QUAD) {
            let mut gradient = self.gradient(first);
            for i in 0..QUAD {
                let column = first + i;
                if !columns.contains(&column) {
                    continue;
                }
                let h = self.panel.diagonal(column);
                if h <= 0.0 {
                    continue;
                }
                let index = self.index(column);
                let mut steps = [0.0; LANES];
                for lane in 0..LANES {
                    let (w, e, r) =
                        (self.weights[column][lane], self.errors[column][lane], gradient[i][lane]);
                    let code = grid.encode(params[lane], index, w + e - r / h);
                    let step = grid.decode(params[lane], index, code) - w - e;
                    // The new code is the best one but for rounding errors, which must not raise the loss.
                    if code != self.codes[column][lane] && step * (2.0 * r + step * h) < 0.0 {
                        self.codes[column][lane] = code;
                        self.errors[column][lane] = e + step;
                        self.changed[lane] = true;
                        steps[lane] = step;
                    }
                }
                let strip = &self.panel.strips[column / LANES][self.panel.start + column];
                for later in i + 1..QUAD {
                    for lane in 0..LANES {
                        let h = strip[(first + later) % LANES];
                        gradient[later][lane] = h.mul_add(steps[lane], gradient[later][lane]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    fn refit_scales(
        &mut self,
        columns: core::ops::Range<usize>,
        params: &Column<G::Params>,
    ) -> Column<G::Params> {
        let grid = self.problem.grid;
        let range = columns.clone();
        let mut values = Vec::with_capacity(columns.len());
        for column in range.clone() {
            let (w, e) = (&self.weights[column], &self.errors[column]);
            values.push(core::array::from_fn::<f32, LANES, _>(|lane| w[lane] + e[lane]));
        }
        let (slope, curvature) = self.line(range.clone(), &values);
        let scaled: Column<G::Params> = core::array::from_fn(|lane| {
            let ratio = 1.0 - slope[lane] / curvature[lane];
            if ratio.is_finite() && ratio > 0.0 {
                grid.scaled(params[lane], ratio as f32)
            } else {
                params[lane]
            }
        });
        let mut steps = values;
        for (column, steps) in range.clone().zip(&mut steps) {
            let index = self.index(column);
            for lane in 0..LANES {
                let value = grid.decode(scaled[lane], index, self.codes[column][lane]);
                steps[lane] = value - self.weights[column][lane] - self.errors[column][lane];
            }
        }
        let (slope, curvature) = self.line(range.clone(), &steps);
        let better: Column<bool> =
            core::array::from_fn(|lane| 2.0 * slope[lane] + curvature[lane] < 0.0);
        for (column, steps) in range.zip(&steps) {
            for lane in 0..LANES {
                if better[lane] {
                    self.errors[column][lane] += steps[lane];
                }
            }
        }
        core::array::from_fn(|lane| {
            self.changed[lane] |= better[lane];
            if better[lane] { scaled[lane] } else { params[lane] }
        })
    }

    /// `R·v` and `v·H·vᵀ` for a direction `v` that is zero outside `columns`.
    #[inline(always)]
    fn line(
        &self,
        columns: core::ops::Range<usize>,
        direction: &[Column<f32>],
    ) -> (Column<f64>, Column<f64>) {
        let (mut slope, mut curvature) = ([0.0; LANES], [0.0; LANES]);
        for first in (columns.start / QUAD * QUAD..columns.end).step_by(QUAD) {
            let gradient = self.gradient(first);
            let mut product = [[0.0; LANES]; QUAD];
            self.add_product(first, columns.start, direction, &mut product);
            for i in 0..QUAD {
                if !columns.contains(&(first + i)) {
                    continue;
                }
                let v = &direction[first + i - columns.start];
                for lane in 0..LANES {
                    slope[lane] += f64::from(v[lane]) * f64::from(gradient[i][lane]);
                    curvature[lane] += f64::from(v[lane]) * f64::from(product[i][lane]);
                }
            }
        }
        (slope, curvature)
    }
}
