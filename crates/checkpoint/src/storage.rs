//! One weight file, opened.

use std::{
    borrow::Cow,
    fs::File,
    path::{Path, PathBuf},
};

use crate::{
    CheckpointError, HeaderError,
    error::io,
    header::{self, Entry},
};

/// How the bytes of weight files are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Access {
    /// Files are mapped, and [`read`](crate::Checkpoint::read) copies nothing. The files must not be changed while they are open. Pages that
    /// were touched count as resident memory until the system wants them back. Without the feature `mmap`, or where mapping fails, as
    /// [`Positioned`](Self::Positioned).
    #[default]
    Mapped,
    /// Each read copies what it needs, and nothing stays behind.
    Positioned,
}

/// A file that is read at any position.
#[derive(Debug)]
pub(crate) struct Storage {
    path: PathBuf,
    file: File,
    bytes: u64,
    #[cfg(feature = "mmap")]
    map: Option<memmap2::Mmap>,
    /// Reads move the position of the file where the system has no positioned ones.
    #[cfg(not(unix))]
    position: std::sync::Mutex<()>,
}

impl Storage {
    /// Opens a safetensors file and reads its header: the tensors in the order of their bytes.
    pub(crate) fn open(path: &Path, access: Access) -> Result<(Self, Vec<Entry>), CheckpointError> {
        let storage = Self::open_any(path, access)?;
        let bytes = storage.bytes;
        let invalid = |source| CheckpointError::Header { file: path.to_owned(), source };
        if bytes < 8 {
            return Err(invalid(HeaderError::TooShort { bytes }));
        }
        let mut first = [0; 8];
        storage.read_into(0, &mut first)?;
        let length = header::length(first, bytes).map_err(invalid)?;
        let entries = header::parse(&storage.read(8, length)?, bytes).map_err(invalid)?;
        Ok((storage, entries))
    }

    /// Opens a file whatever it holds.
    pub(crate) fn open_any(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let file = File::open(path).map_err(io("open", path))?;
        let metadata = file.metadata().map_err(io("read the size of", path))?;
        let bytes = metadata.len();
        #[cfg(feature = "mmap")]
        let map = match access {
            Access::Mapped => crate::mapped::map(&file).ok().filter(|m| m.len() as u64 == bytes),
            Access::Positioned => None,
        };
        #[cfg(not(feature = "mmap"))]
        let _ = access;
        Ok(Self {
            path: path.to_owned(),
            file,
            bytes,
            #[cfg(feature = "mmap")]
            map,
            #[cfg(not(unix))]
            position: std::sync::Mutex::new(()),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes of the file, mapped or copied. The range was checked against the length of the file when its header was parsed.
    pub(crate) fn read(&self, begin: u64, length: usize) -> Result<Cow<'_, [u8]>, CheckpointError> {
        #[cfg(feature = "mmap")]
        if let Some(map) = &self.map {
            let begin = begin as usize;
            return Ok(Cow::Borrowed(&map[begin..begin + length]));
        }
        let mut bytes = vec![0; length];
        self.read_into(begin, &mut bytes)?;
        Ok(Cow::Owned(bytes))
    }

    /// Copies bytes of the file, by a positioned read even where it is mapped.
    pub(crate) fn read_into(&self, begin: u64, out: &mut [u8]) -> Result<(), CheckpointError> {
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_exact_at(&self.file, out, begin);
        #[cfg(not(unix))]
        let result = {
            use std::io::{Read, Seek, SeekFrom};
            let _guard = self.position.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let mut file = &self.file;
            file.seek(SeekFrom::Start(begin)).and_then(|_| file.read_exact(out))
        };
        result.map_err(io("read", &self.path))
    }
}
