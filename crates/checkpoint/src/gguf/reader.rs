//! A GGUF file, or the files of a split model, opened for reading.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use fewbit_format::BlockMatrix;
use indexmap::IndexMap;

use super::{
    GgufTensor, Metadata,
    decode::read_f32_into,
    header,
    split::{self, PartName},
};
use crate::{Access, CheckpointError, storage::Storage};

/// A GGUF file, or all files of a split model, opened for reading.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<Storage>,
    version: u32,
    metadata: Metadata,
    tensors: IndexMap<String, GgufTensor>,
}

impl Gguf {
    /// Opens a file, mapped where the feature `mmap` is on: [`Access::Mapped`]. Of a split model, name the first file; the others are
    /// opened with it. Headers are read and checked; no weight is touched.
    ///
    /// # Errors
    /// If a file is missing, truncated or contradicts itself or another.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, Access::default())
    }

    /// [`open`](Self::open) with a choice of how the file is reached.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let storage = Storage::open_any(path, access)?;
        let header = header::read(&storage, 0)?;
        let mut gguf = Self {
            parts: vec![storage],
            version: header.version,
            metadata: header.metadata,
            tensors: header.tensors.into_iter().map(|t| (t.name.clone(), t)).collect(),
        };
        gguf.open_others(path, access)?;
        Ok(gguf)
    }

    /// Opens the other files of a split model, if it is one.
    fn open_others(&mut self, path: &Path, access: Access) -> Result<(), CheckpointError> {
        let count: i64 = self.metadata.find(split::COUNT)?.unwrap_or(1);
        if count < 2 {
            return Ok(());
        }
        expect(path, &self.metadata, split::NUMBER, 0, "open the first file of the model")?;
        let Some(name) = PartName::parse(path).filter(|n| n.number == 0 && n.count as i64 == count)
        else {
            return Err(CheckpointError::SplitName { file: path.to_owned(), count });
        };
        for number in 1..name.count {
            self.open_part(name.path(number), number, name.count, access)?;
        }
        let remedy = "the files are of different models";
        match self.metadata.get(split::TENSORS) {
            Some(_) => expect(path, &self.metadata, split::TENSORS, self.tensors.len(), remedy),
            None => Ok(()),
        }
    }

    fn open_part(
        &mut self,
        path: PathBuf,
        number: usize,
        count: usize,
        access: Access,
    ) -> Result<(), CheckpointError> {
        if !path.is_file() {
            return Err(CheckpointError::MissingSplit { file: path, number: number + 1, count });
        }
        let storage = Storage::open_any(&path, access)?;
        let header = header::read(&storage, number)?;
        let remedy = "the files are of different models";
        expect(&path, &header.metadata, split::NUMBER, number, remedy)?;
        expect(&path, &header.metadata, split::COUNT, count, remedy)?;
        for tensor in header.tensors {
            if let Some(other) = self.tensors.get(&tensor.name) {
                let (tensor, second) = (tensor.name, path);
                let first = self.parts[other.part].path().to_owned();
                return Err(CheckpointError::TensorInTwoShards { tensor, first, second });
            }
            self.tensors.insert(tensor.name.clone(), tensor);
        }
        self.parts.push(storage);
        Ok(())
    }

    /// The file, or the first of them.
    pub fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// All files.
    pub fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.parts.iter().map(Storage::path)
    }

    /// Size of all files, headers included.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(Storage::bytes).sum()
    }

    /// Version of the format: 1 to 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The metadata; of a split model, that of the first file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &GgufTensor> {
        self.tensors.values()
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.tensors.get(name)
    }

    /// The bytes of a tensor, of any alignment. Mapped bytes are not copied.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let tensor = self.place(name)?;
        self.parts[tensor.part].read(tensor.offset, tensor.bytes as usize)
    }

    /// Copies bytes of a tensor from byte `offset` on, so that a large one can be handled piece by piece.
    ///
    /// # Errors
    /// If there is no such tensor, it has fewer bytes, or its file cannot be read.
    pub fn read_into(
        &self,
        name: &str,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), CheckpointError> {
        let tensor = self.place(name)?;
        let end = offset.saturating_add(out.len() as u64);
        if end > tensor.bytes {
            let (tensor, bytes) = (name.to_owned(), tensor.bytes);
            return Err(CheckpointError::TensorRange { tensor, begin: offset, end, length: bytes });
        }
        self.parts[tensor.part].read_into(tensor.offset + offset, out)
    }

    /// The values of a tensor of floats or of blocks that can be decoded, [`GgmlType::decodes`](super::GgmlType::decodes), as f32.
    ///
    /// # Errors
    /// If there is no such tensor, it does not decode, or its file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let mut values = vec![0.0; self.place(name)?.len() as usize];
        self.read_f32_into(name, 0, &mut values)?;
        Ok(values)
    }

    /// The values of a tensor from weight `begin` on, as [`read_f32`](Self::read_f32). Both ends must lie between blocks.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32), and if the tensor has fewer weights or an end lies within a block.
    pub fn read_f32_into(
        &self,
        name: &str,
        begin: u64,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let tensor = self.place(name)?;
        let kind = tensor.kind;
        if !kind.decodes() {
            return Err(CheckpointError::CannotDecode { tensor: name.to_owned(), kind });
        }
        let (end, block) = (begin.saturating_add(out.len() as u64), kind.block_weights());
        if end > tensor.len() || !begin.is_multiple_of(block) || !end.is_multiple_of(block) {
            let (tensor, length) = (name.to_owned(), tensor.len());
            return Err(CheckpointError::TensorRange { tensor, begin, end, length });
        }
        let at = tensor.offset + begin / block * kind.block_bytes();
        read_f32_into(&self.parts[tensor.part], at, kind, out)
    }

    /// A tensor of blocks that can be decoded, as a matrix of [`matrix_shape`](GgufTensor::matrix_shape).
    ///
    /// # Errors
    /// If there is no such tensor, it is not of such blocks, or its file cannot be read.
    pub fn block_matrix(&self, name: &str) -> Result<BlockMatrix, CheckpointError> {
        let tensor = self.place(name)?;
        let Some(block) = tensor.kind.block() else {
            let (tensor, kind) = (name.to_owned(), tensor.kind);
            return Err(CheckpointError::CannotDecode { tensor, kind });
        };
        let blocks = self.read(name)?.into_owned();
        BlockMatrix::new(tensor.matrix_shape(), block, blocks)
            .map_err(|source| CheckpointError::Format { module: name.to_owned(), source })
    }

    fn place(&self, name: &str) -> Result<&GgufTensor, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            tensor: name.to_owned(),
            folder: self.path().to_owned(),
        })
    }
}

/// Refuses a key that ties files together and has another value than this.
fn expect(
    path: &Path,
    metadata: &Metadata,
    key: &'static str,
    expected: usize,
    remedy: &'static str,
) -> Result<(), CheckpointError> {
    let found: i64 = metadata.require(key)?;
    if found == expected as i64 {
        return Ok(());
    }
    Err(CheckpointError::Split { file: path.to_owned(), key, found, expected, remedy })
}
