//! 4-bit codes for an uneven codebook, denser around zero.
//!
//! ```text
//! iq4_nl  | d f16 | qs 16 B |                                          32 weights, value = d · k[q]
//! iq4_xs  | d f16 | scales_h u16 | scales_l 4 B | qs 8 × 16 B |       256 weights, value = d · (s_g − 32) · k[q] in group g of 32
//!
//! qs[j] of a group = elements j (low nibble) and j + 16 (high)
//! s_g   = nibble g % 2 of scales_l[g / 2] + 16 · (bits 2g, 2g + 1 of scales_h)
//! ```

use super::{
    codec::{
        Codec, each, element_weights, field, field_mut, half, map, one_by_one, put_half,
        reciprocal, signed_max, sum,
    },
    search::{NOTHING, least_squares, nearest},
    super_grid::{Groups, Super, SuperFactors},
};

pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;

/// The codebook.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Codec<32, 18> for Iq4Nl {
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    fn encode(weights: &[f32; 32], block: &mut [u8; 18]) {
        put_nl(weights, &map(weights, |x| x * x), block);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; 32], importance: &[f32; 32], _: f32, block: &mut [u8; 18]) {
        let mean_square = 2.0 / 32.0 * sum(x, |x| x * x);
        put_nl(x, &element_weights(x, importance, mean_square), block);
    }

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        values(half(block, 0), field(block, 2), out);
    }
}

#[inline(always)]
fn put_nl(x: &[f32; 32], w: &[f32; 32], block: &mut [u8; 18]) {
    let d = scale(x, w);
    put_half(block, 0, d);
    put_codes(x, reciprocal(d), field_mut(block, 2));
}

impl Codec<256, 136> for Iq4Xs {
    const HALVES: &'static [usize] = &[0];

    #[inline(always)]
    fn encode(weights: &[f32; 256], block: &mut [u8; 136]) {
        let (groups, _) = weights.as_chunks::<32>();
        let scales = each(|g| {
            one_by_one();
            scale(&groups[g], &map(&groups[g], |x| x * x))
        });
        put_xs(weights, &scales, block);
    }

    #[inline(always)]
    fn encode_weighted(x: &[f32; 256], importance: &[f32; 256], _: f32, block: &mut [u8; 136]) {
        let mean_square = 2.0 / 256.0 * sum(x, |x| x * x);
        let (groups, _) = x.as_chunks::<32>();
        let (importance, _) = importance.as_chunks::<32>();
        let scales = each(|g| {
            one_by_one();
            scale(&groups[g], &element_weights(&groups[g], &importance[g], mean_square))
        });
        put_xs(x, &scales, block);
    }

    #[inline(always)]
    fn decode(block: &[u8; 136], out: &mut [f32; 256]) {
        let Groups { scales, .. } = Self::groups(block);
        let (groups, _) = out.as_chunks_mut::<32>();
        for (g, out) in groups.iter_mut().enumerate() {
            one_by_one();
            values(scales[g], field(block, 8 + 16 * g), out);
        }
    }
}

impl Super<136> for Iq4Xs {
    const HEADER: &'static [(usize, usize)] = &[(0, 8)];

    #[inline(always)]
    fn factors(block: &[u8; 136]) -> SuperFactors {
        let high = u16::from_le_bytes([block[2], block[3]]);
        let scales: [i8; 8] = each(|g| {
            let low = (block[4 + g / 2] >> (4 * (g % 2))) & 15;
            (low | ((high >> (2 * g) & 3) << 4) as u8) as i8 - 32
        });
        let mut factors = SuperFactors { scale: half(block, 0), ..SuperFactors::default() };
        factors.scales[..8].copy_from_slice(&scales);
        factors
    }

    fn put_factors(block: &mut [u8; 136], factors: &SuperFactors) {
        put_half(block, 0, factors.scale);
        put_scales(block, &each(|g| (factors.scales[g] + 32) as u8));
    }

    fn codes(block: &[u8; 136]) -> [u8; 256] {
        let mut codes = [0; 256];
        for (g, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let packed: &[u8; 16] = field(block, 8 + 16 * g);
            for j in 0..16 {
                (codes[j], codes[j + 16]) = (packed[j] & 15, packed[j] >> 4);
            }
        }
        codes
    }

    fn put_codes(block: &mut [u8; 136], codes: &[u8; 256]) {
        for (g, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
            put_pairs(codes, field_mut(block, 8 + 16 * g));
        }
    }
}

/// Turns the scales of the groups into codes, and weights into codes under these and the scale of the scales before it is rounded to f16.
#[inline(always)]
fn put_xs(x: &[f32; 256], scales: &[f32; 8], block: &mut [u8; 136]) {
    let finite = scales.iter().all(|s| s.is_finite());
    let d = if finite { -signed_max(scales) / 32.0 } else { f32::NAN };
    put_half(block, 0, d);
    let id = reciprocal(d);
    let s = map(scales, |s| nearest(id * s, -32.0, 31.0));
    put_scales(block, &map(&s, |s| (s + 32.0) as u8));
    for (g, x) in x.as_chunks::<32>().0.iter().enumerate() {
        one_by_one();
        put_codes(x, reciprocal(d * s[g]), field_mut(block, 8 + 16 * g));
    }
}

/// Packs the codes of the scales.
#[inline(always)]
fn put_scales(block: &mut [u8; 136], codes: &[u8; 8]) {
    let mut high = 0;
    for g in 0..8 {
        high |= u16::from(codes[g] >> 4) << (2 * g);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
    for i in 0..4 {
        block[4 + i] = codes[2 * i] & 15 | codes[2 * i + 1] << 4;
    }
}

/// The scale of a group for the least Σ w (x − scale · k[q])²; 0 for a group of nothing.
#[inline(always)]
fn scale(x: &[f32; 32], w: &[f32; 32]) -> f32 {
    let max = signed_max(x);
    if max.abs() < NOTHING {
        return 0.0;
    }
    let end = f32::from(VALUES[0]);
    let candidates: [f32; 16] = each(|k| match k {
        0 => (-max / end).recip(),
        k => (k as f32 - 8.0 + end) / max,
    });
    least_squares(x, w, &candidates, nearest_value, |w, x, q| w * q * x).0
}

/// The distances between neighbouring values, each with the midpoint at which it is taken.
const GAPS: [(f32, f32); 15] = {
    let mut gaps = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (a, b) = (VALUES[i] as f32, VALUES[i + 1] as f32);
        gaps[i] = ((a + b) / 2.0, b - a);
        i += 1;
    }
    gaps
};

/// The value nearest to `x`, the upper of equals.
#[inline(always)]
fn nearest_value(x: f32) -> f32 {
    let mut value = f32::from(VALUES[0]);
    for (middle, gap) in GAPS {
        value += if x < middle { 0.0 } else { gap };
    }
    value
}

/// The code of that value.
#[inline(always)]
pub(crate) fn nearest_index(x: f32) -> u8 {
    let mut code = 0;
    for (middle, _) in GAPS {
        code += u8::from(x >= middle);
    }
    code
}

#[inline(always)]
fn put_codes(x: &[f32; 32], inverse: f32, packed: &mut [u8; 16]) {
    put_pairs(&map(x, |x| nearest_index(inverse * x)), packed);
}

/// Packs the codes of a group.
#[inline(always)]
fn put_pairs(codes: &[u8; 32], packed: &mut [u8; 16]) {
    for j in 0..16 {
        packed[j] = codes[j] | codes[j + 16] << 4;
    }
}

/// The values of a group.
#[inline(always)]
fn values(d: f32, codes: &[u8; 16], out: &mut [f32; 32]) {
    let value = |code: u8| d * f32::from(VALUES[usize::from(code)]);
    for (j, &byte) in codes.iter().enumerate() {
        out[j] = value(byte & 15);
        out[j + 16] = value(byte >> 4);
    }
}
