//! Products with float matrices.

use fewbit_format::{MatrixShape, bf16, f16};

use crate::Level;

fn plain<T>(
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[T],
    shape: MatrixShape,
    widen: impl Fn(&T) -> f32,
) {
    for t in 0..n_tokens {
        for o in 0..shape.out_features {
            let row = &weight[o * shape.in_features..][..shape.in_features];
            let x = &x[t * shape.in_features..][..shape.in_features];
            out[t * shape.out_features + o] = row.iter().zip(x).map(|(w, x)| widen(w) * x).sum();
        }
    }
}

/// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ` with an f32 matrix, row-major.
///
/// # Panics
/// If a length does not follow from the shape.
pub fn linear_f32(
    _level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[f32],
    shape: MatrixShape,
) {
    plain(out, x, n_tokens, weight, shape, |w| *w);
}

/// As [`linear_f32`] with half-precision weights; activations and sums stay f32.
pub fn linear_f16(
    _level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[f16],
    shape: MatrixShape,
) {
    plain(out, x, n_tokens, weight, shape, |w| w.to_f32());
}

/// As [`linear_f32`] with bfloat16 weights; activations and sums stay f32.
pub fn linear_bf16(
    _level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[bf16],
    shape: MatrixShape,
) {
    plain(out, x, n_tokens, weight, shape, |w| w.to_f32());
}
