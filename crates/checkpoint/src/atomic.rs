//! Small files that are either old or new, never half.

use std::path::Path;

use crate::CheckpointError;

/// Replaces a file: writes a temporary sibling, makes it durable, renames it.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    unimplemented!()
}

/// Bytes that are free for this user on the disk of a path (or of its nearest existing parent); `None` where the system does not tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    unimplemented!()
}
