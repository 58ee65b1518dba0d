//! A quantized matrix prepared for products.

use fewbit_format::{MatrixShape, QuantMatrix};

use crate::{Level, linear_f32};

/// A quantized matrix prepared once for matrix products with float activations.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    shape: MatrixShape,
    weight: alloc::vec::Vec<f32>,
}

impl PackedMatrix {
    /// Rearranges the codes of a matrix.
    pub fn from_quant(matrix: &QuantMatrix) -> Self {
        Self { shape: matrix.shape(), weight: matrix.dequantize() }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bytes that it takes in memory.
    pub fn packed_bytes(&self) -> usize {
        self.weight.len() * 4
    }

    /// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ`.
    ///
    /// # Panics
    /// If a length does not follow from the shape.
    pub fn linear(&self, level: Level, out: &mut [f32], x: &[f32], n_tokens: usize) {
        linear_f32(level, out, x, n_tokens, &self.weight, self.shape);
    }
}
