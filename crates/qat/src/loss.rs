//! Losses, with their gradients in place of the values.

use fewbit_kernels::{Level, vectorize};
use fewbit_model::math::{exp, largest};
use rayon::prelude::*;

/// Logarithm of the sum of exponentials.
#[inline(always)]
fn log_sum_exp(logits: &[f32]) -> f32 {
    let most = largest(logits);
    let mut sums = [0.0f32; 16];
    let (chunks, rest) = logits.as_chunks::<16>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += exp(x - most);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum += exp(x - most);
    }
    most + sums.iter().sum::<f32>().ln()
}

/// Mean of the losses of rows, in order, in f64.
fn mean(losses: &[f32]) -> f64 {
    losses.iter().map(|&x| f64::from(x)).sum::<f64>() / losses.len().max(1) as f64
}

/// Mean cross-entropy in nats of `logits (n, vocab_size)` against `targets (n)`, each counted by its weight if there are any; the logits become the gradient.
pub(crate) fn cross_entropy(logits: &mut [f32], targets: &[u32], weights: Option<&[f32]>) -> f64 {
    let (n, width) = (targets.len(), logits.len() / targets.len());
    let total = weights.map_or(n as f32, |weights| weights.iter().sum());
    let share = |i: usize| weights.map_or(1.0, |weights| weights[i]) / total;
    let level = Level::detect();
    let rows = logits.par_chunks_exact_mut(width).zip(targets).enumerate().with_min_len(8);
    let losses: Vec<f32> = rows
        .map(|(i, (row, &target))| {
            let share = share(i);
            vectorize(
                level,
                #[inline(always)]
                || {
                    let log_sum = log_sum_exp(row);
                    let loss = log_sum - row[target as usize];
                    for x in row.iter_mut() {
                        *x = exp(*x - log_sum) * share;
                    }
                    row[target as usize] -= share;
                    loss * (share * n as f32)
                },
            )
        })
        .collect();
    mean(&losses)
}

/// Mean KL(teacher ‖ model) in nats of two sets of logits `(n, vocab_size)`; the model's become the gradient.
pub(crate) fn divergence(logits: &mut [f32], teacher: &[f32], width: usize) -> f64 {
    let share = width as f32 / logits.len() as f32;
    let level = Level::detect();
    let rows = logits.par_chunks_exact_mut(width).zip(teacher.par_chunks_exact(width));
    let losses: Vec<f32> = rows
        .with_min_len(8)
        .map(|(row, teacher)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let (own, other) = (log_sum_exp(row), log_sum_exp(teacher));
                    let mut sums = [0.0f32; 16];
                    for (row, teacher) in row.chunks_mut(16).zip(teacher.chunks(16)) {
                        for ((x, t), sum) in row.iter_mut().zip(teacher).zip(&mut sums) {
                            let (q, p) = (*x - own, t - other);
                            let probability = exp(p);
                            *sum += probability * (p - q);
                            *x = (exp(q) - probability) * share;
                        }
                    }
                    sums.iter().sum::<f32>()
                },
            )
        })
        .collect();
    mean(&losses)
}

/// Values that a thread bends at a time.
const BENT: usize = 1 << 12;

/// Bends logits as the runtime does, to stay within `cap`: `y = cap · tanh(x / cap)`.
pub(crate) fn bend(logits: &mut [f32], cap: f32) {
    let bend = |x: &mut f32| *x = cap * (*x / cap).tanh();
    logits.par_iter_mut().with_min_len(BENT).for_each(bend);
}

/// From the gradient by bent logits `y` to that by the logits: times `1 − (y / cap)²`.
pub(crate) fn bend_backward(d: &mut [f32], bent: &[f32], cap: f32) {
    let slope = |(d, y): (&mut f32, &f32)| *d *= 1.0 - (y / cap) * (y / cap);
    d.par_iter_mut().zip(bent).with_min_len(BENT).for_each(slope);
}

/// Mean squared difference, relative to `norm`; `x` becomes the gradient.
pub(crate) fn squared_error(x: &mut [f32], target: &[f32], norm: f64) -> f64 {
    const PIECE: usize = 1 << 14;
    let factor = (2.0 / norm) as f32;
    let level = Level::detect();
    let sums: Vec<f64> = x
        .par_chunks_mut(PIECE)
        .zip(target.par_chunks(PIECE))
        .map(|(x, target)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let mut sums = [0.0f32; 16];
                    for (x, target) in x.chunks_mut(16).zip(target.chunks(16)) {
                        for ((x, target), sum) in x.iter_mut().zip(target).zip(&mut sums) {
                            let error = *x - target;
                            *sum += error * error;
                            *x = error * factor;
                        }
                    }
                    sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()
                },
            )
        })
        .collect();
    sums.iter().sum::<f64>() / norm
}
