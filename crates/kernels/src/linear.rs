//! Products with float matrices.

use fewbit_format::{MatrixShape, bf16, f16};

use crate::{
    Level,
    gemm::gemm,
    gemv::{MAX_TOKENS, gemv},
    rows::{Dense, Element, Rows},
};

/// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ` with f32 weights, row-major.
///
/// Few tokens take a path that streams the weights once; more of them take one that blocks for the caches. Both accumulate in f32; the
/// result does not depend on the number of threads.
///
/// # Panics
/// If a length does not follow from the shape.
pub fn linear_f32(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[f32],
    shape: MatrixShape,
) {
    dense(level, out, x, n_tokens, weight, shape);
}

/// As [`linear_f32`], with half-precision weights that are widened on the way.
///
/// # Panics
/// If a length does not follow from the shape.
pub fn linear_f16(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[f16],
    shape: MatrixShape,
) {
    dense(level, out, x, n_tokens, weight, shape);
}

/// As [`linear_f32`], with bfloat16 weights that are widened on the way.
///
/// # Panics
/// If a length does not follow from the shape.
pub fn linear_bf16(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[bf16],
    shape: MatrixShape,
) {
    dense(level, out, x, n_tokens, weight, shape);
}

/// As [`linear_f32`], with rows of weights that start `stride` elements apart: part of a wider matrix, such as the keys of a cache that
/// has room to grow.
///
/// # Panics
/// If `stride` is less than in_features, `weight` ends before the last row does, or a length does not follow from the shape.
pub fn linear_f32_strided(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[f32],
    shape: MatrixShape,
    stride: usize,
) {
    let MatrixShape { out_features, in_features } = shape;
    assert!(stride >= in_features, "rows overlap");
    let needed = if shape.is_empty() { 0 } else { (out_features - 1) * stride + in_features };
    assert!(weight.len() >= needed, "weight ends before its last row");
    linear(level, out, x, n_tokens, &Dense { weight, in_features, stride }, shape);
}

fn dense<E: Element>(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    weight: &[E],
    shape: MatrixShape,
) {
    assert_eq!(weight.len(), shape.len(), "weight is (out_features, in_features)");
    let in_features = shape.in_features;
    let rows = Dense { weight, in_features, stride: in_features };
    linear(level, out, x, n_tokens, &rows, shape);
}

/// `out = x · Wᵀ` for any kind of weights.
pub(crate) fn linear<R: Rows>(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    rows: &R,
    shape: MatrixShape,
) {
    assert_eq!(out.len(), n_tokens * shape.out_features, "out is (n_tokens, out_features)");
    assert_eq!(x.len(), n_tokens * shape.in_features, "x is (n_tokens, in_features)");
    if out.is_empty() {
        return;
    }
    if shape.in_features == 0 {
        out.fill(0.0);
    } else if n_tokens <= MAX_TOKENS {
        gemv(level, out, x, n_tokens, rows, shape.out_features);
    } else {
        gemm(level, out, x, n_tokens, rows, shape.out_features);
    }
}
