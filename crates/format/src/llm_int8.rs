//! The weights of LLM.int8(): signed bytes under the largest magnitude of each row.

use alloc::vec::Vec;

use crate::{FormatError, MatrixShape, checks, f16, round::round_ties_even};

/// A weight matrix of signed bytes, as bitsandbytes stores it.
///
/// weight = code · absmax / 127, which its readers compute as `(code · absmax) · f32(1/127)`: two roundings, so that an integer grid with the scale
/// `absmax / 127` would differ in the last bit.
#[derive(Clone, Debug, PartialEq)]
pub struct LlmInt8Matrix {
    shape: MatrixShape,
    /// (out_features, in_features)
    codes: Vec<i8>,
    /// (out_features)
    absmax: Vec<f32>,
}

impl LlmInt8Matrix {
    /// Assembles a matrix from codes, `(out_features, in_features)` row-major, and one magnitude a row.
    ///
    /// # Errors
    /// If a length does not follow from the shape, or a magnitude is not finite.
    pub fn new(shape: MatrixShape, codes: Vec<i8>, absmax: Vec<f32>) -> Result<Self, FormatError> {
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "row magnitudes", absmax.len(), shape.out_features)?;
        checks::finite("row magnitude", &absmax)?;
        Ok(Self { shape, codes, absmax })
    }

    /// Plain rounding, by the rule of bitsandbytes: weights are rounded to f16 first; the largest magnitude of a row takes ±127.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds a value that is NaN, infinite or beyond f16.
    pub fn round_to_nearest(weight: &[f32], shape: MatrixShape) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        let weight: Vec<f32> = weight.iter().map(|&w| f16::from_f32(w).to_f32()).collect();
        checks::finite("weight in f16", &weight)?;
        let mut codes = Vec::with_capacity(weight.len());
        let mut absmax = Vec::with_capacity(shape.out_features);
        for row in weight.chunks(shape.in_features.max(1)) {
            let max = row.iter().fold(0f32, |max, w| max.max(w.abs()));
            let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
            codes.extend(row.iter().map(|w| round_ties_even(w * inverse) as i8));
            absmax.push(max);
        }
        absmax.resize(shape.out_features, 0.0);
        Self::new(shape, codes, absmax)
    }

    /// Bits that a matrix of this shape takes: codes and magnitudes.
    pub const fn storage_bits(shape: MatrixShape) -> u64 {
        shape.len() as u64 * 8 + shape.out_features as u64 * 32
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Codes, `(out_features, in_features)` row-major.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The largest magnitude of each row (`SCB` in files).
    pub fn absmax(&self) -> &[f32] {
        &self.absmax
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let absmax = self.absmax[row];
        for (o, &c) in out.iter_mut().zip(&self.codes[row * n..][..n]) {
            *o = f32::from(c) * absmax * (1.0 / 127.0);
        }
    }
}
