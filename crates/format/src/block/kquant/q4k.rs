//! q4_k and q5_k, which differ in a bit a weight.

use super::{W, mean_square, scales_as_codes};
use crate::block::{
    codec::{
        Codec, each, element_weights, field, field_mut, groups_of_32, half, map, one_by_one,
        put_half, sqrt, sum,
    },
    search::{Affine, Steps, affine, requantize},
    super_grid::{Groups, Super, SuperFactors},
};

pub(in crate::block) struct Q4K;
pub(in crate::block) struct Q5K;

/// The searches without importances.
const PLAIN_4: Steps = Steps { max_code: 15.0, first: -1.0, step: 0.1, last: 20, magnitude: false };
const PLAIN_5: Steps = Steps { max_code: 31.0, first: -0.5, step: 0.1, last: 15, magnitude: false };
/// The searches with importances.
const WEIGHTED_4: Steps =
    Steps { max_code: 15.0, first: -0.9, step: 0.05, last: 36, magnitude: false };
const WEIGHTED_5: Steps = Steps { max_code: 31.0, ..WEIGHTED_4 };

impl Codec<W, 144> for Q4K {
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 144]) {
        let codes = encode(weights, &PLAIN_4, block);
        put_fours(block, 16, &codes);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], importance: &[f32; W], _: f32, block: &mut [u8; 144]) {
        let codes = encode_weighted(x, importance, &WEIGHTED_4, block);
        put_fours(block, 16, &codes);
    }

    #[inline(always)]
    fn decode(block: &[u8; 144], out: &mut [f32; W]) {
        values::<144, Self>(block, &Self::codes(block), out);
    }
}

impl Codec<W, 176> for Q5K {
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 176]) {
        let codes = encode(weights, &PLAIN_5, block);
        put_fives(block, &codes);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], importance: &[f32; W], _: f32, block: &mut [u8; 176]) {
        let codes = encode_weighted(x, importance, &WEIGHTED_5, block);
        put_fives(block, &codes);
    }

    #[inline(always)]
    fn decode(block: &[u8; 176], out: &mut [f32; W]) {
        values::<176, Self>(block, &Self::codes(block), out);
    }
}

/// Everything but the codes, which are returned.
#[inline(always)]
fn encode<const B: usize>(x: &[f32; W], steps: &Steps, block: &mut [u8; B]) -> [[u8; 32]; 8] {
    let x = groups_of_32(x);
    let w = map(x, |x| {
        let rms = sqrt(sum(&x, |x| x * x) / 32.0);
        map(&x, |x: f32| rms + x.abs())
    });
    put(x, affine(x, &w, steps), None, steps.max_code, block)
}

/// The same under importance weights.
#[inline(always)]
fn encode_weighted<const B: usize>(
    x: &[f32; W],
    importance: &[f32; W],
    steps: &Steps,
    block: &mut [u8; B],
) -> [[u8; 32]; 8] {
    let w = element_weights(x, importance, 2.0 * mean_square(x));
    let (x, w) = (groups_of_32(x), groups_of_32(&w));
    put(x, affine(x, w, steps), Some(&map(w, |w| sum(&w, |w| w))), steps.max_code, block)
}

/// Turns the scales and minima of the groups into codes, and the weights once more under these.
#[inline(always)]
fn put<const B: usize>(
    x: &[[f32; 32]; 8],
    mut fit: Affine<8, 32>,
    sums: Option<&[f32; 8]>,
    max_code: f32,
    block: &mut [u8; B],
) -> [[u8; 32]; 8] {
    let (d, s) = scales_as_codes(&fit.scales, sums, 63.0);
    let (dmin, m) = scales_as_codes(&fit.mins, sums, 63.0);
    let (d, dmin) = (put_half(block, 0, d), put_half(block, 2, dmin));
    put_scales_and_mins(field_mut(block, 4), &s, &m);
    for g in 0..8 {
        let (d, m) = (d * f32::from(s[g]), dmin * f32::from(m[g]));
        requantize(&mut fit.codes[g], &x[g], d, m, (0.0, max_code));
    }
    fit.codes
}

/// The values, from a block that begins with `d`, `dmin` and the scales.
#[inline(always)]
fn values<const B: usize, C: Super<B>>(block: &[u8; B], codes: &[u8; W], out: &mut [f32; W]) {
    let Groups { scales, minima } = C::groups(block);
    for g in 0..8 {
        one_by_one();
        for e in 32 * g..32 * g + 32 {
            out[e] = scales[g] * f32::from(codes[e]) - minima[g];
        }
    }
}

/// Scales and minima of such a block.
#[inline(always)]
fn factors<const B: usize>(block: &[u8; B]) -> SuperFactors {
    let (s, m) = scales_and_mins(field(block, 4));
    let (scale, minimum) = (half(block, 0), half(block, 2));
    let mut factors = SuperFactors { scale, minimum, ..SuperFactors::default() };
    for g in 0..8 {
        factors.scales[g] = s[g] as i8;
        factors.minima[g] = m[g];
    }
    factors
}

fn put_factors<const B: usize>(block: &mut [u8; B], factors: &SuperFactors) {
    put_half(block, 0, factors.scale);
    put_half(block, 2, factors.minimum);
    let (s, m) = (each(|g| factors.scales[g] as u8), each(|g| factors.minima[g]));
    put_scales_and_mins(field_mut(block, 4), &s, &m);
}

impl Super<144> for Q4K {
    const HEADER: &'static [(usize, usize)] = &[(0, 16)];

    #[inline(always)]
    fn factors(block: &[u8; 144]) -> SuperFactors {
        factors(block)
    }

    fn put_factors(block: &mut [u8; 144], numbers: &SuperFactors) {
        put_factors(block, numbers);
    }

    fn codes(block: &[u8; 144]) -> [u8; W] {
        fours(field(block, 16))
    }

    fn put_codes(block: &mut [u8; 144], codes: &[u8; W]) {
        put_fours(block, 16, codes_of_32(codes));
    }
}

impl Super<176> for Q5K {
    const HEADER: &'static [(usize, usize)] = &[(0, 16)];

    #[inline(always)]
    fn factors(block: &[u8; 176]) -> SuperFactors {
        factors(block)
    }

    fn put_factors(block: &mut [u8; 176], numbers: &SuperFactors) {
        put_factors(block, numbers);
    }

    #[inline(always)]
    fn codes(block: &[u8; 176]) -> [u8; W] {
        let mut codes = fours(field(block, 48));
        for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            one_by_one();
            for l in 0..32 {
                codes[l] |= ((block[16 + l] >> g) & 1) << 4;
            }
        }
        codes
    }

    fn put_codes(block: &mut [u8; 176], codes: &[u8; W]) {
        put_fives(block, codes_of_32(codes));
    }
}

fn codes_of_32(codes: &[u8; W]) -> &[[u8; 32]; 8] {
    codes.as_chunks().0.try_into().expect("256 are 8 times 32")
}

/// Packs 8 scales and 8 minima of 6 bits into 12 bytes:
///
/// ```text
/// byte j      (j < 4) | high pair of scale j + 4 | scale j |
/// byte j + 4  (j < 4) | high pair of min j + 4   | min j   |
/// byte j + 8  (j < 4) | low nibble of min j + 4  | low nibble of scale j + 4 |
/// ```
#[inline(always)]
fn put_scales_and_mins(packed: &mut [u8; 12], s: &[u8; 8], m: &[u8; 8]) {
    for j in 0..4 {
        packed[j] = s[j] | s[j + 4] >> 4 << 6;
        packed[j + 4] = m[j] | m[j + 4] >> 4 << 6;
        packed[j + 8] = s[j + 4] & 15 | m[j + 4] << 4;
    }
}

/// Unpacks what [`put_scales_and_mins`] packs.
#[inline(always)]
fn scales_and_mins(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut s, mut m) = ([0; 8], [0; 8]);
    for j in 0..4 {
        s[j] = packed[j] & 63;
        m[j] = packed[j + 4] & 63;
        s[j + 4] = packed[j + 8] & 15 | packed[j] >> 6 << 4;
        m[j + 4] = packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4;
    }
    (s, m)
}

/// Packs the low nibbles of codes.
#[inline(always)]
fn put_fours<const B: usize>(block: &mut [u8; B], at: usize, codes: &[[u8; 32]; 8]) {
    let packed: &mut [u8; 128] = field_mut(block, at);
    for r in 0..4 {
        for l in 0..32 {
            packed[32 * r + l] = codes[2 * r][l] & 15 | codes[2 * r + 1][l] << 4;
        }
    }
}

/// Unpacks what [`put_fours`] packs.
#[inline(always)]
fn fours(packed: &[u8; 128]) -> [u8; W] {
    let mut codes = [0; W];
    for r in 0..4 {
        for l in 0..32 {
            codes[64 * r + l] = packed[32 * r + l] & 15;
            codes[64 * r + 32 + l] = packed[32 * r + l] >> 4;
        }
    }
    codes
}

#[inline(always)]
fn put_fives(block: &mut [u8; 176], codes: &[[u8; 32]; 8]) {
    let high: &mut [u8; 32] = field_mut(block, 16);
    high.fill(0);
    for g in 0..8 {
        for l in 0..32 {
            high[l] |= (codes[g][l] >> 4) << g;
        }
    }
    put_fours(block, 48, codes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example() {
        let (s, m) = scales_and_mins(&[
            0x24, 0xfe, 0xfb, 0xfa, 0xff, 0xfc, 0xfc, 0xfd, 0xfe, 0xbc, 0xca, 0xfc,
        ]);
        assert_eq!((s[0], m[0], s[4], m[4], s[5], m[5]), (36, 63, 14, 63, 60, 59));
    }

    #[test]
    fn scales_survive_packing_and_bytes_unpacking() {
        for value in 0..64u8 {
            for at in 0..8 {
                let (mut s, mut m) = ([value ^ 0x15; 8], [value ^ 0x2a; 8]);
                (s[at], m[7 - at]) = (value, value ^ 1);
                let mut packed = [0; 12];
                put_scales_and_mins(&mut packed, &s, &m);
                assert_eq!(scales_and_mins(&packed), (s, m));
            }
        }
        for byte in 0..=255u8 {
            for at in 0..12 {
                let mut packed = [byte.rotate_left(3); 12];
                packed[at] = byte;
                let (s, m) = scales_and_mins(&packed);
                let mut again = [0; 12];
                put_scales_and_mins(&mut again, &s, &m);
                assert_eq!(again, packed);
            }
        }
    }
}
