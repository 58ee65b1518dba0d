//! NEON's integers. What multiplies them is in `neon_dot`.

use core::arch::aarch64::*;

use super::{
    neon::{NeonToken, Quarters, quarters, widen_f16},
    neon_dot::{DotUnit, Sums},
};
use crate::int::{Codes, Line, Width, simd::IntSimd};

/// A quarter of an array.
#[inline(always)]
fn quarter<const N: usize, const M: usize>(x: &[u8; N], i: usize) -> &[u8; M] {
    const { assert!(4 * M == N) };
    &x.as_chunks().0[i]
}

impl<N: NeonToken + DotUnit> IntSimd for N {
    type Bytes = Quarters<uint8x16_t>;
    type Ints = Quarters<int32x4_t>;
    type Sums = Sums;
    type Quad<'a> = int8x16_t;
    const SIGNED: bool = true;
    // Sixteen registers of sums, of 32.
    const TOKENS: usize = 4;

    #[inline(always)]
    fn bytes(self, line: &Line) -> Self::Bytes {
        quarters!(i => memory!(vld1q_u8(quarter::<64, 16>(&line.0, i).as_ptr())))
    }
    #[inline(always)]
    fn field(self, x: Self::Bytes, by: i32, mask: u8) -> Self::Bytes {
        let keep = value!(vdupq_n_u8(mask));
        quarters!(i => {
            let moved = match by {
                1 => value!(vshrq_n_u8::<1>(x[i])),
                2 => value!(vshrq_n_u8::<2>(x[i])),
                3 => value!(vshrq_n_u8::<3>(x[i])),
                4 => value!(vshrq_n_u8::<4>(x[i])),
                5 => value!(vshrq_n_u8::<5>(x[i])),
                6 => value!(vshrq_n_u8::<6>(x[i])),
                7 => value!(vshrq_n_u8::<7>(x[i])),
                -1 => value!(vshlq_n_u8::<1>(x[i])),
                -2 => value!(vshlq_n_u8::<2>(x[i])),
                -3 => value!(vshlq_n_u8::<3>(x[i])),
                -4 => value!(vshlq_n_u8::<4>(x[i])),
                _ => x[i],
            };
            // The highest field is alone already.
            if by > 0 && mask == 0xff >> by { moved } else { value!(vandq_u8(moved, keep)) }
        })
    }
    #[inline(always)]
    fn join(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes {
        quarters!(i => value!(vorrq_u8(a[i], b[i])))
    }
    #[inline(always)]
    fn flip(self, x: Self::Bytes) -> Self::Bytes {
        let bit = value!(vdupq_n_u8(0x80));
        quarters!(i => value!(veorq_u8(x[i], bit)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: Self::Bytes) -> Self::Bytes {
        let table = memory!(vld1q_u8(table.as_ptr()));
        quarters!(i => value!(vqtbl1q_u8(table, x[i])))
    }

    #[inline(always)]
    fn quad(self, x: &[i32; 4]) -> int8x16_t {
        let words = memory!(vld1q_s32(x.as_ptr()));
        value!(vreinterpretq_s8_s32(words))
    }
    #[inline(always)]
    fn begin(self, start: Sums) -> Sums {
        start
    }
    #[inline(always)]
    fn dot<C: Width, const STEP: i32>(self, sums: Sums, codes: Self::Bytes, x: int8x16_t) -> Sums {
        self.add_step::<C, STEP>(sums, codes, x)
    }
    #[inline(always)]
    fn dot_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    ) {
        self.add_half::<C, T>(sums, block, half, x);
    }
    #[inline(always)]
    fn end(self, sums: Sums) -> Sums {
        sums
    }
    #[inline(always)]
    fn begin_token<const T: usize>(self, sums: &mut [Sums; T], token: usize, start: Sums) {
        self.begin_sum(sums, token, start);
    }
    #[inline(always)]
    fn end_token<const T: usize>(self, sums: &[Sums; T], token: usize) -> Sums {
        self.end_sum(sums, token)
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Self::Ints {
        [value!(vdupq_n_s32(x)); 4]
    }
    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(i => value!(vaddq_s32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(i => value!(vmulq_s32(a[i], b[i])))
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> Self::Ints {
        let bytes = memory!(vld1q_u8(x.as_ptr()));
        widen_u8(self, bytes)
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> Self::Ints {
        let bytes = memory!(vld1q_u8(x.as_ptr()));
        let bytes = value!(vreinterpretq_s8_u8(bytes));
        let low = value!(vget_low_s8(bytes));
        let (low, high) = (value!(vmovl_s8(low)), value!(vmovl_high_s8(bytes)));
        let (first, third) = (value!(vget_low_s16(low)), value!(vget_low_s16(high)));
        [
            value!(vmovl_s16(first)),
            value!(vmovl_high_s16(low)),
            value!(vmovl_s16(third)),
            value!(vmovl_high_s16(high)),
        ]
    }
    #[inline(always)]
    fn load_nibbles(self, x: &[u8; 16]) -> [Self::Ints; 2] {
        let bytes = memory!(vld1q_u8(x.as_ptr()));
        let mask = value!(vdupq_n_u8(15));
        let low = value!(vandq_u8(bytes, mask));
        let high = value!(vshrq_n_u8::<4>(bytes));
        [widen_u8(self, low), widen_u8(self, high)]
    }
    #[inline(always)]
    fn to_floats(self, x: Self::Ints) -> Self::Floats {
        quarters!(i => value!(vcvtq_f32_s32(x[i])))
    }
    #[inline(always)]
    fn halves(self, x: &[u8; 32]) -> Self::Floats {
        quarters!(i => {
            let halves = memory!(vld1_u16(quarter::<32, 8>(x, i).as_ptr().cast()));
            widen_f16(self, halves)
        })
    }
    #[inline(always)]
    fn brain_halves(self, x: &[u8; 32]) -> Self::Floats {
        quarters!(i => {
            let halves = memory!(vld1_u16(quarter::<32, 8>(x, i).as_ptr().cast()));
            let bits = value!(vshll_n_u16::<16>(halves));
            value!(vreinterpretq_f32_u32(bits))
        })
    }
    #[inline(always)]
    fn singles(self, x: &[u8; 64]) -> Self::Floats {
        quarters!(i => memory!(vld1q_f32(quarter::<64, 16>(x, i).as_ptr().cast())))
    }
    #[inline(always)]
    fn powers_of_two(self, x: &[u8; 16]) -> Self::Floats {
        let exponents = self.load_u8(x);
        // The least is subnormal.
        let least = value!(vdupq_n_u32(1 << 22));
        quarters!(i => {
            let exponents = value!(vreinterpretq_u32_s32(exponents[i]));
            let bits = value!(vshlq_n_u32::<23>(exponents));
            let bits = value!(vmaxq_u32(bits, least));
            value!(vreinterpretq_f32_u32(bits))
        })
    }

    #[inline(always)]
    fn magnitudes(self, x: Self::Floats) -> Self::Ints {
        quarters!(i => {
            let magnitude = value!(vabsq_f32(x[i]));
            value!(vreinterpretq_s32_f32(magnitude))
        })
    }
    #[inline(always)]
    fn bits(self, x: Self::Floats) -> Self::Ints {
        quarters!(i => value!(vreinterpretq_s32_f32(x[i])))
    }
    #[inline(always)]
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        quarters!(i => value!(vmaxq_s32(a[i], b[i])))
    }
    #[inline(always)]
    fn largest(self, x: Self::Ints) -> i32 {
        let low = value!(vmaxq_s32(x[0], x[1]));
        let high = value!(vmaxq_s32(x[2], x[3]));
        let four = value!(vmaxq_s32(low, high));
        value!(vmaxvq_s32(four))
    }
    #[inline(always)]
    fn sum_ints(self, x: Self::Ints) -> i32 {
        let low = value!(vaddq_s32(x[0], x[1]));
        let high = value!(vaddq_s32(x[2], x[3]));
        let four = value!(vaddq_s32(low, high));
        value!(vaddvq_s32(four))
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::Ints, to: &mut [i32; 4]) {
        let narrow = quarters!(i => value!(vmovn_s32(x[i])));
        let low = value!(vcombine_s16(narrow[0], narrow[1]));
        let high = value!(vcombine_s16(narrow[2], narrow[3]));
        let (low, high) = (value!(vmovn_s16(low)), value!(vmovn_s16(high)));
        let bytes = value!(vcombine_s8(low, high));
        memory!(vst1q_s8(to.as_mut_ptr().cast(), bytes));
    }
}

/// Sixteen unsigned bytes, widened.
#[inline(always)]
fn widen_u8<N: NeonToken>(_: N, bytes: uint8x16_t) -> Quarters<int32x4_t> {
    let low = value!(vget_low_u8(bytes));
    let (low, high) = (value!(vmovl_u8(low)), value!(vmovl_high_u8(bytes)));
    let (first, third) = (value!(vget_low_u16(low)), value!(vget_low_u16(high)));
    let wide = [
        value!(vmovl_u16(first)),
        value!(vmovl_high_u16(low)),
        value!(vmovl_u16(third)),
        value!(vmovl_high_u16(high)),
    ];
    quarters!(i => value!(vreinterpretq_s32_u32(wide[i])))
}
