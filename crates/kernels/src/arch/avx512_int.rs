//! AVX-512 with VNNI: four products a lane and instruction, codes unsigned and activations signed.

use core::arch::x86_64::*;

use super::Avx512;
use crate::int::{Line, Width, simd::IntSimd};

impl IntSimd for Avx512 {
    type Bytes = __m512i;
    type Ints = __m512i;
    type Sums = __m512i;
    // Words are broadcast from memory by the instruction that multiplies them.
    type Quad<'a> = &'a [i32; 4];
    const SIGNED: bool = false;
    // 12 sums of integers and as many of floats, of 32 registers.
    const TOKENS: usize = 12;

    #[inline(always)]
    fn bytes(self, line: &Line) -> __m512i {
        memory!(_mm512_loadu_si512(line.0.as_ptr().cast()))
    }
    #[inline(always)]
    fn field(self, x: __m512i, by: i32, mask: u8) -> __m512i {
        // Bits that come from neighbouring bytes are masked.
        let count = value!(_mm_cvtsi32_si128(by.abs()));
        let moved = match by {
            0 => x,
            1.. => value!(_mm512_srl_epi32(x, count)),
            _ => value!(_mm512_sll_epi32(x, count)),
        };
        let mask = value!(_mm512_set1_epi8(mask as i8));
        value!(_mm512_and_si512(moved, mask))
    }
    #[inline(always)]
    fn join(self, a: __m512i, b: __m512i) -> __m512i {
        value!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn flip(self, x: __m512i) -> __m512i {
        let bit = value!(_mm512_set1_epi8(-128));
        value!(_mm512_xor_si512(x, bit))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: __m512i) -> __m512i {
        let table = memory!(_mm_loadu_si128(table.as_ptr().cast()));
        let table = value!(_mm512_broadcast_i32x4(table));
        value!(_mm512_shuffle_epi8(table, x))
    }

    #[inline(always)]
    fn quad(self, x: &[i32; 4]) -> &[i32; 4] {
        x
    }
    #[inline(always)]
    fn begin(self, start: __m512i) -> __m512i {
        start
    }
    #[inline(always)]
    fn dot<C: Width, const STEP: i32>(
        self,
        sums: __m512i,
        codes: __m512i,
        x: &[i32; 4],
    ) -> __m512i {
        let x = value!(_mm512_set1_epi32(x[STEP as usize]));
        value!(_mm512_dpbusd_epi32(sums, codes, x))
    }
    #[inline(always)]
    fn end(self, sums: __m512i) -> __m512i {
        sums
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        value!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn add_ints(self, a: __m512i, b: __m512i) -> __m512i {
        value!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn mul_ints(self, a: __m512i, b: __m512i) -> __m512i {
        value!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> __m512i {
        let bytes = memory!(_mm_loadu_si128(x.as_ptr().cast()));
        value!(_mm512_cvtepu8_epi32(bytes))
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> __m512i {
        let bytes = memory!(_mm_loadu_si128(x.as_ptr().cast()));
        value!(_mm512_cvtepi8_epi32(bytes))
    }
    #[inline(always)]
    fn load_nibbles(self, x: &[u8; 16]) -> [__m512i; 2] {
        let bytes = self.load_u8(x);
        let mask = value!(_mm512_set1_epi32(15));
        [value!(_mm512_and_si512(bytes, mask)), value!(_mm512_srli_epi32::<4>(bytes))]
    }
    #[inline(always)]
    fn to_floats(self, x: __m512i) -> __m512 {
        value!(_mm512_cvtepi32_ps(x))
    }
    #[inline(always)]
    fn halves(self, x: &[u8; 32]) -> __m512 {
        let halves = memory!(_mm256_loadu_si256(x.as_ptr().cast()));
        value!(_mm512_cvtph_ps(halves))
    }
    #[inline(always)]
    fn brain_halves(self, x: &[u8; 32]) -> __m512 {
        let halves = memory!(_mm256_loadu_si256(x.as_ptr().cast()));
        let wide = value!(_mm512_cvtepu16_epi32(halves));
        let bits = value!(_mm512_slli_epi32::<16>(wide));
        value!(_mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    fn singles(self, x: &[u8; 64]) -> __m512 {
        memory!(_mm512_loadu_ps(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn powers_of_two(self, x: &[u8; 16]) -> __m512 {
        let exponents = self.load_u8(x);
        let bits = value!(_mm512_slli_epi32::<23>(exponents));
        // The least is subnormal.
        let least = value!(_mm512_set1_epi32(1 << 22));
        let bits = value!(_mm512_max_epu32(bits, least));
        value!(_mm512_castsi512_ps(bits))
    }

    #[inline(always)]
    fn magnitudes(self, x: __m512) -> __m512i {
        let mask = value!(_mm512_set1_epi32(i32::MAX));
        value!(_mm512_and_si512(self.bits(x), mask))
    }
    #[inline(always)]
    fn bits(self, x: __m512) -> __m512i {
        value!(_mm512_castps_si512(x))
    }
    #[inline(always)]
    fn max_ints(self, a: __m512i, b: __m512i) -> __m512i {
        value!(_mm512_max_epi32(a, b))
    }
    #[inline(always)]
    fn largest(self, x: __m512i) -> i32 {
        value!(_mm512_reduce_max_epi32(x))
    }
    #[inline(always)]
    fn sum_ints(self, x: __m512i) -> i32 {
        value!(_mm512_reduce_add_epi32(x))
    }
    #[inline(always)]
    fn store_bytes(self, x: __m512i, to: &mut [i32; 4]) {
        let bytes = value!(_mm512_cvtepi32_epi8(x));
        memory!(_mm_storeu_si128(to.as_mut_ptr().cast(), bytes));
    }
}
