//! WebAssembly's vectors of 128 bits. A module either uses them or cannot: they are a level of builds with `-C target-feature=+simd128`, and nothing is asked at run time.
//!
//! There is no fused multiply-add: results are those of the scalar level, bit for bit.

use core::{arch::wasm32::*, array::from_fn};

use fewbit_format::{bf16, f16};

use crate::{
    level::Kernel,
    simd::{LANES, Simd, spread_mask},
};

/// Made only in builds with vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Simd128(());

impl Simd128 {
    /// The token.
    pub(crate) fn detect() -> Option<Self> {
        Some(Self(()))
    }

    /// Runs a kernel.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.run(self)
    }
}

pub(super) type Quarters = [v128; 4];

/// Sixteen floats.
#[inline(always)]
pub(super) fn floats(x: [f32; LANES]) -> Quarters {
    let quarters = x.as_chunks::<4>().0;
    from_fn(|i| {
        let [a, b, c, d] = quarters[i];
        f32x4(a, b, c, d)
    })
}

/// Sixteen words.
#[inline(always)]
fn words(x: [u32; LANES]) -> Quarters {
    let quarters = x.as_chunks::<4>().0;
    from_fn(|i| {
        let [a, b, c, d] = quarters[i];
        u32x4(a, b, c, d)
    })
}

/// The lanes of sixteen words.
#[inline(always)]
fn lanes(x: Quarters) -> [u32; LANES] {
    let mut lanes = [0; LANES];
    for (lanes, x) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(x) {
        *lanes = [
            u32x4_extract_lane::<0>(x),
            u32x4_extract_lane::<1>(x),
            u32x4_extract_lane::<2>(x),
            u32x4_extract_lane::<3>(x),
        ];
    }
    lanes
}

impl Simd for Simd128 {
    type Floats = Quarters;
    type Words = Quarters;
    type Table = [f32; LANES];
    const TILE_WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Quarters {
        [f32x4_splat(x); 4]
    }
    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Quarters {
        floats(*x)
    }
    #[inline(always)]
    fn load_f16(self, x: &[f16; LANES]) -> Quarters {
        floats(x.map(f16::to_f32))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[bf16; LANES]) -> Quarters {
        floats(x.map(bf16::to_f32))
    }
    #[inline(always)]
    fn store(self, x: Quarters, to: &mut [f32; LANES]) {
        *to = lanes(x).map(f32::from_bits);
    }
    #[inline(always)]
    fn add(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| f32x4_add(a[i], b[i]))
    }
    #[inline(always)]
    fn sub(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| f32x4_sub(a[i], b[i]))
    }
    #[inline(always)]
    fn mul(self, a: Quarters, b: Quarters) -> Quarters {
        from_fn(|i| f32x4_mul(a[i], b[i]))
    }
    #[inline(always)]
    fn mul_add(self, a: Quarters, b: Quarters, c: Quarters) -> Quarters {
        from_fn(|i| f32x4_add(f32x4_mul(a[i], b[i]), c[i]))
    }
    #[inline(always)]
    fn load_words(self, x: &[u32; LANES]) -> Quarters {
        words(*x)
    }
    #[inline(always)]
    fn shift_right(self, x: Quarters, by: u32) -> Quarters {
        x.map(|x| u32x4_shr(x, by))
    }
    #[inline(always)]
    fn float_of_bits(self, x: Quarters, mask: u32, set: u32) -> Quarters {
        let (mask, set) = (u32x4_splat(mask), u32x4_splat(set));
        x.map(|x| v128_or(v128_and(x, mask), set))
    }
    #[inline(always)]
    fn table(self, entries: &[f32; LANES]) -> [f32; LANES] {
        *entries
    }
    #[inline(always)]
    fn look_up(self, table: [f32; LANES], x: Quarters) -> Quarters {
        floats(lanes(x).map(|x| table[(x & 15) as usize]))
    }
    #[inline(always)]
    fn spread_byte(self, x: Quarters, byte: u32, drop: u32) -> Quarters {
        let mask = u32x4_splat(spread_mask(drop));
        x.map(|x| v128_and(i32x4_shr(i32x4_shl(x, 24 - 8 * byte), drop), mask))
    }
}
