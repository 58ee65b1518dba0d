//! A legacy file of either kind.

use std::{fs::File, io::Read, path::Path};

use super::{GgmlFile, Llama2c, Llama2cKind};
use crate::{Access, CheckpointError, Item, Malformed, Problem, error::io, gguf::GgmlType};

/// A legacy file of either kind, opened for reading.
#[derive(Debug)]
#[non_exhaustive]
pub enum LegacyFile {
    /// One of llama.cpp before GGUF.
    Ggml(GgmlFile),
    /// One of llama2.c.
    Llama2c(Llama2c),
}

/// A tensor of a legacy file of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyTensor {
    /// Name, such as `layers.0.attention.wq.weight`.
    pub name: String,
    /// Dimensions, fastest first: in_features, out_features.
    pub dims: Vec<u64>,
    /// What it is made of, in the words of GGML; the 8-bit groups of llama2.c are I8.
    pub kind: GgmlType,
    /// Bytes it takes in the file.
    pub bytes: u64,
}

impl LegacyFile {
    /// Opens a file; what it is follows from its first bytes. llama2.c's v0 has no mark, so that it is what any other file is taken for.
    ///
    /// # Errors
    /// As [`GgmlFile::open_with`] and [`Llama2c::open_with`], and if it is a checkpoint of PyTorch, which has the same ending.
    pub fn open_with(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let mut magic = [0; 4];
        let mut file = File::open(path).map_err(io("open", path))?;
        // A shorter file is refused below.
        let _ = file.read_exact(&mut magic).map_err(io("read", path));
        match &magic {
            b"lmgg" | b"fmgg" | b"tjgg" | b"algg" | b"nsgg" | b"GGUF" => {
                GgmlFile::open_with(path, access).map(Self::Ggml)
            }
            // An archive, or a pickled object.
            b"PK\x03\x04" | [0x80, 2..=5, ..] => {
                let what = "a checkpoint of PyTorch";
                let problem = Problem::Unsupported { what, remedy: "save it as safetensors" };
                let source = Box::new(Malformed { at: 0, item: Item::Header, problem });
                let file = path.to_owned();
                Err(CheckpointError::Malformed { file, format: "legacy model", source })
            }
            _ => Llama2c::open_with(path, access).map(Self::Llama2c),
        }
    }

    /// What it is, such as `ggjt v3`.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Ggml(file) => file.version().name(),
            Self::Llama2c(file) => file.version().name(),
        }
    }

    /// All tensors, in the order of the file.
    pub fn tensors(&self) -> Vec<LegacyTensor> {
        match self {
            Self::Ggml(file) => (file.tensors())
                .map(|t| LegacyTensor {
                    name: t.name.clone(),
                    dims: t.dims.clone(),
                    kind: t.kind,
                    bytes: t.bytes,
                })
                .collect(),
            Self::Llama2c(file) => (file.tensors())
                .map(|t| LegacyTensor {
                    name: t.name.clone(),
                    dims: t.dims.clone(),
                    kind: match t.kind {
                        Llama2cKind::F32 => GgmlType::F32,
                        Llama2cKind::Q8 { .. } => GgmlType::I8,
                    },
                    bytes: t.bytes,
                })
                .collect(),
        }
    }

    /// The values of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor, the file cannot be read, or a scale of llama2.c cannot be.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        match self {
            Self::Ggml(file) => file.read_f32(name),
            Self::Llama2c(file) => file.read_f32(name),
        }
    }
}
