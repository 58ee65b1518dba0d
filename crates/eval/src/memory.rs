//! Resident memory of this process.

use serde::Serialize;

/// Resident memory of this process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResidentMemory {
    /// Now.
    pub current: u64,
    /// Highest since the start of the process, or since [`reset_peak_memory`].
    pub peak: u64,
    /// Part of `current` that is not backed by a file.
    pub anonymous: Option<u64>,
    /// Part of `current` that is backed by files, such as mapped weights; the system can reclaim it.
    pub file: Option<u64>,
}

/// Resident memory of this process; `None` where the system does not tell.
pub fn resident_memory() -> Option<ResidentMemory> {
    None
}

/// Makes the peak start again from the current value; `false` where that is not permitted.
pub fn reset_peak_memory() -> bool {
    false
}
