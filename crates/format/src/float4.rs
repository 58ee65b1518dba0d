//! Weights as 4-bit floating-point numbers under the scales of MXFP4 and NVFP4.

use alloc::{vec, vec::Vec};

use crate::{
    FormatError, MatrixShape, checks,
    minifloat::{E2M1, Float8, decode_e8m0, encode_e2m1},
};

/// A 4-bit floating-point format: E2M1 elements and a scale for each group of columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float4 {
    /// Groups of 32 share a power of two (E8M0).
    Mxfp4,
    /// Groups of 16 share an E4M3 number, the whole matrix an f32 by which these are divided.
    Nvfp4,
}

impl Float4 {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Mxfp4, Self::Nvfp4];

    /// A word for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mxfp4 => "mxfp4",
            Self::Nvfp4 => "nvfp4",
        }
    }

    /// Columns that share a scale.
    pub const fn group_size(self) -> usize {
        match self {
            Self::Mxfp4 => 32,
            Self::Nvfp4 => 16,
        }
    }

    /// Groups along a row, the ragged last one included.
    pub const fn n_groups(self, in_features: usize) -> usize {
        in_features.div_ceil(self.group_size())
    }

    /// What divides the scales of a matrix of these weights, by which the largest of them is the largest E4M3 number: 448 · 6 / the largest weight. 1 for MXFP4.
    pub fn global_scale(self, weight: &[f32]) -> f32 {
        match (self, absmax(weight)) {
            (Self::Mxfp4, _) | (_, 0.0) => 1.0,
            (Self::Nvfp4, max) => {
                (Float8::E4M3.max() * E2M1[7] / max).clamp(f32::MIN_POSITIVE, f32::MAX)
            }
        }
    }

    /// Bits that a matrix of this shape takes: codes, scales and the global scale.
    pub const fn storage_bits(self, shape: MatrixShape) -> u64 {
        let scales = shape.out_features * self.n_groups(shape.in_features);
        let global = match self {
            Self::Mxfp4 => 0,
            Self::Nvfp4 => 32,
        };
        shape.len() as u64 * 4 + scales as u64 * 8 + global
    }
}

/// A weight matrix of 4-bit floats.
///
/// ```text
/// MXFP4   weight = E2M1(code) · 2^(scale − 127)
/// NVFP4   weight = E2M1(code) · (E4M3(scale) / global_scale)      two roundings in f32, in this order
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Float4Matrix {
    shape: MatrixShape,
    scheme: Float4,
    /// (out_features, in_features), one 4-bit code a byte.
    codes: Vec<u8>,
    /// (out_features, n_groups), in the encoding of the scheme.
    scales: Vec<u8>,
    /// The scale of the whole matrix; 1 for MXFP4, which has none.
    global_scale: f32,
}

impl Float4Matrix {
    /// Assembles a matrix from codes, `(out_features, in_features)` row-major, one a byte, and encoded scales, `(out_features, n_groups)`.
    /// `global_scale` divides the scales of NVFP4; of MXFP4 it must be 1.
    ///
    /// # Errors
    /// If a length does not follow from the shape, a code exceeds 15, a scale is NaN, or the global scale is not finite,
    /// so small that weights are not, or has no place.
    pub fn new(
        shape: MatrixShape,
        scheme: Float4,
        codes: Vec<u8>,
        scales: Vec<u8>,
        global_scale: f32,
    ) -> Result<Self, FormatError> {
        let n_scales = shape.out_features * scheme.n_groups(shape.in_features);
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "scales", scales.len(), n_scales)?;
        checks::codes("code", &codes, 15, 4)?;
        let (what, nan): (_, fn(u8) -> bool) = match scheme {
            Float4::Mxfp4 => ("e8m0 scale", |code| code == 0xff),
            Float4::Nvfp4 => ("e4m3 scale", |code| code & 0x7f == 0x7f),
        };
        if let Some(index) = scales.iter().position(|&code| nan(code)) {
            return Err(FormatError::NotANumber { what, index, code: scales[index] });
        }
        let usable = match scheme {
            Float4::Mxfp4 => global_scale == 1.0,
            // So large that no weight is infinite.
            Float4::Nvfp4 => {
                let largest = Float8::E4M3.max() / global_scale * E2M1[7];
                global_scale.is_finite() && largest.is_finite()
            }
        };
        if !usable {
            return Err(FormatError::GlobalScale { value: global_scale, scheme: scheme.name() });
        }
        Ok(Self { shape, scheme, codes, scales, global_scale })
    }

    /// Plain rounding, by the rules of compressed-tensors.
    ///
    /// * MXFP4: the scale is 2^(e − 2), where 2^e is the largest power of two not above the largest weight of the group, or twice that where the weight is
    ///   1.75 times the power or more (rounded to bfloat16 before that is asked).
    /// * NVFP4: the global scale is 448 · 6 / the largest weight of the matrix; the scale of a group is E4M3 of the global scale times a sixth of its
    ///   largest weight, and 2^−3 where that is zero.
    ///
    /// Weights then go to their nearest values, ties to even codes.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds NaN or infinity.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: Float4,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        checks::finite("weight", weight)?;
        let global_scale = scheme.global_scale(weight);
        let mut codes = vec![0; weight.len()];
        let mut scales =
            Vec::with_capacity(shape.out_features * scheme.n_groups(shape.in_features));
        let (row, group) = (shape.in_features.max(1), scheme.group_size());
        for (weight, codes) in weight.chunks(row).zip(codes.chunks_mut(row)) {
            for (weight, codes) in weight.chunks(group).zip(codes.chunks_mut(group)) {
                let max = absmax(weight);
                let code = match scheme {
                    Float4::Mxfp4 => mx_scale(max),
                    Float4::Nvfp4 => nv_scale(max, global_scale),
                };
                let scale = scale_value(scheme, code, global_scale);
                for (w, c) in weight.iter().zip(codes) {
                    *c = encode_e2m1(w / scale);
                }
                scales.push(code);
            }
        }
        Self::new(shape, scheme, codes, scales, global_scale)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Which of the formats.
    pub fn scheme(&self) -> Float4 {
        self.scheme
    }

    /// Codes, `(out_features, in_features)` row-major, one a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Encoded scales, `(out_features, n_groups)` row-major: E8M0 for MXFP4, E4M3 for NVFP4.
    pub fn scales(&self) -> &[u8] {
        &self.scales
    }

    /// What divides the scales of NVFP4; 1 for MXFP4.
    pub fn global_scale(&self) -> f32 {
        self.global_scale
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let (group, n_groups) = (self.scheme.group_size(), self.scheme.n_groups(n));
        let codes = self.codes[row * n..][..n].chunks(group);
        let scales = &self.scales[row * n_groups..][..n_groups];
        for ((out, codes), &scale) in out.chunks_mut(group).zip(codes).zip(scales) {
            let scale = scale_value(self.scheme, scale, self.global_scale);
            for (o, &c) in out.iter_mut().zip(codes) {
                *o = E2M1[usize::from(c)] * scale;
            }
        }
    }
}

/// The largest magnitude.
fn absmax(weight: &[f32]) -> f32 {
    weight.iter().fold(0f32, |max, w| max.max(w.abs()))
}

pub(crate) fn scale_value(scheme: Float4, code: u8, global_scale: f32) -> f32 {
    match scheme {
        Float4::Mxfp4 => decode_e8m0(code),
        Float4::Nvfp4 => Float8::E4M3.decode(code) / global_scale,
    }
}

/// The E8M0 code for a group whose largest magnitude is `max`.
pub(crate) fn mx_scale(max: f32) -> u8 {
    let bits = u32::from(half::bf16::from_f32(max).to_bits());
    // Half a step of an E2M1 mantissa: from 1.75 on the next power of two is nearer to what the group needs.
    let exponent = (bits + (1 << 5)) >> 7;
    // The largest element is 1.5 · 2², hence 2 less. Above 252 it would be more than f32 holds.
    exponent.saturating_sub(2).min(252) as u8
}

/// The E4M3 code for a group whose largest magnitude is `max`.
pub(crate) fn nv_scale(max: f32, global_scale: f32) -> u8 {
    match Float8::E4M3.encode(global_scale * (max / E2M1[7])) {
        0 => Float8::E4M3.encode(0.125),
        code => code,
    }
}
