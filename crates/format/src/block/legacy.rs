//! Blocks of 32 weights with one scale.
//!
//! ```text
//! q4_0  | d f16 |                | qs 16 B |      value = (q − 8) · d
//! q4_1  | d f16 | m f16 |        | qs 16 B |      value = q · d + m
//! q5_0  | d f16 |        | qh 4 B | qs 16 B |     value = (q − 16) · d
//! q5_1  | d f16 | m f16 | qh 4 B | qs 16 B |      value = q · d + m
//! q8_0  | d f16 | q 32 × i8 |                     value = q · d
//!
//! qs[j] = low bits of element j in the low nibble, of element j + 16 in the high one;  bit e of qh = fifth bit of element e
//! ```

use super::{
    codec::{
        Codec, amax, element_weights, extremes, field, field_mut, half, map, put_half, reciprocal,
        round_half_away, signed_max, truncate,
    },
    search::{self, Steps},
};

/// Weights of a block.
pub(super) const W: usize = 32;

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;

impl Codec<W, 18> for Q4_0 {
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 18]) {
        let d = signed_max(weights) / -8.0;
        put_half(block, 0, d);
        let id = reciprocal(d);
        put_nibbles(block, 2, &map(weights, |x| truncate(x * id + 8.5).min(15)));
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], d: &[f32; W], mean_square: f32, block: &mut [u8; 18]) {
        let (scale, codes) = search::symmetric(x, &element_weights(x, d, mean_square), 8.0);
        put_half(block, 0, scale);
        put_nibbles(block, 2, &codes);
    }

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; W]) {
        let d = half(block, 0);
        *out = map(&nibbles(block, 2), |q| f32::from(q as i8 - 8) * d);
    }
}

impl Codec<W, 20> for Q4_1 {
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 20]) {
        let (min, max) = extremes(weights);
        let d = (max - min) / 15.0;
        put_half(block, 0, d);
        put_half(block, 2, min);
        let id = reciprocal(d);
        put_nibbles(block, 4, &map(weights, |x| truncate((x - min) * id + 0.5).min(15)));
    }

    #[inline(always)]
    fn encode_weighted_row(x: &[[f32; W]], d: &[[f32; W]], mean_square: f32, out: &mut [[u8; 20]]) {
        search_affine(x, d, mean_square, &STEPS_4, out, |block, d, m, codes| {
            put_half(block, 0, d);
            put_half(block, 2, m);
            put_nibbles(block, 4, codes);
        });
    }

    #[inline(always)]
    fn decode(block: &[u8; 20], out: &mut [f32; W]) {
        let (d, m) = (half(block, 0), half(block, 2));
        *out = map(&nibbles(block, 4), |q| f32::from(q) * d + m);
    }
}

impl Codec<W, 22> for Q5_0 {
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 22]) {
        let d = signed_max(weights) / -16.0;
        put_half(block, 0, d);
        let id = reciprocal(d);
        put_fives(block, 2, &map(weights, |x| truncate(x * id + 16.5).min(31)));
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], d: &[f32; W], mean_square: f32, block: &mut [u8; 22]) {
        let (scale, codes) = search::symmetric(x, &element_weights(x, d, mean_square), 16.0);
        put_half(block, 0, scale);
        put_fives(block, 2, &codes);
    }

    #[inline(always)]
    fn decode(block: &[u8; 22], out: &mut [f32; W]) {
        let d = half(block, 0);
        *out = map(&fives(block, 2), |q| f32::from(q as i8 - 16) * d);
    }
}

impl Codec<W, 24> for Q5_1 {
    const HALVES: &'static [usize] = &[0, 2];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 24]) {
        let (min, max) = extremes(weights);
        let d = (max - min) / 31.0;
        put_half(block, 0, d);
        put_half(block, 2, min);
        let id = reciprocal(d);
        put_fives(block, 4, &map(weights, |x| truncate((x - min) * id + 0.5).min(31)));
    }

    #[inline(always)]
    fn encode_weighted_row(x: &[[f32; W]], d: &[[f32; W]], mean_square: f32, out: &mut [[u8; 24]]) {
        search_affine(x, d, mean_square, &STEPS_5, out, |block, d, m, codes| {
            put_half(block, 0, d);
            put_half(block, 2, m);
            put_fives(block, 4, codes);
        });
    }

    #[inline(always)]
    fn decode(block: &[u8; 24], out: &mut [f32; W]) {
        let (d, m) = (half(block, 0), half(block, 2));
        *out = map(&fives(block, 4), |q| f32::from(q) * d + m);
    }
}

impl Codec<W, 34> for Q8_0 {
    const HALVES: &'static [usize] = &[0];
    const USES_IMPORTANCE: bool = false;

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 34]) {
        let d = amax(weights) / 127.0;
        put_half(block, 0, d);
        let id = reciprocal(d);
        let codes = map(weights, |x| round_half_away(x * id));
        *field_mut(block, 2) = codes;
    }

    #[inline(always)]
    fn decode(block: &[u8; 34], out: &mut [f32; W]) {
        let d = half(block, 0);
        *out = map(field::<34, W>(block, 2), |q| f32::from(q as i8) * d);
    }
}

/// Searches for the scales and minima of the blocks of a row under importance weights, eight blocks at a time as far as there are, and hands each block its
/// scale, minimum and codes.
#[inline(always)]
fn search_affine<const B: usize>(
    x: &[[f32; W]],
    importance: &[[f32; W]],
    mean_square: f32,
    steps: &Steps,
    blocks: &mut [[u8; B]],
    put: impl Fn(&mut [u8; B], f32, f32, &[u8; W]),
) {
    let mut start = 0;
    while start < x.len() {
        let (x, importance) = (&x[start..], &importance[start..]);
        // Blocks after the last are searched for nothing.
        let n = x.len().min(8);
        let (mut eight, mut w) = ([[0.0; W]; 8], [[0.0; W]; 8]);
        for b in 0..n {
            eight[b] = x[b];
            w[b] = element_weights(&x[b], &importance[b], mean_square);
        }
        let fit = search::affine(&eight, &w, steps);
        for b in 0..n {
            put(&mut blocks[start + b], fit.scales[b], -fit.mins[b], &fit.codes[b]);
        }
        start += n;
    }
}

/// The search of q4_1 under importance weights.
const STEPS_4: Steps =
    Steps { max_code: 15.0, first: -0.9, step: 0.05, last: 36, magnitude: false };

/// The search of q5_1 under importance weights.
const STEPS_5: Steps = Steps { max_code: 31.0, ..STEPS_4 };

#[inline(always)]
pub(super) fn put_nibbles<const B: usize>(block: &mut [u8; B], at: usize, codes: &[u8; W]) {
    for j in 0..W / 2 {
        block[at + j] = codes[j] | codes[j + W / 2] << 4;
    }
}

#[inline(always)]
pub(super) fn nibbles<const B: usize>(block: &[u8; B], at: usize) -> [u8; W] {
    let mut codes = [0; W];
    for j in 0..W / 2 {
        codes[j] = block[at + j] & 15;
        codes[j + W / 2] = block[at + j] >> 4;
    }
    codes
}

#[inline(always)]
pub(super) fn put_fives<const B: usize>(block: &mut [u8; B], at: usize, codes: &[u8; W]) {
    // The product moves the lowest bits of eight bytes, one to each place of the highest.
    let gather = |eight: &[u8; 8]| {
        let bits = u64::from_le_bytes(map(eight, |q| q >> 4));
        (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    };
    for (byte, eight) in block[at..at + 4].iter_mut().zip(codes.as_chunks().0) {
        *byte = gather(eight);
    }
    put_nibbles(block, at + 4, &map(codes, |q| q & 15));
}

#[inline(always)]
pub(super) fn fives<const B: usize>(block: &[u8; B], at: usize) -> [u8; W] {
    let mut codes = nibbles(block, at + 4);
    let high = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    for e in 0..W {
        codes[e] |= ((high >> e & 1) << 4) as u8;
    }
    codes
}
