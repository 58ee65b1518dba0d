//! The loss of each row: `e·H·eᵀ` with the undamped Hessian.

use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    Hessian,
    strips::{Column, LANES, Product, QUAD, Real, multiply, multiply_quad},
};

/// Strips of the Hessian that are converted at once.
const PANEL: usize = 8;
/// Strips of rows of a parallel task.
const TASK: usize = 4;
/// Rows whose errors are held at once.
const ROWS: usize = 1024;

/// Losses of `n_rows` rows; `fill(row, out)` writes the errors of a row.
pub(crate) fn losses<T: Real>(
    hessian: &Hessian,
    n_rows: usize,
    level: Level,
    fill: impl Fn(usize, &mut [f64]) + Sync,
) -> Vec<f64> {
    let n = hessian.in_features();
    let mut losses = vec![0.0; n_rows];
    if n == 0 {
        return losses;
    }
    for (chunk, losses) in losses.chunks_mut(ROWS).enumerate() {
        let mut errors = vec![[T::default(); LANES]; losses.len().div_ceil(LANES) * n];
        errors.par_chunks_exact_mut(n).enumerate().for_each(|(strip, errors)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let first = chunk * ROWS + strip * LANES;
                    let mut row_errors = vec![0.0; n];
                    for (lane, row) in (first..n_rows.min(first + LANES)).enumerate() {
                        fill(row, &mut row_errors);
                        for (lanes, &error) in errors.iter_mut().zip(&row_errors) {
                            lanes[lane] = T::from_f64(error);
                        }
                    }
                },
            );
        });
        let n_strips = n.div_ceil(LANES);
        for first in (0..n_strips).step_by(PANEL) {
            let panel: Vec<Vec<Column<T>>> = (first..(first + PANEL).min(n_strips))
                .into_par_iter()
                .map(|strip| mean(hessian, strip))
                .collect();
            let tasks = losses.par_chunks_mut(TASK * LANES).zip(errors.par_chunks(TASK * n));
            tasks.for_each(|(losses, errors)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || add_panel(&panel, first * LANES, errors, n, losses),
                );
            });
        }
    }
    losses
}

/// A strip of the mean.
fn mean<T: Real>(hessian: &Hessian, strip: usize) -> Vec<Column<T>> {
    let per_token = hessian.per_token();
    let columns = hessian.sum().strip(strip).iter();
    columns.map(|lanes| lanes.map(|sum| T::from_f64(sum * per_token))).collect()
}

/// Adds the terms of the panel's rows of the Hessian: `Σ_c e_c·(H_cc·e_c + 2·Σ_{j<c} H_cj·e_j)`.
#[inline(always)]
fn add_panel<T: Real>(
    panel: &[Vec<Column<T>>],
    start: usize,
    errors: &[Column<T>],
    n: usize,
    losses: &mut [f64],
) {
    let panel: Vec<&[Column<T>]> = panel.iter().map(Vec::as_slice).collect();
    let mut sums = vec![[[T::default(); LANES]; PANEL * LANES]; errors.len() / n];
    let mut products: Vec<Product<'_, T>> =
        errors.chunks_exact(n).zip(sums.iter_mut().map(|s| s.as_mut_slice())).collect();
    multiply(&panel, 0..start, &mut products);
    for ((errors, sums), losses) in
        errors.chunks_exact(n).zip(&mut sums).zip(losses.chunks_mut(LANES))
    {
        let mut total = [0.0f64; LANES];
        for (quad, sums) in sums.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
            let first = start + quad * QUAD;
            if first >= n {
                break;
            }
            let (strip, quad) = (panel[quad * QUAD / LANES], quad % (LANES / QUAD));
            multiply_quad(&strip[start..first], quad, &errors[start..first], sums);
            for i in 0..QUAD.min(n - first) {
                let h = |j: usize| strip[first + j][quad * QUAD + i];
                for j in 0..i {
                    for lane in 0..LANES {
                        sums[i][lane] = h(j).mul_add(errors[first + j][lane], sums[i][lane]);
                    }
                }
                for lane in 0..LANES {
                    let e = errors[first + i][lane].to_f64();
                    total[lane] += e * (h(i).to_f64() * e + 2.0 * sums[i][lane].to_f64());
                }
            }
        }
        for (loss, total) in losses.iter_mut().zip(total) {
            *loss += total;
        }
    }
}
