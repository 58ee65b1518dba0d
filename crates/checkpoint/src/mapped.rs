//! Mapping a file into memory: the one place of the crate that needs `unsafe`.

use std::{fs::File, io};

use memmap2::Mmap;

/// Maps a whole file, read-only.
#[expect(unsafe_code, reason = "memmap2 leaves to its caller what other processes do to the file")]
pub(crate) fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: the mapping is private to us, read-only and lives as long as the `Mmap`. That nobody truncates or rewrites a weight file
    // while it is open is a condition that `Checkpoint::open` states to its caller; where it cannot be kept,
    // `Access::Positioned` reads without a mapping.
    unsafe { Mmap::map(file) }
}
