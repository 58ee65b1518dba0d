//! 4-bit floats (E2M1) under shared 8-bit scales.
//!
//! ```text
//! mxfp4  | e u8 | qs 16 B |              value = E2M1(q) · 2^(e − 127);  qs[j] = elements j (low nibble) and j + 16 (high), 32 in all
//! nvfp4  | d 4 × UE4M3 | qs 4 × 8 B |    value = E2M1(q) · d[s] in part s of 16;  byte 8s + j = elements 16s + j and 16s + 8 + j
//!
//! E2M1   code   0  1    2  3    4  5  6  7     8 … 15 the same, negative
//!        value  0  0.5  1  1.5  2  3  4  6
//! UE4M3  e = bits 3–6, m = bits 0–2:  2^(e − 7) · (1 + m/8), for e = 0 2^−9 · m;  0x7f is read as 0
//! ```
//!
//! As in the reference, the codebook is stored doubled, and scales are halved to match; both are exact.

use super::codec::{Codec, amax, map, one_by_one};

pub(super) struct Mxfp4;
pub(super) struct Nvfp4;

/// Twice the values of E2M1.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Codec<32, 17> for Mxfp4 {
    const HALVES: &'static [usize] = &[];
    const USES_IMPORTANCE: bool = false;

    /// The scale is the power of two that puts the largest magnitude into the top binade of E2M1, `4 ..< 8`; what exceeds 6 is clipped.
    ///
    /// (The reference takes a rounded logarithm, which is one more for magnitudes a few units in the last place below a power of two.)
    #[inline(always)]
    fn encode(weights: &[f32; 32], block: &mut [u8; 17]) {
        let exponent = (amax(weights).to_bits() >> 23) as u8;
        block[0] = exponent.saturating_sub(2);
        let codes = nearest(weights, half_e8m0(block[0]));
        for j in 0..16 {
            block[1 + j] = codes[j] | codes[j + 16] << 4;
        }
    }

    #[inline(always)]
    fn decode(block: &[u8; 17], out: &mut [f32; 32]) {
        let d = half_e8m0(block[0]);
        for j in 0..16 {
            out[j] = value(block[1 + j] & 15) * d;
            out[j + 16] = value(block[1 + j] >> 4) * d;
        }
    }

    /// The last exponent code means NaN.
    #[inline(always)]
    fn is_sound(block: &[u8; 17]) -> bool {
        block[0] != 0xff
    }
}

impl Codec<64, 36> for Nvfp4 {
    const HALVES: &'static [usize] = &[];
    const USES_IMPORTANCE: bool = false;
    const LARGEST: f32 = 6.0 * 448.0;

    #[inline(always)]
    fn encode(weights: &[f32; 64], block: &mut [u8; 36]) {
        let (parts, _) = weights.as_chunks::<16>();
        for (s, part) in parts.iter().enumerate() {
            one_by_one();
            block[s] = to_ue4m3(amax(part) / 6.0);
            let codes = nearest(part, half_ue4m3(block[s]));
            for j in 0..8 {
                block[4 + 8 * s + j] = codes[j] | codes[j + 8] << 4;
            }
        }
    }

    #[inline(always)]
    fn decode(block: &[u8; 36], out: &mut [f32; 64]) {
        let (parts, _) = out.as_chunks_mut::<16>();
        for (s, part) in parts.iter_mut().enumerate() {
            one_by_one();
            let d = half_ue4m3(block[s]);
            for j in 0..8 {
                part[j] = value(block[4 + 8 * s + j] & 15) * d;
                part[j + 8] = value(block[4 + 8 * s + j] >> 4) * d;
            }
        }
    }
}

/// Twice the value of an E2M1 code.
#[inline(always)]
fn value(code: u8) -> f32 {
    f32::from(DOUBLED[usize::from(code)])
}

/// The codes whose values under a halved scale are nearest, ties to the lesser magnitude; 0, never −0, for what is nearest to it.
#[inline(always)]
fn nearest<const N: usize>(x: &[f32; N], d: f32) -> [u8; N] {
    /// Where the next magnitude becomes nearer, doubled like the values.
    const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
    // Under no scale, all values are equally near.
    let d = if d == 0.0 { f32::INFINITY } else { d };
    let middles = map(&MIDDLES, |m| m * d);
    map(x, |x| {
        let mut code = 0;
        for middle in middles {
            code += u32::from(x.abs() > middle);
        }
        let sign = x.to_bits() >> 31 << 3;
        (if code == 0 { 0 } else { code | sign }) as u8
    })
}

/// `2^(e − 128)`.
#[inline(always)]
fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

/// Half the value of an unsigned E4M3.
#[inline(always)]
fn half_ue4m3(code: u8) -> f32 {
    if code == 0x7f {
        return 0.0;
    }
    // As the top of an f32 fraction and exponent, the value is 2^120 times smaller; exact, subnormals included.
    f32::from_bits(u32::from(code & 0x7f) << 20) * f32::from_bits((127 + 119) << 23)
}

/// An unsigned E4M3 for a scale, rounded half up; scales from 248 on become the largest, 448, as in the reference.
#[inline(always)]
fn to_ue4m3(x: f32) -> u8 {
    /// The least normal value.
    const NORMAL: f32 = 1.0 / 64.0;
    if x < NORMAL {
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    let rounded = ((x.to_bits() >> 19) + 1) >> 1;
    // Exponent bias 127 becomes 7.
    (rounded - (120 << 3)).min(0x7e) as u8
}
