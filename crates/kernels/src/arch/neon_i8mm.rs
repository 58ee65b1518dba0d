//! Products of bytes on Arm with `smmla`: two rows of eight columns with two tokens.
//!
//! The sums of two tokens lie together: of each four rows, the first of the two has those of rows 0 and 1, the second those of rows 2 and 3.
//!
//! ```text
//! lane                0              1              2              3
//! first token's sums  row 0 token 0  row 0 token 1  row 1 token 0  row 1 token 1
//! second's            row 2 token 0  row 2 token 1  row 3 token 0  row 3 token 1
//! ```

use core::arch::{aarch64::*, asm};

use super::{
    neon::{NeonI8mm, Quarters, quarters},
    neon_dot::{DotUnit, Sums, sdot},
};
use crate::int::{Codes, Line, Width, simd::step_by_step};

impl NeonI8mm {
    /// Adds the products of two rows of eight codes with two tokens' activations of the same columns.
    #[inline(always)]
    fn smmla(self, sums: &mut int32x4_t, codes: int32x4_t, x: int8x16_t) {
        // SAFETY: the instruction works on registers alone; the token, made after detection, proves that it exists. (The intrinsic is not stable yet.)
        unsafe {
            asm!(
                ".arch_extension i8mm",
                "smmla {sums:v}.4s, {codes:v}.16b, {x:v}.16b",
                sums = inlateout(vreg) *sums,
                codes = in(vreg) codes,
                x = in(vreg) x,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
    }
}

impl DotUnit for NeonI8mm {
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
    fn begin_sum<const T: usize>(self, sums: &mut [Sums; T], token: usize, start: Sums) {
        if T == 1 {
            sums[token] = start;
            return;
        }
        let zero = value!(vdupq_n_s32(0));
        let pair = token & !1;
        for i in 0..4 {
            let [a, b] = if token == pair { [start[i], zero] } else { [zero, start[i]] };
            let (low, high) = (value!(vzip1q_s32(a, b)), value!(vzip2q_s32(a, b)));
            sums[pair][i] = value!(vaddq_s32(sums[pair][i], low));
            sums[pair + 1][i] = value!(vaddq_s32(sums[pair + 1][i], high));
        }
    }

    #[inline(always)]
    fn end_sum<const T: usize>(self, sums: &[Sums; T], token: usize) -> Sums {
        if T == 1 {
            return sums[token];
        }
        let pair = token & !1;
        let (low, high) = (sums[pair], sums[pair + 1]);
        if token == pair {
            quarters!(i => value!(vuzp1q_s32(low[i], high[i])))
        } else {
            quarters!(i => value!(vuzp2q_s32(low[i], high[i])))
        }
    }

    #[inline(always)]
    fn add_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Sums; T],
        block: &[Line],
        half: usize,
        x: [int8x16_t; T],
    ) {
        // With one token `smmla` would multiply half in vain.
        if T == 1 {
            step_by_step::<Self, C, T>(self, sums, block, half, x);
            return;
        }
        macro_rules! two_steps {
            ($first:literal, $zip:ident) => {
                let a = C::step(self, block, 4 * half + $first);
                let b = C::step(self, block, 4 * half + $first + 1);
                let a = quarters!(i => value!(vreinterpretq_s32_u8(a[i])));
                let b = quarters!(i => value!(vreinterpretq_s32_u8(b[i])));
                // Eight columns of two rows beside each other.
                let low = quarters!(i => value!(vzip1q_s32(a[i], b[i])));
                let high = quarters!(i => value!(vzip2q_s32(a[i], b[i])));
                for pair in (0..T).step_by(2) {
                    let first = value!(vreinterpretq_s64_s8(x[pair]));
                    let second = value!(vreinterpretq_s64_s8(x[pair + 1]));
                    let x = value!(vreinterpretq_s8_s64($zip(first, second)));
                    for i in 0..4 {
                        self.smmla(&mut sums[pair][i], low[i], x);
                        self.smmla(&mut sums[pair + 1][i], high[i], x);
                    }
                }
            };
        }
        two_steps!(0, vzip1q_s64);
        two_steps!(2, vzip2q_s64);
    }
}
