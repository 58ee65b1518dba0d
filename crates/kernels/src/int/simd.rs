//! The interface between the integer algorithms and vector units.

use super::{
    codes::{Codes, Width},
    line::Line,
};
use crate::simd::Simd;

/// Sixteen rows of weights beside each other: one 32-bit lane a row, four columns a lane.
///
/// As with [`Simd`], the implementing type proves the CPU features, all methods are safe and `#[inline(always)]`. Integer results are exact, so that
/// they are equal on every level, in whatever order a level adds.
pub(crate) trait IntSimd: Simd {
    /// Sixty-four bytes: byte `4 · row + column`.
    type Bytes: Copy;
    /// Sixteen 32-bit integers.
    type Ints: Copy;
    /// Sixteen sums of products, in whatever form they grow.
    type Sums: Copy;
    /// Activations of sixteen columns, loaded or ready to be.
    type Quad<'a>: Copy;

    /// Whether [`dot`](Self::dot) takes 8-bit codes as `code − 128`, as [`flip`](Self::flip) makes them. Narrower codes are their values on every level.
    const SIGNED: bool;
    /// Tokens of the largest panel.
    const TOKENS: usize;

    /// A line of bytes.
    fn bytes(self, line: &Line) -> Self::Bytes;
    /// Each byte shifted right by `by` bits, or left where that is negative, and masked. The mask lets no bit of another byte through.
    fn field(self, x: Self::Bytes, by: i32, mask: u8) -> Self::Bytes;
    /// a | b.
    fn join(self, a: Self::Bytes, b: Self::Bytes) -> Self::Bytes;
    /// Each byte ^ 0x80.
    fn flip(self, x: Self::Bytes) -> Self::Bytes;
    /// Each byte, below 16, replaced by its entry of a table.
    fn lookup(self, table: &[u8; 16], x: Self::Bytes) -> Self::Bytes;

    /// Asks for a line that will be read, if it is one, where hardware alone reads ahead too little.
    #[inline(always)]
    fn prefetch(self, _line: *const Line) {}
    /// Activations of sixteen columns, four signed bytes a word, the first column lowest.
    fn quad(self, x: &[i32; 4]) -> Self::Quad<'_>;
    /// Sums that begin with `start`.
    fn begin(self, start: Self::Ints) -> Self::Sums;
    /// Adds to each row's sum the products of its four codes with the four activations of word `STEP` of `x`, none of them −128.
    fn dot<C: Width, const STEP: i32>(
        self,
        sums: Self::Sums,
        codes: Self::Bytes,
        x: Self::Quad<'_>,
    ) -> Self::Sums;
    /// Adds the products of one half of a block, four steps, to the sums of some tokens.
    #[inline(always)]
    fn dot_half<C: Codes, const T: usize>(
        self,
        sums: &mut [Self::Sums; T],
        block: &[Line],
        half: usize,
        x: [Self::Quad<'_>; T],
    ) {
        step_by_step::<Self, C, T>(self, sums, block, half, x);
    }
    /// The sums.
    fn end(self, sums: Self::Sums) -> Self::Ints;
    /// Begins the sum of one of some tokens, zero before. A level may keep the sums of neighbouring tokens together.
    #[inline(always)]
    fn begin_token<const T: usize>(
        self,
        sums: &mut [Self::Sums; T],
        token: usize,
        start: Self::Ints,
    ) {
        sums[token] = self.begin(start);
    }
    /// The sums of one of some tokens.
    #[inline(always)]
    fn end_token<const T: usize>(self, sums: &[Self::Sums; T], token: usize) -> Self::Ints {
        self.end(sums[token])
    }

    /// The same number in every lane.
    fn splat_int(self, x: i32) -> Self::Ints;
    /// a + b, wrapping.
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The low 32 bits of a · b.
    fn mul_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Sixteen unsigned bytes, widened.
    fn load_u8(self, x: &[u8; 16]) -> Self::Ints;
    /// Sixteen signed bytes, widened.
    fn load_i8(self, x: &[u8; 16]) -> Self::Ints;
    /// Low and high nibbles of sixteen bytes, widened.
    fn load_nibbles(self, x: &[u8; 16]) -> [Self::Ints; 2];
    /// The nearest floats.
    fn to_floats(self, x: Self::Ints) -> Self::Floats;
    /// Sixteen half-precision floats, widened.
    fn halves(self, x: &[u8; 32]) -> Self::Floats;
    /// Sixteen bfloat16, widened.
    fn brain_halves(self, x: &[u8; 32]) -> Self::Floats;
    /// Sixteen floats.
    fn singles(self, x: &[u8; 64]) -> Self::Floats;
    /// `2^(x − 127)` for sixteen bytes (E8M0); 255 gives infinity.
    fn powers_of_two(self, x: &[u8; 16]) -> Self::Floats;

    /// The bits of floats without their signs: integers in the order of the magnitudes, infinity and NaN last.
    fn magnitudes(self, x: Self::Floats) -> Self::Ints;
    /// The bits of floats.
    fn bits(self, x: Self::Floats) -> Self::Ints;
    /// The larger of each pair.
    fn max_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// The largest lane.
    fn largest(self, x: Self::Ints) -> i32;
    /// The sum of the lanes, wrapping.
    fn sum_ints(self, x: Self::Ints) -> i32;
    /// The low bytes, four a word, the first lowest.
    fn store_bytes(self, x: Self::Ints, to: &mut [i32; 4]);
}

/// Adds the products of four steps to the sums of some tokens: a step's codes are made once and multiplied with each token.
#[inline(always)]
pub(crate) fn step_by_step<S: IntSimd, C: Codes, const T: usize>(
    simd: S,
    sums: &mut [S::Sums; T],
    block: &[Line],
    half: usize,
    x: [S::Quad<'_>; T],
) {
    // Written out, so that the compiler knows each step.
    macro_rules! step {
        ($step:literal) => {
            let codes = C::step(simd, block, 4 * half + $step);
            for t in 0..T {
                sums[t] = simd.dot::<C, $step>(sums[t], codes, x[t]);
            }
        };
    }
    step!(0);
    step!(1);
    step!(2);
    step!(3);
}
