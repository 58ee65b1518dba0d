//! 4-bit codes for an uneven codebook, denser around zero.
//!
//! ```text
//! iq4_nl  | d f16 | qs 16 B |                                          32 weights, value = d · k[q]
//! iq4_xs  | d f16 | scales_h u16 | scales_l 4 B | qs 8 × 16 B |       256 weights, value = d · (s_g − 32) · k[q] in group g of 32
//!
//! qs[j] of a group = elements j (low nibble) and j + 16 (high)
//! s_g   = nibble g % 2 of scales_l[g / 2] + 16 · (bits 2g, 2g + 1 of scales_h)
//! ```

use super::codec::{Codec, half};

pub(super) struct Iq4Nl;
pub(super) struct Iq4Xs;

/// The codebook.
const VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

impl Codec<32, 18> for Iq4Nl {
    const HALVES: &'static [usize] = &[0];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; 32], _: &mut [u8; 18]) {}

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 32]) {
        values(half(block, 0), &block[2..], out);
    }
}

impl Codec<256, 136> for Iq4Xs {
    const HALVES: &'static [usize] = &[0];

    const LARGEST: f32 = 0.0;
    #[inline(always)]
    fn encode(_: &[f32; 256], _: &mut [u8; 136]) {}

    #[inline(always)]
    fn decode(block: &[u8; 136], out: &mut [f32; 256]) {
        let d = half(block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (groups, _) = out.as_chunks_mut::<32>();
        for (g, out) in groups.iter_mut().enumerate() {
            let low = block[4 + g / 2] >> (4 * (g % 2)) & 15;
            let scale = i32::from(low) + 16 * i32::from(high >> (2 * g) & 3) - 32;
            values(d * scale as f32, &block[8 + 16 * g..][..16], out);
        }
    }
}

/// The values of a group.
#[inline(always)]
fn values(d: f32, codes: &[u8], out: &mut [f32; 32]) {
    let value = |code: u8| d * f32::from(VALUES[usize::from(code)]);
    for (j, &byte) in codes.iter().enumerate().take(16) {
        out[j] = value(byte & 15);
        out[j + 16] = value(byte >> 4);
    }
}
