//! Weights as 8-bit floating-point numbers with shared scales.

use alloc::{vec, vec::Vec};
use core::num::NonZeroU32;

use crate::{Float8, FormatError, MatrixShape, ScaleType, checks};

/// Which weights share a scale: tiles of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleTile {
    /// The whole matrix.
    Tensor,
    /// One row (output channel).
    Channel,
    /// This many rows and columns; tiles at the lower and right edges may be smaller. One row of `n` columns is a group of `n`.
    Block {
        /// Rows of a tile.
        out_features: NonZeroU32,
        /// Columns of a tile.
        in_features: NonZeroU32,
    },
}

impl ScaleTile {
    /// Tiles of `out_features` × `in_features`.
    ///
    /// # Panics
    /// If either is 0.
    pub const fn block(out_features: u32, in_features: u32) -> Self {
        let out_features = NonZeroU32::new(out_features).expect("a tile has at least one row");
        let in_features = NonZeroU32::new(in_features).expect("a tile has at least one column");
        Self::Block { out_features, in_features }
    }

    /// Rows and columns of a whole tile of a matrix.
    pub fn size(self, shape: MatrixShape) -> [usize; 2] {
        match self {
            Self::Tensor => [shape.out_features.max(1), shape.in_features.max(1)],
            Self::Channel => [1, shape.in_features.max(1)],
            Self::Block { out_features, in_features } => {
                [out_features.get() as usize, in_features.get() as usize]
            }
        }
    }

    /// Tiles of a matrix, down and across: the shape of its scales, row-major.
    pub fn count(self, shape: MatrixShape) -> [usize; 2] {
        let [rows, columns] = self.size(shape);
        [shape.out_features.div_ceil(rows), shape.in_features.div_ceil(columns)]
    }

    /// A word for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Channel => "channel",
            Self::Block { out_features, .. } if out_features.get() == 1 => "group",
            Self::Block { .. } => "block",
        }
    }
}

/// 8-bit floats as a plan names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Float8Scheme {
    /// The encoding of a weight.
    pub element: Float8,
    /// Which weights share a scale.
    pub tile: ScaleTile,
    /// How scales are stored.
    pub scale_type: ScaleType,
}

impl Float8Scheme {
    /// Bits that a matrix of this shape takes: codes and scales.
    pub fn storage_bits(&self, shape: MatrixShape) -> u64 {
        let [down, across] = self.tile.count(shape);
        shape.len() as u64 * 8 + (down * across) as u64 * u64::from(self.scale_type.bits())
    }
}

/// A weight matrix of 8-bit floats: weight = value of the code · scale of its tile, one rounding in f32.
///
/// compressed-tensors (`float-quantized`) and the block-wise FP8 files of DeepSeek are read into this form.
#[derive(Clone, Debug, PartialEq)]
pub struct Float8Matrix {
    shape: MatrixShape,
    scheme: Float8Scheme,
    /// (out_features, in_features)
    codes: Vec<u8>,
    /// One a tile, row-major; values that `scheme.scale_type` holds exactly.
    scales: Vec<f32>,
}

impl Float8Matrix {
    /// Assembles a matrix from codes, `(out_features, in_features)` row-major, and scales, one a tile, row-major.
    ///
    /// # Errors
    /// If a length does not follow from the shape, a code is NaN or infinite, or a scale is not finite or not exactly representable.
    pub fn new(
        shape: MatrixShape,
        scheme: Float8Scheme,
        codes: Vec<u8>,
        scales: Vec<f32>,
    ) -> Result<Self, FormatError> {
        let [down, across] = scheme.tile.count(shape);
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "scales", scales.len(), down * across)?;
        let values = scheme.element.values();
        if let Some(index) = codes.iter().position(|&c| !values[usize::from(c)].is_finite()) {
            let (what, code) = (scheme.element.name(), codes[index]);
            return Err(FormatError::NotANumber { what, index, code });
        }
        checks::scales(&scales, scheme.scale_type)?;
        Ok(Self { shape, scheme, codes, scales })
    }

    /// Plain rounding: the largest weight of a tile takes the largest code, every weight its nearest, ties to even. A tile of zeros has scale 1.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds NaN or infinity.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: Float8Scheme,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        checks::finite("weight", weight)?;
        let Float8Scheme { element, tile, scale_type } = scheme;
        let ([down, across], [rows, columns]) = (tile.count(shape), tile.size(shape));
        let mut scales = vec![0f32; down * across];
        let mut codes = vec![0; weight.len()];
        if shape.is_empty() {
            return Self::new(shape, scheme, codes, scales);
        }
        for (row, weight) in weight.chunks(shape.in_features).enumerate() {
            let scales = &mut scales[row / rows * across..][..across];
            for (weight, absmax) in weight.chunks(columns).zip(scales) {
                *absmax = weight.iter().fold(*absmax, |max, w| max.max(w.abs()));
            }
        }
        for scale in &mut scales {
            *scale = match *scale {
                0.0 => 1.0,
                absmax => scale_type
                    .round(absmax / element.max())
                    .clamp(scale_type.min_positive(), scale_type.max()),
            };
        }
        let n = shape.in_features;
        for (row, (weight, codes)) in weight.chunks(n).zip(codes.chunks_mut(n)).enumerate() {
            let scales = &scales[row / rows * across..][..across];
            let tiles = weight.chunks(columns).zip(codes.chunks_mut(columns));
            for ((weight, codes), scale) in tiles.zip(scales) {
                for (w, c) in weight.iter().zip(codes) {
                    *c = element.encode(w / scale);
                }
            }
        }
        Self::new(shape, scheme, codes, scales)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Encoding, tiles and storage of the scales.
    pub fn scheme(&self) -> Float8Scheme {
        self.scheme
    }

    /// Codes, `(out_features, in_features)` row-major.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Scales, one a tile, row-major.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let values = self.scheme.element.values();
        let [rows, columns] = self.scheme.tile.size(self.shape);
        let [_, across] = self.scheme.tile.count(self.shape);
        let scales = &self.scales[row / rows * across..][..across];
        let codes = &self.codes[row * n..][..n];
        for ((out, codes), scale) in out.chunks_mut(columns).zip(codes.chunks(columns)).zip(scales)
        {
            for (o, &c) in out.iter_mut().zip(codes) {
                *o = values[usize::from(c)] * scale;
            }
        }
    }
}
