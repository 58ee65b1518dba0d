//! What a block type has to say, and the loops over rows and blocks that all of them share.

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

    /// The blocks of a row, one by one.
    #[inline(always)]
    fn encode_weighted_row(
        weights: &[[f32; W]],
        importance: &[[f32; W]],
        mean_square: f32,
        blocks: &mut [[u8; B]],
    ) {
        for ((x, d), block) in weights.iter().zip(importance).zip(blocks) {
            one_by_one();
            Self::encode_weighted(x, d, mean_square, block);
        }
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
                C::encode_weighted_row(x, d, mean_square, blocks);
            }
            _ => {
                for (x, block) in x.iter().zip(blocks.iter_mut()) {
                    one_by_one();
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
        one_by_one();
        C::decode(block, out);
    }
}

/// Keeps the compiler from vectorizing across the blocks or groups of the loop that this is called in, whose elements it would have to gather and
/// scatter. No instruction comes of it.
#[inline(always)]
pub(super) fn one_by_one() {
    core::hint::black_box(());
}

/// The first block with a parameter that is not finite.
pub(super) fn first_unsound<const W: usize, const B: usize, C: Codec<W, B>>(
    _: C,
    blocks: &[u8],
) -> Option<usize> {
    blocks.as_chunks::<B>().0.iter().position(|b| !C::is_sound(b))
}

/// `[f(0), f(1), …]`. Unlike those of `core::array`, these two are inlined for certain, so that they use the vector instructions of the caller.
#[inline(always)]
pub(super) fn each<T: Copy, const N: usize>(f: impl Fn(usize) -> T) -> [T; N] {
    let mut out = [f(0); N];
    for i in 0..N {
        out[i] = f(i);
    }
    out
}

/// `f` of each element.
#[inline(always)]
pub(super) fn map<T: Copy, U: Copy, const N: usize>(x: &[T; N], f: impl Fn(T) -> U) -> [U; N] {
    let mut out = [f(x[0]); N];
    for i in 0..N {
        out[i] = f(x[i]);
    }
    out
}

/// The bits of the largest magnitude; those of infinity and NaN exceed those of every number.
#[inline(always)]
fn largest(weights: &[f32]) -> u32 {
    let mut largest = 0;
    for w in weights {
        largest = largest.max(w.to_bits() & 0x7fff_ffff);
    }
    largest
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
    let mut sum = 0.0;
    for &x in x {
        sum += f(x);
    }
    sum
}

/// The largest magnitude.
#[inline(always)]
pub(super) fn amax(x: &[f32]) -> f32 {
    f32::from_bits(largest(x))
}

/// The value of largest magnitude, the first of equals; 0 if all are 0.
#[inline(always)]
pub(super) fn signed_max(x: &[f32]) -> f32 {
    #[cold]
    fn first(x: &[f32], amax: f32) -> f32 {
        if amax == 0.0 { 0.0 } else { x.iter().copied().find(|x| x.abs() == amax).unwrap_or(amax) }
    }
    let amax = amax(x);
    let (mut plus, mut minus) = (false, false);
    for &x in x {
        plus |= x == amax;
        minus |= x == -amax;
    }
    match (plus, minus) {
        (true, true) => first(x, amax),
        (true, false) => amax,
        (false, _) => -amax,
    }
}

/// Smallest and largest weight, the first of equals (which matters to the sign of zero).
#[inline(always)]
pub(super) fn extremes<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    // Integers in the order of the floats, whose minima may be taken in any order and hence side by side.
    let ordered = |bits: i32| bits ^ ((bits >> 31) as u32 >> 1) as i32;
    let (mut min, mut max) = (i32::MAX, i32::MIN);
    for x in x {
        let x = ordered(x.to_bits() as i32);
        (min, max) = (min.min(x), max.max(x));
    }
    let first = |ordered_bits: i32| {
        let v = f32::from_bits(ordered(ordered_bits) as u32);
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
    each(|i| importance[i] * sqrt(mean_square + x[i] * x[i]))
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
    half_to_float(u16::from_le_bytes([block[at], block[at + 1]]))
}

/// Writes an f16, rounded to nearest even, and returns the value written.
#[inline(always)]
pub(super) fn put_half<const B: usize>(block: &mut [u8; B], at: usize, value: f32) -> f32 {
    let half = float_to_half(value);
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
    half_to_float(half)
}

/// The value of an f16. (The functions of the `half` crate look for the CPU's own instruction each time, which takes longer than this.)
#[inline(always)]
fn half_to_float(half: u16) -> f32 {
    let (sign, rest) = (u32::from(half & 0x8000) << 16, u32::from(half & 0x7fff) << 13);
    // With the exponent bias of f32 the number is 2^112 times smaller; the product is exact, subnormals included.
    let value = f32::from_bits(rest) * f32::from_bits((127 + 112) << 23);
    let special = if half & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(value.to_bits() | special | sign)
}

/// The f16 nearest to a value, ties to even; infinity for what is beyond its range and for NaN.
#[inline(always)]
fn float_to_half(value: f32) -> u16 {
    let bits = value.to_bits();
    let (sign, rest) = ((bits >> 16) as u16 & 0x8000, bits & 0x7fff_ffff);
    let least_normal = (127 - 14) << 23;
    let half = if rest < least_normal {
        // The last place of one half is that of subnormals, 2^−24.
        (f32::from_bits(rest) + 0.5).to_bits() - 0.5f32.to_bits()
    } else {
        let even = (rest >> 13) & 1;
        ((rest + 0xfff + even) >> 13) - (112 << 10)
    };
    sign | half.min(0x7c00) as u16
}

/// `1 / d`, or 0 where that is not finite. (The reference leaves the codes of a block whose reciprocal overflows to undefined casts; its scale is
/// stored as 0, so only the codes differ.)
#[inline(always)]
pub(super) fn reciprocal(d: f32) -> f32 {
    let r = d.recip();
    if r.is_finite() { r } else { 0.0 }
}

/// Adding this to a float of magnitude below 2^22 rounds it to nearest even and leaves the integer in the low bits, two's complement. (A cast
/// would do as well, but those of Rust saturate, which compilers do one by one.)
pub(super) const MAGIC: f32 = 12_582_912.0;

/// Truncates 0 ≤ x < 256.
#[inline(always)]
pub(super) fn truncate(x: f32) -> u8 {
    let nearest = x + MAGIC;
    (nearest.to_bits() as u8).wrapping_sub(u8::from(nearest - MAGIC > x))
}

/// Rounds −128 < x < 128 to nearest, halves away from zero; the low byte, two's complement.
#[inline(always)]
pub(super) fn round_half_away(x: f32) -> u8 {
    let nearest = x + MAGIC;
    let half = 0.5f32.copysign(x);
    let step = if x - (nearest - MAGIC) == half { (2.0 * half + MAGIC).to_bits() as u8 } else { 0 };
    (nearest.to_bits() as u8).wrapping_add(step)
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn halves_are_those_of_the_half_crate() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits);
            let value = half_to_float(bits);
            if expected.is_nan() {
                assert!(value.is_nan());
                continue;
            }
            assert_eq!(value.to_bits(), expected.to_f32().to_bits());
            // The value, its neighbours, and those of the midpoint to the next half.
            let middle = (value + half_to_float(bits.wrapping_add(1))) / 2.0;
            for x in [value, middle] {
                for x in [
                    x,
                    f32::from_bits(x.to_bits().wrapping_add(1)),
                    f32::from_bits(x.to_bits().wrapping_sub(1)),
                ] {
                    if !x.is_nan() {
                        assert_eq!(float_to_half(x), f16::from_f32(x).to_bits(), "{x:e}");
                    }
                }
            }
        }
        assert_eq!(float_to_half(f32::NAN) & 0x7fff, 0x7c00);
        assert_eq!(float_to_half(f32::MAX), 0x7c00);
        assert_eq!(float_to_half(-f32::MIN_POSITIVE), 0x8000);
    }

    #[test]
    fn rounding_is_that_of_the_standard_library() {
        for i in 0..4 * 127 {
            let x = i as f32 / 4.0;
            for x in
                [x, f32::from_bits(x.to_bits() + 1), f32::from_bits(x.to_bits().saturating_sub(1))]
            {
                assert_eq!(truncate(x), x as u8, "{x}");
                for x in [x, -x] {
                    assert_eq!(round_half_away(x) as i8, x.round() as i8, "{x}");
                }
            }
        }
    }

    #[test]
    fn the_first_of_equal_magnitudes_counts() {
        assert_eq!(signed_max(&[1.0, -2.0, 2.0]), -2.0);
        assert_eq!(signed_max(&[1.0, 2.0, -2.0]), 2.0);
        assert_eq!(signed_max(&[1.0, -3.0, 2.0]), -3.0);
        assert_eq!(signed_max(&[-0.0, 0.0]).to_bits(), 0);
        assert_eq!(extremes(&[0.0, -0.0, 1.0]).0.to_bits(), 0);
        assert_eq!(extremes(&[-0.0, 0.0, -1.0]).1.to_bits(), 1 << 31);
    }
}
