//! Plain Rust: the oracle of the integer products.

use core::array::from_fn;

use fewbit_format::{bf16, f16};

use super::Scalar;
use crate::int::{Line, Width, power_of_two, simd::IntSimd};

impl IntSimd for Scalar {
    type Bytes = [u8; 64];
    type Ints = [i32; 16];
    type Sums = [i32; 16];
    type Quad<'a> = &'a [i32; 4];
    const SIGNED: bool = false;
    const TOKENS: usize = 1;

    #[inline(always)]
    fn bytes(self, line: &Line) -> [u8; 64] {
        line.0
    }
    #[inline(always)]
    fn field(self, x: [u8; 64], by: i32, mask: u8) -> [u8; 64] {
        x.map(|x| if by < 0 { x << -by } else { x >> by } & mask)
    }
    #[inline(always)]
    fn join(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    fn flip(self, x: [u8; 64]) -> [u8; 64] {
        x.map(|x| x ^ 0x80)
    }
    #[inline(always)]
    fn lookup(self, table: &[u8; 16], x: [u8; 64]) -> [u8; 64] {
        x.map(|x| table[usize::from(x)])
    }

    #[inline(always)]
    fn quad(self, x: &[i32; 4]) -> &[i32; 4] {
        x
    }
    #[inline(always)]
    fn begin(self, start: [i32; 16]) -> [i32; 16] {
        start
    }
    #[inline(always)]
    fn dot<C: Width, const STEP: i32>(
        self,
        sums: [i32; 16],
        codes: [u8; 64],
        x: &[i32; 4],
    ) -> [i32; 16] {
        let x = x[STEP as usize].to_le_bytes();
        from_fn(|row| {
            let products = (0..4).map(|c| i32::from(codes[4 * row + c]) * i32::from(x[c] as i8));
            sums[row].wrapping_add(products.sum())
        })
    }
    #[inline(always)]
    fn end(self, sums: [i32; 16]) -> [i32; 16] {
        sums
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> [i32; 16] {
        [x; 16]
    }
    #[inline(always)]
    fn add_ints(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn mul_ints(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn load_u8(self, x: &[u8; 16]) -> [i32; 16] {
        x.map(i32::from)
    }
    #[inline(always)]
    fn load_i8(self, x: &[u8; 16]) -> [i32; 16] {
        x.map(|x| i32::from(x as i8))
    }
    #[inline(always)]
    fn load_nibbles(self, x: &[u8; 16]) -> [[i32; 16]; 2] {
        [x.map(|x| i32::from(x & 15)), x.map(|x| i32::from(x >> 4))]
    }
    #[inline(always)]
    fn to_floats(self, x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }
    #[inline(always)]
    fn halves(self, x: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn brain_halves(self, x: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn singles(self, x: &[u8; 64]) -> [f32; 16] {
        from_fn(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn powers_of_two(self, x: &[u8; 16]) -> [f32; 16] {
        x.map(power_of_two)
    }

    #[inline(always)]
    fn magnitudes(self, x: [f32; 16]) -> [i32; 16] {
        x.map(|x| x.abs().to_bits() as i32)
    }
    #[inline(always)]
    fn bits(self, x: [f32; 16]) -> [i32; 16] {
        x.map(|x| x.to_bits() as i32)
    }
    #[inline(always)]
    fn max_ints(self, a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        from_fn(|i| a[i].max(b[i]))
    }
    #[inline(always)]
    fn largest(self, x: [i32; 16]) -> i32 {
        x.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    fn sum_ints(self, x: [i32; 16]) -> i32 {
        x.into_iter().fold(0, i32::wrapping_add)
    }
    #[inline(always)]
    fn store_bytes(self, x: [i32; 16], to: &mut [i32; 4]) {
        for (to, x) in to.iter_mut().zip(x.as_chunks::<4>().0) {
            *to = i32::from_le_bytes(x.map(|x| x as u8));
        }
    }
}
