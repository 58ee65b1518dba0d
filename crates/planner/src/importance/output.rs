//! What rounding changes at the outputs of a layer.

use crate::PlannerError;

/// Squared error of the weights, each column weighted by its mean square input, over the same of the weights themselves. Inputs count as
/// uncorrelated. 0 if the weights are.
///
/// `weight` and `rounded` are `(out_features, in_features)` row-major, `mean_squares` has `in_features` values.
///
/// # Errors
/// If lengths do not agree.
pub fn weighted_error(
    weight: &[f32],
    rounded: &[f32],
    mean_squares: &[f64],
) -> Result<f64, PlannerError> {
    check(weight, rounded, mean_squares.len())?;
    let rows =
        weight.chunks_exact(mean_squares.len()).zip(rounded.chunks_exact(mean_squares.len()));
    let (mut error, mut energy) = (0.0, 0.0);
    for (w, r) in rows {
        for ((&w, &r), &square) in w.iter().zip(r).zip(mean_squares) {
            error += square * (f64::from(r) - f64::from(w)).powi(2);
            energy += square * f64::from(w).powi(2);
        }
    }
    Ok(ratio(error, energy))
}

/// Mean squared change of the outputs over their mean square: `tr(E·H·Eᵀ) / tr(W·H·Wᵀ)` with `H` the mean of `x·xᵀ` over inputs `x`. 0 if the outputs
/// are.
///
/// `weight` and `rounded` are `(out_features, in_features)` row-major, `hessian` is `(in_features, in_features)`.
///
/// # Errors
/// If lengths do not agree.
pub fn output_error(
    weight: &[f32],
    rounded: &[f32],
    hessian: &[f64],
    in_features: usize,
) -> Result<f64, PlannerError> {
    check(weight, rounded, in_features)?;
    if hessian.len() != in_features * in_features {
        let (got, expected) = (hessian.len(), in_features * in_features);
        return Err(PlannerError::Length { what: "hessian", got, expected });
    }
    let form = |row: &[f64]| -> f64 {
        let rows = hessian.chunks_exact(in_features);
        rows.zip(row).map(|(h, e)| e * h.iter().zip(row).map(|(h, e)| h * e).sum::<f64>()).sum()
    };
    let (mut error, mut energy) = (0.0, 0.0);
    for (w, r) in weight.chunks_exact(in_features).zip(rounded.chunks_exact(in_features)) {
        let w: Vec<f64> = w.iter().map(|&w| f64::from(w)).collect();
        let e: Vec<f64> = r.iter().zip(&w).map(|(&r, w)| f64::from(r) - w).collect();
        error += form(&e);
        energy += form(&w);
    }
    Ok(ratio(error, energy))
}

fn check(weight: &[f32], rounded: &[f32], in_features: usize) -> Result<(), PlannerError> {
    if rounded.len() != weight.len() {
        let (got, expected) = (rounded.len(), weight.len());
        return Err(PlannerError::Length { what: "rounded", got, expected });
    }
    if in_features == 0 || !weight.len().is_multiple_of(in_features) {
        let expected = weight.len().next_multiple_of(in_features.max(1));
        return Err(PlannerError::Length { what: "weight", got: weight.len(), expected });
    }
    Ok(())
}

fn ratio(error: f64, energy: f64) -> f64 {
    if energy > 0.0 { error / energy } else { 0.0 }
}
