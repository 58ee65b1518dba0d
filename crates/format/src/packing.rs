//! Codes as bytes, nibbles and 32-bit words.
//!
//! Within a word, the lowest index lies in the lowest bits. Two layouts differ where the width does not divide 32:
//!
//! ```text
//! Dense, 3 bits     |   bits 31 30 | 29 28 27 | …  |  2  1  0 |
//!            word 0 |  low of c10  |    c9    | …  |    c0    |
//!            word 1 |  low of c21  … c11          | top of c10 |      32 codes fill 3 words exactly
//! Padded, 3 bits    |   bits 31 30 | 29 28 27 | …  |  2  1  0 |
//!            word 0 |    unused    |    c9    | …  |    c0    |
//!            word 1 |    unused    |   c19    | …  |   c10    |      10 codes a word
//! ```
//!
//! GPTQ and compressed-tensors hold the same words in different places. With `codes` of `(out_features, in_features)` and `zeros` of
//! `(out_features, n_groups)`:
//!
//! | tensor | shape | made by |
//! |---|---|---|
//! | GPTQ `qweight` | `[in·bits/32, out]` | [`transpose`] of [`pack_rows`] of the codes |
//! | GPTQ `qzeros` | `[n_groups, out·bits/32]` | `pack_rows` of `transpose` of the zeros |
//! | compressed-tensors `weight_packed` | `[out, ⌈in·bits/32⌉]` | `pack_rows` of the codes |
//! | compressed-tensors `weight_zero_point` | `[⌈out·bits/32⌉, n_groups]` | `transpose` of `pack_rows` of `transpose` of the zeros |

use alloc::{vec, vec::Vec};

use crate::{Bits, FormatError};

/// How codes fill words whose size their width does not divide. For 2, 4 and 8 bits both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Words {
    /// One stream of bits, lowest first; a code may begin in one word and end in the next.
    #[default]
    Dense,
    /// Whole codes only, the top bits of each word unused.
    Padded,
}

impl Words {
    /// Words that `count` codes take.
    pub const fn count(self, count: usize, bits: Bits) -> usize {
        let bits = bits.get() as usize;
        match self {
            // `count · bits` could overflow for counts that a file claims.
            Self::Dense => count / 32 * bits + (count % 32 * bits).div_ceil(32),
            Self::Padded => count.div_ceil(32 / bits),
        }
    }

    /// Packs codes; bits left over in the last word are 0.
    ///
    /// # Panics
    /// If `words` is not [`count`](Self::count) long, or (in debug builds) if a code exceeds the width.
    pub fn pack_into(self, codes: &[u8], bits: Bits, words: &mut [u32]) {
        assert_eq!(words.len(), self.count(codes.len(), bits), "words do not match the codes");
        debug_assert!(codes.iter().all(|&c| c <= bits.max_code()), "a code exceeds its width");
        let width = bits.get();
        match self {
            Self::Dense => {
                let (mut buffer, mut filled, mut next) = (0u64, 0, 0);
                for &code in codes {
                    buffer |= u64::from(code) << filled;
                    filled += width;
                    if filled >= 32 {
                        words[next] = buffer as u32;
                        next += 1;
                        buffer >>= 32;
                        filled -= 32;
                    }
                }
                if filled > 0 {
                    words[next] = buffer as u32;
                }
            }
            Self::Padded => {
                for (word, codes) in words.iter_mut().zip(codes.chunks((32 / width) as usize)) {
                    *word = codes.iter().rev().fold(0, |w, &code| w << width | u32::from(code));
                }
            }
        }
    }

    /// Unpacks codes.
    ///
    /// # Panics
    /// If `words` is not [`count`](Self::count) of `codes` long.
    pub fn unpack_into(self, words: &[u32], bits: Bits, codes: &mut [u8]) {
        assert_eq!(words.len(), self.count(codes.len(), bits), "words do not match the codes");
        let (width, mask) = (bits.get(), u64::from(bits.max_code()));
        match self {
            Self::Dense => {
                let (mut buffer, mut filled, mut next) = (0u64, 0, 0);
                for code in codes {
                    if filled < width {
                        buffer |= u64::from(words[next]) << filled;
                        next += 1;
                        filled += 32;
                    }
                    *code = (buffer & mask) as u8;
                    buffer >>= width;
                    filled -= width;
                }
            }
            Self::Padded => {
                for (&word, codes) in words.iter().zip(codes.chunks_mut((32 / width) as usize)) {
                    for (i, code) in codes.iter_mut().enumerate() {
                        *code = (u64::from(word) >> (i as u32 * width) & mask) as u8;
                    }
                }
            }
        }
    }
}

/// Packs each row of a `(rows, columns)` matrix of codes by itself: `(rows, words.count(columns))` words.
///
/// # Panics
/// If `codes` is not `rows · columns` long, or (in debug builds) if a code exceeds the width.
pub fn pack_rows(codes: &[u8], rows: usize, columns: usize, bits: Bits, layout: Words) -> Vec<u32> {
    assert_eq!(codes.len(), rows * columns, "codes do not match rows and columns");
    let width = layout.count(columns, bits);
    let mut words = vec![0; rows * width];
    if columns > 0 {
        for (words, codes) in words.chunks_mut(width).zip(codes.chunks(columns)) {
            layout.pack_into(codes, bits, words);
        }
    }
    words
}

/// Unpacks what [`pack_rows`] packed.
///
/// # Errors
/// If the number of words does not follow from rows and columns.
pub fn unpack_rows(
    words: &[u32],
    rows: usize,
    columns: usize,
    bits: Bits,
    layout: Words,
) -> Result<Vec<u8>, FormatError> {
    let width = layout.count(columns, bits);
    let packed = |got, expected, unit| FormatError::PackedLength {
        what: "packed codes",
        got,
        expected,
        unit,
        count: rows.saturating_mul(columns),
        bits: bits.get(),
    };
    if rows.checked_mul(width) != Some(words.len()) {
        return Err(packed(words.len(), rows.saturating_mul(width), "words"));
    }
    let mut codes = vec![0; rows * columns];
    if columns > 0 {
        for (codes, words) in codes.chunks_mut(columns).zip(words.chunks(width)) {
            layout.unpack_into(words, bits, codes);
        }
    }
    Ok(codes)
}

/// Transposes a `(rows, columns)` matrix into `(columns, rows)`.
///
/// # Panics
/// If `values` is not `rows · columns` long.
pub fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    /// Rows read at a time, so that both sides stay in the cache.
    const TILE: usize = 32;
    assert_eq!(values.len(), rows * columns, "values do not match rows and columns");
    let mut out = vec![T::default(); values.len()];
    for r0 in (0..rows).step_by(TILE) {
        let r1 = (r0 + TILE).min(rows);
        for c in 0..columns {
            for r in r0..r1 {
                out[c * rows + r] = values[r * columns + c];
            }
        }
    }
    out
}

/// Packs 4-bit codes two a byte, the first in the low nibble. The high nibble after an odd number of codes is 0.
///
/// # Panics
/// In debug builds, if a code exceeds 15.
pub fn pack_nibbles(codes: &[u8]) -> Vec<u8> {
    debug_assert!(codes.iter().all(|&c| c < 16), "a code exceeds 4 bits");
    codes.chunks(2).map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect()
}

/// Unpacks `count` 4-bit codes from [`pack_nibbles`].
///
/// # Errors
/// If there are not exactly the bytes that `count` codes take.
pub fn unpack_nibbles(bytes: &[u8], count: usize) -> Result<Vec<u8>, FormatError> {
    let expected = count.div_ceil(2);
    if bytes.len() != expected {
        let got = bytes.len();
        let (what, unit) = ("packed nibbles", "bytes");
        return Err(FormatError::PackedLength { what, got, expected, unit, count, bits: 4 });
    }
    Ok((0..count).map(|i| bytes[i / 2] >> (i % 2 * 4) & 15).collect())
}

/// Codes as signed bytes around zero, `code − 2^(bits − 1)`: what int8 kernels and files take.
pub fn to_signed(codes: &[u8], bits: Bits) -> Vec<i8> {
    codes.iter().map(|&code| (i16::from(code) - i16::from(bits.middle())) as i8).collect()
}

/// Codes from signed bytes, `value + 2^(bits − 1)`.
///
/// # Errors
/// If a value is outside −2^(bits − 1) ..= 2^(bits − 1) − 1.
pub fn from_signed(values: &[i8], bits: Bits) -> Result<Vec<u8>, FormatError> {
    let code = |(index, &value): (usize, &i8)| {
        let code = i16::from(value) + i16::from(bits.middle());
        u8::try_from(code).ok().filter(|&code| code <= bits.max_code()).ok_or(
            FormatError::SignedRange {
                index,
                value,
                low: -i16::from(bits.middle()),
                bits: bits.get(),
            },
        )
    };
    values.iter().enumerate().map(code).collect()
}
