//! q3_k.

use super::{W, mean_square, put_twos, signed_max_scale, twos};
use crate::block::{
    codec::{
        Codec, each, element_weights, field, field_mut, groups_of_16, half, map, one_by_one,
        put_half, sum,
    },
    search::{nearest_code, refine, requantize, symmetric},
    super_grid::{Groups, Super, SuperFactors},
};

pub(in crate::block) struct Q3K;

impl Codec<W, 110> for Q3K {
    const HALVES: &'static [usize] = &[108];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 110]) {
        let (scales, codes) = refine(weights);
        let max = signed_max_scale(&scales);
        let inverse = -32.0 / max;
        if max == 0.0 {
            return put(weights, 0.0, &[0; 16], codes, block);
        }
        let finite = if inverse.is_infinite() { 0.0 } else { inverse };
        let s = map(&scales, |s| nearest_code(finite * s, -32.0, 31.0).wrapping_add(32));
        put(weights, inverse.recip(), &s, codes, block);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], importance: &[f32; W], _: f32, block: &mut [u8; 110]) {
        let w = element_weights(x, importance, 2.0 * mean_square(x));
        let (groups, w) = (groups_of_16(x), groups_of_16(&w));
        let (mut scales, mut codes) = ([0.0; 16], [[0; 16]; 16]);
        for g in 0..16 {
            one_by_one();
            (scales[g], codes[g]) = symmetric(&groups[g], &w[g], 4.0);
        }
        let (d, s) = symmetric(&scales, &map(w, |w| sum(&w, |w| w)), 32.0);
        put(x, d, &s, codes, block);
    }

    #[inline(always)]
    fn decode(block: &[u8; 110], out: &mut [f32; W]) {
        let codes = Self::codes(block);
        let Groups { scales, .. } = Self::groups(block);
        for g in 0..16 {
            one_by_one();
            for e in 16 * g..16 * g + 16 {
                out[e] = scales[g] * (f32::from(codes[e]) - 4.0);
            }
        }
    }
}

impl Super<110> for Q3K {
    const HEADER: &'static [(usize, usize)] = &[(96, 14)];

    #[inline(always)]
    fn factors(block: &[u8; 110]) -> SuperFactors {
        let s = scales(field(block, 96));
        let scales = map(&s, |s| s as i8 - 32);
        SuperFactors { scale: half(block, 108), scales, ..SuperFactors::default() }
    }

    fn put_factors(block: &mut [u8; 110], factors: &SuperFactors) {
        put_half(block, 108, factors.scale);
        put_scales(field_mut(block, 96), &map(&factors.scales, |s| (s + 32) as u8));
    }

    #[inline(always)]
    fn codes(block: &[u8; 110]) -> [u8; W] {
        let mut codes = twos(field(block, 32));
        for (p, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            one_by_one();
            for l in 0..32 {
                codes[l] |= ((block[l] >> p) & 1) << 2;
            }
        }
        codes
    }

    fn put_codes(block: &mut [u8; 110], codes: &[u8; W]) {
        put_threes(block, codes);
    }
}

/// Stores the codes of the scales, and those of the weights once more under the stored scales.
#[inline(always)]
fn put(x: &[f32; W], d: f32, s: &[u8; 16], mut codes: [[u8; 16]; 16], block: &mut [u8; 110]) {
    let d = put_half(block, 108, d);
    put_scales(field_mut(block, 96), s);
    for (g, x) in groups_of_16(x).iter().enumerate() {
        requantize(&mut codes[g], x, d * (f32::from(s[g]) - 32.0), 0.0, (-4.0, 3.0));
    }
    put_threes(block, codes.as_flattened());
}

/// Packs the codes.
#[inline(always)]
fn put_threes(block: &mut [u8; 110], codes: &[u8]) {
    let high: &mut [u8; 32] = field_mut(block, 0);
    high.fill(0);
    for p in 0..8 {
        for l in 0..32 {
            high[l] |= (codes[32 * p + l] >> 2) << p;
        }
    }
    put_twos(field_mut(block, 32), codes);
}

/// Packs 16 codes of 6 bits: low nibbles of the first and last eight in the nibbles of bytes 0 to 7, high pairs in bytes 8 to 11.
#[inline(always)]
fn put_scales(packed: &mut [u8; 12], s: &[u8; 16]) {
    for j in 0..8 {
        packed[j] = s[j] & 15 | s[j + 8] << 4;
    }
    for j in 0..4 {
        let high = |i: usize| s[j + 4 * i] >> 4 << (2 * i);
        packed[8 + j] = high(0) | high(1) | high(2) | high(3);
    }
}

/// Unpacks what [`put_scales`] packs.
#[inline(always)]
fn scales(packed: &[u8; 12]) -> [u8; 16] {
    each(|g| {
        let low = packed[g % 8] >> (4 * (g / 8)) & 15;
        low | (packed[8 + g % 4] >> (2 * (g / 4)) & 3) << 4
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_survive_packing_and_bytes_unpacking() {
        for value in 0..64u8 {
            for at in 0..16 {
                let mut s = [value ^ 0x2a; 16];
                s[at] = value;
                let mut packed = [0; 12];
                put_scales(&mut packed, &s);
                assert_eq!(scales(&packed), s);
            }
        }
        for byte in 0..=255u8 {
            for at in 0..12 {
                let mut packed = [byte.rotate_left(3); 12];
                packed[at] = byte;
                let mut again = [0; 12];
                put_scales(&mut again, &scales(&packed));
                assert_eq!(again, packed);
            }
        }
    }
}
