//! What can be wrong with a scheme, a matrix or packed bytes.

use thiserror::Error;

use crate::BlockType;

/// Errors of this crate. The layer that knows the tensor's name adds it.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A code width that no integer grid has.
    #[error("{bits} bits: an integer grid has 2, 3, 4, 5, 6 or 8 bits")]
    UnsupportedBits {
        /// The width asked for.
        bits: u32,
    },
    /// A group of no weights.
    #[error("group size 0: use a positive group size, or one group per channel")]
    ZeroGroupSize,
    /// A buffer whose length does not follow from the shape.
    #[error(
        "{what} has {got} elements, but the shape {out_features}x{in_features} needs {expected}"
    )]
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it needs.
        expected: usize,
        /// Rows of the matrix.
        out_features: usize,
        /// Columns of the matrix.
        in_features: usize,
    },
    /// A weight or scale that is NaN or infinite.
    #[error("{what} is {value} at index {index}: only finite values can be quantized")]
    NonFinite {
        /// Which buffer.
        what: &'static str,
        /// Position in it.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// A scale that its storage type cannot hold exactly.
    #[error("scale {value} at index {index} is not a value of its storage type {scale_type}")]
    ScaleNotStored {
        /// Position in the scales.
        index: usize,
        /// The value found.
        value: f32,
        /// The storage type.
        scale_type: &'static str,
    },
    /// A code or zero point above the grid's largest code.
    #[error("{what} {value} at index {index} exceeds the largest code {max} of {bits} bits")]
    CodeRange {
        /// Codes or zero points.
        what: &'static str,
        /// Position in the buffer.
        index: usize,
        /// The value found.
        value: u32,
        /// The largest allowed.
        max: u32,
        /// Width of the grid.
        bits: u32,
    },
    /// A group map that points past the last group.
    #[error("column {column} belongs to group {group}, but there are only {n_groups} groups")]
    GroupRange {
        /// Column of the matrix.
        column: usize,
        /// Group it names.
        group: usize,
        /// Groups there are.
        n_groups: usize,
    },
    /// A group map on a grid that has no groups.
    #[error("a group map needs group granularity, not {granularity}")]
    GroupMapWithoutGroups {
        /// The granularity of the scheme.
        granularity: &'static str,
    },
    /// A packed buffer whose length does not match the codes it should hold.
    #[error("{what} has {got} {unit}, but {count} codes of {bits} bits need {expected}")]
    PackedLength {
        /// Which buffer.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it needs.
        expected: usize,
        /// Bytes or words.
        unit: &'static str,
        /// Number of codes.
        count: usize,
        /// Width of a code.
        bits: u32,
    },
    /// A signed value outside the range of its width.
    #[error("value {value} at index {index} is outside {low}..={}, the range of {bits} bits", -low - 1)]
    SignedRange {
        /// Position in the buffer.
        index: usize,
        /// The value found.
        value: i8,
        /// The least value.
        low: i16,
        /// Width of a code.
        bits: u32,
    },
    /// A row that is not a whole number of blocks.
    #[error("a row of {in_features} weights does not divide into {block_type} blocks of {}: {}", block_type.weights(), remedy(*fallback))]
    RowLength {
        /// The layout asked for.
        block_type: BlockType,
        /// Length of the row.
        in_features: usize,
        /// A layout that divides it.
        fallback: Option<BlockType>,
    },
    /// A block whose scale is beyond the type that stores it.
    #[error(
        "the {block_type} block of weight {index} holds {largest}, too large for its scale: keep the matrix in a float type"
    )]
    ScaleOverflow {
        /// Layout of the block.
        block_type: BlockType,
        /// Position of a weight of the block.
        index: usize,
        /// Largest magnitude found.
        largest: f32,
    },
    /// A stored scale that is NaN or infinite.
    #[error("{block_type} block {block} has a scale that is not finite: the file is damaged")]
    BlockScale {
        /// Layout of the block.
        block_type: BlockType,
        /// Number of the block.
        block: usize,
    },
    /// An importance weight that is negative, NaN or infinite.
    #[error("importance {value} at index {index}: importances are finite and not negative")]
    Importance {
        /// Position in the importances.
        index: usize,
        /// The value found.
        value: f32,
    },
    /// A code that stands for NaN or infinity.
    #[error("{what} {code:#04x} at index {index} is no number: the file is damaged")]
    NotANumber {
        /// Which encoding.
        what: &'static str,
        /// Position in the buffer.
        index: usize,
        /// The code found.
        code: u8,
    },
    /// A scale of the whole matrix that is zero, not finite, or has no place in the format.
    #[error("global scale {value} is impossible in {scheme}")]
    GlobalScale {
        /// The value found.
        value: f32,
        /// The format.
        scheme: &'static str,
    },
    /// Plain magnitudes where the scheme says double quantization, or the other way round.
    #[error("the magnitudes are not of the kind that the scheme says: plain or double-quantized")]
    DoubleQuant,
    /// A scheme that has no codes.
    #[error("{scheme} has no codes to round to: choose a grid")]
    NoGrid {
        /// The scheme.
        scheme: &'static str,
    },
}

/// What to do about a row that does not divide into blocks.
fn remedy(fallback: Option<BlockType>) -> alloc::string::String {
    match fallback {
        Some(block_type) => alloc::format!("use {block_type}, which divides it"),
        None => "no block type divides it, so keep the matrix in f16".into(),
    }
}
