//! Blocks as they were before GGUF.
//!
//! | | `ggml`, `ggmf`, `ggjt` v1 | `ggjt` v2 | `ggjt` v3, GGUF |
//! | --- | --- | --- | --- |
//! | scale (and minimum) of Q4_0, Q4_1, Q8_0 | f32 | f32 | f16 |
//! | scale (and minimum) of Q5_0, Q5_1 | f16 | f16 | f16 |
//! | low and high four bits of byte j | weights 2j and 2j + 1 | j and j + 16 | j and j + 16 |
//!
//! The fifth bit of weight e is bit e of a word in all of them.

use fewbit_format::f16;

use crate::gguf::{self, GgmlType};

/// Weights in a block of all types that changed.
const WEIGHTS: usize = 32;

/// How blocks lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Up to `ggjt` v1.
    Interleaved,
    /// `ggjt` v2.
    Wide,
    /// As in GGUF.
    Modern,
}

impl Layout {
    /// Whether blocks of a type lie as they do in GGUF.
    pub(super) fn is_modern(self, kind: GgmlType) -> bool {
        match kind {
            GgmlType::Q4_0 | GgmlType::Q4_1 | GgmlType::Q8_0 => self == Self::Modern,
            GgmlType::Q5_0 | GgmlType::Q5_1 => self != Self::Interleaved,
            _ => true,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self, kind: GgmlType) -> u64 {
        let wider = match (self, kind) {
            (Self::Modern, _) => 0,
            (_, GgmlType::Q4_0 | GgmlType::Q8_0) => 2,
            (_, GgmlType::Q4_1) => 4,
            _ => 0,
        };
        kind.block_bytes() + wider
    }
}

/// A block taken apart: value = code · scale + min.
struct Block {
    scale: f32,
    min: f32,
    /// Unsigned as stored; of Q8_0 two's complement.
    codes: [u8; WEIGHTS],
}

/// Decodes whole blocks.
///
/// # Panics
/// If the lengths do not agree.
pub(super) fn decode(layout: Layout, kind: GgmlType, bytes: &[u8], out: &mut [f32]) {
    if layout.is_modern(kind) {
        return gguf::decode(kind, bytes, out);
    }
    let blocks = bytes.chunks_exact(layout.block_bytes(kind) as usize);
    assert_eq!(blocks.len() * WEIGHTS, out.len(), "bytes of {} weights of {kind}", out.len());
    for (bytes, out) in blocks.zip(out.chunks_exact_mut(WEIGHTS)) {
        let Block { scale, min, codes } = Block::unpack(layout, kind, bytes);
        for (out, code) in out.iter_mut().zip(codes) {
            *out = match kind {
                GgmlType::Q4_0 => f32::from(code as i8 - 8) * scale,
                GgmlType::Q5_0 => f32::from(code as i8 - 16) * scale,
                GgmlType::Q8_0 => f32::from(code as i8) * scale,
                _ => f32::from(code) * scale + min,
            };
        }
    }
}

/// The same values in the blocks of GGUF. `None` if a scale or minimum is no f16.
pub(super) fn modernize(layout: Layout, kind: GgmlType, bytes: &[u8]) -> Option<Vec<u8>> {
    let blocks = bytes.chunks_exact(layout.block_bytes(kind) as usize);
    let mut out = Vec::with_capacity(blocks.len() * kind.block_bytes() as usize);
    for bytes in blocks {
        Block::unpack(layout, kind, bytes).pack(kind, &mut out)?;
    }
    Some(out)
}

impl Block {
    fn unpack(layout: Layout, kind: GgmlType, mut bytes: &[u8]) -> Self {
        let mut parameter = || match kind {
            GgmlType::Q5_0 | GgmlType::Q5_1 => f16::from_le_bytes(take(&mut bytes)).to_f32(),
            _ => f32::from_le_bytes(take(&mut bytes)),
        };
        let scale = parameter();
        let min = match kind {
            GgmlType::Q4_1 | GgmlType::Q5_1 => parameter(),
            _ => 0.0,
        };
        let fifth = match kind {
            GgmlType::Q5_0 | GgmlType::Q5_1 => u32::from_le_bytes(take(&mut bytes)),
            _ => 0,
        };
        let mut codes = [0; WEIGHTS];
        if kind == GgmlType::Q8_0 {
            codes.copy_from_slice(bytes);
        } else {
            for (j, byte) in bytes.iter().enumerate() {
                let (low, high) = match layout {
                    Layout::Interleaved => (2 * j, 2 * j + 1),
                    _ => (j, j + WEIGHTS / 2),
                };
                codes[low] = byte & 15;
                codes[high] = byte >> 4;
            }
        }
        for (e, code) in codes.iter_mut().enumerate() {
            *code |= ((fifth >> e & 1) as u8) << 4;
        }
        Self { scale, min, codes }
    }

    fn pack(&self, kind: GgmlType, out: &mut Vec<u8>) -> Option<()> {
        let half = |value: f32| {
            let half = f16::from_f32(value);
            (half.to_f32().to_bits() == value.to_bits()).then(|| half.to_le_bytes())
        };
        out.extend(half(self.scale)?);
        if matches!(kind, GgmlType::Q4_1 | GgmlType::Q5_1) {
            out.extend(half(self.min)?);
        }
        if kind == GgmlType::Q8_0 {
            out.extend(self.codes);
            return Some(());
        }
        if matches!(kind, GgmlType::Q5_0 | GgmlType::Q5_1) {
            let bit = |(e, code): (usize, &u8)| u32::from(code >> 4) << e;
            let fifth: u32 = self.codes.iter().enumerate().map(bit).sum();
            out.extend(fifth.to_le_bytes());
        }
        let (low, high) = self.codes.split_at(WEIGHTS / 2);
        out.extend(low.iter().zip(high).map(|(low, high)| low & 15 | high << 4));
        Some(())
    }
}

/// The first bytes of a block, which is long enough.
fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
    let (first, rest) = bytes.split_first_chunk().expect("a whole block");
    *bytes = rest;
    *first
}
