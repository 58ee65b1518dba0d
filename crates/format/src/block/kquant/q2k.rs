//! q2_k.

use super::{W, mean_square, put_twos, scales_as_codes, twos};
use crate::block::{
    codec::{
        Codec, each, element_weights, field, field_mut, groups_of_16, half, map, one_by_one,
        put_half, sum,
    },
    search::{Affine, Steps, affine, requantize},
    super_grid::{Groups, Super, SuperFactors},
};

pub(in crate::block) struct Q2K;

/// The search without importances.
const PLAIN: Steps = Steps { max_code: 3.0, first: -0.5, step: 0.1, last: 15, magnitude: true };
/// The search with importances.
const WEIGHTED: Steps =
    Steps { max_code: 3.0, first: -0.9, step: 0.05, last: 36, magnitude: false };

impl Codec<W, 84> for Q2K {
    const HALVES: &'static [usize] = &[80, 82];

    #[inline(always)]
    fn encode(weights: &[f32; W], block: &mut [u8; 84]) {
        let x = groups_of_16(weights);
        put(x, affine(x, &map(x, |x| map(&x, f32::abs)), &PLAIN), None, block);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; W], importance: &[f32; W], _: f32, block: &mut [u8; 84]) {
        let w = element_weights(x, importance, mean_square(x));
        let (x, w) = (groups_of_16(x), groups_of_16(&w));
        put(x, affine(x, w, &WEIGHTED), Some(&map(w, |w| sum(&w, |w| w))), block);
    }

    #[inline(always)]
    fn decode(block: &[u8; 84], out: &mut [f32; W]) {
        let Groups { scales, minima } = Self::groups(block);
        let codes = Self::codes(block);
        for g in 0..16 {
            one_by_one();
            for e in 16 * g..16 * g + 16 {
                out[e] = scales[g] * f32::from(codes[e]) - minima[g];
            }
        }
    }
}

impl Super<84> for Q2K {
    const HEADER: &'static [(usize, usize)] = &[(0, 16), (80, 4)];

    #[inline(always)]
    fn factors(block: &[u8; 84]) -> SuperFactors {
        SuperFactors {
            scale: half(block, 80),
            minimum: half(block, 82),
            scales: each(|g| (block[g] & 15) as i8),
            minima: each(|g| block[g] >> 4),
        }
    }

    fn put_factors(block: &mut [u8; 84], factors: &SuperFactors) {
        put_half(block, 80, factors.scale);
        put_half(block, 82, factors.minimum);
        for g in 0..16 {
            block[g] = factors.scales[g] as u8 | factors.minima[g] << 4;
        }
    }

    fn codes(block: &[u8; 84]) -> [u8; W] {
        twos(field(block, 16))
    }

    fn put_codes(block: &mut [u8; 84], codes: &[u8; W]) {
        put_twos(field_mut(block, 16), codes);
    }
}

/// Turns the scales and minima of the groups into codes, and the weights once more under these.
#[inline(always)]
fn put(
    x: &[[f32; 16]; 16],
    mut fit: Affine<16, 16>,
    sums: Option<&[f32; 16]>,
    block: &mut [u8; 84],
) {
    let (d, s) = scales_as_codes(&fit.scales, sums, 15.0);
    let (dmin, m) = scales_as_codes(&fit.mins, sums, 15.0);
    let (d, dmin) = (put_half(block, 80, d), put_half(block, 82, dmin));
    for g in 0..16 {
        block[g] = s[g] | m[g] << 4;
        let (d, m) = (d * f32::from(s[g]), dmin * f32::from(m[g]));
        requantize(&mut fit.codes[g], &x[g], d, m, (0.0, 3.0));
    }
    put_twos(field_mut(block, 16), fit.codes.as_flattened());
}
