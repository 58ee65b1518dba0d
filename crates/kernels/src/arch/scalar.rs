//! Plain Rust: for machines without a vector unit that we know.

use core::array::from_fn;

use fewbit_format::{bf16, f16};

use crate::simd::{LANES, Simd, spread_mask};

/// No features needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scalar;

impl Simd for Scalar {
    type Floats = [f32; LANES];
    type Words = [u32; LANES];
    type Table = [f32; LANES];
    const TILE_WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> [f32; LANES] {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> [f32; LANES] {
        *x
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> [f32; LANES] {
        from_fn(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> [f32; LANES] {
        from_fn(|i| x[i].to_f32())
    }
    #[inline(always)]
    fn store(self, x: [f32; LANES], to: &mut [f32; LANES]) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> [u32; LANES] {
        *x
    }
    #[inline(always)]
    fn shift_right(self, x: [u32; LANES], by: u32) -> [u32; LANES] {
        from_fn(|i| x[i] >> by)
    }
    #[inline(always)]
    fn float_of_bits(self, x: [u32; LANES], mask: u32, set: u32) -> [f32; LANES] {
        from_fn(|i| f32::from_bits((x[i] & mask) | set))
    }
    #[inline(always)]
    fn table(self, entries: &[f32; LANES]) -> [f32; LANES] {
        *entries
    }
    #[inline(always)]
    fn look_up(self, table: [f32; LANES], x: [u32; LANES]) -> [f32; LANES] {
        x.map(|x| table[(x & 15) as usize])
    }
    #[inline(always)]
    fn spread_byte(self, x: [u32; LANES], byte: u32, drop: u32) -> [f32; LANES] {
        let spread = |x: u32| ((x << (24 - 8 * byte)) as i32 >> drop) as u32 & spread_mask(drop);
        x.map(|x| f32::from_bits(spread(x)))
    }
}
