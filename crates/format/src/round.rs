//! Rounding that is the same on every machine and vectorizes without help.

/// Rounds to the nearest integer, ties to even, for magnitudes below 2^22; larger ones are clamped there.
///
/// Adding and subtracting 1.5 · 2^23 leaves no fraction bits, so the hardware's own rounding does the work. The compiler
/// never reassociates floats, so this is exact at every optimization level, and it needs only add and min/max, which
/// every vector unit has (`f32::round_ties_even` is a library call on baseline x86-64).
#[inline(always)]
pub(crate) fn round_ties_even(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    const LIMIT: f32 = 4_194_303.0;
    (x.clamp(-LIMIT, LIMIT) + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::round_ties_even;

    #[test]
    fn agrees_with_the_standard_library() {
        let mut x = -70_000.0f32;
        while x < 70_000.0 {
            for y in [x, x + 0.5, x + 0.499_99, f32::from_bits((x + 0.5).to_bits() + 1)] {
                assert_eq!(round_ties_even(y), y.round_ties_even(), "{y}");
            }
            x += 0.25 + x.abs() * 1e-3;
        }
    }
}
