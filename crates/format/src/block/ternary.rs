//! A handful of values around zero under one scale.
//!
//! ```text
//! tq1_0  | qs 48 B | qh 4 B | d f16 |   256 weights, value = (trit − 1) · d; five trits a byte
//! tq2_0  | qs 64 B | d f16 |            256 weights, value = (q − 1) · d; element 128h + 32p + l = bits 2p, 2p + 1 of qs[32h + l]
//! q1_0   | d f16 | qs 16 B |            128 weights, value = d if bit e % 8 of qs[e / 8] is set, else −d
//! q2_0   | d f16 | qs 16 B |             64 weights, value = (q − 1) · d; element e = bits 2(e % 4), 2(e % 4) + 1 of qs[e / 4]
//! ```
//!
//! A byte of tq1_0 is the fraction `0.t0 t1 t2 t3 t4` to the base 3, times 256 and rounded up, so that digits come out by multiplying by 3:
//! trit t of qs[m], m < 32, is element 32t + m; of qs[32 + m], m < 16, element 160 + 16t + m; of qh[m] (four trits), element 240 + 4t + m.

use super::codec::{Codec, amax, half, map, put_half, reciprocal, round_half_away, sum};

pub(super) struct Tq1_0;
pub(super) struct Tq2_0;
pub(super) struct Q1_0;
pub(super) struct Q2_0;

impl Codec<256, 54> for Tq1_0 {
    const HALVES: &'static [usize] = &[52];
    const USES_IMPORTANCE: bool = false;

    #[inline(always)]
    fn encode(weights: &[f32; 256], block: &mut [u8; 54]) {
        let trits = ternary(weights);
        trits_into::<32, 5>(&trits[..160], &mut block[..32]);
        trits_into::<16, 5>(&trits[160..240], &mut block[32..48]);
        trits_into::<4, 4>(&trits[240..], &mut block[48..52]);
        put_half(block, 52, amax(weights));
    }

    #[inline(always)]
    fn decode(block: &[u8; 54], out: &mut [f32; 256]) {
        let d = half(block, 52);
        trits_from::<32, 5>(&block[..32], &mut out[..160], d);
        trits_from::<16, 5>(&block[32..48], &mut out[160..240], d);
        trits_from::<4, 4>(&block[48..52], &mut out[240..], d);
    }
}

/// Packs `T` trits a byte, trit `t` of byte `m` from `trits[t · M + m]`.
#[inline(always)]
fn trits_into<const M: usize, const T: usize>(trits: &[u8], bytes: &mut [u8]) {
    for m in 0..M {
        let mut number = 0u16;
        for t in 0..5 {
            number = 3 * number + if t < T { u16::from(trits[t * M + m]) } else { 0 };
        }
        bytes[m] = (number * 256).div_ceil(243) as u8;
    }
}

#[inline(always)]
fn trits_from<const M: usize, const T: usize>(bytes: &[u8], out: &mut [f32], d: f32) {
    let mut power = 1u8;
    for t in 0..T {
        for m in 0..M {
            let fraction = u16::from(bytes[m].wrapping_mul(power));
            out[t * M + m] = f32::from(((fraction * 3) >> 8) as i8 - 1) * d;
        }
        power = power.wrapping_mul(3);
    }
}

impl Codec<256, 66> for Tq2_0 {
    const HALVES: &'static [usize] = &[64];
    const USES_IMPORTANCE: bool = false;

    #[inline(always)]
    fn encode(weights: &[f32; 256], block: &mut [u8; 66]) {
        let codes = ternary(weights);
        for h in 0..2 {
            for l in 0..32 {
                let code = |p: usize| codes[128 * h + 32 * p + l] << (2 * p);
                block[32 * h + l] = code(0) | code(1) | code(2) | code(3);
            }
        }
        put_half(block, 64, amax(weights));
    }

    #[inline(always)]
    fn decode(block: &[u8; 66], out: &mut [f32; 256]) {
        let d = half(block, 64);
        for h in 0..2 {
            for p in 0..4 {
                for l in 0..32 {
                    let q = block[32 * h + l] >> (2 * p) & 3;
                    out[128 * h + 32 * p + l] = f32::from(q as i8 - 1) * d;
                }
            }
        }
    }
}

/// 0, 1 or 2 for a weight nearest to −amax, 0 or amax.
#[inline(always)]
fn ternary<const N: usize>(weights: &[f32; N]) -> [u8; N] {
    let id = reciprocal(amax(weights));
    map(weights, |x| round_half_away(x * id).wrapping_add(1))
}

impl Codec<128, 18> for Q1_0 {
    const HALVES: &'static [usize] = &[0];
    const USES_IMPORTANCE: bool = false;

    /// The scale is the mean magnitude; zeros of either sign count as positive.
    #[inline(always)]
    fn encode(weights: &[f32; 128], block: &mut [u8; 18]) {
        put_half(block, 0, sum(weights, f32::abs) / 128.0);
        let (octets, _) = weights.as_chunks::<8>();
        for (byte, x) in block[2..].iter_mut().zip(octets) {
            *byte = 0;
            for i in 0..8 {
                *byte |= u8::from(x[i] >= 0.0) << i;
            }
        }
    }

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 128]) {
        let d = half(block, 0);
        let (octets, _) = out.as_chunks_mut::<8>();
        for (out, byte) in octets.iter_mut().zip(&block[2..]) {
            for i in 0..8 {
                out[i] = if byte >> i & 1 == 1 { d } else { -d };
            }
        }
    }
}

impl Codec<64, 18> for Q2_0 {
    const HALVES: &'static [usize] = &[0];
    const USES_IMPORTANCE: bool = false;

    /// The scale is the largest magnitude, so the fourth code, 2, is never written.
    #[inline(always)]
    fn encode(weights: &[f32; 64], block: &mut [u8; 18]) {
        put_half(block, 0, amax(weights));
        let codes = ternary(weights);
        for (byte, q) in block[2..].iter_mut().zip(codes.as_chunks::<4>().0) {
            *byte = q[0] | q[1] << 2 | q[2] << 4 | q[3] << 6;
        }
    }

    #[inline(always)]
    fn decode(block: &[u8; 18], out: &mut [f32; 64]) {
        let d = half(block, 0);
        let (fours, _) = out.as_chunks_mut::<4>();
        for (out, byte) in fours.iter_mut().zip(&block[2..]) {
            for i in 0..4 {
                out[i] = f32::from((byte >> (2 * i) & 3) as i8 - 1) * d;
            }
        }
    }
}
