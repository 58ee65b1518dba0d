//! WebAssembly's integers: products of pairs of 16-bit integers, added to 32 bits by the same instruction.

use core::{arch::wasm32::*, array::from_fn};

use fewbit_format::{bf16, f16};

use super::wasm::{Quarters, Simd128, floats};
use crate::int::{Line, Width, power_of_two, simd::IntSimd};

/// Sixteen bytes of memory.
#[inline(always)]
fn bytes(x: &[u8; 16]) -> v128 {
    let [low, high] = x.as_chunks().0 else { unreachable!("sixteen bytes are twice eight") };
    u64x2(u64::from_le_bytes(*low), u64::from_le_bytes(*high))
}

impl IntSimd for Simd128 {
    type Bytes = Quarters;
    type Ints = Quarters;
    // Of each four rows, the sums of the first two pairs of columns and of the last two: lanes of a row are neighbours.
    type Sums = [[v128; 2]; 4];
    type Quad<'a> = &'a [i32; 4];
    const SIGNED: bool = true;
    const TOKENS: usize = 2;

    #[inline(always)]
    fn bytes(self, line: &Line) -> Quarters {
        let quarters = line.0.as_chunks().0;
        from_fn(|i| bytes(&quarters[i]))
    }
    #[inline(always)]
    fn field(self, x: Quarters, by: i32, mask: u8) -> Quarters {
        let mask = u8x16_splat(mask);
        let shift = by.unsigned_abs();
        x.map(|x| v128_and(if by < 0 { u8x16_shl(x, shift) } else { u8x16_shr(x, shift) }, mask))
    }
    #[inline(always)]
    fn join(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| v128_or(a[i], b[i]))
    }
    #[inline(always)]
    fn flip(self, x: Quarters) -> Quarters {
        x.map(|x| v128_xor(x, u8x16_splat(0x80)))
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: Quarters) -> Quarters {
        let table = bytes(table);
        x.map(|x| u8x16_swizzle(table, x))
    }

    #[inline(always)]
    fn quad(self, x: &[i32; 4]) -> &[i32; 4] {
        x
    }
    #[inline(always)]
    fn begin(self, start: Quarters) -> Self::Sums {
        // A row's start in the first of its lanes.
        let zero = i32x4_splat(0);
        start.map(|x| [i32x4_shuffle::<0, 4, 1, 5>(x, zero), i32x4_shuffle::<2, 4, 3, 5>(x, zero)])
    }
    #[inline(always)]
    fn dot<C: Width, const STEP: i32>(
        self,
        sums: Self::Sums,
        codes: Quarters,
        x: &[i32; 4],
    ) -> Self::Sums {
        let x = i16x8_extend_low_i8x16(i32x4_splat(x[STEP as usize]));
        from_fn(|i| {
            let (low, high) = (i16x8_extend_low_i8x16(codes[i]), i16x8_extend_high_i8x16(codes[i]));
            [
                i32x4_add(sums[i][0], i32x4_dot_i16x8(low, x)),
                i32x4_add(sums[i][1], i32x4_dot_i16x8(high, x)),
            ]
        })
    }
    #[inline(always)]
    fn end(self, sums: Self::Sums) -> Quarters {
        sums.map(|[low, high]| {
            let first = i32x4_shuffle::<0, 2, 4, 6>(low, high);
            let second = i32x4_shuffle::<1, 3, 5, 7>(low, high);
            i32x4_add(first, second)
        })
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Quarters {
        [i32x4_splat(x); 4]
    }
    #[inline(always)]
    fn add_ints(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| i32x4_add(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_ints(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| i32x4_mul(a[i], b[i]))
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> Quarters {
        let x = bytes(x);
        let (low, high) = (u16x8_extend_low_u8x16(x), u16x8_extend_high_u8x16(x));
        [
            u32x4_extend_low_u16x8(low),
            u32x4_extend_high_u16x8(low),
            u32x4_extend_low_u16x8(high),
            u32x4_extend_high_u16x8(high),
        ]
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> Quarters {
        let x = bytes(x);
        let (low, high) = (i16x8_extend_low_i8x16(x), i16x8_extend_high_i8x16(x));
        [
            i32x4_extend_low_i16x8(low),
            i32x4_extend_high_i16x8(low),
            i32x4_extend_low_i16x8(high),
            i32x4_extend_high_i16x8(high),
        ]
    }
    #[inline(always)]
    fn load_nibbles(self, x: &[u8; 16]) -> [Quarters; 2] {
        let wide = self.load_u8(x);
        [wide.map(|x| v128_and(x, u32x4_splat(15))), wide.map(|x| u32x4_shr(x, 4))]
    }
    #[inline(always)]
    fn to_floats(self, x: Quarters) -> Quarters {
        x.map(|x| f32x4_convert_i32x4(x))
    }
    #[inline(always)]
    fn halves(self, x: &[u8; 32]) -> Quarters {
        floats(from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32()))
    }
    #[inline(always)]
    fn brain_halves(self, x: &[u8; 32]) -> Quarters {
        floats(from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32()))
    }
    #[inline(always)]
    fn singles(self, x: &[u8; 64]) -> Quarters {
        let quarters = x.as_chunks().0;
        from_fn(|i| bytes(&quarters[i]))
    }
    #[inline(always)]
    fn powers_of_two(self, x: &[u8; 16]) -> Quarters {
        floats(x.map(power_of_two))
    }

    #[inline(always)]
    fn magnitudes(self, x: Quarters) -> Quarters {
        x.map(|x| f32x4_abs(x))
    }
    #[inline(always)]
    fn bits(self, x: Quarters) -> Quarters {
        x
    }
    #[inline(always)]
    fn max_ints(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| i32x4_max(a[i], b[i]))
    }
    #[inline(always)]
    fn largest(self, x: Quarters) -> i32 {
        let four = i32x4_max(i32x4_max(x[0], x[1]), i32x4_max(x[2], x[3]));
        let two = i32x4_max(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
        i32x4_extract_lane::<0>(two).max(i32x4_extract_lane::<1>(two))
    }
    #[inline(always)]
    fn sum_ints(self, x: Quarters) -> i32 {
        let four = i32x4_add(i32x4_add(x[0], x[1]), i32x4_add(x[2], x[3]));
        let two = i32x4_add(four, i32x4_shuffle::<2, 3, 0, 1>(four, four));
        i32x4_extract_lane::<0>(two).wrapping_add(i32x4_extract_lane::<1>(two))
    }
    #[inline(always)]
    fn store_bytes(self, x: Quarters, to: &mut [i32; 4]) {
        // All lie between −127 and 127.
        let (low, high) = (i16x8_narrow_i32x4(x[0], x[1]), i16x8_narrow_i32x4(x[2], x[3]));
        let bytes = i8x16_narrow_i16x8(low, high);
        *to = [
            i32x4_extract_lane::<0>(bytes),
            i32x4_extract_lane::<1>(bytes),
            i32x4_extract_lane::<2>(bytes),
            i32x4_extract_lane::<3>(bytes),
        ];
    }
}
