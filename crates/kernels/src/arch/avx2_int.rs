//! AVX2: products of pairs are added in 16 bits, which must not overflow, then in 32.

use core::arch::x86_64::*;

use super::Avx2;
use crate::int::{Codes, Line, Width, simd::IntSimd};

/// An array of what an expression is for either half.
macro_rules! both {
    ($i:ident => $value:expr) => {
        [
            {
                let $i = 0;
                $value
            },
            {
                let $i = 1;
                $value
            },
        ]
    };
}

/// Half of an array.
#[inline(always)]
fn half<const N: usize, const M: usize>(x: &[u8; N], i: usize) -> &[u8; M] {
    const { assert!(2 * M == N) };
    &x.as_chunks().0[i]
}

impl Avx2 {
    /// Sums of the products of pairs, in 16 bits.
    #[inline(always)]
    fn pairs<C: Width>(self, codes: __m256i, x: __m256i) -> __m256i {
        if C::BITS == 8 {
            // The magnitude of a code, unsigned, times the activation with the code's sign.
            let magnitude = value!(_mm256_abs_epi8(codes));
            let signed = value!(_mm256_sign_epi8(x, codes));
            value!(_mm256_maddubs_epi16(magnitude, signed))
        } else {
            value!(_mm256_maddubs_epi16(codes, x))
        }
    }

    /// a + b in 16 bits.
    #[inline(always)]
    fn add_pairs(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_add_epi16(a[i], b[i])))
    }

    /// Adds the sums of pairs of 16 bits to sums of 32.
    #[inline(always)]
    fn widen(self, sums: [__m256i; 2], pairs: [__m256i; 2]) -> [__m256i; 2] {
        let ones = value!(_mm256_set1_epi16(1));
        both!(i => {
            let wide = value!(_mm256_madd_epi16(pairs[i], ones));
            value!(_mm256_add_epi32(sums[i], wide))
        })
    }
}

impl IntSimd for Avx2 {
    type Bytes = [__m256i; 2];
    type Ints = [__m256i; 2];
    type Sums = [__m256i; 2];
    type Quad<'a> = &'a [i32; 4];
    const SIGNED: bool = true;
    const TOKENS: usize = 8;

    #[inline(always)]
    fn bytes(self, line: &Line) -> [__m256i; 2] {
        both!(i => memory!(_mm256_loadu_si256(half::<64, 32>(&line.0, i).as_ptr().cast())))
    }
    #[inline(always)]
    fn field(self, x: [__m256i; 2], by: i32, mask: u8) -> [__m256i; 2] {
        let count = value!(_mm_cvtsi32_si128(by.abs()));
        let mask = value!(_mm256_set1_epi8(mask as i8));
        both!(i => {
            let moved = match by {
                0 => x[i],
                1.. => value!(_mm256_srl_epi32(x[i], count)),
                _ => value!(_mm256_sll_epi32(x[i], count)),
            };
            value!(_mm256_and_si256(moved, mask))
        })
    }
    #[inline(always)]
    fn join(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_or_si256(a[i], b[i])))
    }
    #[inline(always)]
    fn flip(self, x: [__m256i; 2]) -> [__m256i; 2] {
        let bit = value!(_mm256_set1_epi8(-128));
        both!(i => value!(_mm256_xor_si256(x[i], bit)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: [__m256i; 2]) -> [__m256i; 2] {
        let table = memory!(_mm_loadu_si128(table.as_ptr().cast()));
        let table = value!(_mm256_broadcastsi128_si256(table));
        both!(i => value!(_mm256_shuffle_epi8(table, x[i])))
    }

    #[inline(always)]
    fn prefetch(self, line: *const Line) {
        // SAFETY: a hint, which reads nothing and takes any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
    }
    #[inline(always)]
    fn quad(self, x: &[i32; 4]) -> &[i32; 4] {
        x
    }
    #[inline(always)]
    fn begin(self, start: [__m256i; 2]) -> [__m256i; 2] {
        start
    }
    #[inline(always)]
    fn dot<C: Width, const STEP: i32>(
        self,
        sums: [__m256i; 2],
        codes: [__m256i; 2],
        x: &[i32; 4],
    ) -> [__m256i; 2] {
        let x = value!(_mm256_set1_epi32(x[STEP as usize]));
        self.widen(sums, both!(i => self.pairs::<C>(codes[i], x)))
    }
    /// Token by token, so that only the codes have to be in registers, and sums grow in 16 bits as long as they fit.
    #[inline(always)]
    fn dot_half<C: Codes, const T: usize>(
        self,
        sums: &mut [[__m256i; 2]; T],
        block: &[Line],
        half: usize,
        x: [&[i32; 4]; T],
    ) {
        macro_rules! code {
            ($step:literal) => {
                C::step(self, block, 4 * half + $step)
            };
        }
        macro_rules! pairs {
            ($codes:ident, $t:ident, $step:literal) => {{
                let x = value!(_mm256_set1_epi32(x[$t][$step]));
                both!(i => self.pairs::<C>($codes[i], x))
            }};
        }
        // Products of a pair are at most 2 · 127 · (2^BITS − 1), or with signed codes 2 · 127 · 128: four, two or one of them fit 16 bits.
        if C::BITS <= 5 {
            let [a, b, c, d] = [code!(0), code!(1), code!(2), code!(3)];
            for t in 0..T {
                let [a, b] = [pairs!(a, t, 0), pairs!(b, t, 1)];
                let [c, d] = [pairs!(c, t, 2), pairs!(d, t, 3)];
                let (ab, cd) = (self.add_pairs(a, b), self.add_pairs(c, d));
                sums[t] = self.widen(sums[t], self.add_pairs(ab, cd));
            }
            return;
        }
        macro_rules! two_steps {
            ($first:literal, $second:literal) => {
                let [a, b] = [code!($first), code!($second)];
                for t in 0..T {
                    let [a, b] = [pairs!(a, t, $first), pairs!(b, t, $second)];
                    sums[t] = match C::BITS {
                        6 => self.widen(sums[t], self.add_pairs(a, b)),
                        _ => self.widen(self.widen(sums[t], a), b),
                    };
                }
            };
        }
        two_steps!(0, 1);
        two_steps!(2, 3);
    }
    #[inline(always)]
    fn end(self, sums: [__m256i; 2]) -> [__m256i; 2] {
        sums
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [__m256i; 2] {
        [value!(_mm256_set1_epi32(x)); 2]
    }
    #[inline(always)]
    fn add_ints(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_add_epi32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul_ints(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_mullo_epi32(a[i], b[i])))
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> [__m256i; 2] {
        both!(i => {
            let bytes = memory!(_mm_loadl_epi64(half::<16, 8>(x, i).as_ptr().cast()));
            value!(_mm256_cvtepu8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> [__m256i; 2] {
        both!(i => {
            let bytes = memory!(_mm_loadl_epi64(half::<16, 8>(x, i).as_ptr().cast()));
            value!(_mm256_cvtepi8_epi32(bytes))
        })
    }
    #[inline(always)]
    fn load_nibbles(self, x: &[u8; 16]) -> [[__m256i; 2]; 2] {
        let bytes = self.load_u8(x);
        let mask = value!(_mm256_set1_epi32(15));
        [
            both!(i => value!(_mm256_and_si256(bytes[i], mask))),
            both!(i => value!(_mm256_srli_epi32::<4>(bytes[i]))),
        ]
    }
    #[inline(always)]
    fn to_floats(self, x: [__m256i; 2]) -> [__m256; 2] {
        both!(i => value!(_mm256_cvtepi32_ps(x[i])))
    }
    #[inline(always)]
    fn halves(self, x: &[u8; 32]) -> [__m256; 2] {
        both!(i => {
            let halves = memory!(_mm_loadu_si128(half::<32, 16>(x, i).as_ptr().cast()));
            value!(_mm256_cvtph_ps(halves))
        })
    }
    #[inline(always)]
    fn brain_halves(self, x: &[u8; 32]) -> [__m256; 2] {
        both!(i => {
            let halves = memory!(_mm_loadu_si128(half::<32, 16>(x, i).as_ptr().cast()));
            let wide = value!(_mm256_cvtepu16_epi32(halves));
            let bits = value!(_mm256_slli_epi32::<16>(wide));
            value!(_mm256_castsi256_ps(bits))
        })
    }
    #[inline(always)]
    fn singles(self, x: &[u8; 64]) -> [__m256; 2] {
        both!(i => memory!(_mm256_loadu_ps(half::<64, 32>(x, i).as_ptr().cast())))
    }
    #[inline(always)]
    fn powers_of_two(self, x: &[u8; 16]) -> [__m256; 2] {
        let exponents = self.load_u8(x);
        // The least is subnormal.
        let least = value!(_mm256_set1_epi32(1 << 22));
        both!(i => {
            let bits = value!(_mm256_slli_epi32::<23>(exponents[i]));
            let bits = value!(_mm256_max_epu32(bits, least));
            value!(_mm256_castsi256_ps(bits))
        })
    }

    #[inline(always)]
    fn magnitudes(self, x: [__m256; 2]) -> [__m256i; 2] {
        let mask = value!(_mm256_set1_epi32(i32::MAX));
        let bits = self.bits(x);
        both!(i => value!(_mm256_and_si256(bits[i], mask)))
    }
    #[inline(always)]
    fn bits(self, x: [__m256; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_castps_si256(x[i])))
    }
    #[inline(always)]
    fn max_ints(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        both!(i => value!(_mm256_max_epi32(a[i], b[i])))
    }
    #[inline(always)]
    fn largest(self, x: [__m256i; 2]) -> i32 {
        let eight = value!(_mm256_max_epi32(x[0], x[1]));
        let low = value!(_mm256_castsi256_si128(eight));
        let high = value!(_mm256_extracti128_si256::<1>(eight));
        let four = value!(_mm_max_epi32(low, high));
        let swapped = value!(_mm_shuffle_epi32::<0b01_00_11_10>(four));
        let two = value!(_mm_max_epi32(four, swapped));
        let swapped = value!(_mm_shuffle_epi32::<0b10_11_00_01>(two));
        let one = value!(_mm_max_epi32(two, swapped));
        value!(_mm_cvtsi128_si32(one))
    }
    #[inline(always)]
    fn sum_ints(self, x: [__m256i; 2]) -> i32 {
        let eight = value!(_mm256_add_epi32(x[0], x[1]));
        let low = value!(_mm256_castsi256_si128(eight));
        let high = value!(_mm256_extracti128_si256::<1>(eight));
        let four = value!(_mm_add_epi32(low, high));
        let swapped = value!(_mm_shuffle_epi32::<0b01_00_11_10>(four));
        let two = value!(_mm_add_epi32(four, swapped));
        let swapped = value!(_mm_shuffle_epi32::<0b10_11_00_01>(two));
        let one = value!(_mm_add_epi32(two, swapped));
        value!(_mm_cvtsi128_si32(one))
    }
    #[inline(always)]
    fn store_bytes(self, x: [__m256i; 2], to: &mut [i32; 4]) {
        // The low byte of each word to the first word of its 128 bits, then these words beside each other.
        let order = value!(_mm256_setr_epi8(
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
            0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1
        ));
        let both = both!(i => {
            let bytes = value!(_mm256_shuffle_epi8(x[i], order));
            let low = value!(_mm256_castsi256_si128(bytes));
            let high = value!(_mm256_extracti128_si256::<1>(bytes));
            value!(_mm_unpacklo_epi32(low, high))
        });
        let bytes = value!(_mm_unpacklo_epi64(both[0], both[1]));
        memory!(_mm_storeu_si128(to.as_mut_ptr().cast(), bytes));
    }
}
