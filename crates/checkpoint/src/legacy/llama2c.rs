//! Files of llama2.c.
//!
//! ```text
//! v0  | dim | hidden_dim | n_layers | n_heads | n_kv_heads | ±vocab_size | seq_len |     i32 each; vocab_size < 0: an output matrix follows
//!     | tok_embeddings | attention_norm of all layers | wq | wk | wv | wo | ffn_norm | w1 | w2 | w3 | norm | two rotary tables | output |
//! v1  | 24ka | 1 | the seven numbers | shared u8 | zeros up to byte 256 |
//!     | attention_norm of all layers | ffn_norm | norm | tok_embeddings | wq | wk | wv | wo | w1 | w2 | w3 | output unless shared |
//! v2  | 24ka | 2 | the seven numbers | shared u8 | group_size i32 | zeros up to byte 256 | as v1, but each matrix as i8 codes, then f32 scales |
//! ```
//!
//! Weights are f32, row after row, unless said otherwise. The groups of v2 run through the whole matrix, so that a group may begin in one row
//! and end in the next. The rotary tables of v0 follow from the parameters and are left out here. The first draft of v2 had all scales
//! after all codes, under the same number; such a file is found out where a scale is read that cannot be.

use std::{borrow::Cow, path::Path};

use fewbit_format::{Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Symmetry};
use indexmap::IndexMap;

use super::Token;
use crate::{
    Access, CheckpointError, Item, Malformed, Problem,
    cursor::Cursor,
    gguf::{self, GgmlType},
    storage::Storage,
};

/// What errors call such a file.
const FORMAT: &str = "llama2.c";
/// Where the weights of v1 and v2 begin.
const HEADER: u64 = 256;

/// Which of the formats a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Llama2cVersion {
    /// Float, without magic bytes.
    V0,
    /// Float.
    V1,
    /// Matrices as 8-bit codes.
    V2 {
        /// Weights that share a scale.
        group_size: u64,
    },
}

impl Llama2cVersion {
    /// Its name, such as `llama2.c v1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V0 => "llama2.c v0",
            Self::V1 => "llama2.c v1",
            Self::V2 { .. } => "llama2.c v2",
        }
    }
}

/// What a file says of its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Llama2cParameters {
    /// Width of the hidden states.
    pub dim: u64,
    /// Width of the feed-forward layers.
    pub hidden_dim: u64,
    /// Layers.
    pub n_layers: u64,
    /// Attention heads.
    pub n_heads: u64,
    /// Heads of keys and values.
    pub n_kv_heads: u64,
    /// Number of tokens.
    pub vocab_size: u64,
    /// The longest context.
    pub seq_len: u64,
    /// Whether the embedding is the output matrix as well.
    pub shared_classifier: bool,
}

/// What a tensor is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Llama2cKind {
    /// 32-bit floats.
    F32,
    /// A signed byte for each weight, then an f32 scale for each group.
    Q8 {
        /// Weights that share a scale, through the whole matrix.
        group_size: u64,
    },
}

/// A tensor of a llama2.c file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Llama2cTensor {
    /// Name as in Meta's models, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// Dimensions, fastest first: in_features, out_features.
    pub dims: Vec<u64>,
    /// What it is made of.
    pub kind: Llama2cKind,
    /// Bytes it takes.
    pub bytes: u64,
    offset: u64,
}

/// A model file of llama2.c, opened for reading.
#[derive(Debug)]
pub struct Llama2c {
    storage: Storage,
    version: Llama2cVersion,
    parameters: Llama2cParameters,
    tensors: IndexMap<String, Llama2cTensor>,
}

impl Llama2c {
    /// Opens a file, mapped where the feature `mmap` is on: [`Access::Mapped`]. The header is read and checked against the size of the file; no
    /// weight is touched.
    ///
    /// # Errors
    /// If a parameter cannot be, or the file is not exactly as long as they say. v0 has no other mark.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, Access::default())
    }

    /// [`open`](Self::open) with a choice of how the file is reached.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let storage = Storage::open_any(path, access)?;
        let (version, parameters, data) = header(&storage)?;
        let layout = layout(version, &parameters);
        check_length(&storage, version, data, &layout, parameters.n_layers)?;
        let tensors = place(version, parameters.n_layers, data, &layout);
        Ok(Self { storage, version, parameters, tensors })
    }

    /// Which format it is.
    pub fn version(&self) -> Llama2cVersion {
        self.version
    }

    /// What the file says of its model.
    pub fn parameters(&self) -> Llama2cParameters {
        self.parameters
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Llama2cTensor> {
        self.tensors.values()
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&Llama2cTensor> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor: floats, or codes followed by scales. Mapped bytes are not copied.
    ///
    /// # Errors
    /// If there is no such tensor, or the file cannot be read.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let tensor = self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            tensor: name.to_owned(),
            folder: self.storage.path().to_owned(),
        })?;
        self.storage.read(tensor.offset, tensor.bytes as usize)
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor, the file cannot be read, or a scale is negative or not finite.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let bytes = self.read(name)?;
        match self.tensors[name].kind {
            Llama2cKind::F32 => {
                let mut values = vec![0.0; bytes.len() / 4];
                gguf::decode(GgmlType::F32, &bytes, &mut values);
                Ok(values)
            }
            Llama2cKind::Q8 { group_size } => {
                let (codes, scales) = self.split(name, &bytes, group_size)?;
                let groups = codes.chunks(group_size as usize).zip(scales);
                let group = |(codes, scale): (&'_ [u8], f32)| {
                    codes.iter().map(|&c| f32::from(c as i8) * scale).collect::<Vec<_>>()
                };
                Ok(groups.flat_map(group).collect())
            }
        }
    }

    /// A matrix of 8-bit codes on the neutral grid: symmetric, 8 bits, f32 scales. `None` for floats, and where groups run from row to row.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub fn quant_matrix(&self, name: &str) -> Result<Option<QuantMatrix>, CheckpointError> {
        let bytes = self.read(name)?;
        let Llama2cTensor { dims, kind, .. } = &self.tensors[name];
        let (&Llama2cKind::Q8 { group_size }, &[in_features, out_features]) = (kind, &dims[..])
        else {
            return Ok(None);
        };
        if !in_features.is_multiple_of(group_size) {
            return Ok(None);
        }
        let (codes, scales) = self.split(name, &bytes, group_size)?;
        let scheme = IntScheme {
            bits: Bits::B8,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::group(group_size as u32),
            scale_type: ScaleType::F32,
        };
        let shape = MatrixShape::new(out_features as usize, in_features as usize);
        // Codes of the grid are unsigned, with the middle at 128.
        let codes = codes.iter().map(|&code| code ^ 0x80).collect();
        QuantMatrix::new(shape, scheme, codes, scales, Vec::new(), None)
            .map(Some)
            .map_err(|source| CheckpointError::Format { module: name.to_owned(), source })
    }

    /// Codes and scales of a matrix.
    fn split<'a>(
        &self,
        name: &str,
        bytes: &'a [u8],
        group_size: u64,
    ) -> Result<(&'a [u8], Vec<f32>), CheckpointError> {
        let tensor = &self.tensors[name];
        let n_codes = tensor.dims.iter().product::<u64>();
        let (codes, scales) = bytes.split_at(n_codes as usize);
        debug_assert_eq!(scales.len() as u64, n_codes / group_size * 4);
        let scales: Vec<f32> =
            scales.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        if let Some(i) = scales.iter().position(|scale| !(scale.is_finite() && *scale >= 0.0)) {
            let at = tensor.offset + n_codes + 4 * i as u64;
            let expected = "finite and not negative, unless the file is of the first draft of v2";
            let problem = Problem::Float { what: "a scale", value: scales[i], expected };
            let source = Box::new(Malformed { at, item: Item::Tensor(name.to_owned()), problem });
            let file = self.storage.path().to_owned();
            return Err(CheckpointError::Malformed { file, format: FORMAT, source });
        }
        Ok((codes, scales))
    }
}

/// Version, parameters, and where the weights begin.
fn header(storage: &Storage) -> Result<(Llama2cVersion, Llama2cParameters, u64), CheckpointError> {
    let mut cursor = Cursor::new(storage, FORMAT);
    let magic = cursor.take()? == *b"24ka";
    let version = match magic {
        true => cursor.u32()?,
        false => 0,
    };
    if magic && !matches!(version, 1 | 2) {
        let supported = "1, 2, and 0 without magic bytes";
        return Err(cursor.fail(4, Problem::Version { version, supported }));
    }
    if !magic {
        cursor = Cursor::new(storage, FORMAT);
    }
    let mut parameters = Llama2cParameters {
        dim: positive(&mut cursor, "dim")?,
        hidden_dim: positive(&mut cursor, "hidden_dim")?,
        n_layers: positive(&mut cursor, "n_layers")?,
        n_heads: positive(&mut cursor, "n_heads")?,
        n_kv_heads: positive(&mut cursor, "n_kv_heads")?,
        vocab_size: 0,
        seq_len: 0,
        shared_classifier: true,
    };
    let Llama2cParameters { dim, n_heads, n_kv_heads, .. } = parameters;
    for (what, value, divisor) in [("dim", dim, n_heads), ("n_heads", n_heads, n_kv_heads)] {
        if !value.is_multiple_of(divisor) {
            let (value, expected) = (value as i64, format!("a multiple of {divisor}"));
            return Err(cursor.fail(cursor.at(), Problem::Value { what, value, expected }));
        }
    }
    if magic {
        parameters.vocab_size = positive(&mut cursor, "vocab_size")?;
    } else {
        let (at, value) = (cursor.at(), cursor.i32()?);
        parameters.shared_classifier = value > 0;
        parameters.vocab_size = value.unsigned_abs().into();
        if value == 0 {
            let (what, expected) = ("vocab_size", "not 0".to_owned());
            return Err(cursor.fail(at, Problem::Value { what, value: 0, expected }));
        }
    }
    parameters.seq_len = positive(&mut cursor, "seq_len")?;
    if !magic {
        return Ok((Llama2cVersion::V0, parameters, cursor.at()));
    }
    let at = cursor.at();
    parameters.shared_classifier = match cursor.take()? {
        [byte @ 0..=1] => byte == 1,
        [byte] => return Err(cursor.fail(at, Problem::Bool { byte })),
    };
    let version = match version {
        1 => Llama2cVersion::V1,
        _ => Llama2cVersion::V2 { group_size: group_size(&mut cursor, &parameters)? },
    };
    Ok((version, parameters, HEADER))
}

/// A number that must be at least 1.
fn positive(cursor: &mut Cursor<'_>, what: &'static str) -> Result<u64, CheckpointError> {
    let (at, value) = (cursor.at(), cursor.i32()?);
    u64::try_from(value).ok().filter(|&value| value > 0).ok_or_else(|| {
        let (value, expected) = (value.into(), "at least 1".to_owned());
        cursor.fail(at, Problem::Value { what, value, expected })
    })
}

/// A group size that cuts every matrix into whole groups.
fn group_size(
    cursor: &mut Cursor<'_>,
    parameters: &Llama2cParameters,
) -> Result<u64, CheckpointError> {
    let at = cursor.at();
    let group_size = positive(cursor, "group_size")?;
    for part in layout(Llama2cVersion::V2 { group_size }, parameters) {
        let weights = part.weights();
        if part.is_matrix() && !weights.is_multiple_of(group_size.into()) {
            let (value, expected) = (
                group_size as i64,
                format!("a divisor of {weights}, the weights of {}", part.name),
            );
            return Err(cursor.fail(at, Problem::Value { what: "group_size", value, expected }));
        }
    }
    Ok(group_size)
}

/// A tensor, or those of all layers back to back.
struct Part {
    /// The whole name, or what follows `layers.0.`; empty for what is left out.
    name: &'static str,
    each_layer: bool,
    dims: Vec<u64>,
}

impl Part {
    fn is_matrix(&self) -> bool {
        self.dims.len() == 2
    }

    fn weights(&self) -> u128 {
        self.dims.iter().map(|&d| u128::from(d)).product()
    }

    fn kind(&self, version: Llama2cVersion) -> Llama2cKind {
        match version {
            Llama2cVersion::V2 { group_size } if self.is_matrix() => Llama2cKind::Q8 { group_size },
            _ => Llama2cKind::F32,
        }
    }

    /// Bytes of one tensor.
    fn bytes(&self, version: Llama2cVersion) -> u128 {
        match self.kind(version) {
            Llama2cKind::F32 => self.weights() * 4,
            Llama2cKind::Q8 { group_size } => {
                self.weights() + self.weights() / u128::from(group_size) * 4
            }
        }
    }
}

/// What a file consists of, in its order.
fn layout(version: Llama2cVersion, parameters: &Llama2cParameters) -> Vec<Part> {
    let &Llama2cParameters { dim, hidden_dim, n_heads, n_kv_heads, vocab_size, seq_len, .. } =
        parameters;
    let kv_dim = dim / n_heads * n_kv_heads;
    let one = |name, dims: &[u64]| Part { name, each_layer: false, dims: dims.to_vec() };
    let each = |name, dims: &[u64]| Part { name, each_layer: true, dims: dims.to_vec() };
    let embedding = one("tok_embeddings.weight", &[dim, vocab_size]);
    let attention_norm = each("attention_norm.weight", &[dim]);
    let attention = [
        each("attention.wq.weight", &[dim, dim]),
        each("attention.wk.weight", &[dim, kv_dim]),
        each("attention.wv.weight", &[dim, kv_dim]),
        each("attention.wo.weight", &[dim, dim]),
    ];
    let ffn_norm = each("ffn_norm.weight", &[dim]);
    let feed_forward = [
        each("feed_forward.w1.weight", &[dim, hidden_dim]),
        each("feed_forward.w2.weight", &[hidden_dim, dim]),
        each("feed_forward.w3.weight", &[dim, hidden_dim]),
    ];
    let norm = one("norm.weight", &[dim]);
    let mut parts = Vec::new();
    if version == Llama2cVersion::V0 {
        parts.extend([embedding, attention_norm]);
        parts.extend(attention);
        parts.push(ffn_norm);
        parts.extend(feed_forward);
        parts.extend([norm, one("", &[dim / n_heads / 2, seq_len, 2])]);
    } else {
        parts.extend([attention_norm, ffn_norm, norm, embedding]);
        parts.extend(attention);
        parts.extend(feed_forward);
    }
    if !parameters.shared_classifier {
        parts.push(one("output.weight", &[dim, vocab_size]));
    }
    parts
}

/// Refuses a file that is not exactly as long as its header says, before anything is listed.
fn check_length(
    storage: &Storage,
    version: Llama2cVersion,
    data: u64,
    layout: &[Part],
    n_layers: u64,
) -> Result<(), CheckpointError> {
    let cursor = Cursor::new(storage, FORMAT);
    let part =
        |part: &Part| part.bytes(version) * if part.each_layer { n_layers.into() } else { 1 };
    let needed = u128::from(data) + layout.iter().map(part).sum::<u128>();
    let file = storage.bytes();
    match u64::try_from(needed).unwrap_or(u64::MAX) {
        needed if needed > file => Err(cursor.fail(
            data,
            Problem::Truncated { needed: needed - data, left: file.saturating_sub(data) },
        )),
        needed if needed < file => {
            Err(cursor.fail(needed, Problem::Trailing { bytes: file - needed }))
        }
        _ => Ok(()),
    }
}

/// All tensors with their places.
fn place(
    version: Llama2cVersion,
    n_layers: u64,
    data: u64,
    layout: &[Part],
) -> IndexMap<String, Llama2cTensor> {
    let mut tensors = IndexMap::new();
    let mut offset = data;
    for part in layout {
        let bytes = part.bytes(version) as u64;
        for layer in 0..if part.each_layer { n_layers } else { 1 } {
            let name = match part.each_layer {
                true => format!("layers.{layer}.{}", part.name),
                false => part.name.to_owned(),
            };
            if !name.is_empty() {
                let (dims, kind) = (part.dims.clone(), part.kind(version));
                let tensor = Llama2cTensor { name: name.clone(), dims, kind, bytes, offset };
                tensors.insert(name, tensor);
            }
            offset += bytes;
        }
    }
    tensors
}

/// Reads a `tokenizer.bin` of llama2.c: the tokens by id.
///
/// ```text
/// | length of the longest token u32 | up to the end: | score f32 | length i32 | bytes |
/// ```
///
/// Spaces are spaces, bytes are written `<0x0A>`, and ids 1 and 2 have line breaks around them.
///
/// # Errors
/// If the file is truncated, or a token is longer than the first number says.
pub fn llama2c_vocabulary(path: &Path) -> Result<Vec<Token>, CheckpointError> {
    let storage = Storage::open_any(path, Access::Positioned)?;
    let mut cursor = Cursor::new(&storage, "llama2.c tokenizer");
    let longest = cursor.u32()?;
    let mut tokens = Vec::new();
    while cursor.left() > 0 {
        cursor.item = Item::Token(tokens.len() as u64);
        let score = cursor.f32()?;
        let (at, length) = (cursor.at(), cursor.u32()?);
        if length > longest {
            let (count, limit) = (length.into(), longest.into());
            return Err(cursor.fail(at, Problem::Count { what: "bytes of text", count, limit }));
        }
        let text = cursor.bytes(length.into())?;
        tokens.push(Token { text, score });
    }
    Ok(tokens)
}
