//! A matrix of blocks: borrowed, as it lies in a mapped file, and owned.

use alloc::{vec, vec::Vec};

use super::BlockType;
use crate::{FormatError, FormatError as E, MatrixShape};

/// Bytes that a matrix takes.
fn total_bytes(shape: MatrixShape, block_type: BlockType) -> Result<usize, FormatError> {
    let row = block_type.row_bytes(shape.in_features)?;
    row.checked_mul(shape.out_features).ok_or(E::RowLength {
        block_type,
        in_features: shape.in_features,
        fallback: None,
    })
}

/// A weight matrix of blocks that someone else owns: row after row, `in_features / weights` blocks each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockView<'a> {
    shape: MatrixShape,
    block_type: BlockType,
    data: &'a [u8],
}

impl<'a> BlockView<'a> {
    /// A view of `data`.
    ///
    /// Looks at lengths only: [`check`](Self::check) looks for scales that are not finite.
    ///
    /// # Errors
    /// If a row is not a whole number of blocks, or `data` not the bytes that the shape takes.
    pub fn new(
        shape: MatrixShape,
        block_type: BlockType,
        data: &'a [u8],
    ) -> Result<Self, FormatError> {
        let expected = total_bytes(shape, block_type)?;
        if data.len() != expected {
            let MatrixShape { out_features, in_features } = shape;
            let got = data.len();
            return Err(E::Length { what: "blocks", got, expected, out_features, in_features });
        }
        Ok(Self { shape, block_type, data })
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Layout of a block.
    pub fn block_type(&self) -> BlockType {
        self.block_type
    }

    /// All blocks, row after row.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// The blocks of one row.
    ///
    /// # Panics
    /// If `row` is out of range.
    pub fn row(&self, row: usize) -> &'a [u8] {
        assert!(row < self.shape.out_features, "row {row} of {}", self.shape.out_features);
        let bytes = self.data.len() / self.shape.out_features;
        &self.data[row * bytes..][..bytes]
    }

    /// Finds scales that are NaN or infinite, which no sound file has.
    ///
    /// # Errors
    /// Names the first such block, counted over all rows.
    pub fn check(&self) -> Result<(), FormatError> {
        self.block_type.check(self.data)
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    #[inline(always)]
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.shape.in_features, "a row has in_features values");
        self.block_type.decode(self.row(row), out).expect("the lengths were checked by new");
    }

    /// All values, `(out_features, in_features)` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.len()];
        self.block_type.decode(self.data, &mut out).expect("the lengths were checked by new");
        out
    }

    /// Bits per weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_type.bits_per_weight()
    }
}

/// A weight matrix of blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMatrix {
    shape: MatrixShape,
    block_type: BlockType,
    data: Vec<u8>,
}

impl BlockMatrix {
    /// Takes blocks, row after row.
    ///
    /// # Errors
    /// As [`BlockView::new`].
    pub fn new(
        shape: MatrixShape,
        block_type: BlockType,
        data: Vec<u8>,
    ) -> Result<Self, FormatError> {
        BlockView::new(shape, block_type, &data)?;
        Ok(Self { shape, block_type, data })
    }

    /// Encodes a matrix by the reference rules of its type: see [`BlockType::encode_rows`].
    ///
    /// # Errors
    /// If a length does not follow from the shape, a row is not a whole number of blocks, a value is not finite, or a scale overflows.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        block_type: BlockType,
        importance: Option<&[f32]>,
    ) -> Result<Self, FormatError> {
        let bytes = total_bytes(shape, block_type)?;
        if weight.len() != shape.len() {
            let MatrixShape { out_features, in_features } = shape;
            let (got, expected) = (weight.len(), shape.len());
            return Err(E::Length { what: "weight", got, expected, out_features, in_features });
        }
        let mut data = vec![0; bytes];
        block_type.encode_rows(weight, shape.in_features, importance, &mut data)?;
        Ok(Self { shape, block_type, data })
    }

    /// The matrix, borrowed.
    pub fn view(&self) -> BlockView<'_> {
        BlockView { shape: self.shape, block_type: self.block_type, data: &self.data }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Layout of a block.
    pub fn block_type(&self) -> BlockType {
        self.block_type
    }

    /// All blocks, row after row.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// All blocks, row after row.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    #[inline(always)]
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        self.view().dequantize_row_into(row, out);
    }

    /// All values, `(out_features, in_features)` row-major.
    pub fn dequantize(&self) -> Vec<f32> {
        self.view().dequantize()
    }

    /// Bits per weight, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        self.block_type.bits_per_weight()
    }
}
