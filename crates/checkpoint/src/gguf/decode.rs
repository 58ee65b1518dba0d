//! Tensor bytes of every type that can be decoded, widened to f32.

use fewbit_format::{BlockType, bf16, f16};
use half::slice::HalfFloatSliceExt;

use super::GgmlType;
use crate::{CheckpointError, storage::Storage};

/// Weights decoded at a time: the bytes and the floats of that many stay in the cache.
const CHUNK: usize = 1 << 14;

impl GgmlType {
    /// The codec of its blocks. `None` for plain numbers and for types that this crate carries without decoding them.
    pub fn block(self) -> Option<BlockType> {
        Some(match self {
            Self::Q4_0 => BlockType::Q4_0,
            Self::Q4_1 => BlockType::Q4_1,
            Self::Q5_0 => BlockType::Q5_0,
            Self::Q5_1 => BlockType::Q5_1,
            Self::Q8_0 => BlockType::Q8_0,
            Self::Q2K => BlockType::Q2K,
            Self::Q3K => BlockType::Q3K,
            Self::Q4K => BlockType::Q4K,
            Self::Q5K => BlockType::Q5K,
            Self::Q6K => BlockType::Q6K,
            Self::Iq4Nl => BlockType::Iq4Nl,
            Self::Iq4Xs => BlockType::Iq4Xs,
            Self::Mxfp4 => BlockType::Mxfp4,
            Self::Nvfp4 => BlockType::Nvfp4,
            Self::Tq1_0 => BlockType::Tq1_0,
            Self::Tq2_0 => BlockType::Tq2_0,
            Self::Q1_0 => BlockType::Q1_0,
            Self::Q2_0 => BlockType::Q2_0,
            _ => return None,
        })
    }

    /// Whether [`Gguf::read_f32`](super::Gguf::read_f32) can decode it.
    pub fn decodes(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16 | Self::F64) || self.block().is_some()
    }
}

impl From<BlockType> for GgmlType {
    fn from(block: BlockType) -> Self {
        let kind = Self::ALL.iter().copied().find(|kind| kind.block() == Some(block));
        kind.expect("every block type is a tensor type")
    }
}

/// Decodes whole blocks; `bytes` are those of `out.len()` weights.
///
/// # Panics
/// If the lengths do not agree, or the type does not decode.
pub(crate) fn decode(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    let expected = out.len() as u64 / kind.block_weights() * kind.block_bytes();
    assert_eq!(bytes.len() as u64, expected, "bytes of {} weights of {kind}", out.len());
    match kind {
        GgmlType::F32 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(bytes);
            }
        }
        GgmlType::F64 => {
            for (out, &bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f64::from_le_bytes(bytes) as f32;
            }
        }
        GgmlType::F16 | GgmlType::BF16 => halves(kind, bytes, out),
        _ => {
            let block = kind.block().expect("a type that decodes");
            block.decode(bytes, out).expect("whole blocks");
        }
    }
}

/// Half-precision floats of either type, through aligned words.
fn halves(kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    const WORDS: usize = 1 << 10;
    let mut words = [0u16; WORDS];
    for (bytes, out) in bytes.chunks(2 * WORDS).zip(out.chunks_mut(WORDS)) {
        let words = &mut words[..out.len()];
        for (word, &bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u16::from_le_bytes(bytes);
        }
        match kind {
            GgmlType::F16 => bytemuck::cast_slice::<_, f16>(words).convert_to_f32_slice(out),
            _ => bytemuck::cast_slice::<_, bf16>(words).convert_to_f32_slice(out),
        }
    }
}

/// Reads and decodes whole blocks from byte `at` of a file, through a small buffer even where the file is mapped, so that no page of it stays resident.
pub(crate) fn read_f32_into(
    storage: &Storage,
    mut at: u64,
    kind: GgmlType,
    out: &mut [f32],
) -> Result<(), CheckpointError> {
    let (weights, block) = (kind.block_weights() as usize, kind.block_bytes() as usize);
    let mut buffer = vec![0; CHUNK.min(out.len()) / weights * block];
    for out in out.chunks_mut(CHUNK) {
        let buffer = &mut buffer[..out.len() / weights * block];
        storage.read_into(at, buffer)?;
        decode(kind, buffer, out);
        at += buffer.len() as u64;
    }
    Ok(())
}
