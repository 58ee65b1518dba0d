//! NEON, which every 64-bit Arm has.

use core::arch::{aarch64::*, asm};

use fewbit_format::{bf16, f16};

use crate::{
    level::token,
    simd::{LANES, Simd, spread_mask},
};

token!(
    /// NEON with fused multiply-add.
    Neon,
    is_aarch64_feature_detected,
    ["neon"]
);
token!(
    /// NEON with the products of four bytes that Cortex-A76 and Apple's cores have.
    NeonDot,
    is_aarch64_feature_detected,
    ["neon", "dotprod"]
);

token!(
    /// The same with products of two rows of eight bytes with two others, which Arm's cores from 2020 on have.
    NeonI8mm,
    is_aarch64_feature_detected,
    ["neon", "dotprod", "i8mm"]
);

/// A token of NEON. Floats are the same on all of them.
pub(crate) trait NeonToken: Copy + Send + Sync + 'static {}

impl NeonToken for Neon {}
impl NeonToken for NeonDot {}
impl NeonToken for NeonI8mm {}

pub(crate) type Quarters<T> = [T; 4];

/// An array of what an expression is for each quarter. No closure: those need not be inlined, and so compiled with the features.
macro_rules! quarters {
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
            {
                let $i = 2;
                $value
            },
            {
                let $i = 3;
                $value
            },
        ]
    };
}

pub(super) use quarters;

#[inline(always)]
fn quarter<T>(x: &[T; LANES], i: usize) -> &[T] {
    &x[4 * i..4 * i + 4]
}

/// Four half-precision floats, widened. The intrinsic is younger than our oldest compiler.
#[inline(always)]
pub(super) fn widen_f16<N: NeonToken>(_: N, x: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: the instruction works on registers alone; the token proves NEON, of which it is part.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {x:v}.4h",
            wide = lateout(vreg) wide,
            x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
}

impl<N: NeonToken> Simd for N {
    type Floats = Quarters<float32x4_t>;
    type Words = Quarters<uint32x4_t>;
    type Table = uint8x16x4_t;
    const TILE_WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::Floats {
        [value!(vdupq_n_f32(x)); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::Floats {
        quarters!(i => memory!(vld1q_f32(quarter(x, i).as_ptr())))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Self::Floats {
        quarters!(i => widen_f16(self, memory!(vld1_u16(quarter(x, i).as_ptr().cast()))))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::Floats {
        quarters!(i => {
            let half = memory!(vld1_u16(quarter(x, i).as_ptr().cast()));
            let bits = value!(vshll_n_u16::<16>(half));
            value!(vreinterpretq_f32_u32(bits))
        })
    }
    #[inline(always)]
    fn store(self, x: Self::Floats, to: &mut [f32; LANES]) {
        for (part, x) in to.chunks_exact_mut(4).zip(x) {
            memory!(vst1q_f32(part.as_mut_ptr(), x));
        }
    }
    #[inline(always)]
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(i => value!(vaddq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(i => value!(vsubq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        quarters!(i => value!(vmulq_f32(a[i], b[i])))
    }
    #[inline(always)]
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        quarters!(i => value!(vfmaq_f32(c[i], a[i], b[i])))
    }
    #[inline(always)]
    fn fused(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> Self::Words {
        quarters!(i => memory!(vld1q_u32(quarter(x, i).as_ptr())))
    }
    #[inline(always)]
    fn shift_right(self, x: Self::Words, by: u32) -> Self::Words {
        // NEON shifts left by a signed count.
        let by = value!(vdupq_n_s32(-(by as i32)));
        quarters!(i => value!(vshlq_u32(x[i], by)))
    }
    #[inline(always)]
    fn float_of_bits(self, x: Self::Words, mask: u32, set: u32) -> Self::Floats {
        let mask = value!(vdupq_n_u32(mask));
        let set = value!(vdupq_n_u32(set));
        quarters!(i => {
            let masked = value!(vandq_u32(x[i], mask));
            let bits = value!(vorrq_u32(masked, set));
            value!(vreinterpretq_f32_u32(bits))
        })
    }
    #[inline(always)]
    fn table(self, entries: &[f32; LANES]) -> uint8x16x4_t {
        let [a, b, c, d] = quarters!(i => {
            let four = memory!(vld1q_f32(quarter(entries, i).as_ptr()));
            value!(vreinterpretq_u8_f32(four))
        });
        uint8x16x4_t(a, b, c, d)
    }
    #[inline(always)]
    fn look_up(self, table: uint8x16x4_t, x: Self::Words) -> Self::Floats {
        // The four bytes of entry i are 4 i to 4 i + 3.
        let mask = value!(vdupq_n_u32(15));
        let four = value!(vdupq_n_u32(0x0404_0404));
        let first = value!(vdupq_n_u32(0x0302_0100));
        quarters!(i => {
            let entry = value!(vandq_u32(x[i], mask));
            let bytes = value!(vmlaq_u32(first, entry, four));
            let index = value!(vreinterpretq_u8_u32(bytes));
            let floats = value!(vqtbl4q_u8(table, index));
            value!(vreinterpretq_f32_u8(floats))
        })
    }
    #[inline(always)]
    fn spread_byte(self, x: Self::Words, byte: u32, drop: u32) -> Self::Floats {
        let up = value!(vdupq_n_s32(24 - 8 * byte as i32));
        let down = value!(vdupq_n_s32(-(drop as i32)));
        let mask = value!(vdupq_n_u32(spread_mask(drop)));
        quarters!(i => {
            let top = value!(vshlq_u32(x[i], up));
            let top = value!(vreinterpretq_s32_u32(top));
            let spread = value!(vshlq_s32(top, down));
            let spread = value!(vreinterpretq_u32_s32(spread));
            let bits = value!(vandq_u32(spread, mask));
            value!(vreinterpretq_f32_u32(bits))
        })
    }
}
