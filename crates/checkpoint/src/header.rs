//! The header of a safetensors file.
//!
//! ```text
//! 0      8                      8 + n                                    end of file
//! | n    | JSON, n bytes        | data: tensors back to back, no holes   |
//! | u64  | {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …, "__metadata__": {…}}
//! ```
//!
//! Offsets count from the first data byte. The `safetensors` crate defines the records and has the last word; before it, every rule is
//! checked here so that an error names the tensor and the number, and so are the cases that it lets pass: a tensor listed twice, names
//! that are empty or hold NUL, and more than [`MAX_RANK`] dimensions.

use std::{collections::HashMap, fmt, marker::PhantomData};

use safetensors::{Dtype, SafeTensorError, tensor::Metadata};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use thiserror::Error;

use crate::TensorInfo;

/// The longest header that is read, 100 MB as in the `safetensors` crate.
pub const MAX_HEADER: u64 = 100_000_000;
/// The most dimensions a tensor may have.
pub const MAX_RANK: usize = 8;
/// Key of the free-form strings in a header.
pub(crate) const METADATA: &str = "__metadata__";

/// What is wrong with the header of a safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too short to hold a header.
    #[error("it has {bytes} bytes, fewer than the 8 of the header length: the file is truncated")]
    TooShort {
        /// Length of the file.
        bytes: u64,
    },
    /// A header longer than the file.
    #[error(
        "it claims a header of {header} bytes in a file of {file}: the file is truncated, or is no safetensors file"
    )]
    HeaderLength {
        /// Claimed length of the header.
        header: u64,
        /// Length of the file.
        file: u64,
    },
    /// A header beyond all reason.
    #[error("it claims a header of {header} bytes, above the limit of {MAX_HEADER}")]
    HeaderLimit {
        /// Claimed length of the header.
        header: u64,
    },
    /// A header that is no JSON object.
    #[error("its header begins with byte {first:#04x} instead of '{{'")]
    NotAnObject {
        /// The first byte.
        first: u8,
    },
    /// A header that does not parse.
    #[error("its header does not parse: {0}")]
    Json(#[source] serde_json::Error),
    /// A tensor listed twice.
    #[error("its header lists tensor {tensor} twice")]
    Duplicate {
        /// The tensor.
        tensor: String,
    },
    /// A name that cannot be.
    #[error("its header names a tensor {tensor:?}, {problem}")]
    Name {
        /// The name.
        tensor: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// Too many dimensions.
    #[error("tensor {tensor} has {rank} dimensions, above the limit of {MAX_RANK}")]
    Rank {
        /// The tensor.
        tensor: String,
        /// Its dimensions.
        rank: usize,
    },
    /// A byte range that does not follow from shape and type.
    #[error(
        "tensor {tensor} lies at bytes {begin}..{end}, which {dtype} of shape {shape:?} do not fill exactly"
    )]
    Size {
        /// The tensor.
        tensor: String,
        /// Its type.
        dtype: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// First data byte.
        begin: usize,
        /// Past the last data byte.
        end: usize,
    },
    /// Two tensors in the same bytes.
    #[error("tensor {tensor} begins at {begin}, inside tensor {other}, which ends at {end}")]
    Overlap {
        /// The tensor.
        tensor: String,
        /// Where it begins.
        begin: usize,
        /// The tensor before it.
        other: String,
        /// Where that ends.
        end: usize,
    },
    /// Bytes that belong to no tensor.
    #[error(
        "tensor {tensor} begins at {begin}, but the data before it ends at {end}: bytes between belong to no tensor"
    )]
    Hole {
        /// The tensor.
        tensor: String,
        /// Where it begins.
        begin: usize,
        /// Where the data before it ends.
        end: usize,
    },
    /// A file that is shorter or longer than its tensors.
    #[error(
        "its tensors end at byte {expected}, but the file has {got}: {}",
        if got < expected { "it is truncated, fetch it again" } else { "bytes follow that belong to no tensor" }
    )]
    FileLength {
        /// Length that follows from the header.
        expected: u64,
        /// Length of the file.
        got: u64,
    },
    /// What only the `safetensors` crate objects to.
    #[error("{0}")]
    Other(#[source] SafeTensorError),
}

/// A tensor and where its bytes begin in the file.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    pub(crate) begin: u64,
}

/// Length of the header, from the first 8 bytes of a file of `file` bytes.
pub(crate) fn length(first: [u8; 8], file: u64) -> Result<usize, HeaderError> {
    let header = u64::from_le_bytes(first);
    if header > MAX_HEADER {
        return Err(HeaderError::HeaderLimit { header });
    }
    if header > file.saturating_sub(8) {
        return Err(HeaderError::HeaderLength { header, file });
    }
    Ok(header as usize)
}

/// The tensors that a header lists, in the order of their bytes.
pub(crate) fn parse(header: &[u8], file: u64) -> Result<Vec<Entry>, HeaderError> {
    match header.first() {
        Some(b'{') => {}
        first => return Err(HeaderError::NotAnObject { first: first.copied().unwrap_or(0) }),
    }
    let records: Records = serde_json::from_slice(header).map_err(HeaderError::Json)?;
    let mut tensors = records.tensors;
    // Empty tensors share their offset with the one that follows; the names make the order of errors definite.
    tensors.sort_by(|(a, x), (b, y)| x.data_offsets.cmp(&y.data_offsets).then_with(|| a.cmp(b)));
    check_names(&tensors)?;
    check_ranges(&tensors)?;
    let data = 8 + header.len() as u64;
    let end = tensors.last().map_or(0, |(_, t)| t.data_offsets.1);
    let expected = data.saturating_add(end as u64);
    if expected != file {
        return Err(HeaderError::FileLength { expected, got: file });
    }
    let entries = tensors.iter().map(|(name, t)| {
        let (begin, end) = t.data_offsets;
        let (name, shape) = (name.clone(), t.shape.clone());
        let info = TensorInfo { name, dtype: t.dtype, shape, bytes: (end - begin) as u64 };
        Entry { info, begin: data + begin as u64 }
    });
    let entries = entries.collect();
    Metadata::new(records.metadata, tensors).map_err(HeaderError::Other)?;
    Ok(entries)
}

/// A tensor as the header records it.
type Record = (String, safetensors::tensor::TensorInfo);

fn check_names(tensors: &[Record]) -> Result<(), HeaderError> {
    let mut names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(HeaderError::Duplicate { tensor: pair[0].to_owned() });
    }
    for name in names {
        if let Some(problem) = name_problem(name) {
            return Err(HeaderError::Name { tensor: name.to_owned(), problem });
        }
    }
    Ok(())
}

/// Why a name cannot be a tensor's, if it cannot.
pub(crate) fn name_problem(name: &str) -> Option<&'static str> {
    match name {
        "" => Some("which is empty"),
        METADATA => Some("which is the key of the metadata"),
        _ if name.contains('\0') => Some("which holds a NUL"),
        _ => None,
    }
}

fn check_ranges(tensors: &[Record]) -> Result<(), HeaderError> {
    let mut before = None;
    for (name, t) in tensors {
        let tensor = || name.clone();
        let (begin, end) = t.data_offsets;
        if t.shape.len() > MAX_RANK {
            return Err(HeaderError::Rank { tensor: tensor(), rank: t.shape.len() });
        }
        let elements = t.shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
        let bits = elements.and_then(|n| n.checked_mul(t.dtype.bitsize()));
        let got = end.checked_sub(begin);
        if bits.is_none_or(|bits| bits % 8 != 0 || got != Some(bits / 8)) {
            let (dtype, shape) = (t.dtype, t.shape.clone());
            return Err(HeaderError::Size { tensor: tensor(), dtype, shape, begin, end });
        }
        let (other, last) = before.unwrap_or(("", 0));
        if begin < last {
            let other = other.to_owned();
            return Err(HeaderError::Overlap { tensor: tensor(), begin, other, end: last });
        }
        if begin > last {
            return Err(HeaderError::Hole { tensor: tensor(), begin, end: last });
        }
        before = Some((name.as_str(), end));
    }
    Ok(())
}

/// A header as it lies in the file: all records, duplicates included.
struct Records {
    metadata: Option<HashMap<String, String>>,
    tensors: Vec<Record>,
}

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;
        impl<'de> Visitor<'de> for Header {
            type Value = Records;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Records, A::Error> {
                let mut records = Records { metadata: None, tensors: Vec::new() };
                while let Some(name) = map.next_key::<String>()? {
                    if name == METADATA {
                        records.metadata = map.next_value()?;
                    } else {
                        records.tensors.push((name, map.next_value()?));
                    }
                }
                Ok(records)
            }
        }
        deserializer.deserialize_map(Header)
    }
}

/// A JSON object as the list of its entries, in their order and with duplicate keys kept.
#[derive(Debug)]
pub(crate) struct Entries<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Object<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries<V>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Object(PhantomData))
    }
}
