//! Models cut into several files, as Meta published them: each file holds a part of every tensor.
//!
//! | tensors | cut along |
//! | --- | --- |
//! | `tok_embeddings`, `attention.wo`, `feed_forward.w2` | in_features |
//! | other matrices | out_features |
//! | vectors | not at all: each file has the whole |

use std::path::Path;

use indexmap::IndexMap;

use super::{GgmlHyperparameters, GgmlTensor};
use crate::CheckpointError;

/// The tensor whose width tells how many files there are.
const EMBEDDING: &str = "tok_embeddings.weight";

/// How a tensor was cut.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    InFeatures,
    OutFeatures,
    Not,
}

impl Cut {
    fn of(tensor: &GgmlTensor) -> Self {
        let name = tensor.name.as_str();
        if tensor.dims.len() < 2 {
            Self::Not
        } else if name == EMBEDDING
            || name.ends_with(".attention.wo.weight")
            || name.ends_with(".feed_forward.w2.weight")
        {
            Self::InFeatures
        } else {
            Self::OutFeatures
        }
    }
}

/// The number of files, from what the first one holds.
pub(super) fn count(
    path: &Path,
    hyperparameters: &GgmlHyperparameters,
    tensors: &IndexMap<String, GgmlTensor>,
) -> Result<usize, CheckpointError> {
    let Some(tensor) = tensors.get(EMBEDDING) else { return Ok(1) };
    let (part, whole) = (tensor.dims[0], u64::from(hyperparameters.n_embd));
    if part == 0 || whole == 0 || !whole.is_multiple_of(part) {
        let (file, tensor) = (path.to_owned(), tensor.name.clone());
        let expected = "n_embd or a divisor of it";
        return Err(CheckpointError::PartShape { file, tensor, dims: vec![part, whole], expected });
    }
    Ok((whole / part) as usize)
}

/// Refuses a file whose tensors are not those of the first.
pub(super) fn same(
    path: &Path,
    first: &IndexMap<String, GgmlTensor>,
    other: &IndexMap<String, GgmlTensor>,
) -> Result<(), CheckpointError> {
    let refuse = |tensor: &GgmlTensor, expected| {
        let (file, tensor, dims) = (path.to_owned(), tensor.name.clone(), tensor.dims.clone());
        Err(CheckpointError::PartShape { file, tensor, dims, expected })
    };
    for (a, b) in first.values().zip(other.values()) {
        if (&a.name, &a.dims, a.kind) != (&b.name, &b.dims, b.kind) {
            return refuse(b, "the tensor of the first file in this place");
        }
    }
    let longer = if first.len() > other.len() { first } else { other };
    match longer.get_index(first.len().min(other.len())) {
        Some((_, tensor)) => refuse(tensor, "in all files"),
        None => Ok(()),
    }
}

/// Turns the shape of a part into that of the whole.
pub(super) fn merge(tensor: &mut GgmlTensor) {
    let n_parts = tensor.offsets.len() as u64;
    match Cut::of(tensor) {
        Cut::InFeatures => tensor.dims[0] *= n_parts,
        Cut::OutFeatures => tensor.dims[1] *= n_parts,
        Cut::Not => tensor.offsets.truncate(1),
    }
    tensor.bytes *= tensor.offsets.len() as u64;
}

/// Puts the bytes of a merged tensor together.
pub(super) fn join(tensor: &GgmlTensor, pieces: &[Vec<u8>]) -> Vec<u8> {
    if Cut::of(tensor) == Cut::OutFeatures {
        return pieces.concat();
    }
    let rows = tensor.dims[1] as usize;
    let row_bytes = pieces[0].len().checked_div(rows).unwrap_or(0);
    let mut out = Vec::with_capacity(tensor.bytes as usize);
    // A file may claim any number of rows of no weights.
    for row in 0..if row_bytes == 0 { 0 } else { rows } {
        for piece in pieces {
            out.extend(&piece[row * row_bytes..][..row_bytes]);
        }
    }
    out
}
