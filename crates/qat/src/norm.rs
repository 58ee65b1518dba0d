//! Root-mean-square norm and its gradient.

use fewbit_kernels::{Level, vectorize};
use fewbit_model::math::{dot, sum_of_squares};
use rayon::prelude::*;

/// Rows that a thread takes at a time; gradients of the gain are summed per piece, then piece after piece.
const ROWS: usize = 64;

/// `y = gain · x · f` with `f = 1 / sqrt(mean(x²) + eps)` for every row. The factors go to `factors (n)`.
pub(crate) fn forward(y: &mut [f32], factors: &mut [f32], x: &[f32], gain: &[f32], eps: f32) {
    let width = gain.len();
    let level = Level::detect();
    let pieces = y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width));
    pieces.zip(factors.par_chunks_mut(ROWS)).for_each(|((y, x), factors)| {
        vectorize(
            level,
            #[inline(always)]
            || {
                let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((y, x), factor) in rows.zip(factors) {
                    *factor = 1.0 / (sum_of_squares(x) / width as f32 + eps).sqrt();
                    for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                        *y = gain * (x * *factor);
                    }
                }
            },
        );
    });
}

/// Adds the gradient by `x` to `dx`, and returns that by the gain.
///
/// With `g = dy · gain`: `dx = f · (g − x · f² · mean(g·x))`, `dgain = Σ dy · x · f`.
pub(crate) fn backward(
    dx: &mut [f32],
    dy: &[f32],
    factors: &[f32],
    x: &[f32],
    gain: &[f32],
) -> Vec<f32> {
    let width = gain.len();
    let level = Level::detect();
    let pieces = dx.par_chunks_mut(ROWS * width).zip(dy.par_chunks(ROWS * width));
    let pieces = pieces.zip(x.par_chunks(ROWS * width)).zip(factors.par_chunks(ROWS));
    let partial: Vec<Vec<f32>> = pieces
        .map(|(((dx, dy), x), factors)| {
            let mut dgain = vec![0.0f32; width];
            let mut g = vec![0.0f32; width];
            vectorize(
                level,
                #[inline(always)]
                || {
                    let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width));
                    for (((dx, dy), x), &f) in rows.zip(x.chunks_exact(width)).zip(factors) {
                        for (((g, dgain), (dy, x)), gain) in
                            g.iter_mut().zip(&mut dgain).zip(dy.iter().zip(x)).zip(gain)
                        {
                            *g = dy * gain;
                            *dgain += dy * (x * f);
                        }
                        let share = dot(&g, x) / width as f32 * f * f;
                        for ((dx, g), x) in dx.iter_mut().zip(&g).zip(x) {
                            *dx += f * (g - x * share);
                        }
                    }
                },
            );
            dgain
        })
        .collect();
    let mut dgain = vec![0.0; width];
    for partial in partial {
        for (sum, value) in dgain.iter_mut().zip(partial) {
            *sum += value;
        }
    }
    dgain
}
