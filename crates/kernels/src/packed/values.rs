//! How codes become floats.

use crate::simd::Simd;

/// A kind of code, all fields of a word alike.
pub(super) trait Value: Sync + 'static {
    /// Sixteen numbers from field `j` of sixteen words, before they are scaled.
    fn value<S: Simd>(simd: S, table: S::Table, words: S::Words, j: usize) -> S::Floats;
}

/// `code − middle` of integers.
pub(super) struct Steps<const BITS: u32, const FIELDS: usize>;

impl<const BITS: u32, const FIELDS: usize> Value for Steps<BITS, FIELDS> {
    #[inline(always)]
    fn value<S: Simd>(simd: S, _: S::Table, words: S::Words, j: usize) -> S::Floats {
        let Field { shift, mask, exponent, zero } = Self::FIELD[j];
        let float = simd.float_of_bits(simd.shift_right(words, shift), mask, exponent);
        simd.sub(float, simd.splat(zero))
    }
}

/// Entries of a table of sixteen.
pub(super) struct Entries;

impl Value for Entries {
    #[inline(always)]
    fn value<S: Simd>(simd: S, table: S::Table, words: S::Words, j: usize) -> S::Floats {
        simd.look_up(table, simd.shift_right(words, 4 * j as u32))
    }
}

/// Floats of eight bits, `EXPONENT` of them exponent.
pub(super) struct Bytes<const EXPONENT: u32>;

impl<const EXPONENT: u32> Value for Bytes<EXPONENT> {
    /// With its fields moved to where those of an f32 end on the left, a byte is the same float but for the biases of the exponents, which a multiplication mends.
    /// That is so of subnormal numbers, too.
    #[inline(always)]
    fn value<S: Simd>(simd: S, _: S::Table, words: S::Words, j: usize) -> S::Floats {
        let bias = (1 << (EXPONENT - 1)) - 1;
        let mend = f32::from_bits((127 + 127 - bias) << 23);
        simd.mul(simd.spread_byte(words, j as u32, 8 - EXPONENT), simd.splat(mend))
    }
}

/// How a field becomes a float.
#[derive(Clone, Copy)]
struct Field {
    /// Bits that the word is shifted by, so that the field lies within the mantissa. Neighbouring fields share a shift.
    shift: u32,
    /// The field after the shift.
    mask: u32,
    /// Exponent that makes the lowest bit of the field count 1.
    exponent: u32,
    /// What to subtract, so that the middle code becomes 0.
    zero: f32,
}

impl<const BITS: u32, const FIELDS: usize> Steps<BITS, FIELDS> {
    const FIELD: [Field; FIELDS] = {
        let none = Field { shift: 0, mask: 0, exponent: 0, zero: 0.0 };
        let mut fields = [none; FIELDS];
        let mut shift = 0;
        let mut j = 0;
        while j < FIELDS {
            let offset = BITS * j as u32;
            // 23 bits of mantissa.
            if offset + BITS - shift > 23 {
                shift = offset;
            }
            let low = offset - shift;
            let one = 1u32 << (23 - low);
            fields[j] = Field {
                shift,
                mask: ((1 << BITS) - 1) << low,
                exponent: (127 + 23 - low) << 23,
                zero: (one + (1 << (BITS - 1))) as f32,
            };
            j += 1;
        }
        fields
    };
}
