//! GGUF: the files of llama.cpp, read and written.
//!
//! ```text
//! 0     4          8            16          24
//! | GGUF | version  | tensors    | keys      | metadata: keys times | key | type u32 | value |
//! | 4 B  | u32 = 3  | u64        | u64       |
//!
//! | tensors times | name | rank u32 | rank times u64 | type u32 | offset u64 |
//! | zeros up to a multiple of the alignment | data of each tensor, followed by zeros up to a multiple of the alignment |
//! ```
//!
//! Everything is little-endian. A text is its length in bytes as u64 and UTF-8 without NUL. An array is the type of its elements as u32, their
//! number as u64, and the elements. The alignment is the key `general.alignment`, 32 if absent. Offsets count from the first data byte, and each
//! tensor follows on the one before it.
//!
//! The first dimension is the one that varies fastest, so a weight of `(out_features, in_features)` has the dimensions `[in_features, out_features]`.
//! Blocks of quantized weights lie along it.
//!
//! * [`Gguf`] opens a file, or a model split into files `-00001-of-00003.gguf` and so on, and reads tensors by name;
//! * [`GgufWriter`] writes one, or several, tensor by tensor;
//! * [`Metadata`] holds the keys, each a [`Value`]; [`GgmlType`] says what a tensor is made of;
//! * [`ImportanceMatrix`] is what llama.cpp's `imatrix` tool measures, in both forms of its files.
//!
//! This module knows the container alone: what the keys and tensor names mean is for others to say.
//!
//! # What is refused
//!
//! All that llama.cpp refuses: big-endian files and versions above 3, keys or tensors that occur twice, empty keys, tensor names of more than
//! [`MAX_NAME`] bytes, more than [`MAX_RANK`] dimensions, unknown or removed types, rows that are no whole number of blocks, data that overlaps or leaves a gap,
//! arrays of arrays, an alignment that is no power of two, data beyond the end of the file. Beyond that, text that is no UTF-8 and truth values other than 0
//! and 1. Unlike it, version 1 is read. What fills the padding, or follows on the last tensor, is not looked at.
//!
//! # Limits
//!
//! Before anything is allocated, its size is compared with what is left of the file. An opened header takes at most about sixteen times its size in
//! the file (many keys of one letter with a value of one byte), and an honest one about twice.
//!
//! ```
//! use fewbit_checkpoint::gguf::{GgmlType, Gguf, GgufSpec, GgufWriter, Metadata};
//!
//! let mut metadata = Metadata::new();
//! metadata.insert("general.architecture", "llama");
//! metadata.insert("llama.block_count", 1u32);
//! let folder = tempfile::tempdir()?;
//! let out = folder.path().join("model.gguf");
//! let specs = vec![GgufSpec::new("output_norm.weight", GgmlType::F32, [3])];
//! let mut writer = GgufWriter::create(&out, &metadata, specs, None)?;
//! writer.write("output_norm.weight", &[0, 0, 128, 63, 0, 0, 0, 64, 0, 0, 64, 64])?;
//! writer.finish()?;
//!
//! let file = Gguf::open(&out)?;
//! assert_eq!(file.metadata().u32("llama.block_count")?, 1);
//! assert_eq!(file.read_f32("output_norm.weight")?, [1.0, 2.0, 3.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decode;
mod encode;
mod header;
mod imatrix;
mod imatrix_dat;
mod kind;
mod metadata;
mod reader;
mod split;
mod value;
mod writer;

pub(crate) use decode::decode;
pub use header::GgufTensor;
pub use imatrix::{Importance, ImportanceMatrix};
pub use kind::GgmlType;
pub use metadata::{FromValue, Metadata};
pub use reader::Gguf;
pub use value::{Array, Value, ValueType};
pub use writer::{GgufSpec, GgufWriter};

use crate::Problem;

/// The most bytes in the name of a tensor; llama.cpp keeps 64 with the final NUL.
pub const MAX_NAME: usize = 63;
/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 4;
/// The most bytes in a key.
pub const MAX_KEY: usize = 65_535;
/// What errors call such a file.
const FORMAT: &str = "GGUF";
/// Key of the alignment of tensor data.
const ALIGNMENT: &str = "general.alignment";
/// The alignment where that key is absent.
const DEFAULT_ALIGNMENT: u64 = 32;

/// What the metadata says of the alignment of tensor data.
fn alignment(metadata: &Metadata) -> Result<u64, Problem> {
    match metadata.get(ALIGNMENT) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment.into()),
        Some(&Value::U32(alignment)) => Err(Problem::Alignment { alignment }),
        Some(other) => Err(Problem::KeyType { found: other.value_type(), expected: "u32" }),
    }
}

/// Why a tensor name cannot be, if it cannot.
fn name_problem(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name.len() > MAX_NAME {
        Some("is longer than 63 bytes")
    } else if name.contains('\0') {
        Some("holds a NUL")
    } else {
        None
    }
}

/// Why a key cannot be, if it cannot.
fn key_problem(key: &str) -> Option<&'static str> {
    if key.is_empty() {
        Some("is empty")
    } else if key.len() > MAX_KEY {
        Some("is longer than 65535 bytes")
    } else {
        None
    }
}
