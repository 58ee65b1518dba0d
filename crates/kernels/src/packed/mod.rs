//! A quantized matrix prepared for products with float activations.
//!
//! Codes lie in 32-bit words, as many *fields* as fit: 16, 10, 8, 6, 5 or 4 for 2, 3, 4, 5, 6 or 8 bits. Sixteen words are a *line*; field
//! `j` of the sixteen words holds sixteen neighbouring columns, a *step*:
//!
//! ```text
//! line b, word i, field j   =   column (b · fields + j) · 16 + i        (as stored)
//! ```
//!
//! An integer becomes a float without a conversion: masked where it lies and joined with an exponent whose mantissa counts in units of the
//! field's lowest bit, it is `2^e + code`. Subtracting `2^e + middle` leaves `code − middle` exactly, ready to be multiplied. Codes of a codebook are looked
//! up in a register, and floats of eight bits are moved to where the fields of an f32 are.
//!
//! Columns are stored group by group, each group padded to whole steps, and rows padded to whole lines; activations are gathered into
//! the same order, with zeros in the padding. Some steps that lie in one group make a *segment*: its products are summed before they are
//! multiplied by the scale. On an affine grid a segment's sum begins with `(middle − zero_point) · Σ x`, from sums of the activations that
//! are made once for all rows.

mod columns;
mod fields;
mod prepare;
mod values;

use alloc::{vec, vec::Vec};

use fewbit_format::{MatrixShape, QuantMatrix, Quantized};

use self::{
    fields::Fields,
    values::{Bytes, Entries, Steps},
};
use crate::{
    Level,
    level::Kernel,
    linear::linear,
    rows::Rows,
    simd::{Aligned, LANES, Simd},
};

/// Sixteen words.
type Line = Aligned<u32>;

/// A quantized matrix prepared once for products with float activations, decoded in registers.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    shape: MatrixShape,
    kind: Kind,
    /// (out_features, lines per row).
    lines: Vec<Line>,
    lines_per_row: usize,
    /// (out_features, n_groups).
    scales: Vec<f32>,
    /// `middle − zero_point`, like `scales`; empty where there is none.
    offsets: Vec<i16>,
    n_groups: usize,
    /// Steps of a segment; divides the fields of a word.
    segment: usize,
    /// Group of each segment of a row.
    group_of_segment: Vec<u32>,
    /// Column of each stored column, or a number past the last, where they differ.
    gather: Option<Vec<u32>>,
    /// The numbers that codes of [`Kind::Entries`] stand for.
    table: [f32; LANES],
}

/// What codes stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Integers of 2, 3, 4, 5, 6 or 8 bits.
    Steps(u32),
    /// Entries of the table.
    Entries,
    /// Floats of eight bits, four of them exponent.
    E4m3,
    /// Floats of eight bits, five of them exponent.
    E5m2,
}

impl Kind {
    const fn bits(self) -> u32 {
        match self {
            Self::Steps(bits) => bits,
            Self::Entries => 4,
            Self::E4m3 | Self::E5m2 => 8,
        }
    }

    /// Codes in a word.
    const fn fields(self) -> usize {
        (32 / self.bits()) as usize
    }
}

/// The rows of a matrix under their type.
macro_rules! with_rows {
    ($matrix:expr, $rows:ident => $value:expr) => {{
        macro_rules! as_rows {
            ($kind:ty, $fields:literal) => {{
                let $rows = &Fields::<$kind, $fields>::of($matrix);
                $value
            }};
        }
        match $matrix.kind {
            Kind::Steps(2) => as_rows!(Steps<2, 16>, 16),
            Kind::Steps(3) => as_rows!(Steps<3, 10>, 10),
            Kind::Steps(4) => as_rows!(Steps<4, 8>, 8),
            Kind::Steps(5) => as_rows!(Steps<5, 6>, 6),
            Kind::Steps(6) => as_rows!(Steps<6, 5>, 5),
            Kind::Steps(_) => as_rows!(Steps<8, 4>, 4),
            Kind::Entries => as_rows!(Entries, 8),
            Kind::E4m3 => as_rows!(Bytes<4>, 4),
            Kind::E5m2 => as_rows!(Bytes<5>, 4),
        }
    }};
}

impl PackedMatrix {
    /// Rearranges the codes of a matrix on an integer grid. Any width, granularity, zero points and group map.
    pub fn from_quant(matrix: &QuantMatrix) -> Self {
        prepare::from_quant(matrix)
    }

    /// Rearranges a matrix on a grid that can be decoded in registers: integers, NF4 and FP4, FP8, MXFP4 and NVFP4.
    ///
    /// `None` for GGML's blocks and LLM.int8(), which products of integers serve ([`IntMatrix`](crate::IntMatrix), [`LlmInt8Linear`](crate::LlmInt8Linear)),
    /// and for codebooks whose blocks begin within rows.
    pub fn from_quantized(matrix: &Quantized) -> Option<Self> {
        match matrix {
            Quantized::Int(matrix) => Some(prepare::from_quant(matrix)),
            Quantized::Codebook(matrix) => prepare::from_codebook(matrix),
            Quantized::Float8(matrix) => Some(prepare::from_float8(matrix)),
            Quantized::Float4(matrix) => Some(prepare::from_float4(matrix)),
            _ => None,
        }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bytes that it takes in memory: codes, scales, zero points and maps, padding included.
    pub fn packed_bytes(&self) -> usize {
        size_of_val(&*self.lines)
            + size_of_val(&*self.scales)
            + size_of_val(&*self.offsets)
            + size_of_val(&*self.group_of_segment)
            + self.gather.as_ref().map_or(0, |gather| size_of_val(&**gather))
    }

    /// Writes the values of one row, `in_features` of them: the same bits as the `dequantize_row_into` of the matrix that this one was made of.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row_into(&self, level: Level, row: usize, out: &mut [f32]) {
        assert!(row < self.shape.out_features, "no row {row}");
        assert_eq!(out.len(), self.shape.in_features, "a row has in_features values");
        with_rows!(self, rows => decode_row(level, rows, row, out));
    }

    /// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ`, in f32 throughout.
    ///
    /// # Panics
    /// If a length does not follow from the shape.
    pub fn linear(&self, level: Level, out: &mut [f32], x: &[f32], n_tokens: usize) {
        with_rows!(self, rows => linear(level, out, x, n_tokens, rows, self.shape));
    }
}

/// Writes a row of any kind of weights in the order of its columns.
fn decode_row<R: Rows>(level: Level, rows: &R, row: usize, out: &mut [f32]) {
    struct Decode<'a, R>(&'a R, usize, &'a mut [f32]);
    impl<R: Rows> Kernel for Decode<'_, R> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            self.0.decode(simd, self.1, 0, self.2);
        }
    }
    let mut stored = vec![0.0; rows.width()];
    level.dispatch(Decode(rows, row, &mut stored));
    match rows.gather() {
        None => out.copy_from_slice(&stored[..out.len()]),
        Some(gather) => {
            for (value, &column) in stored.iter().zip(gather) {
                if let Some(out) = out.get_mut(column as usize) {
                    *out = *value;
                }
            }
        }
    }
}
