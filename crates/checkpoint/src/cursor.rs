//! Reading the fields of a binary header front to back, with every length checked before anything is allocated for it.

use crate::{CheckpointError, Item, Malformed, Problem, storage::Storage};

/// The most bytes of a text and elements of an array, as in llama.cpp.
pub(crate) const MAX_COUNT: u64 = 1 << 30;
/// Bytes fetched from the file at a time.
const WINDOW: u64 = 1 << 14;

/// A position in a file, and what is being read there, so that errors can say so.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    storage: &'a Storage,
    format: &'static str,
    at: u64,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    pub(crate) item: Item,
}

impl<'a> Cursor<'a> {
    /// At the beginning of a file, which errors call a file of this format.
    pub(crate) fn new(storage: &'a Storage, format: &'static str) -> Self {
        Self { storage, format, at: 0, window: Vec::new(), window_at: 0, item: Item::Header }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn left(&self) -> u64 {
        self.storage.bytes() - self.at
    }

    /// The error of a field that begins at `at`.
    pub(crate) fn fail(&self, at: u64, problem: Problem) -> CheckpointError {
        let source = Malformed { at, item: self.item.clone(), problem };
        CheckpointError::Malformed {
            file: self.storage.path().to_owned(),
            format: self.format,
            source: Box::new(source),
        }
    }

    /// Refuses to go on where fewer bytes are left.
    pub(crate) fn need(&self, bytes: u64) -> Result<(), CheckpointError> {
        let left = self.left();
        if bytes > left {
            return Err(self.fail(self.at, Problem::Truncated { needed: bytes, left }));
        }
        Ok(())
    }

    /// A count just read from `at`, if so many things of at least `least` bytes each can follow.
    pub(crate) fn count(
        &self,
        at: u64,
        what: &'static str,
        count: u64,
        least: u64,
    ) -> Result<u64, CheckpointError> {
        let limit = (self.left() / least).min(MAX_COUNT);
        match count > limit {
            true => Err(self.fail(at, Problem::Count { what, count, limit })),
            false => Ok(count),
        }
    }

    /// Moves past bytes, which must be there.
    pub(crate) fn skip(&mut self, bytes: u64) -> Result<(), CheckpointError> {
        self.need(bytes)?;
        self.at += bytes;
        Ok(())
    }

    /// The next few bytes.
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// Fills a buffer.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), CheckpointError> {
        let length = out.len() as u64;
        self.need(length)?;
        if length >= WINDOW {
            self.storage.read_into(self.at, out)?;
        } else if length > 0 {
            let end = self.window_at + self.window.len() as u64;
            if self.at < self.window_at || self.at + length > end {
                self.window.resize(WINDOW.min(self.left()) as usize, 0);
                self.window_at = self.at;
                self.storage.read_into(self.at, &mut self.window)?;
            }
            let begin = (self.at - self.window_at) as usize;
            out.copy_from_slice(&self.window[begin..begin + out.len()]);
        }
        self.at += length;
        Ok(())
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CheckpointError> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn i32(&mut self) -> Result<i32, CheckpointError> {
        self.take().map(i32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CheckpointError> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self) -> Result<f32, CheckpointError> {
        self.take().map(f32::from_le_bytes)
    }

    /// The next `length` bytes.
    pub(crate) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, CheckpointError> {
        self.need(length)?;
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    /// The next `length` bytes as text.
    pub(crate) fn text(&mut self, length: u64) -> Result<String, CheckpointError> {
        let at = self.at;
        String::from_utf8(self.bytes(length)?).map_err(|_| self.fail(at, Problem::Utf8))
    }

    /// The next `count` numbers of `N` bytes each.
    pub(crate) fn numbers<const N: usize, T>(
        &mut self,
        count: u64,
        number: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let bytes = self.bytes(count.saturating_mul(N as u64))?;
        Ok(bytes.as_chunks().0.iter().map(|&bytes| number(bytes)).collect())
    }
}
