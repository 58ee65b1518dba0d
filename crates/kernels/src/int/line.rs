//! Memory in whole cache lines.

/// Sixty-four bytes that one vector load reads without touching a second cache line.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Line(pub(crate) [u8; Line::BYTES]);

impl Line {
    pub(crate) const BYTES: usize = 64;
    pub(crate) const ZERO: Self = Self([0; Self::BYTES]);
}

/// The `N` bytes, a divisor of the bytes of a line, that begin at byte `at`, a multiple of `N`.
///
/// # Panics
/// If they lie beyond the last line.
#[inline(always)]
pub(crate) fn bytes_at<const N: usize>(lines: &[Line], at: usize) -> &[u8; N] {
    const { assert!(Line::BYTES.is_multiple_of(N)) };
    let (parts, _) = lines[at / Line::BYTES].0.as_chunks::<N>();
    &parts[at % Line::BYTES / N]
}
