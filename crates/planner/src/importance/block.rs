//! How much a block changes what passes through it.

/// Block influence: 1 − mean cosine of the states before and after a block, in 0..=2. Small for a block that hardly changes anything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BlockInfluence {
    cosines: f64,
    tokens: usize,
}

impl BlockInfluence {
    /// Adds tokens: `before` and `after` are `(n_tokens, hidden_size)` row-major. Tokens that are zero before or after count as unchanged.
    ///
    /// # Panics
    /// If the lengths differ or are not whole tokens.
    pub fn add(&mut self, before: &[f32], after: &[f32], hidden_size: usize) {
        assert_eq!(before.len(), after.len(), "as many tokens after as before");
        assert!(before.len().is_multiple_of(hidden_size.max(1)), "whole tokens");
        for (x, y) in before.chunks_exact(hidden_size).zip(after.chunks_exact(hidden_size)) {
            let dot = |a: &[f32], b: &[f32]| -> f64 {
                a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let norms = (dot(x, x) * dot(y, y)).sqrt();
            self.cosines += if norms > 0.0 { dot(x, y) / norms } else { 1.0 };
            self.tokens += 1;
        }
    }

    /// The influence; 0 before any token.
    pub fn value(&self) -> f64 {
        match self.tokens {
            0 => 0.0,
            tokens => 1.0 - self.cosines / tokens as f64,
        }
    }
}
