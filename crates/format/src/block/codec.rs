//! What a block type has to say, and the loops over rows and blocks that all of them share.

use core::array;

use half::f16;

use super::BlockType;
use crate::{FormatError, FormatError as E};

/// A layout of `W` weights in `B` bytes.
pub(super) trait Codec<const W: usize, const B: usize> {
    /// Byte offsets of the f16 parameters.
    const HALVES: &'static [usize];

    /// Whether [`encode_weighted`](Self::encode_weighted) differs from [`encode`](Self::encode).
    const USES_IMPORTANCE: bool = true;

    /// The largest magnitude that can be encoded, before any limit of an f16 parameter.
    const LARGEST: f32 = f32::MAX;

    /// Encodes finite weights. A parameter too large for f16 is stored as infinity or NaN, which the caller looks for.
    fn encode(weights: &[f32; W], block: &mut [u8; B]);

    /// The same for the least squared error under `importance`. `mean_square` is that of the weights of the row.
    #[inline(always)]
    fn encode_weighted(
        weights: &[f32; W],
        importance: &[f32; W],
        mean_square: f32,
        block: &mut [u8; B],
    ) {
        let _ = (importance, mean_square);
        Self::encode(weights, block);
    }

    /// Decodes any bytes.
    fn decode(block: &[u8; B], out: &mut [f32; W]);

    /// Whether every parameter is finite.
    #[inline(always)]
    fn is_sound(block: &[u8; B]) -> bool {
        Self::HALVES.iter().all(|&at| block[at + 1] & 0x7c != 0x7c)
    }
}

/// Encodes rows whose lengths were checked.
#[inline(always)]
pub(super) fn encode_rows<const W: usize, const B: usize, C: Codec<W, B>>(
    _: C,
    block_type: BlockType,
    weights: &[f32],
    in_features: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), FormatError> {
    let row_bytes = in_features / W * B;
    let rows = weights.chunks_exact(in_features).zip(out.chunks_exact_mut(row_bytes));
    for (row, (weights, out)) in rows.enumerate() {
        if largest(weights) > C::LARGEST.to_bits() {
            return Err(too_large(block_type, weights, row, C::LARGEST));
        }
        let (x, _) = weights.as_chunks::<W>();
        let (blocks, _) = out.as_chunks_mut::<B>();
        match importance {
            Some(importance) if C::USES_IMPORTANCE => {
                let mean_square = sum(weights, |x| x * x) / in_features as f32;
                let (d, _) = importance.as_chunks::<W>();
                for ((x, d), block) in x.iter().zip(d).zip(blocks.iter_mut()) {
                    C::encode_weighted(x, d, mean_square, block);
                }
            }
            _ => {
                for (x, block) in x.iter().zip(blocks.iter_mut()) {
                    C::encode(x, block);
                }
            }
        }
        if let Some(block) = blocks.iter().position(|b| !C::is_sound(b)) {
            let index = (row * in_features) + block * W;
            return Err(E::ScaleOverflow { block_type, index, largest: amax(&x[block]) });
        }
    }
    Ok(())
}

/// Decodes blocks whose lengths were checked.
#[inline(always)]
pub(super) fn decode<const W: usize, const B: usize, C: Codec<W, B>>(
    _: C,
    blocks: &[u8],
    out: &mut [f32],
) {
    let (blocks, _) = blocks.as_chunks::<B>();
    let (out, _) = out.as_chunks_mut::<W>();
    for (block, out) in blocks.iter().zip(out) {
        C::decode(block, out);
    }
}

/// The first block with a parameter that is not finite.
pub(super) fn first_unsound<const W: usize, const B: usize, C: Codec<W, B>>(
    _: C,
    blocks: &[u8],
) -> Option<usize> {
    blocks.as_chunks::<B>().0.iter().position(|b| !C::is_sound(b))
}

/// The bits of the largest magnitude; those of infinity and NaN exceed those of every number.
#[inline(always)]
fn largest(weights: &[f32]) -> u32 {
    weights.iter().fold(0, |m, w| m.max(w.to_bits() & 0x7fff_ffff))
}

#[cold]
fn too_large(block_type: BlockType, weights: &[f32], row: usize, limit: f32) -> FormatError {
    let start = row * weights.len();
    if let Some(i) = weights.iter().position(|w| !w.is_finite()) {
        return E::NonFinite { what: "weight", index: start + i, value: weights[i] };
    }
    let i = weights.iter().position(|w| w.abs() > limit).unwrap_or(0);
    E::ScaleOverflow { block_type, index: start + i, largest: weights[i].abs() }
}

/// Σ f(x), in order.
#[inline(always)]
pub(super) fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    x.iter().fold(0.0, |sum, &x| sum + f(x))
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn amax(x: &[f32]) -> f32 {
    f32::from_bits(largest(x))
}

/// The value of largest magnitude, the first of equals; 0 if all are 0.
#[inline(always)]
pub(super) fn signed_max(x: &[f32]) -> f32 {
    let amax = amax(x);
    let both = |(plus, minus), &x: &f32| (plus | (x == amax), minus | (x == -amax));
    match x.iter().fold((false, false), both) {
        (true, false) => amax,
        (false, _) => -amax,
        (true, true) if amax == 0.0 => 0.0,
        // Rare: the signs have to be looked at in order.
        (true, true) => x.iter().copied().find(|x| x.abs() == amax).unwrap_or(amax),
    }
}

/// Smallest and largest weight, the first of equals (which matters to the sign of zero).
#[inline(always)]
pub(super) fn extremes<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (min, max) = x.iter().fold((x[0], x[0]), |(a, b), &x| (a.min(x), b.max(x)));
    let first = |v: f32| {
        if v == 0.0 { x.iter().copied().find(|x| *x == 0.0).unwrap_or(v) } else { v }
    };
    (first(min), first(max))
}

/// Square root.
#[inline(always)]
pub(super) fn sqrt(x: f32) -> f32 {
    #[cfg(feature = "std")]
    return x.sqrt();
    #[cfg(not(feature = "std"))]
    return libm::sqrtf(x);
}

/// What the searches weight the squared error of each element with: its importance, and more if it is large.
#[inline(always)]
pub(super) fn element_weights<const N: usize>(
    x: &[f32; N],
    importance: &[f32; N],
    mean_square: f32,
) -> [f32; N] {
    array::from_fn(|i| importance[i] * sqrt(mean_square + x[i] * x[i]))
}

/// The groups of a super-block that has 16.
#[inline(always)]
pub(super) fn groups_of_16(x: &[f32; 256]) -> &[[f32; 16]; 16] {
    x.as_chunks().0.try_into().expect("256 are 16 times 16")
}

/// The groups of a super-block that has 8.
#[inline(always)]
pub(super) fn groups_of_32(x: &[f32; 256]) -> &[[f32; 32]; 8] {
    x.as_chunks().0.try_into().expect("256 are 8 times 32")
}

/// The `N` bytes from `at` on.
#[inline(always)]
pub(super) fn field<const B: usize, const N: usize>(block: &[u8; B], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("the field lies within the block")
}

/// The same, to write to.
#[inline(always)]
pub(super) fn field_mut<const B: usize, const N: usize>(
    block: &mut [u8; B],
    at: usize,
) -> &mut [u8; N] {
    block[at..].first_chunk_mut().expect("the field lies within the block")
}

/// Reads the f16 at a byte offset.
#[inline(always)]
pub(super) fn half<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32_const()
}

/// Writes an f16, rounded to nearest even, and returns the value written.
#[inline(always)]
pub(super) fn put_half<const B: usize>(block: &mut [u8; B], at: usize, value: f32) -> f32 {
    let stored = f16::from_f32_const(value);
    block[at..at + 2].copy_from_slice(&stored.to_le_bytes());
    stored.to_f32_const()
}

/// `1 / d`, or 0 where that is not finite. (The reference leaves the codes of a block whose reciprocal overflows to undefined casts; its scale is
/// stored as 0, so only the codes differ.)
#[inline(always)]
pub(super) fn reciprocal(d: f32) -> f32 {
    let r = d.recip();
    if r.is_finite() { r } else { 0.0 }
}

/// Rounds to nearest, halves away from zero, for magnitudes below 2^22.
#[inline(always)]
pub(super) fn round_half_away(x: f32) -> i32 {
    // The largest float below one half, so that no sum reaches the next integer by rounding alone.
    const HALF: f32 = 0.5 - f32::EPSILON / 4.0;
    (x + HALF.copysign(x)) as i32
}
