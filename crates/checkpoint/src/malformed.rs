//! What can be wrong inside a binary file: GGUF, importance matrices, legacy models.

use std::fmt;

use thiserror::Error;

use crate::gguf::{GgmlType, ValueType};

/// A place in a binary file that cannot be, and why.
#[derive(Clone, Debug, PartialEq, Error)]
#[error("{item} at byte {at}: {problem}")]
pub struct Malformed {
    /// Byte of the file where the offending field begins.
    pub at: u64,
    /// What it belongs to.
    pub item: Item,
    /// What is wrong.
    pub problem: Problem,
}

/// What a field of a binary file belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// The fields before the first entry.
    Header,
    /// A metadata entry whose key is not read yet, by its number from 0.
    Entry(u64),
    /// The metadata entry of this key.
    Key(String),
    /// A tensor whose name is not read yet, by its number from 0.
    TensorNumber(u64),
    /// The tensor of this name.
    Tensor(String),
    /// A token of the vocabulary, by its id.
    Token(u64),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("the header"),
            Self::Entry(number) => write!(f, "metadata entry {number}"),
            Self::Key(key) => write!(f, "metadata key {key}"),
            Self::TensorNumber(number) => write!(f, "tensor number {number}"),
            Self::Tensor(name) => write!(f, "tensor {name}"),
            Self::Token(id) => write!(f, "token {id}"),
        }
    }
}

/// What is wrong with a field of a binary file.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Problem {
    /// Fewer bytes than a field or a tensor takes.
    #[error("{needed} bytes are needed and {left} are left: the file is truncated or damaged")]
    Truncated {
        /// Bytes needed; saturated.
        needed: u64,
        /// Bytes up to the end of the file.
        left: u64,
    },
    /// A count that the rest of the file cannot hold.
    #[error(
        "{count} {what} are claimed, but no more than {limit} can follow: the file is truncated or damaged"
    )]
    Count {
        /// Of what.
        what: &'static str,
        /// The count.
        count: u64,
        /// The most that can be.
        limit: u64,
    },
    /// Not a file of this format.
    #[error("the magic bytes are {found:02x?} instead of {expected:?}")]
    Magic {
        /// The first bytes.
        found: [u8; 4],
        /// What they should be.
        expected: &'static str,
    },
    /// A version that this crate does not read.
    #[error("version {version} is not supported; supported: {supported}")]
    Version {
        /// The version.
        version: u32,
        /// The supported ones.
        supported: &'static str,
    },
    /// A big-endian file.
    #[error("the file is big-endian: convert it to little-endian first")]
    BigEndian,
    /// Something this crate knows and does not read.
    #[error("{what} cannot be read: {remedy}")]
    Unsupported {
        /// What it is.
        what: &'static str,
        /// What would do.
        remedy: &'static str,
    },
    /// A string that is no UTF-8.
    #[error("the text is no UTF-8")]
    Utf8,
    /// A name or key that cannot be.
    #[error("the name {name:?} {problem}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A metadata type that does not exist.
    #[error("there is no metadata type {id}: types are 0 to 12")]
    ValueType {
        /// The type id.
        id: u32,
    },
    /// An array of arrays.
    #[error("arrays of arrays cannot be read")]
    Nested,
    /// A truth value that is neither 0 nor 1.
    #[error("byte {byte:#04x} is no truth value: it must be 0 or 1")]
    Bool {
        /// The byte.
        byte: u8,
    },
    /// A metadata value of another type than the format wants.
    #[error("a value of type {found} where {expected} is needed")]
    KeyType {
        /// What it is.
        found: ValueType,
        /// What it must be.
        expected: &'static str,
    },
    /// A required metadata key that is not there.
    #[error("the key is missing")]
    MissingKey,
    /// A metadata key or tensor name that occurred before.
    #[error("the name occurs a second time")]
    Duplicate,
    /// An alignment that is no power of two.
    #[error("alignment {alignment} is no power of two")]
    Alignment {
        /// The alignment.
        alignment: u32,
    },
    /// Too many dimensions.
    #[error("{rank} dimensions are above the limit of {limit}")]
    Rank {
        /// Number of dimensions.
        rank: u32,
        /// The limit.
        limit: u32,
    },
    /// A shape whose elements or bytes cannot be counted.
    #[error("dimensions {dims:?} overflow the number of elements")]
    Overflow {
        /// The dimensions, fastest first.
        dims: Vec<u64>,
    },
    /// Dimensions that contradict the file's own parameters.
    #[error("dimensions {dims:?} contradict the expected {expected:?}")]
    Shape {
        /// The dimensions, fastest first.
        dims: Vec<u64>,
        /// What they must be.
        expected: Vec<u64>,
    },
    /// A tensor type that does not exist, or does not in this kind of file.
    #[error("there is no tensor type {id} in this format")]
    UnknownType {
        /// The type id.
        id: u32,
    },
    /// A tensor type that existed once.
    #[error(
        "tensor type {id}, {name}, was removed from the format: make the file again with another type"
    )]
    RemovedType {
        /// The type id.
        id: u32,
        /// Its name.
        name: &'static str,
    },
    /// A row that is no whole number of blocks.
    #[error("a row of {in_features} weights is no multiple of the {block} of a {kind} block")]
    Row {
        /// The tensor type.
        kind: GgmlType,
        /// The first dimension.
        in_features: u64,
        /// Weights in a block.
        block: u64,
    },
    /// Tensor data that does not follow on the data before it.
    #[error(
        "its data is at offset {offset}, but the data before it, padded, ends at {expected}: {}",
        if offset < expected { "tensors overlap" } else { "bytes between belong to no tensor" }
    )]
    Offset {
        /// Offset in the data section.
        offset: u64,
        /// Where the data before it ends.
        expected: u64,
    },
    /// A number that cannot be.
    #[error("{what} is {value}, but must be {expected}")]
    Value {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: i64,
        /// What it must be.
        expected: String,
    },
    /// A floating-point number that cannot be.
    #[error("{what} is {value}, but must be {expected}")]
    Float {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: f32,
        /// What it must be.
        expected: &'static str,
    },
    /// Bytes after the last thing that belongs to the file.
    #[error("{bytes} bytes follow that belong to nothing")]
    Trailing {
        /// How many.
        bytes: u64,
    },
}
