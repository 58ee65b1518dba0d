//! How far a model is from its baseline: KL divergence, agreement, both perplexities.

use serde::Serialize;

use crate::{Estimate, EvalError, Logits, Perplexity};

/// Distance of a model from its baseline over the predicted tokens of a set of documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Divergence {
    /// Mean KL(baseline ‖ model) per predicted token in nats; the documents are the samples of its standard error.
    pub kl: Estimate,
    /// Standard error of the mean KL with the tokens as independent samples (too small: tokens of a document are correlated).
    pub kl_token_standard_error: Option<f64>,
    /// Median KL of a token, nats.
    pub kl_median: f64,
    /// 99th percentile of the KL of a token, nats.
    pub kl_p99: f64,
    /// Largest KL of a token, nats.
    pub kl_max: f64,
    /// Share of the predicted tokens, 0..=1, at which both models rank the same token first (ties: the lowest token).
    pub top1_agreement: Estimate,
    /// ln(perplexity of the model / perplexity of the baseline), paired.
    pub ln_ratio: Estimate,
    /// Perplexity of the baseline.
    pub baseline: Perplexity,
    /// Perplexity of the model.
    pub model: Perplexity,
}

/// Compares a model with its baseline, document by document.
pub fn compare<B: Logits, L: Logits>(
    _baseline: &mut B,
    _model: &mut L,
    _documents: impl IntoIterator<Item: AsRef<[u32]>>,
    _max_len: usize,
) -> Result<Divergence, EvalError> {
    unimplemented!()
}
