//! The interface between algorithms and vector units.

use fewbit_format::{bf16, f16};

/// Floats in a vector, whatever the registers of the level: algorithms written once then add in the same order everywhere.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers in memory, aligned to a cache line: no vector load then touches two.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct Aligned<T>(pub [T; LANES]);

/// Sixteen floats in memory.
pub type Lanes = Aligned<f32>;

impl Lanes {
    /// Zeros.
    pub const ZERO: Self = Self([0.0; LANES]);
}

/// Sixteen lanes of `f32` or `u32`, and the few operations that the kernels are made of.
///
/// The implementing type is a token that proves the CPU features, so all methods are safe. They are `#[inline(always)]`, to be compiled
/// into the function that enables those features.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen floats.
    type Floats: Copy;
    /// Sixteen 32-bit words.
    type Words: Copy;
    /// Sixteen floats to choose from.
    type Table: Copy;
    /// Vectors by which the matrix product's inner tile is wide (see `gemm`), and rows by which it is high: as many accumulators as the
    /// registers hold.
    const TILE_WIDE: bool;

    /// The same float in every lane.
    fn splat(self, x: f32) -> Self::Floats;
    /// Sixteen floats from memory.
    fn load(self, x: &[f32; LANES]) -> Self::Floats;
    /// Sixteen floats that come from memory rather than from a cache.
    #[inline(always)]
    fn stream(self, x: &[f32; LANES]) -> Self::Floats {
        self.load(x)
    }
    /// Sixteen half-precision floats from memory, widened.
    fn load_f16(self, x: &[f16; LANES]) -> Self::Floats;
    /// Sixteen bfloat16 from memory, widened.
    fn load_bf16(self, x: &[bf16; LANES]) -> Self::Floats;
    /// To memory.
    fn store(self, x: Self::Floats, to: &mut [f32; LANES]);
    /// a + b.
    fn add(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a − b.
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a · b + c; rounded once on every level except the scalar one.
    fn mul_add(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// a · b + c, rounded once on every level: slow where there is no instruction for it.
    #[inline(always)]
    fn fused(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        let lanes = |x| {
            let mut lanes = [0.0; LANES];
            self.store(x, &mut lanes);
            lanes
        };
        let (a, b, c) = (lanes(a), lanes(b), lanes(c));
        self.load(&core::array::from_fn(|i| fused(a[i], b[i], c[i])))
    }
    /// Sixteen words from memory.
    fn load_words(self, x: &[u32; LANES]) -> Self::Words;
    /// Each word shifted right.
    fn shift_right(self, x: Self::Words, by: u32) -> Self::Words;
    /// The bits `(x & mask) | set` as a float.
    fn float_of_bits(self, x: Self::Words, mask: u32, set: u32) -> Self::Floats;

    /// A table in registers.
    fn table(self, entries: &[f32; LANES]) -> Self::Table;
    /// For each word the entry that its lowest four bits name.
    fn look_up(self, table: Self::Table, x: Self::Words) -> Self::Floats;
    /// Byte `byte` of each word, its highest bit moved to the sign of a float and the others to `drop` bits below it, where all between is 0.
    fn spread_byte(self, x: Self::Words, byte: u32, drop: u32) -> Self::Floats;

    /// The sum of the lanes, in a fixed order: halves onto each other until one is left.
    #[inline(always)]
    fn sum(self, x: Self::Floats) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        lanes[0]
    }
}

/// a · b + c, rounded once. (`f32::mul_add` is not in `core`.)
///
/// The product is exact in f64. Their sum is rounded to odd there, which leaves enough of what is lost for the second rounding to be right (Boldo and Melquiond,
/// *Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to odd*, 2008).
fn fused(a: f32, b: f32, c: f32) -> f32 {
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let added = sum - product;
    let lost = (product - (sum - added)) + (c - added);
    let bits = sum.to_bits();
    let odd = if !sum.is_finite() || lost == 0.0 || bits & 1 == 1 {
        bits
    } else if (lost > 0.0) == (sum > 0.0) {
        bits + 1
    } else {
        bits - 1
    };
    f64::from_bits(odd) as f32
}

/// The bits that [`Simd::spread_byte`] leaves.
pub(crate) const fn spread_mask(drop: u32) -> u32 {
    1 << 31 | 0x7f00_0000 >> drop
}

#[cfg(test)]
mod tests {
    use super::fused;

    /// Where rounding twice would go wrong: the sum lies next to the middle of two floats.
    #[test]
    fn fused_products_are_rounded_once() {
        let tiny = f32::from_bits(1);
        // Their product is half of the last place of `odd`, less 2⁻⁷⁰.
        let scaled = |x: f32| x * 2f32.powi(-12);
        let (above, below) = (scaled(1.0 + f32::EPSILON), scaled(1.0 - f32::EPSILON));
        let odd = 1.0 + f32::EPSILON;
        let values = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            odd,
            -odd,
            above,
            below,
            -below,
            tiny,
            -tiny,
            3e38,
            -3e38,
            0.1,
            f32::INFINITY,
        ];
        let mut middle = 0;
        for a in values {
            for b in values {
                for c in values {
                    let (ours, exact) = (fused(a, b, c), a.mul_add(b, c));
                    assert!(
                        ours.to_bits() == exact.to_bits() || ours.is_nan() && exact.is_nan(),
                        "{a} {b} {c}"
                    );
                    let twice = (f64::from(a) * f64::from(b) + f64::from(c)) as f32;
                    middle += usize::from(twice.to_bits() != exact.to_bits() && !exact.is_nan());
                }
            }
        }
        assert!(middle > 0, "no case in which rounding twice is wrong");
    }
}
