//! The column loop.

use fewbit_format::{Granularity, Grid, MatrixShape};

use crate::{GptqError, Hessian, Prepared, Solution};

/// Rounds a matrix onto a grid by GPTQ, as [`Prepared`] was told.
///
/// # Errors
/// If `weight` is not `shape`, holds NaN or infinity, or has another width than the Hessian.
pub fn quantize<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &G,
    granularity: Granularity,
) -> Result<Solution<G::Params>, GptqError> {
    let _ = (weight, shape, prepared, grid, granularity);
    unimplemented!()
}

/// Plain rounding: parameters from the range of the weights, every weight to its nearest value, with the same report.
///
/// # Errors
/// As [`quantize`].
pub fn round_to_nearest<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    hessian: &Hessian,
    grid: &G,
    granularity: Granularity,
) -> Result<Solution<G::Params>, GptqError> {
    let _ = (weight, shape, hessian, grid, granularity);
    unimplemented!()
}

/// Most bytes that [`quantize`] has in use at once, weights, Hessian and [`Prepared`] not counted, the solution counted.
pub fn quantize_bytes(shape: MatrixShape, granularity: Granularity) -> usize {
    let _ = granularity;
    8 * shape.len()
}
