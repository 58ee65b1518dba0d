//! The header of a safetensors file.
use thiserror::Error;

/// What is wrong with the header of a safetensors file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Too short to hold a header.
    #[error("it has {bytes} bytes, fewer than the 8 of the header length: the file is truncated")]
    TooShort {
        /// Length of the file.
        bytes: u64,
    },
}
