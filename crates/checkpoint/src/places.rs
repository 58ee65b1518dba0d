//! Where announced tensors lie in the files of an output, and how far each has been written.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    path::Path,
};

use indexmap::IndexMap;

use crate::{CheckpointError, atomic::write_error};

/// Places of tensors by name, in the order in which they were announced.
#[derive(Debug, Default)]
pub(crate) struct Places(IndexMap<String, Place>);

#[derive(Debug)]
struct Place {
    /// Index of the file.
    file: usize,
    /// Position in it.
    begin: u64,
    bytes: u64,
    /// `None` until the first piece came.
    written: Option<u64>,
}

impl Places {
    /// Announces a tensor of so many bytes at a position of a file.
    pub(crate) fn announce(&mut self, tensor: String, file: usize, begin: u64, bytes: u64) {
        self.0.insert(tensor, Place { file, begin, bytes, written: None });
    }

    /// Refuses bytes that are not a whole tensor.
    pub(crate) fn check_whole(&self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        match self.0.get(tensor) {
            Some(place) if place.bytes != bytes.len() as u64 => {
                Err(wrong_length(tensor, bytes.len() as u64, place.bytes))
            }
            _ => Ok(()),
        }
    }

    /// Writes a piece, which begins at byte `offset` of the tensor, into the file of the index that `file` is asked for.
    pub(crate) fn write<'a>(
        &mut self,
        tensor: &str,
        offset: u64,
        bytes: &[u8],
        file: impl FnOnce(usize) -> (&'a mut File, &'a Path),
    ) -> Result<(), CheckpointError> {
        let unexpected =
            |problem| CheckpointError::Unexpected { tensor: tensor.to_owned(), problem };
        let Some(place) = self.0.get_mut(tensor) else {
            return Err(unexpected("was not announced when the output was created"));
        };
        let begin = place.written.unwrap_or(0);
        if offset > begin {
            return Err(unexpected(
                "is written with a gap: its pieces must come one after another",
            ));
        }
        if offset < begin || place.written == Some(place.bytes) {
            return Err(unexpected("is written a second time"));
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if end > place.bytes {
            return Err(wrong_length(tensor, end, place.bytes));
        }
        let (file, path) = file(place.file);
        file.seek(SeekFrom::Start(place.begin + offset))
            .and_then(|_| file.write_all(bytes))
            .map_err(|error| write_error(error, path, place.bytes))?;
        place.written = Some(end);
        Ok(())
    }

    /// Refuses an output with a tensor that was not written to its end. An empty one has nothing to write.
    pub(crate) fn check_complete(&self) -> Result<(), CheckpointError> {
        let mut unwritten =
            self.0.iter().filter(|(_, place)| place.written.unwrap_or(0) < place.bytes);
        match unwritten.next() {
            None => Ok(()),
            Some((tensor, Place { written: Some(got), bytes, .. })) => {
                Err(wrong_length(tensor, *got, *bytes))
            }
            Some((tensor, _)) => {
                let missing = 1 + unwritten.count();
                Err(CheckpointError::Unwritten { tensor: tensor.clone(), missing })
            }
        }
    }
}

fn wrong_length(tensor: &str, got: u64, expected: u64) -> CheckpointError {
    CheckpointError::TensorLength { tensor: tensor.to_owned(), got, expected }
}
