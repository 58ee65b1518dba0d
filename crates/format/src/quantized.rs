//! A quantized matrix of any grid.

use alloc::vec::Vec;

use crate::{BlockMatrix, MatrixShape, QuantMatrix};

/// A weight matrix on whichever grid its plan chose.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Quantized {
    /// Codes of an integer grid.
    Int(QuantMatrix),
    /// GGML blocks.
    Block(BlockMatrix),
}

impl Quantized {
    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        match self {
            Self::Int(matrix) => matrix.shape(),
            Self::Block(matrix) => matrix.shape(),
        }
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        match self {
            Self::Int(matrix) => matrix.dequantize_row_into(row, out),
            Self::Block(matrix) => matrix.dequantize_row_into(row, out),
        }
    }

    /// All values, `(out_features, in_features)` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        match self {
            Self::Int(matrix) => matrix.dequantize(),
            Self::Block(matrix) => matrix.dequantize(),
        }
    }

    /// Bits per weight, scales and the like included.
    pub fn bits_per_weight(&self) -> f64 {
        match self {
            Self::Int(matrix) => matrix.bits_per_weight(),
            Self::Block(matrix) => matrix.bits_per_weight(),
        }
    }
}

impl From<QuantMatrix> for Quantized {
    fn from(matrix: QuantMatrix) -> Self {
        Self::Int(matrix)
    }
}

impl From<BlockMatrix> for Quantized {
    fn from(matrix: BlockMatrix) -> Self {
        Self::Block(matrix)
    }
}
