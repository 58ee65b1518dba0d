//! Small files that are either old or new, never half.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use crate::{CheckpointError, error::io};

/// Replaces a file: writes a temporary sibling, makes it durable, renames it. Whoever reads `path` at any moment, even after a crash, finds
/// the old content or the new one.
///
/// # Errors
/// If the folder does not exist or cannot be written, or the disk is full; `path` is then as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let folder = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let write = || {
        // Others may read it as far as the process's mask lets them, as they may any new file.
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_folder(folder)
    };
    write().map_err(|error| write_error(error, path, bytes.len() as u64))
}

/// An error of writing `bytes` bytes: a full disk by its own name.
pub(crate) fn write_error(error: io::Error, path: &Path, bytes: u64) -> CheckpointError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            CheckpointError::DiskFull { path: path.to_owned(), bytes }
        }
        _ => io("write", path)(error),
    }
}

/// Makes the names in a folder durable, where the system has such a thing.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// Gives a new file its length, with space reserved for it where the system and the disk can do that: a full disk then shows before the
/// first byte is written.
pub(crate) fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if bytes > 0 {
        use rustix::{
            fs::{FallocateFlags, fallocate},
            io::Errno,
        };
        match fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            // This file system cannot; the space may still be there.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
    }
    file.set_len(bytes)
}

/// Bytes that this user can still write on the disk of `path`, or of its nearest parent that exists. `None` where the system does not tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let path = std::path::absolute(path).ok()?;
    let existing = path.ancestors().find(|path| fs::metadata(path).is_ok())?;
    #[cfg(unix)]
    {
        let disk = rustix::fs::statvfs(existing).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = existing;
        None
    }
}

/// Refuses a path that is taken.
pub(crate) fn refuse_existing(out: &Path) -> Result<(), CheckpointError> {
    match fs::symlink_metadata(out) {
        Ok(_) => Err(CheckpointError::OutputExists { path: out.to_owned() }),
        Err(_) => Ok(()),
    }
}

/// Renames a file to a name that is not taken.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => CheckpointError::OutputExists { path: to.to_owned() },
        _ => io("rename to its final name", from)(error),
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use rustix::{
            fs::{CWD, RenameFlags, renameat_with},
            io::Errno,
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // This file system cannot; look first instead.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            result => return result.map_err(|error| failed(error.into())),
        }
    }
    refuse_existing(to)?;
    fs::rename(from, to).map_err(failed)
}
