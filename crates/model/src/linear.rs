//! A linear layer, in floating point or few bits.

use fewbit_checkpoint::{Dtype, Weight};
use fewbit_format::{MatrixShape, Quantized, bf16, f16};
use fewbit_kernels::{
    IntMatrix, Level, LlmInt8Linear, PackedMatrix, Scratch, linear_bf16, linear_f16, linear_f32,
};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::integers::int_matrix;

/// In what the inputs of few-bit layers are multiplied. Float weights always meet float inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Activations {
    /// f32: exact to rounding, for evaluation, calibration and comparison.
    #[default]
    Float,
    /// Signed bytes under a scale for each few columns, made on the way; sums are integers. The fast way, at a small loss that evaluation can show. Grids that
    /// have no such product keep float inputs.
    Int8,
}

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
    /// Few bits, multiplied by inputs in 8 bits.
    Int(IntMatrix),
    /// The signed bytes of LLM.int8(), multiplied by inputs in 8 bits but for the large ones, which stay floats.
    LlmInt8(LlmInt8Linear),
    /// Few bits on any other grid as they are stored, some rows at a time decoded into memory that stays in the caches.
    Stored(Quantized),
}

/// Memory that products use, kept from one to the next.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinearScratch {
    quantized: Scratch,
    /// Decoded rows of weights.
    rows: Vec<f32>,
    /// Their products, `(n_tokens, rows)`.
    products: Vec<f32>,
}

/// `y = x · Wᵀ + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    shape: MatrixShape,
    matrix: Matrix,
    bias: Option<Vec<f32>>,
}

impl Linear {
    /// A layer from what a checkpoint holds, for float inputs: floats keep their storage type, grids that can be decoded in registers are packed, others
    /// stay as they are stored.
    ///
    /// # Panics
    /// If the bias is not `out_features` long.
    pub fn from_weight(weight: Weight, bias: Option<Vec<f32>>) -> Self {
        Self::with_activations(weight, bias, Activations::Float)
    }

    /// A layer from what a checkpoint holds, for inputs in either form.
    ///
    /// # Panics
    /// If the bias is not `out_features` long.
    pub fn with_activations(
        weight: Weight,
        bias: Option<Vec<f32>>,
        activations: Activations,
    ) -> Self {
        let shape = weight.shape();
        let matrix = match weight {
            Weight::Float { dtype, data, .. } => match dtype {
                // Widening was exact, so this gives back what the file holds.
                Dtype::F16 => Matrix::F16(data.iter().map(|&w| f16::from_f32(w)).collect()),
                Dtype::BF16 => Matrix::BF16(data.iter().map(|&w| bf16::from_f32(w)).collect()),
                _ => Matrix::F32(data),
            },
            Weight::Quant(matrix) => few_bits(matrix, activations),
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
        let mut y = Array2::zeros((x.nrows(), self.shape.out_features));
        let x = x.as_standard_layout();
        let slice = x.as_slice().expect("made contiguous above");
        let out = y.as_slice_mut().expect("a new array is contiguous");
        self.forward_into(slice, x.nrows(), out, &mut LinearScratch::default());
        y
    }

    /// As [`forward`](Self::forward), on slices.
    pub(crate) fn forward_into(
        &self,
        x: &[f32],
        n_tokens: usize,
        out: &mut [f32],
        scratch: &mut LinearScratch,
    ) {
        let level = Level::detect();
        match &self.matrix {
            Matrix::F32(weight) => linear_f32(level, out, x, n_tokens, weight, self.shape),
            Matrix::F16(weight) => linear_f16(level, out, x, n_tokens, weight, self.shape),
            Matrix::BF16(weight) => linear_bf16(level, out, x, n_tokens, weight, self.shape),
            Matrix::Packed(matrix) => matrix.linear(level, out, x, n_tokens),
            Matrix::Int(matrix) => matrix.linear(level, out, x, n_tokens, &mut scratch.quantized),
            Matrix::LlmInt8(matrix) => {
                matrix.linear(level, out, x, n_tokens, &mut scratch.quantized);
            }
            Matrix::Stored(matrix) => linear_stored(level, out, x, n_tokens, matrix, scratch),
        }
        if let Some(bias) = &self.bias {
            out.par_chunks_mut(bias.len().max(1)).with_min_len(16).for_each(|row| {
                for (y, b) in row.iter_mut().zip(bias) {
                    *y += b;
                }
            });
        }
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
            Matrix::Int(matrix) => matrix.dequantize_row_into(i, out),
            Matrix::LlmInt8(matrix) => matrix.dequantize_row_into(i, out),
            Matrix::Stored(matrix) => matrix.dequantize_row_into(i, out),
        }
    }

    /// Bytes of weight and bias in memory.
    pub fn bytes(&self) -> usize {
        let weight = match &self.matrix {
            Matrix::F32(weight) => size_of_val(&**weight),
            Matrix::F16(weight) => size_of_val(&**weight),
            Matrix::BF16(weight) => size_of_val(&**weight),
            Matrix::Packed(matrix) => matrix.packed_bytes(),
            Matrix::Int(matrix) => matrix.packed_bytes(),
            Matrix::LlmInt8(matrix) => matrix.packed_bytes(),
            Matrix::Stored(matrix) => stored_bytes(matrix),
        };
        weight + self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias))
    }
}

fn few_bits(matrix: Quantized, activations: Activations) -> Matrix {
    if activations == Activations::Int8 {
        if let Quantized::LlmInt8(matrix) = &matrix {
            return Matrix::LlmInt8(LlmInt8Linear::new(matrix, LlmInt8Linear::THRESHOLD));
        }
        if let Some(matrix) = int_matrix(&matrix) {
            return Matrix::Int(matrix);
        }
    }
    PackedMatrix::from_quantized(&matrix).map_or(Matrix::Stored(matrix), Matrix::Packed)
}

/// Bytes of a matrix whose grid lies in memory as it lies in a file; of a codebook, which does not, with a byte for each code.
fn stored_bytes(matrix: &Quantized) -> usize {
    match matrix {
        Quantized::Block(matrix) => size_of_val(matrix.data()),
        Quantized::LlmInt8(matrix) => size_of_val(matrix.codes()) + size_of_val(matrix.absmax()),
        Quantized::Codebook(matrix) => {
            let bits = matrix.scheme().storage_bits(matrix.shape());
            matrix.codes().len() / 2 + (bits / 8) as usize
        }
        other => (other.bits_per_weight() / 8.0 * other.shape().len() as f64) as usize,
    }
}

/// Weights that are decoded at a time for many tokens, 2 MiB: enough rows for a product in threads, few enough to stay in a shared cache.
const DECODED: usize = 1 << 19;
/// Weights that a thread decodes at a time for one token, 128 KiB: they stay in its own cache.
const DECODED_ALONE: usize = 1 << 15;

/// The product with decoded rows: the same bits as with all of them decoded beforehand.
fn linear_stored(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    matrix: &Quantized,
    scratch: &mut LinearScratch,
) {
    let MatrixShape { out_features, in_features } = matrix.shape();
    if in_features == 0 {
        out.fill(0.0);
        return;
    }
    if n_tokens == 1 {
        let most = (DECODED_ALONE / in_features).max(1);
        out.par_chunks_mut(most).enumerate().for_each_init(Vec::new, |rows, (i, out)| {
            let shape = MatrixShape::new(out.len(), in_features);
            rows.resize(shape.len(), 0.0);
            for (row, values) in rows.chunks_mut(in_features).enumerate() {
                matrix.dequantize_row_into(i * most + row, values);
            }
            linear_f32(level, out, x, 1, rows, shape);
        });
        return;
    }
    let most = (DECODED / in_features).max(1);
    let LinearScratch { rows, products, .. } = scratch;
    for first in (0..out_features).step_by(most) {
        let n_rows = most.min(out_features - first);
        let shape = MatrixShape::new(n_rows, in_features);
        rows.resize(shape.len(), 0.0);
        rows.par_chunks_mut(in_features).with_min_len(4).enumerate().for_each(|(i, row)| {
            matrix.dequantize_row_into(first + i, row);
        });
        products.resize(n_tokens * n_rows, 0.0);
        linear_f32(level, products, x, n_tokens, rows, shape);
        for (out, products) in out.chunks_exact_mut(out_features).zip(products.chunks(n_rows)) {
            out[first..first + n_rows].copy_from_slice(products);
        }
    }
}
