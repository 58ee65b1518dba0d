//! q6_k.

use super::{W, signed_max_scale};
use crate::block::{
    codec::{Codec, each, groups_of_16, half, map, one_by_one, put_half},
    search::{NOTHING, nearest_code, requantize, symmetric},
    super_grid::{Groups, Super, SuperFactors},
};

pub(in crate::block) struct Q6K;

impl Codec<W, 210> for Q6K {
    const HALVES: &'static [usize] = &[208];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 210]) {
        encode(weights, &map(weights, |x| x * x), block);
    }

    /// Importances weight the error as they are.
    #[inline(always)]
    fn encode_weighted(x: &[f32; W], importance: &[f32; W], _: f32, block: &mut [u8; 210]) {
        encode(x, importance, block);
    }

    #[inline(always)]
    fn decode(block: &[u8; 210], out: &mut [f32; W]) {
        let codes = Self::codes(block);
        let Groups { scales, .. } = Self::groups(block);
        for g in 0..16 {
            one_by_one();
            for e in 16 * g..16 * g + 16 {
                out[e] = scales[g] * (f32::from(codes[e]) - 32.0);
            }
        }
    }
}

impl Super<210> for Q6K {
    const HEADER: &'static [(usize, usize)] = &[(192, 18)];

    #[inline(always)]
    fn factors(block: &[u8; 210]) -> SuperFactors {
        let scales = each(|g| block[192 + g] as i8);
        SuperFactors { scale: half(block, 208), scales, ..SuperFactors::default() }
    }

    fn put_factors(block: &mut [u8; 210], factors: &SuperFactors) {
        put_half(block, 208, factors.scale);
        block[192..208].copy_from_slice(&map(&factors.scales, |s| s as u8));
    }

    #[inline(always)]
    fn codes(block: &[u8; 210]) -> [u8; W] {
        let mut codes = [0u8; W];
        for h in 0..2 {
            for l in 0..32 {
                let (a, b) = (block[64 * h + l], block[64 * h + 32 + l]);
                let high = block[128 + 32 * h + l];
                codes[128 * h + l] = a & 15 | (high & 3) << 4;
                codes[128 * h + 32 + l] = b & 15 | (high >> 2 & 3) << 4;
                codes[128 * h + 64 + l] = a >> 4 | (high >> 4 & 3) << 4;
                codes[128 * h + 96 + l] = b >> 4 | (high >> 6) << 4;
            }
        }
        codes
    }

    fn put_codes(block: &mut [u8; 210], codes: &[u8; W]) {
        put_sixes(block, codes);
    }
}

#[inline(always)]
fn encode(x: &[f32; W], w: &[f32; W], block: &mut [u8; 210]) {
    let (x, w) = (groups_of_16(x), groups_of_16(w));
    let (mut scales, mut codes) = ([0.0; 16], [[0; 16]; 16]);
    for g in 0..16 {
        one_by_one();
        (scales[g], codes[g]) = symmetric(&x[g], &w[g], 32.0);
    }
    let max = signed_max_scale(&scales);
    if max.abs() < NOTHING {
        block.fill(0);
        return;
    }
    let inverse = -128.0 / max;
    let d = put_half(block, 208, inverse.recip());
    for g in 0..16 {
        let s = nearest_code(inverse * scales[g], -128.0, 127.0);
        block[192 + g] = s;
        requantize(&mut codes[g], &x[g], d * f32::from(s as i8), 0.0, (-32.0, 31.0));
    }
    put_sixes(block, codes.as_flattened());
}

/// Packs the codes.
#[inline(always)]
fn put_sixes(block: &mut [u8; 210], codes: &[u8]) {
    for h in 0..2 {
        for l in 0..32 {
            let q = |p: usize| codes[128 * h + 32 * p + l];
            block[64 * h + l] = q(0) & 15 | q(2) << 4;
            block[64 * h + 32 + l] = q(1) & 15 | q(3) << 4;
            block[128 + 32 * h + l] = q(0) >> 4 | q(1) >> 4 << 2 | q(2) >> 4 << 4 | q(3) >> 4 << 6;
        }
    }
}
