//! GGML blocks, taken apart into codes and the bytes of their parameters. `fewbit_format` draws the layouts.

use fewbit_format::BlockType;

use super::{
    codes::CodeKind,
    layout::{Form, Offset, ScaleKind, SuperKind},
};

/// How blocks of a type are prepared, if there is a way. The blocks of a flat grid are its groups.
pub(super) const fn kind(block_type: BlockType) -> Option<(CodeKind, Form)> {
    const fn flat(offset: Offset) -> Form {
        Form::Flat { scale: ScaleKind::F16, offset }
    }
    const fn signed(centre: u8) -> Form {
        Form::Super(SuperKind::HalvesSigned { centre })
    }
    const MINIMA: Form = Form::Super(SuperKind::Minima);
    Some(match block_type {
        BlockType::Q4_0 => (CodeKind::Four, flat(Offset::Centre(8))),
        BlockType::Q4_1 => (CodeKind::Four, flat(Offset::Minimum)),
        BlockType::Q5_0 => (CodeKind::Five, flat(Offset::Centre(16))),
        BlockType::Q5_1 => (CodeKind::Five, flat(Offset::Minimum)),
        BlockType::Q8_0 => (CodeKind::Eight, flat(Offset::Centre(128))),
        BlockType::Tq2_0 | BlockType::Q2_0 => (CodeKind::Two, flat(Offset::Centre(1))),
        BlockType::Iq4Nl => (CodeKind::Iq4, flat(Offset::Centre(128))),
        BlockType::Mxfp4 => {
            let offset = Offset::Centre(12);
            (CodeKind::E2m1, Form::Flat { scale: ScaleKind::HalfE8m0, offset })
        }
        BlockType::Q2K => (CodeKind::Two, Form::Super(SuperKind::HalvesMinima)),
        BlockType::Q3K => (CodeKind::Three, signed(4)),
        BlockType::Q4K => (CodeKind::Four, MINIMA),
        BlockType::Q5K => (CodeKind::Five, MINIMA),
        BlockType::Q6K => (CodeKind::Six, signed(32)),
        BlockType::Iq4Xs => (CodeKind::Iq4, Form::Super(SuperKind::Signed { centre: 128 })),
        _ => return None,
    })
}

/// A block taken apart.
pub(super) struct Block {
    /// Codes of its weights; what follows them means nothing.
    pub(super) codes: [u8; 256],
    /// Scale, d.
    pub(super) scale: [u8; 2],
    /// Minimum, dmin.
    pub(super) offset: [u8; 2],
    /// Scales of the parts of a super-block; with minima in the high nibbles in q2_k.
    pub(super) part_scales: [u8; 16],
    /// Minima of the parts of q4_k and q5_k.
    pub(super) part_minima: [u8; 8],
}

impl Block {
    /// Takes a block apart.
    pub(super) fn read(block_type: BlockType, b: &[u8]) -> Self {
        let mut block = Self {
            codes: [0; 256],
            scale: [0; 2],
            offset: [0; 2],
            part_scales: [0; 16],
            part_minima: [0; 8],
        };
        let half = |at: usize| [b[at], b[at + 1]];
        let codes = &mut block.codes;
        block.scale = half(0);
        match block_type {
            BlockType::Q4_0 | BlockType::Iq4Nl => halves_of_bytes(&b[2..18], codes),
            BlockType::Q4_1 => {
                block.offset = half(2);
                halves_of_bytes(&b[4..20], codes);
            }
            BlockType::Q5_0 => {
                halves_of_bytes(&b[6..22], codes);
                fifth_bits(&b[2..6], codes);
            }
            BlockType::Q5_1 => {
                block.offset = half(2);
                halves_of_bytes(&b[8..24], codes);
                fifth_bits(&b[4..8], codes);
            }
            BlockType::Q8_0 => {
                for (code, byte) in codes.iter_mut().zip(&b[2..34]) {
                    *code = byte ^ 0x80;
                }
            }
            BlockType::Tq2_0 => {
                block.scale = half(64);
                quarters_of_bytes(&b[..64], codes);
            }
            BlockType::Q2_0 => {
                for (e, code) in codes[..64].iter_mut().enumerate() {
                    *code = b[2 + e / 4] >> (2 * (e % 4)) & 3;
                }
            }
            BlockType::Mxfp4 => {
                block.scale = [b[0], 0];
                halves_of_bytes(&b[1..17], codes);
            }
            BlockType::Q2K => {
                (block.scale, block.offset) = (half(80), half(82));
                block.part_scales.copy_from_slice(&b[..16]);
                quarters_of_bytes(&b[16..80], codes);
            }
            BlockType::Q3K => {
                block.scale = half(108);
                quarters_of_bytes(&b[32..96], codes);
                for (e, code) in codes.iter_mut().enumerate() {
                    *code |= (b[e % 32] >> (e / 32) & 1) << 2;
                }
                let s = &b[96..108];
                for (g, scale) in block.part_scales.iter_mut().enumerate() {
                    let low = s[g % 8] >> (4 * (g / 8)) & 15;
                    let high = s[8 + g % 4] >> (2 * (g / 4)) & 3;
                    *scale = (low | high << 4).wrapping_sub(32);
                }
            }
            BlockType::Q4K => {
                block.offset = half(2);
                block.scales_and_minima(&b[4..16]);
                nibbles_of_64(&b[16..144], &mut block.codes);
            }
            BlockType::Q5K => {
                block.offset = half(2);
                nibbles_of_64(&b[48..176], codes);
                for (e, code) in codes.iter_mut().enumerate() {
                    *code |= (b[16 + e % 32] >> (e / 32) & 1) << 4;
                }
                block.scales_and_minima(&b[4..16]);
            }
            BlockType::Q6K => {
                block.scale = half(208);
                block.part_scales.copy_from_slice(&b[192..208]);
                for (e, code) in codes.iter_mut().enumerate() {
                    let (h, p, l) = (e / 128, e / 32 % 4, e % 32);
                    let low = b[64 * h + 32 * (p % 2) + l] >> (4 * (p / 2)) & 15;
                    *code = low | (b[128 + 32 * h + l] >> (2 * p) & 3) << 4;
                }
            }
            BlockType::Iq4Xs => {
                let high = u16::from_le_bytes(half(2));
                for g in 0..8 {
                    let low = b[4 + g / 2] >> (4 * (g % 2)) & 15;
                    let scale = low | ((high >> (2 * g) & 3) as u8) << 4;
                    block.part_scales[g] = scale.wrapping_sub(32);
                    halves_of_bytes(&b[8 + 16 * g..][..16], &mut codes[32 * g..]);
                }
            }
            _ => unreachable!("types that `kind` knows"),
        }
        block
    }

    /// The 6-bit scales and minima of q4_k and q5_k, from their twelve bytes.
    fn scales_and_minima(&mut self, s: &[u8]) {
        for g in 0..8 {
            (self.part_scales[g], self.part_minima[g]) = match g {
                ..4 => (s[g] & 63, s[g + 4] & 63),
                _ => (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4),
            };
        }
    }
}

/// 32 codes: low nibbles, then high ones.
fn halves_of_bytes(bytes: &[u8], codes: &mut [u8]) {
    for (j, byte) in bytes.iter().enumerate() {
        codes[j] = byte & 15;
        codes[j + 16] = byte >> 4;
    }
}

/// Adds the fifth bits of 32 codes.
fn fifth_bits(bits: &[u8], codes: &mut [u8]) {
    for (e, code) in codes[..32].iter_mut().enumerate() {
        *code |= (bits[e / 8] >> (e % 8) & 1) << 4;
    }
}

/// 256 codes in runs of 64: low nibbles, then high ones.
fn nibbles_of_64(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(64)) {
        for (l, byte) in bytes.iter().enumerate() {
            codes[l] = byte & 15;
            codes[l + 32] = byte >> 4;
        }
    }
}

/// 256 codes of two bits in runs of 128.
fn quarters_of_bytes(bytes: &[u8], codes: &mut [u8]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (l, byte) in bytes.iter().enumerate() {
            for p in 0..4 {
                codes[l + 32 * p] = byte >> (2 * p) & 3;
            }
        }
    }
}
