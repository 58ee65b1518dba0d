//! A quantized matrix of any grid.

use alloc::{vec, vec::Vec};

use crate::{
    BlockMatrix, CodebookMatrix, Float4Matrix, Float8Matrix, FormatError, LlmInt8Matrix,
    MatrixShape, OffsetMatrix, QuantMatrix, Scheme,
};

/// A weight matrix on whichever grid its plan chose.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Quantized {
    /// Codes of an integer grid.
    Int(QuantMatrix),
    /// Codes of an integer grid over float offsets.
    Offset(OffsetMatrix),
    /// GGML blocks.
    Block(BlockMatrix),
    /// Codes of NF4 or FP4.
    Codebook(CodebookMatrix),
    /// 8-bit floats.
    Float8(Float8Matrix),
    /// 4-bit floats: MXFP4 or NVFP4.
    Float4(Float4Matrix),
    /// The signed bytes of LLM.int8().
    LlmInt8(LlmInt8Matrix),
}

/// Evaluates an expression with the matrix, whichever it is.
macro_rules! each {
    ($self:expr, $matrix:ident => $value:expr) => {
        match $self {
            Quantized::Int($matrix) => $value,
            Quantized::Offset($matrix) => $value,
            Quantized::Block($matrix) => $value,
            Quantized::Codebook($matrix) => $value,
            Quantized::Float8($matrix) => $value,
            Quantized::Float4($matrix) => $value,
            Quantized::LlmInt8($matrix) => $value,
        }
    };
}

impl Quantized {
    /// Plain rounding: every weight to its nearest value, under the parameters that the grid takes from the range of the weights alone.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)`, holds NaN or infinity, does not fit the grid, or the scheme is float.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: Scheme,
    ) -> Result<Self, FormatError> {
        match scheme {
            Scheme::Float => Err(FormatError::NoGrid { scheme: scheme.name() }),
            Scheme::Int(scheme) => {
                QuantMatrix::round_to_nearest(weight, shape, scheme).map(Self::Int)
            }
            Scheme::Offset(scheme) => {
                OffsetMatrix::round_to_nearest(weight, shape, scheme).map(Self::Offset)
            }
            Scheme::Block(block_type) => {
                BlockMatrix::round_to_nearest(weight, shape, block_type, None).map(Self::Block)
            }
            Scheme::Codebook(scheme) => {
                CodebookMatrix::round_to_nearest(weight, shape, scheme).map(Self::Codebook)
            }
            Scheme::Float8(scheme) => {
                Float8Matrix::round_to_nearest(weight, shape, scheme).map(Self::Float8)
            }
            Scheme::Float4(scheme) => {
                Float4Matrix::round_to_nearest(weight, shape, scheme).map(Self::Float4)
            }
            Scheme::LlmInt8 => LlmInt8Matrix::round_to_nearest(weight, shape).map(Self::LlmInt8),
        }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        each!(self, matrix => matrix.shape())
    }

    /// The grid it lies on.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Int(matrix) => Scheme::Int(matrix.scheme()),
            Self::Offset(matrix) => Scheme::Offset(matrix.scheme()),
            Self::Block(matrix) => Scheme::Block(matrix.block_type()),
            Self::Codebook(matrix) => Scheme::Codebook(matrix.scheme()),
            Self::Float8(matrix) => Scheme::Float8(matrix.scheme()),
            Self::Float4(matrix) => Scheme::Float4(matrix.scheme()),
            Self::LlmInt8(_) => Scheme::LlmInt8,
        }
    }

    /// Group of each column (act-order), where it is not `column / group_size`.
    pub fn group_of_column(&self) -> Option<&[u32]> {
        match self {
            Self::Int(matrix) => matrix.group_of_column(),
            _ => None,
        }
    }

    /// Share of codes at either end of the range of an integer grid; `None` for the other grids, which put a weight there by design.
    pub fn saturated(&self) -> Option<f64> {
        let (codes, bits) = match self {
            Self::Int(matrix) => (matrix.codes(), matrix.scheme().bits),
            Self::Offset(matrix) => (matrix.codes(), matrix.scheme().bits),
            _ => return None,
        };
        let max = bits.max_code();
        let ends = codes.iter().filter(|&&code| code == 0 || code == max).count();
        Some(ends as f64 / codes.len().max(1) as f64)
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        each!(self, matrix => matrix.dequantize_row_into(row, out));
    }

    /// All values, `(out_features, in_features)` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let shape = self.shape();
        let mut out = vec![0.0; shape.len()];
        if !shape.is_empty() {
            for (row, out) in out.chunks_mut(shape.in_features).enumerate() {
                self.dequantize_row_into(row, out);
            }
        }
        out
    }

    /// Bits per weight, scales and the like included; 0 for an empty matrix.
    pub fn bits_per_weight(&self) -> f64 {
        self.scheme().bits_per_weight(self.shape()).unwrap_or_default()
    }
}

impl From<QuantMatrix> for Quantized {
    fn from(matrix: QuantMatrix) -> Self {
        Self::Int(matrix)
    }
}

impl From<OffsetMatrix> for Quantized {
    fn from(matrix: OffsetMatrix) -> Self {
        Self::Offset(matrix)
    }
}

impl From<BlockMatrix> for Quantized {
    fn from(matrix: BlockMatrix) -> Self {
        Self::Block(matrix)
    }
}

impl From<CodebookMatrix> for Quantized {
    fn from(matrix: CodebookMatrix) -> Self {
        Self::Codebook(matrix)
    }
}

impl From<Float8Matrix> for Quantized {
    fn from(matrix: Float8Matrix) -> Self {
        Self::Float8(matrix)
    }
}

impl From<Float4Matrix> for Quantized {
    fn from(matrix: Float4Matrix) -> Self {
        Self::Float4(matrix)
    }
}

impl From<LlmInt8Matrix> for Quantized {
    fn from(matrix: LlmInt8Matrix) -> Self {
        Self::LlmInt8(matrix)
    }
}
