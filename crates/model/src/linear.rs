//! A linear layer, in floating point or few bits.

use fewbit_checkpoint::{Dtype, Weight};
use fewbit_format::{MatrixShape, Quantized, bf16, f16};
use fewbit_kernels::{Level, PackedMatrix, linear_bf16, linear_f16, linear_f32};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

/// The weight of a linear layer as it is multiplied, `(out_features, in_features)` row-major.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Matrix {
    /// Single precision.
    F32(Vec<f32>),
    /// Half precision, widened in registers.
    F16(Vec<f16>),
    /// bfloat16, widened in registers.
    BF16(Vec<bf16>),
    /// Few bits, decoded in registers.
    Packed(PackedMatrix),
}

/// `y = x · Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    shape: MatrixShape,
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// A layer from what a checkpoint holds: floats keep their storage type, integer grids are packed, other grids are
    /// decoded to f32.
    ///
    /// # Panics
    /// If the bias is not `out_features` long.
    pub fn from_weight(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        let shape = weight.shape();
        let matrix = match weight {
            Weight::Float { dtype, data, .. } => match dtype {
                // Widening was exact, so this gives back what the file holds.
                Dtype::F16 => Matrix::F16(data.iter().map(|&w| f16::from_f32(w)).collect()),
                Dtype::BF16 => Matrix::BF16(data.iter().map(|&w| bf16::from_f32(w)).collect()),
                _ => Matrix::F32(data),
            },
            Weight::Quant(Quantized::Int(matrix)) => {
                Matrix::Packed(PackedMatrix::from_quant(&matrix))
            }
            Weight::Quant(other) => Matrix::F32(other.dequantize()),
        };
        if let Some(bias) = &bias {
            assert_eq!(bias.len(), shape.out_features, "a bias has out_features values");
        }
        Self { shape, matrix, bias }
    }

    /// Shape of the weight.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The weight.
    pub fn matrix(&self) -> &Matrix {
        &self.matrix
    }

    /// The bias, `out_features` long.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// `x (n_tokens, in_features)` to `(n_tokens, out_features)`.
    ///
    /// # Panics
    /// If `x` has another number of columns.
    pub fn forward(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        assert_eq!(x.ncols(), self.shape.in_features, "x is (n_tokens, in_features)");
        let n_tokens = x.nrows();
        let mut y = Array2::zeros((n_tokens, self.shape.out_features));
        let x = x.as_standard_layout();
        let x = x.as_slice().expect("made contiguous above");
        let out = y.as_slice_mut().expect("a new array is contiguous");
        let level = Level::detect();
        match &self.matrix {
            Matrix::F32(weight) => linear_f32(level, out, x, n_tokens, weight, self.shape),
            Matrix::F16(weight) => linear_f16(level, out, x, n_tokens, weight, self.shape),
            Matrix::BF16(weight) => linear_bf16(level, out, x, n_tokens, weight, self.shape),
            Matrix::Packed(matrix) => matrix.linear(level, out, x, n_tokens),
        }
        if let Some(bias) = &self.bias {
            out.par_chunks_mut(bias.len().max(1)).with_min_len(16).for_each(|row| {
                for (y, b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            });
        }
        y
    }

    /// Row `i` of the weight, widened or dequantized.
    pub(crate) fn row_into(&self, i: usize, out: &mut [f32]) {
        let range = i * self.shape.in_features..(i + 1) * self.shape.in_features;
        match &self.matrix {
            Matrix::F32(weight) => out.copy_from_slice(&weight[range]),
            Matrix::F16(weight) => {
                out.iter_mut().zip(&weight[range]).for_each(|(o, w)| *o = w.to_f32());
            }
            Matrix::BF16(weight) => {
                out.iter_mut().zip(&weight[range]).for_each(|(o, w)| *o = w.to_f32());
            }
            Matrix::Packed(matrix) => matrix.dequantize_row_into(Level::detect(), i, out),
        }
    }

    /// Bytes of weight and bias in memory.
    pub fn bytes(&self) -> usize {
        let weight = match &self.matrix {
            Matrix::F32(weight) => size_of_val(&**weight),
            Matrix::F16(weight) => size_of_val(&**weight),
            Matrix::BF16(weight) => size_of_val(&**weight),
            Matrix::Packed(matrix) => matrix.packed_bytes(),
        };
        weight + self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias))
    }
}
