//! A linear layer, in floating point or few bits.

use fewbit_checkpoint::Weight;
use fewbit_format::{MatrixShape, bf16, f16};
use fewbit_kernels::PackedMatrix;
use ndarray::{Array2, ArrayView2};

/// The weight of a linear layer as it is multiplied.
#[derive(Clone, Debug)]
pub enum Matrix {
    /// Single precision, `(out_features, in_features)` row-major.
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
    /// A layer from what a checkpoint holds: floats keep their storage type, quantized matrices are packed.
    ///
    /// # Panics
    /// If the bias is not `out_features` long.
    pub fn from_weight(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        let _ = (weight, bias);
        unimplemented!()
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
        let _ = x;
        unimplemented!()
    }

    /// Bytes of weight and bias in memory.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
}
