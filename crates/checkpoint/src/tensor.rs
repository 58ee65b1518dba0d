//! Tensors by name, type and shape.

use std::{borrow::Cow, ops::Range};

use safetensors::Dtype;

use crate::CheckpointError;

/// A tensor that a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, such as `model.layers.0.mlp.down_proj.weight`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, slowest first. Empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes it takes.
    pub bytes: u64,
}

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Name, such as `model.layers.0.mlp.down_proj.weight`.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, slowest first. Empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// A tensor of this name, type and shape.
    pub fn new(name: impl Into<String>, dtype: Dtype, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), dtype, shape: shape.into() }
    }

    /// Bytes it takes; `u64::MAX` for a shape that no file can hold.
    pub fn bytes(&self) -> u64 {
        let bits = self
            .shape
            .iter()
            .try_fold(self.dtype.bitsize() as u64, |n, &d| n.checked_mul(d as u64));
        bits.map_or(u64::MAX, |bits| bits / 8)
    }
}

impl From<&TensorInfo> for TensorSpec {
    fn from(info: &TensorInfo) -> Self {
        Self { name: info.name.clone(), dtype: info.dtype, shape: info.shape.clone() }
    }
}

/// Bytes of the data of all tensors, headers not counted.
pub fn total_bytes(specs: &[TensorSpec]) -> u64 {
    specs.iter().map(TensorSpec::bytes).fold(0, u64::saturating_add)
}

/// Bytes of a row of a tensor, with its first dimension counted as its rows, if the tensor has all of `rows`.
pub(crate) fn row_bytes(info: &TensorInfo, rows: &Range<usize>) -> Result<usize, CheckpointError> {
    let n_rows = info.shape.first().copied().unwrap_or(1);
    if rows.start > rows.end || rows.end > n_rows {
        let (tensor, length) = (info.name.clone(), n_rows as u64);
        let (begin, end) = (rows.start as u64, rows.end as u64);
        return Err(CheckpointError::TensorRange { tensor, begin, end, length });
    }
    Ok(info.bytes as usize / n_rows.max(1))
}

/// Something that holds tensors by name: an opened [`Checkpoint`](crate::Checkpoint), or tensors in memory.
pub trait TensorSource {
    /// The tensor of this name, if there is one.
    fn tensor(&self, name: &str) -> Option<&TensorInfo>;

    /// Its little-endian bytes, in row-major order and of any alignment.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError>;
}
