//! Checks that every matrix makes of its parts.

use crate::{FormatError, MatrixShape, ScaleType};

/// Refuses a buffer whose length does not follow from the shape.
pub(crate) fn length(
    shape: MatrixShape,
    what: &'static str,
    got: usize,
    expected: usize,
) -> Result<(), FormatError> {
    if got == expected {
        return Ok(());
    }
    let MatrixShape { out_features, in_features } = shape;
    Err(FormatError::Length { what, got, expected, out_features, in_features })
}

/// Refuses NaN and infinity.
pub(crate) fn finite(what: &'static str, values: &[f32]) -> Result<(), FormatError> {
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(index) => Err(FormatError::NonFinite { what, index, value: values[index] }),
    }
}

/// Refuses scales that are not finite values of their storage type.
pub(crate) fn scales(scales: &[f32], stored: ScaleType) -> Result<(), FormatError> {
    finite("scale", scales)?;
    match scales.iter().position(|&scale| stored.round(scale) != scale) {
        None => Ok(()),
        Some(index) => {
            let (value, scale_type) = (scales[index], stored.name());
            Err(FormatError::ScaleNotStored { index, value, scale_type })
        }
    }
}

/// Refuses codes above `max`, the largest of `bits` bits.
pub(crate) fn codes(
    what: &'static str,
    codes: &[u8],
    max: u8,
    bits: u32,
) -> Result<(), FormatError> {
    match codes.iter().position(|&code| code > max) {
        None => Ok(()),
        Some(index) => {
            let (value, max) = (codes[index].into(), max.into());
            Err(FormatError::CodeRange { what, index, value, max, bits })
        }
    }
}
