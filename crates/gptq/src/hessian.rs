//! Accumulation of the Hessian.

use crate::GptqError;

/// The mean of `x·xᵀ` over calibration tokens, `x` the input of a layer. (GPTQ writes `2·XXᵀ`; a constant factor changes nothing.)
#[derive(Clone, Debug)]
pub struct Hessian {
    in_features: usize,
    n_tokens: usize,
}

impl Hessian {
    /// No tokens yet.
    pub fn new(in_features: usize) -> Self {
        Self { in_features, n_tokens: 0 }
    }

    /// Adds tokens: `x` is `(n_tokens, in_features)` row-major.
    ///
    /// # Errors
    /// If `x` is not whole tokens, or an activation is NaN or infinite; nothing is added then.
    pub fn add(&mut self, x: &[f32]) -> Result<(), GptqError> {
        let _ = x;
        unimplemented!()
    }

    /// Adds the tokens of another Hessian.
    ///
    /// # Errors
    /// If the widths differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), GptqError> {
        let _ = other;
        unimplemented!()
    }

    /// Width.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Tokens added so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Mean of `x²` of each input feature; zeros before any token.
    pub fn diagonal(&self) -> Vec<f64> {
        unimplemented!()
    }

    /// Bytes that a Hessian of this width holds.
    pub const fn bytes(in_features: usize) -> usize {
        4 * in_features * in_features
    }
}
