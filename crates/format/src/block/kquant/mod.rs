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
//!
//! Encoding takes three steps: a search for the scale (and minimum) of each group; a scale for the scales, which turns them into codes; and the
//! codes of the weights once more, under the scales as they are stored.

mod q2k;
mod q3k;
mod q4k;
mod q6k;

use super::{
    codec::{map, signed_max, sum},
    search,
};

pub(super) use self::{
    q2k::Q2K,
    q3k::Q3K,
    q4k::{Q4K, Q5K},
    q6k::Q6K,
};

/// Weights of a super-block.
const W: usize = 256;

/// Scales of groups as codes: what the scale of the scales is, and the codes.
///
/// Without importances the largest scale gets the largest code; with them (Σ of the weights of each group) it is searched for.
#[inline(always)]
fn scales_as_codes<const G: usize>(
    scales: &[f32; G],
    importance: Option<&[f32; G]>,
    max_code: f32,
) -> (f32, [u8; G]) {
    if let Some(importance) = importance {
        return search::not_negative(scales, importance, max_code);
    }
    let mut max = 0.0;
    for &s in scales {
        max = if s > max { s } else { max };
    }
    let inverse = if max > 0.0 { max_code / max } else { 0.0 };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    (max / max_code, map(scales, |s| search::nearest_code(inverse * s, 0.0, max_code)))
}

/// The signed scale of largest magnitude, NaN if any is not finite.
#[inline(always)]
fn signed_max_scale(scales: &[f32; 16]) -> f32 {
    if scales.iter().all(|s| s.is_finite()) { signed_max(scales) } else { f32::NAN }
}

/// Σ x² of a super-block over its number of weights.
#[inline(always)]
fn mean_square(x: &[f32; W]) -> f32 {
    sum(x, |x| x * x) / W as f32
}

/// Packs the 2-bit codes of q2_k and q3_k.
#[inline(always)]
fn put_twos(packed: &mut [u8; 64], codes: &[u8]) {
    for h in 0..2 {
        for l in 0..32 {
            let code = |p: usize| (codes[128 * h + 32 * p + l] & 3) << (2 * p);
            packed[32 * h + l] = code(0) | code(1) | code(2) | code(3);
        }
    }
}

/// Unpacks what [`put_twos`] packs.
#[inline(always)]
fn twos(packed: &[u8; 64]) -> [u8; W] {
    let mut codes = [0; W];
    for h in 0..2 {
        for p in 0..4 {
            for l in 0..32 {
                codes[128 * h + 32 * p + l] = (packed[32 * h + l] >> (2 * p)) & 3;
            }
        }
    }
    codes
}
