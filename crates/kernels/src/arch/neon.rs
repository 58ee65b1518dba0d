//! NEON, which every 64-bit Arm has.

use core::arch::aarch64::*;

use fewbit_format::{bf16, f16};

use crate::{
    level::token,
    simd::{LANES, Simd},
};

token!(
    /// NEON with fused multiply-add.
    Neon,
    is_aarch64_feature_detected,
    ["neon"]
);

/// An intrinsic without a pointer.
macro_rules! value {
    ($call:expr) => {
        // SAFETY: the intrinsic works on values alone and needs only CPU features, which `self`, a token made after detection, proves.
        unsafe { $call }
    };
}

/// A load or store of four elements through a pointer made from a reference to a quarter of an array.
macro_rules! memory {
    ($call:expr) => {
        // SAFETY: the token proves the features; the pointer comes from a reference to four elements that is live for this expression.
        unsafe { $call }
    };
}

type Quarters<T> = [T; 4];

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

#[inline(always)]
fn quarter<T>(x: &[T; LANES], i: usize) -> &[T] {
    &x[4 * i..4 * i + 4]
}

impl Simd for Neon {
    type Floats = Quarters<float32x4_t>;
    type Words = Quarters<uint32x4_t>;
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
        // The conversion intrinsics are younger than our oldest compiler; integer arithmetic vectorizes as well.
        let mut wide = [0.0; LANES];
        for (wide, x) in wide.iter_mut().zip(x) {
            *wide = widen_f16(*x);
        }
        self.load(&wide)
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
}

/// Moves exponent and mantissa into place and multiplies by the difference of the biases, which also normalizes subnormals.
#[inline(always)]
fn widen_f16(x: f16) -> f32 {
    let bits = u32::from(x.to_bits());
    let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
    let special = if bits & 0x7c00 == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(magnitude.to_bits() | special | (bits & 0x8000) << 16)
}
