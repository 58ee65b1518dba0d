//! The interface between algorithms and vector units.

use fewbit_format::{bf16, f16};

/// Floats in a vector, whatever the registers of the level: algorithms written once then add in the same order everywhere.
pub(crate) const LANES: usize = 16;

/// Sixteen numbers in memory, aligned to a cache line: no vector load then touches two.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Aligned<T>(pub(crate) [T; LANES]);

/// Sixteen floats in memory.
pub(crate) type Lanes = Aligned<f32>;

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);
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

/// The bits that [`Simd::spread_byte`] leaves.
pub(crate) const fn spread_mask(drop: u32) -> u32 {
    1 << 31 | 0x7f00_0000 >> drop
}
