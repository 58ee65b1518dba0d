//! SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
//!
//! Written out here so that a seed gives the same text on every machine and with every release.

/// A small deterministic generator; not for cryptography.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    /// The generator of story `index` in the stream `seed`; streams and indices are mixed so that
    /// neighbouring pairs share nothing.
    pub(crate) fn for_story(seed: u64, index: u64) -> Self {
        let mut outer = Self(seed);
        let stream = outer.next_u64();
        let mut inner = Self(stream ^ index.wrapping_mul(0xD134_2543_DE82_EF95));
        Self(inner.next_u64())
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number in `0..n`, by multiplication (the bias of 2⁻⁶⁴·n is of no matter here).
    ///
    /// # Panics
    /// If `n` is zero.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "cannot choose out of nothing");
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// One of the items, all equally likely.
    pub(crate) fn pick<'a, T: ?Sized>(&mut self, items: &'a [&'a T]) -> &'a T {
        items[self.below(items.len())]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_outputs_match_the_published_sequence_for_seed_zero() {
        let mut rng = Rng(0);
        assert_eq!(rng.next_u64(), 0xE220_A839_7B1D_CDAF);
        assert_eq!(rng.next_u64(), 0x6E78_9E6A_A1B9_65F4);
    }

    #[test]
    fn choices_cover_their_range() {
        let mut rng = Rng::for_story(1, 2);
        let mut seen = [false; 7];
        (0..200).for_each(|_| seen[rng.below(7)] = true);
        assert!(seen.iter().all(|&s| s));
        assert!((0..200).all(|_| (3..=5).contains(&rng.between(3, 5))));
    }
}
