//! llama.cpp's files before GGUF.
//!
//! ```text
//! | magic u32 | version u32 (not in ggml) | n_vocab | n_embd | n_mult | n_head | n_layer | n_rot | ftype |   u32 each
//! | n_vocab times | length u32 | bytes | score f32 (not in ggml) |
//! | up to the end | rank u32 | length u32 | type u32 | dimensions u32 each | name | zeros to a multiple of 32 (ggjt only) | data |
//! ```
//!
//! Everything is little-endian; the first dimension is the fastest. Large models were cut into `X.bin`, `X.bin.1` and so on, each with all tensors: see
//! `parts.rs`.

use std::{
    borrow::Cow,
    ffi::OsString,
    path::{Path, PathBuf},
};

use indexmap::IndexMap;

use super::{
    Token,
    blocks::{self, Layout},
    parts,
};
use crate::{
    Access, CheckpointError, Item, Problem, cursor::Cursor, gguf::GgmlType, storage::Storage,
};

/// What errors call such a file.
const FORMAT: &str = "legacy GGML";
/// The most bytes in a name or token.
const MAX_TEXT: u64 = 4095;
/// The most dimensions of a tensor.
const MAX_RANK: u32 = 2;
/// Alignment of tensor data in `ggjt`.
const ALIGNMENT: u64 = 32;

/// Which of the formats a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgmlVersion {
    /// `ggml`, without version: no scores.
    Ggml,
    /// `ggmf`, version 1.
    Ggmf,
    /// `ggjt`, version 1: tensor data aligned.
    Ggjt1,
    /// `ggjt`, version 2: codes of a block in halves instead of pairs.
    Ggjt2,
    /// `ggjt`, version 3: blocks as in GGUF.
    Ggjt3,
}

impl GgmlVersion {
    /// Its name, such as `ggjt v3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ggml => "ggml",
            Self::Ggmf => "ggmf v1",
            Self::Ggjt1 => "ggjt v1",
            Self::Ggjt2 => "ggjt v2",
            Self::Ggjt3 => "ggjt v3",
        }
    }

    fn layout(self) -> Layout {
        match self {
            Self::Ggml | Self::Ggmf | Self::Ggjt1 => Layout::Interleaved,
            Self::Ggjt2 => Layout::Wide,
            Self::Ggjt3 => Layout::Modern,
        }
    }

    fn is_ggjt(self) -> bool {
        !matches!(self, Self::Ggml | Self::Ggmf)
    }
}

/// What a file says of its model. The width of the feed-forward layers is that of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlHyperparameters {
    /// Number of tokens.
    pub n_vocab: u32,
    /// Width of the hidden states.
    pub n_embd: u32,
    /// The feed-forward width was rounded up to a multiple of this.
    pub n_mult: u32,
    /// Attention heads.
    pub n_head: u32,
    /// Layers.
    pub n_layer: u32,
    /// Rotated dimensions of a head.
    pub n_rot: u32,
    /// Which type most tensors are, in a numbering of its own.
    pub ftype: u32,
}

/// A tensor of a legacy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgmlTensor {
    /// Name, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// Dimensions, fastest first: in_features, out_features.
    pub dims: Vec<u64>,
    /// What it is made of, if not of the same blocks as in GGUF.
    pub kind: GgmlType,
    /// Bytes it takes in the file or files.
    pub bytes: u64,
    /// Its first byte in each file.
    pub(super) offsets: Vec<u64>,
}

/// A LLaMA model in one of llama.cpp's formats before GGUF, opened for reading.
#[derive(Debug)]
pub struct GgmlFile {
    parts: Vec<Storage>,
    version: GgmlVersion,
    hyperparameters: GgmlHyperparameters,
    vocabulary: Vec<Token>,
    tensors: IndexMap<String, GgmlTensor>,
}

/// What one file holds.
struct Header {
    version: GgmlVersion,
    hyperparameters: GgmlHyperparameters,
    vocabulary: Vec<Token>,
    tensors: IndexMap<String, GgmlTensor>,
}

impl GgmlFile {
    /// Opens a file, mapped where the feature `mmap` is on: [`Access::Mapped`]. Of a model in several files, name the first, `X.bin`; the
    /// others are opened with it. Headers are read and checked; no weight is touched.
    ///
    /// # Errors
    /// If a file is missing, truncated or contradicts itself or another, is a LoRA adapter or session, or has tensors of a type that was given up.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, Access::default())
    }

    /// [`open`](Self::open) with a choice of how the file is reached.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let storage = Storage::open_any(path, access)?;
        let Header { version, hyperparameters, vocabulary, tensors } = read(&storage)?;
        let n_parts = parts::count(path, &hyperparameters, &tensors)?;
        let mut file = Self { parts: vec![storage], version, hyperparameters, vocabulary, tensors };
        for number in 1..n_parts {
            let path = part_path(path, number);
            if !path.is_file() {
                let (number, count) = (number + 1, n_parts);
                return Err(CheckpointError::MissingSplit { file: path, number, count });
            }
            let storage = Storage::open_any(&path, access)?;
            let header = read(&storage)?;
            parts::same(&path, &file.tensors, &header.tensors)?;
            for (tensor, other) in file.tensors.values_mut().zip(header.tensors.values()) {
                tensor.offsets.extend(&other.offsets);
            }
            file.parts.push(storage);
        }
        for tensor in file.tensors.values_mut() {
            parts::merge(tensor);
        }
        Ok(file)
    }

    /// Which format it is.
    pub fn version(&self) -> GgmlVersion {
        self.version
    }

    /// What the file says of its model.
    pub fn hyperparameters(&self) -> GgmlHyperparameters {
        self.hyperparameters
    }

    /// Tokens by id.
    pub fn vocabulary(&self) -> &[Token] {
        &self.vocabulary
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &GgmlTensor> {
        self.tensors.values()
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&GgmlTensor> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor as the file has them; those of several files are put together. Blocks may lie differently from GGUF's:
    /// [`read_modern`](Self::read_modern).
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let tensor = self.place(name)?;
        let part = tensor.bytes / tensor.offsets.len() as u64;
        if let [offset] = tensor.offsets[..] {
            return self.parts[0].read(offset, tensor.bytes as usize);
        }
        let read = |(storage, &offset): (&Storage, &u64)| {
            storage.read(offset, part as usize).map(Cow::into_owned)
        };
        let pieces = self.parts.iter().zip(&tensor.offsets).map(read);
        let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
        Ok(Cow::Owned(parts::join(tensor, &pieces)))
    }

    /// The bytes of a tensor in the layout that GGUF has for its type, with exactly the same values. `None` where there is none: old blocks
    /// have scales of 32 bits, and one of them is no f16.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read_modern(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>, CheckpointError> {
        let (bytes, kind) = (self.read(name)?, self.place(name)?.kind);
        let layout = self.version.layout();
        match layout.is_modern(kind) {
            true => Ok(Some(bytes)),
            false => Ok(blocks::modernize(layout, kind, &bytes).map(Cow::Owned)),
        }
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let (bytes, tensor) = (self.read(name)?, self.place(name)?);
        let mut values = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
        blocks::decode(self.version.layout(), tensor.kind, &bytes, &mut values);
        Ok(values)
    }

    fn place(&self, name: &str) -> Result<&GgmlTensor, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            tensor: name.to_owned(),
            folder: self.parts[0].path().to_owned(),
        })
    }
}

/// `X.bin.1` and so on.
fn part_path(first: &Path, number: usize) -> PathBuf {
    let mut path = OsString::from(first);
    path.push(format!(".{number}"));
    path.into()
}

/// Reads the header of one file.
fn read(storage: &Storage) -> Result<Header, CheckpointError> {
    let mut cursor = Cursor::new(storage, FORMAT);
    let version = version(&mut cursor)?;
    let mut next = || cursor.u32();
    let hyperparameters = GgmlHyperparameters {
        n_vocab: next()?,
        n_embd: next()?,
        n_mult: next()?,
        n_head: next()?,
        n_layer: next()?,
        n_rot: next()?,
        ftype: next()?,
    };
    let vocabulary = vocabulary(&mut cursor, version, hyperparameters.n_vocab)?;
    let mut tensors = IndexMap::new();
    while cursor.left() > 0 {
        cursor.item = Item::TensorNumber(tensors.len() as u64);
        let at = cursor.at();
        let tensor = tensor(&mut cursor, version)?;
        if tensors.insert(tensor.name.clone(), tensor).is_some() {
            return Err(cursor.fail(at, Problem::Duplicate));
        }
    }
    Ok(Header { version, hyperparameters, vocabulary, tensors })
}

fn version(cursor: &mut Cursor<'_>) -> Result<GgmlVersion, CheckpointError> {
    let found: [u8; 4] = cursor.take()?;
    let unsupported = |what, remedy| Problem::Unsupported { what, remedy };
    let problem = match &found {
        b"lmgg" => return Ok(GgmlVersion::Ggml),
        b"fmgg" | b"tjgg" => {
            let ggjt = found == *b"tjgg";
            let supported = if ggjt { "1 to 3" } else { "1" };
            return match (ggjt, cursor.u32()?) {
                (false, 1) => Ok(GgmlVersion::Ggmf),
                (true, 1) => Ok(GgmlVersion::Ggjt1),
                (true, 2) => Ok(GgmlVersion::Ggjt2),
                (true, 3) => Ok(GgmlVersion::Ggjt3),
                (_, version) => Err(cursor.fail(4, Problem::Version { version, supported })),
            };
        }
        b"algg" => unsupported("a LoRA adapter", "name the model it belongs to"),
        b"nsgg" => unsupported("a saved session", "name the model it belongs to"),
        b"GGUF" => unsupported("a GGUF file", "open it as such"),
        _ => Problem::Magic { found, expected: "lmgg, fmgg or tjgg" },
    };
    Err(cursor.fail(0, problem))
}

fn vocabulary(
    cursor: &mut Cursor<'_>,
    version: GgmlVersion,
    n_vocab: u32,
) -> Result<Vec<Token>, CheckpointError> {
    let scores = version != GgmlVersion::Ggml;
    let least = if scores { 8 } else { 4 };
    let hyperparameters = 7 * 4;
    let n_vocab = cursor.count(cursor.at() - hyperparameters, "tokens", n_vocab.into(), least)?;
    let token = |id| {
        cursor.item = Item::Token(id);
        let text = text(cursor)?;
        let score = if scores { cursor.f32()? } else { 0.0 };
        Ok(Token { text, score })
    };
    (0..n_vocab).map(token).collect()
}

/// A length and so many bytes.
fn text(cursor: &mut Cursor<'_>) -> Result<Vec<u8>, CheckpointError> {
    let at = cursor.at();
    let length = length(cursor)?;
    let length = cursor.count(at, "bytes of text", length, 1)?;
    cursor.bytes(length)
}

fn length(cursor: &mut Cursor<'_>) -> Result<u64, CheckpointError> {
    let at = cursor.at();
    let length = cursor.u32()?.into();
    if length > MAX_TEXT {
        let (what, count, limit) = ("bytes of text", length, MAX_TEXT);
        return Err(cursor.fail(at, Problem::Count { what, count, limit }));
    }
    Ok(length)
}

fn tensor(cursor: &mut Cursor<'_>, version: GgmlVersion) -> Result<GgmlTensor, CheckpointError> {
    let at = cursor.at();
    let rank = cursor.u32()?;
    if !(1..=MAX_RANK).contains(&rank) {
        return Err(cursor.fail(at, Problem::Rank { rank, limit: MAX_RANK }));
    }
    let name_length = length(cursor)?;
    let (type_at, id) = (cursor.at(), cursor.u32()?);
    let dims_at = cursor.at();
    let dims: Vec<u64> =
        (0..rank).map(|_| cursor.u32().map(u64::from)).collect::<Result<_, _>>()?;
    let name_at = cursor.at();
    let name = cursor.text(name_length)?;
    if name.is_empty() {
        return Err(cursor.fail(name_at, Problem::Name { name, problem: "is empty" }));
    }
    cursor.item = Item::Tensor(name.clone());
    let kind = kind(id, version).map_err(|problem| cursor.fail(type_at, problem))?;
    let (in_features, block) = (dims[0], kind.block_weights());
    if !in_features.is_multiple_of(block) {
        return Err(cursor.fail(dims_at, Problem::Row { kind, in_features, block }));
    }
    // At most 2^64 / 32 blocks of at most 36 bytes: too many only where the file could never hold them.
    let blocks = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).map(|n| n / block);
    let bytes = blocks.and_then(|n| n.checked_mul(version.layout().block_bytes(kind)));
    let Some(bytes) = bytes else {
        return Err(cursor.fail(dims_at, Problem::Overflow { dims }));
    };
    if version.is_ggjt() {
        cursor.skip(cursor.at().next_multiple_of(ALIGNMENT) - cursor.at())?;
    }
    let offset = cursor.at();
    cursor.skip(bytes)?;
    Ok(GgmlTensor { name, dims, kind, bytes, offsets: vec![offset] })
}

/// The types that a version has.
fn kind(id: u32, version: GgmlVersion) -> Result<GgmlType, Problem> {
    use GgmlType as T;
    let kind = T::from_id(id)?;
    match kind {
        T::F32 | T::F16 | T::Q4_0 | T::Q4_1 | T::Q5_0 | T::Q5_1 | T::Q8_0 => Ok(kind),
        T::Q2K | T::Q3K | T::Q4K | T::Q5K | T::Q6K if version == GgmlVersion::Ggjt3 => Ok(kind),
        _ => Err(Problem::UnknownType { id }),
    }
}
