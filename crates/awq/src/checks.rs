//! What is refused.

use fewbit_format::MatrixShape;

use crate::AwqError;

/// The number of tokens, if `x` is whole tokens of finite values.
pub(crate) fn activations(x: &[f32], in_features: usize) -> Result<usize, AwqError> {
    if x.is_empty() {
        return Ok(0);
    }
    if in_features == 0 || !x.len().is_multiple_of(in_features) {
        return Err(AwqError::ActivationLength { got: x.len(), in_features });
    }
    match x.iter().position(|x| !x.is_finite()) {
        None => Ok(x.len() / in_features),
        Some(i) => Err(AwqError::NonFiniteActivation {
            token: i / in_features,
            column: i % in_features,
            value: x[i],
        }),
    }
}

pub(crate) fn weight(weight: &[f32], shape: MatrixShape) -> Result<(), AwqError> {
    let MatrixShape { out_features, in_features } = shape;
    if weight.len() != shape.len() {
        return Err(AwqError::WeightLength { got: weight.len(), out_features, in_features });
    }
    match weight.iter().position(|w| !w.is_finite()) {
        None => Ok(()),
        Some(i) => Err(AwqError::NonFiniteWeight {
            row: i / in_features,
            column: i % in_features,
            value: weight[i],
        }),
    }
}

pub(crate) fn width(got: usize, expected: usize) -> Result<(), AwqError> {
    if got == expected { Ok(()) } else { Err(AwqError::Width { got, expected }) }
}
