//! Products of bytes on Arm: `sdot` adds four a lane with one instruction; without it, products are added in 16 bits, then in 32.

use core::arch::{aarch64::*, asm};

use super::neon::{Neon, NeonDot, NeonI8mm, Quarters};
use crate::int::{Codes, Line, Width, simd::step_by_step};

/// How a kind of NEON multiplies signed bytes: see `IntSimd`.
pub(crate) trait DotUnit: Copy {
    /// Sixteen sums of products.
    type Sums: Copy;
    /// Sums that begin with `start`.
    fn begin_sums(self, start: Quarters<int32x4_t>) -> Self::Sums;
    /// Adds the products of four rows' codes with word `STEP` of `x`.
    fn add_products<C: Width, const STEP: i32>(
        self,
        sums: Self::Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Self::Sums;
    /// The sums.
    fn end_sums(self, sums: Self::Sums) -> Quarters<int32x4_t>;
    /// See `IntSimd::begin_token`.
    #[inline(always)]
    fn begin_token<const T: usize>(
        self,
        sums: &mut [Self::Sums; T],
        token: usize,
        start: Quarters<int32x4_t>,
    ) {
        sums[token] = self.begin_sums(start);
    }
    /// See `IntSimd::end_token`.
    #[inline(always)]
    fn end_token<const T: usize>(
        self,
        sums: &[Self::Sums; T],
        token: usize,
    ) -> Quarters<int32x4_t> {
        self.end_sums(sums[token])
    }
    /// See `IntSimd::dot_half`.
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Self::Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    );
}

/// Adds to four sums in each quarter the products of four bytes with word `STEP` of `x`.
#[inline(always)]
pub(super) fn sdot<const STEP: i32>(
    _: impl HasDot,
    mut sums: Quarters<int32x4_t>,
    codes: Quarters<uint8x16_t>,
    x: int8x16_t,
) -> Quarters<int32x4_t> {
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

/// A token that proves `sdot`.
pub(super) trait HasDot {}

impl HasDot for NeonDot {}
impl HasDot for NeonI8mm {}

impl DotUnit for NeonDot {
    type Sums = Quarters<int32x4_t>;

    #[inline(always)]
    fn begin_sums(self, start: Quarters<int32x4_t>) -> Self::Sums {
        start
    }

    #[inline(always)]
    fn add_products<C: Width, const STEP: i32>(
        self,
        sums: Self::Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Self::Sums {
        sdot::<STEP>(self, sums, codes, x)
    }

    #[inline(always)]
    fn end_sums(self, sums: Self::Sums) -> Quarters<int32x4_t> {
        sums
    }

    #[inline(always)]
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Self::Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    ) {
        step_by_step::<Self, C, T>(self, sums, block, half, x);
    }
}

/// Sums of the steps since the last addition to `wide`, a lane for each product of a row, and of all before.
#[derive(Clone, Copy)]
pub(crate) struct Sums {
    wide: Quarters<int32x4_t>,
    narrow: [Quarters<int16x8_t>; 2],
}

impl DotUnit for Neon {
    type Sums = Sums;

    #[inline(always)]
    fn begin_sums(self, start: Quarters<int32x4_t>) -> Sums {
        Sums { wide: start, narrow: [[value!(vdupq_n_s16(0)); 4]; 2] }
    }

    #[inline(always)]
    fn add_products<C: Width, const STEP: i32>(
        self,
        mut sums: Sums,
        codes: Quarters<uint8x16_t>,
        x: int8x16_t,
    ) -> Sums {
        // Products are at most 127 · 63, or with signed codes 127 · 128: this many of them fit 16 bits.
        let fit = if C::BITS == 8 { 2 } else { 4 };
        let words = value!(vreinterpretq_s32_s8(x));
        let word = value!(vdupq_laneq_s32::<STEP>(words));
        let x = value!(vreinterpretq_s8_s32(word));
        let x_low = value!(vget_low_s8(x));
        for i in 0..4 {
            let codes = value!(vreinterpretq_s8_u8(codes[i]));
            let low = value!(vget_low_s8(codes));
            let [narrow_low, narrow_high] = &mut sums.narrow;
            if STEP % fit == 0 {
                narrow_low[i] = value!(vmull_s8(low, x_low));
                narrow_high[i] = value!(vmull_high_s8(codes, x));
            } else {
                narrow_low[i] = value!(vmlal_s8(narrow_low[i], low, x_low));
                narrow_high[i] = value!(vmlal_high_s8(narrow_high[i], codes, x));
            }
            if STEP % fit == fit - 1 {
                let low = value!(vpaddlq_s16(narrow_low[i]));
                let high = value!(vpaddlq_s16(narrow_high[i]));
                let rows = value!(vpaddq_s32(low, high));
                sums.wide[i] = value!(vaddq_s32(sums.wide[i], rows));
            }
        }
        sums
    }

    #[inline(always)]
    fn end_sums(self, sums: Sums) -> Quarters<int32x4_t> {
        sums.wide
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
