//! Products of bytes on Arm: `sdot` adds four a lane with one instruction; without it, products are added in 16 bits, then in 32.

use core::arch::{aarch64::*, asm};

use super::neon::{Neon, NeonDot, NeonI8mm, Quarters};
use crate::int::{Codes, Line, Width, simd::step_by_step};

/// Sums of a tile's rows.
pub(crate) type Sums = Quarters<int32x4_t>;

/// How a kind of NEON multiplies signed bytes: see `IntSimd`.
pub(crate) trait DotUnit: Copy {
    /// See `IntSimd::dot`.
    fn add_step<C: Width, const STEP: i32>(
        self,
        sums: Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Sums;
    /// See `IntSimd::dot_half`.
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    );
    /// See `IntSimd::begin_token`.
    #[inline(always)]
    fn begin_sum<const T: usize>(self, sums: &mut [Sums; T], token: usize, start: Sums) {
        sums[token] = start;
    }
    /// See `IntSimd::end_token`.
    #[inline(always)]
    fn end_sum<const T: usize>(self, sums: &[Sums; T], token: usize) -> Sums {
        sums[token]
    }
}

/// A token that proves `sdot`.
pub(super) trait HasDot {}

impl HasDot for NeonDot {}
impl HasDot for NeonI8mm {}

/// Adds to four sums in each quarter the products of four bytes with word `STEP` of `x`.
#[inline(always)]
pub(super) fn sdot<const STEP: i32>(
    _: impl HasDot,
    mut sums: Sums,
    codes: Quarters<uint8x16_t>,
    x: int8x16_t,
) -> Sums {
    for i in 0..4 {
        // SAFETY: the instruction works on registers alone; the token, made after detection, proves that it exists. (The intrinsic is not stable yet.)
        unsafe {
            asm!(
                ".arch_extension dotprod",
                "sdot {sums:v}.4s, {codes:v}.16b, {x:v}.4b[{step}]",
                sums = inlateout(vreg) sums[i],
                codes = in(vreg) codes[i],
                x = in(vreg) x,
                step = const STEP,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
    sums
}

impl DotUnit for NeonDot {
    #[inline(always)]
    fn add_step<C: Width, const STEP: i32>(
        self,
        sums: Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Sums {
        sdot::<STEP>(self, sums, codes, x)
    }

    #[inline(always)]
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    ) {
        step_by_step::<Self, C, T>(self, sums, block, half, x);
    }
}

/// Products of four rows' bytes, of the first two rows and of the others.
type Products = [int16x8_t; 2];

impl Neon {
    /// A word of activations for every row.
    #[inline(always)]
    fn word<const STEP: i32>(self, x: int8x16_t) -> int8x16_t {
        let words = value!(vreinterpretq_s32_s8(x));
        let word = value!(vdupq_laneq_s32::<STEP>(words));
        value!(vreinterpretq_s8_s32(word))
    }

    #[inline(always)]
    fn multiply(self, codes: uint8x16_t, x: int8x16_t) -> Products {
        let codes = value!(vreinterpretq_s8_u8(codes));
        let (low, x_low) = (value!(vget_low_s8(codes)), value!(vget_low_s8(x)));
        [value!(vmull_s8(low, x_low)), value!(vmull_high_s8(codes, x))]
    }

    #[inline(always)]
    fn multiply_add(self, [a, b]: Products, codes: uint8x16_t, x: int8x16_t) -> Products {
        let codes = value!(vreinterpretq_s8_u8(codes));
        let (low, x_low) = (value!(vget_low_s8(codes)), value!(vget_low_s8(x)));
        [value!(vmlal_s8(a, low, x_low)), value!(vmlal_high_s8(b, codes, x))]
    }

    /// Adds the four products of each row to its sum.
    #[inline(always)]
    fn widen(self, sums: int32x4_t, [a, b]: Products) -> int32x4_t {
        let (low, high) = (value!(vpaddlq_s16(a)), value!(vpaddlq_s16(b)));
        let rows = value!(vpaddq_s32(low, high));
        value!(vaddq_s32(sums, rows))
    }
}

impl DotUnit for Neon {
    #[inline(always)]
    fn add_step<C: Width, const STEP: i32>(
        self,
        mut sums: Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Sums {
        let x = self.word::<STEP>(x);
        for i in 0..4 {
            sums[i] = self.widen(sums[i], self.multiply(codes[i], x));
        }
        sums
    }

    /// Token by token, so that sums grow in 16 bits as long as they fit, in registers.
    #[inline(always)]
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    ) {
        let a = C::step(self, block, 4 * half);
        let b = C::step(self, block, 4 * half + 1);
        let c = C::step(self, block, 4 * half + 2);
        let d = C::step(self, block, 4 * half + 3);
        for t in 0..T {
            let (x_a, x_b) = (self.word::<0>(x[t]), self.word::<1>(x[t]));
            let (x_c, x_d) = (self.word::<2>(x[t]), self.word::<3>(x[t]));
            for i in 0..4 {
                let two = self.multiply_add(self.multiply(a[i], x_a), b[i], x_b);
                // Products are at most 127 · 63, or with signed codes 127 · 128: four or two of them fit 16 bits.
                let (sum, three) = match C::BITS {
                    8 => (self.widen(sums[t][i], two), self.multiply(c[i], x_c)),
                    _ => (sums[t][i], self.multiply_add(two, c[i], x_c)),
                };
                sums[t][i] = self.widen(sum, self.multiply_add(three, d[i], x_d));
            }
        }
    }
}
