//! Writing a model folder tensor by tensor.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{CheckpointError, TensorSpec};

/// Writes a model folder without ever holding more than one tensor.
#[derive(Debug)]
pub struct FolderWriter {}

impl FolderWriter {
    /// Size at which Hugging Face starts a new file, 5 · 10⁹ bytes.
    pub const SHARD_BYTES: u64 = 5_000_000_000;
    /// Lays out the files for `specs`, in shards of at most `shard_bytes`, in a temporary sibling of `out`.
    pub fn create(
        out: &Path,
        specs: Vec<TensorSpec>,
        shard_bytes: u64,
    ) -> Result<Self, CheckpointError> {
        unimplemented!()
    }
    /// Writes a tensor at its place; any order.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        unimplemented!()
    }
    /// Copies tokenizer, generation and similar files; returns their names.
    pub fn copy_companions(&mut self, from: &Path) -> Result<Vec<String>, CheckpointError> {
        unimplemented!()
    }
    /// Writes a JSON file, such as `config.json`.
    pub fn write_json(&mut self, name: &str, value: &Value) -> Result<(), CheckpointError> {
        unimplemented!()
    }
    /// Makes the folder durable and gives it its final name, which is returned.
    pub fn finish(self) -> Result<PathBuf, CheckpointError> {
        unimplemented!()
    }
}
