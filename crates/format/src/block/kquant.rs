//! Super-blocks of 256 weights, whose groups have scales that are codes themselves.
//!
//! ```text
//! q2_k  | scales 16 B | qs 64 B | d f16 | dmin f16 |              16 groups of 16, value = d · s · q − dmin · m;  s, m = nibbles of scales[g]
//! q3_k  | hmask 32 B | qs 64 B | scales 12 B | d f16 |            16 groups of 16, value = d · (s − 32) · (q − 4)
//! q4_k  | d f16 | dmin f16 | scales 12 B | qs 128 B |              8 groups of 32, value = d · s · q − dmin · m
//! q5_k  | d f16 | dmin f16 | scales 12 B | qh 32 B | qs 128 B |    8 groups of 32, value = d · s · q − dmin · m
//! q6_k  | ql 128 B | qh 64 B | scales 16 × i8 | d f16 |           16 groups of 16, value = d · s · (q − 32)
//!
//! with l < 32 and, where there are halves of 128, h < 2 and p < 4, r < 4 where there are runs of 64:
//! q2_k  element 128h + 32p + l = bits 2p, 2p + 1 of qs[32h + l]
//! q3_k  as q2_k, and the third bit of element e = bit e / 32 of hmask[e % 32]
//! q4_k  elements 64r + l and 64r + 32 + l = low and high nibble of qs[32r + l]
//! q5_k  as q4_k, and their fifth bits = bits 2r and 2r + 1 of qh[l]
//! q6_k  elements 128h + 32p + l, low 4 bits = nibble p / 2 of ql[64h + 32(p % 2) + l], high 2 = bits 2p, 2p + 1 of qh[32h + l]
//! ```

use super::codec::{Codec, half};

pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;

/// Weights of a super-block.
const W: usize = 256;

impl Codec<W, 84> for Q2K {
    const HALVES: &'static [usize] = &[80, 82];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; W], _: &mut [u8; 84]) {}

    #[inline(always)]
    fn decode(block: &[u8; 84], out: &mut [f32; W]) {
        let (d, dmin) = (half(block, 80), half(block, 82));
        let codes = twos(&block[16..80]);
        for g in 0..16 {
            let (s, m) = (block[g] & 15, block[g] >> 4);
            let (d, m) = (d * f32::from(s), dmin * f32::from(m));
            for e in 16 * g..16 * g + 16 {
                out[e] = d * f32::from(codes[e]) - m;
            }
        }
    }
}

impl Codec<W, 110> for Q3K {
    const HALVES: &'static [usize] = &[108];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; W], _: &mut [u8; 110]) {}

    #[inline(always)]
    fn decode(block: &[u8; 110], out: &mut [f32; W]) {
        let d = half(block, 108);
        let codes = twos(&block[32..96]);
        let s = &block[96..108];
        for g in 0..16 {
            let low = s[g % 8] >> (4 * (g / 8)) & 15;
            let scale = low | (s[8 + g % 4] >> (2 * (g / 4)) & 3) << 4;
            let d = d * f32::from(scale as i8 - 32);
            for e in 16 * g..16 * g + 16 {
                let high = block[e % 32] >> (e / 32) & 1;
                out[e] = d * f32::from((codes[e] | high << 2) as i8 - 4);
            }
        }
    }
}

impl Codec<W, 144> for Q4K {
    const HALVES: &'static [usize] = &[0, 2];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; W], _: &mut [u8; 144]) {}

    #[inline(always)]
    fn decode(block: &[u8; 144], out: &mut [f32; W]) {
        affine(block, &fours(&block[16..]), out);
    }
}

impl Codec<W, 176> for Q5K {
    const HALVES: &'static [usize] = &[0, 2];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; W], _: &mut [u8; 176]) {}

    #[inline(always)]
    fn decode(block: &[u8; 176], out: &mut [f32; W]) {
        let mut codes = fours(&block[48..]);
        for g in 0..8 {
            for l in 0..32 {
                codes[32 * g + l] |= (block[16 + l] >> g & 1) << 4;
            }
        }
        affine(block, &codes, out);
    }
}

impl Codec<W, 210> for Q6K {
    const HALVES: &'static [usize] = &[208];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; W], _: &mut [u8; 210]) {}

    #[inline(always)]
    fn decode(block: &[u8; 210], out: &mut [f32; W]) {
        let d = half(block, 208);
        for e in 0..W {
            let (h, p, l) = (e / 128, e / 32 % 4, e % 32);
            let low = block[64 * h + 32 * (p % 2) + l] >> (4 * (p / 2)) & 15;
            let high = block[128 + 32 * h + l] >> (2 * p) & 3;
            let scale = block[192 + e / 16] as i8;
            out[e] = d * f32::from(scale) * f32::from((low | high << 4) as i8 - 32);
        }
    }
}

/// The 2-bit codes of q2_k and q3_k.
#[inline(always)]
fn twos(packed: &[u8]) -> [u8; W] {
    let mut codes = [0; W];
    for h in 0..2 {
        for p in 0..4 {
            for l in 0..32 {
                codes[128 * h + 32 * p + l] = packed[32 * h + l] >> (2 * p) & 3;
            }
        }
    }
    codes
}

/// The nibbles of q4_k and q5_k.
#[inline(always)]
fn fours(packed: &[u8]) -> [u8; W] {
    let mut codes = [0; W];
    for r in 0..4 {
        for l in 0..32 {
            codes[64 * r + l] = packed[32 * r + l] & 15;
            codes[64 * r + 32 + l] = packed[32 * r + l] >> 4;
        }
    }
    codes
}

/// The 6-bit scale and minimum of group `g` of q4_k and q5_k, from their twelve bytes.
#[inline(always)]
fn scale_and_min(s: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (s[g] & 63, s[g + 4] & 63)
    } else {
        (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
    }
}

/// The values of q4_k and q5_k, both of which begin with `d`, `dmin` and the scales.
#[inline(always)]
fn affine<const B: usize>(block: &[u8; B], codes: &[u8; W], out: &mut [f32; W]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    for g in 0..8 {
        let (s, m) = scale_and_min(&block[4..16], g);
        let (d, m) = (d * f32::from(s), dmin * f32::from(m));
        for e in 32 * g..32 * g + 32 {
            out[e] = d * f32::from(codes[e]) - m;
        }
    }
}
