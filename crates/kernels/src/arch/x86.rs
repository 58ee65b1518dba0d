//! AVX2 with FMA and F16C, and AVX-512.

use core::arch::{asm, x86_64::*};

use fewbit_format::{bf16, f16};

use crate::{
    level::token,
    simd::{LANES, Simd, spread_mask},
};

token!(
    /// AVX2, fused multiply-add, half-precision conversion.
    Avx2, is_x86_feature_detected, ["avx2", "fma", "f16c", "bmi2"]
);
token!(
    /// AVX-512 as servers have had it since Cascade Lake and Zen 4.
    Avx512,
    is_x86_feature_detected,
    ["avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni", "avx2", "fma", "f16c", "bmi2"]
);

/// Sixty-four bytes as two loads of 32: a Zen 4 core reads floats in pages of the usual size a tenth faster so. One is assembly, because the compiler makes one load of two.
///
/// # Safety
/// All of the bytes can be read.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(from: *const u8) -> __m512i {
    let low: __m256i;
    // SAFETY: reads the first 32 bytes from `from`, which the caller promises can be read, and writes a register.
    unsafe {
        asm!(
            "vmovdqu {low}, [{from}]",
            low = out(ymm_reg) low,
            from = in(reg) from,
            options(pure, readonly, nostack, preserves_flags)
        );
    }
    let upper = from.wrapping_add(32).cast();
    // SAFETY: the other 32 bytes, which the caller promises too.
    let high = unsafe { _mm256_loadu_si256(upper) };
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// The upper half of an array.
#[inline(always)]
fn upper<T>(x: &[T; LANES]) -> *const T {
    x[LANES / 2..].as_ptr()
}

impl Avx2 {
    #[inline(always)]
    fn widen_bf16(self, x: __m128i) -> __m256 {
        let wide = value!(_mm256_cvtepu16_epi32(x));
        let bits = value!(_mm256_slli_epi32::<16>(wide));
        value!(_mm256_castsi256_ps(bits))
    }

    #[inline(always)]
    fn float_of_half(self, x: __m256i, mask: u32, set: u32) -> __m256 {
        let mask = value!(_mm256_set1_epi32(mask as i32));
        let set = value!(_mm256_set1_epi32(set as i32));
        let masked = value!(_mm256_and_si256(x, mask));
        let bits = value!(_mm256_or_si256(masked, set));
        value!(_mm256_castsi256_ps(bits))
    }

    /// Entries of a table by the lowest four bits of each word.
    #[inline(always)]
    fn look_up_half(self, table: [__m256; 2], x: __m256i) -> __m256 {
        let low = value!(_mm256_permutevar8x32_ps(table[0], x));
        let high = value!(_mm256_permutevar8x32_ps(table[1], x));
        // The fourth bit chooses.
        let choice = value!(_mm256_slli_epi32::<28>(x));
        let choice = value!(_mm256_castsi256_ps(choice));
        value!(_mm256_blendv_ps(low, high, choice))
    }

    /// See [`Simd::spread_byte`].
    #[inline(always)]
    fn spread_half(self, x: __m256i, byte: u32, drop: u32) -> __m256 {
        let up = value!(_mm_cvtsi32_si128(24 - 8 * byte as i32));
        let down = value!(_mm_cvtsi32_si128(drop as i32));
        let top = value!(_mm256_sll_epi32(x, up));
        let spread = value!(_mm256_sra_epi32(top, down));
        let mask = value!(_mm256_set1_epi32(spread_mask(drop) as i32));
        let bits = value!(_mm256_and_si256(spread, mask));
        value!(_mm256_castsi256_ps(bits))
    }

    /// The sum of eight lanes, halves onto each other.
    #[inline(always)]
    fn sum_of_eight(self, x: __m256) -> f32 {
        let low = value!(_mm256_castps256_ps128(x));
        let high = value!(_mm256_extractf128_ps::<1>(x));
        let four = value!(_mm_add_ps(low, high));
        let high = value!(_mm_movehl_ps(four, four));
        let two = value!(_mm_add_ps(four, high));
        let second = value!(_mm_movehdup_ps(two));
        let one = value!(_mm_add_ss(two, second));
        value!(_mm_cvtss_f32(one))
    }
}

impl Simd for Avx2 {
    type Floats = [__m256; 2];
    type Words = [__m256i; 2];
    type Table = [__m256; 2];
    const TILE_WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [__m256; 2] {
        [value!(_mm256_set1_ps(x)); 2]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [__m256; 2] {
        [memory!(_mm256_loadu_ps(x.as_ptr())), memory!(_mm256_loadu_ps(upper(x)))]
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [__m256; 2] {
        let low = memory!(_mm_loadu_si128(x.as_ptr().cast()));
        let high = memory!(_mm_loadu_si128(upper(x).cast()));
        [value!(_mm256_cvtph_ps(low)), value!(_mm256_cvtph_ps(high))]
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> [__m256; 2] {
        let low = memory!(_mm_loadu_si128(x.as_ptr().cast()));
        let high = memory!(_mm_loadu_si128(upper(x).cast()));
        [self.widen_bf16(low), self.widen_bf16(high)]
    }
    #[inline(always)]
    fn store(self, x: [__m256; 2], to: &mut [f32; LANES]) {
        let (low, high) = to.split_at_mut(LANES / 2);
        memory!(_mm256_storeu_ps(low.as_mut_ptr(), x[0]));
        memory!(_mm256_storeu_ps(high.as_mut_ptr(), x[1]));
    }
    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [value!(_mm256_add_ps(a[0], b[0])), value!(_mm256_add_ps(a[1], b[1]))]
    }
    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [value!(_mm256_sub_ps(a[0], b[0])), value!(_mm256_sub_ps(a[1], b[1]))]
    }
    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        [value!(_mm256_mul_ps(a[0], b[0])), value!(_mm256_mul_ps(a[1], b[1]))]
    }
    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        [value!(_mm256_fmadd_ps(a[0], b[0], c[0])), value!(_mm256_fmadd_ps(a[1], b[1], c[1]))]
    }
    #[inline(always)]
    fn fused(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn sum(self, x: [__m256; 2]) -> f32 {
        self.sum_of_eight(value!(_mm256_add_ps(x[0], x[1])))
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> [__m256i; 2] {
        [
            memory!(_mm256_loadu_si256(x.as_ptr().cast())),
            memory!(_mm256_loadu_si256(upper(x).cast())),
        ]
    }
    #[inline(always)]
    fn shift_right(self, x: [__m256i; 2], by: u32) -> [__m256i; 2] {
        let by = value!(_mm_cvtsi32_si128(by as i32));
        [value!(_mm256_srl_epi32(x[0], by)), value!(_mm256_srl_epi32(x[1], by))]
    }
    #[inline(always)]
    fn float_of_bits(self, x: [__m256i; 2], mask: u32, set: u32) -> [__m256; 2] {
        [self.float_of_half(x[0], mask, set), self.float_of_half(x[1], mask, set)]
    }
    #[inline(always)]
    fn table(self, entries: &[f32; LANES]) -> [__m256; 2] {
        self.load(entries)
    }
    #[inline(always)]
    fn look_up(self, table: [__m256; 2], x: [__m256i; 2]) -> [__m256; 2] {
        [self.look_up_half(table, x[0]), self.look_up_half(table, x[1])]
    }
    #[inline(always)]
    fn spread_byte(self, x: [__m256i; 2], byte: u32, drop: u32) -> [__m256; 2] {
        [self.spread_half(x[0], byte, drop), self.spread_half(x[1], byte, drop)]
    }
}

impl Simd for Avx512 {
    type Floats = __m512;
    type Words = __m512i;
    type Table = __m512;
    const TILE_WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        value!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> __m512 {
        memory!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn stream(self, x: &[f32; LANES]) -> __m512 {
        let bytes = memory!(halves(x.as_ptr().cast()));
        value!(_mm512_castsi512_ps(bytes))
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> __m512 {
        let half = memory!(_mm256_loadu_si256(x.as_ptr().cast()));
        value!(_mm512_cvtph_ps(half))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> __m512 {
        let half = memory!(_mm256_loadu_si256(x.as_ptr().cast()));
        let wide = value!(_mm512_cvtepu16_epi32(half));
        let bits = value!(_mm512_slli_epi32::<16>(wide));
        value!(_mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; LANES]) {
        memory!(_mm512_storeu_ps(to.as_mut_ptr(), x));
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        value!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        value!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fused(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        self.mul_add(a, b, c)
    }
    #[inline(always)]
    fn sum(self, x: __m512) -> f32 {
        let low = value!(_mm512_castps512_ps256(x));
        let high = value!(_mm512_extractf32x8_ps::<1>(x));
        // Every feature of the other token is among those of this one.
        Avx2(()).sum_of_eight(value!(_mm256_add_ps(low, high)))
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> __m512i {
        memory!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn shift_right(self, x: __m512i, by: u32) -> __m512i {
        let by = value!(_mm_cvtsi32_si128(by as i32));
        value!(_mm512_srl_epi32(x, by))
    }
    #[inline(always)]
    fn float_of_bits(self, x: __m512i, mask: u32, set: u32) -> __m512 {
        let mask = value!(_mm512_set1_epi32(mask as i32));
        let set = value!(_mm512_set1_epi32(set as i32));
        let masked = value!(_mm512_and_si512(x, mask));
        let bits = value!(_mm512_or_si512(masked, set));
        value!(_mm512_castsi512_ps(bits))
    }
    #[inline(always)]
    fn table(self, entries: &[f32; LANES]) -> __m512 {
        self.load(entries)
    }
    #[inline(always)]
    fn look_up(self, table: __m512, x: __m512i) -> __m512 {
        value!(_mm512_permutexvar_ps(x, table))
    }
    #[inline(always)]
    fn spread_byte(self, x: __m512i, byte: u32, drop: u32) -> __m512 {
        let up = value!(_mm_cvtsi32_si128(24 - 8 * byte as i32));
        let down = value!(_mm_cvtsi32_si128(drop as i32));
        let top = value!(_mm512_sll_epi32(x, up));
        let spread = value!(_mm512_sra_epi32(top, down));
        let mask = value!(_mm512_set1_epi32(spread_mask(drop) as i32));
        let bits = value!(_mm512_and_si512(spread, mask));
        value!(_mm512_castsi512_ps(bits))
    }
}
