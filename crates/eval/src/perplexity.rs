//! Perplexity over documents, over windows of a token stream, and over the second halves of windows.

use serde::Serialize;

use crate::{Estimate, EvalError, Logits};

/// Negative log-likelihood of one document (or window).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DocumentScore {
    /// Sum over the predicted tokens, in nats.
    pub nll: f64,
    /// Number of predicted tokens.
    pub n_tokens: usize,
}

/// Perplexity of a model on a set of documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Perplexity {
    /// exp(mean_nll).
    pub perplexity: f64,
    /// Mean negative log-likelihood of a predicted token, in nats.
    pub mean_nll: f64,
    /// Standard error of `mean_nll` with the documents as independent samples; `None` for a single document.
    pub standard_error: Option<f64>,
    /// Standard error of `mean_nll` with the tokens as independent samples (too small: tokens of a document are correlated).
    pub token_standard_error: Option<f64>,
    /// Predicted tokens.
    pub n_tokens: usize,
    /// Documents or windows.
    pub n_documents: usize,
    /// One score per document, for paired comparisons.
    #[serde(skip)]
    pub documents: Vec<DocumentScore>,
}

impl Perplexity {
    /// Standard error of the perplexity itself: perplexity · standard_error.
    pub fn perplexity_standard_error(&self) -> Option<f64> {
        Some(self.perplexity * self.standard_error?)
    }

    /// ln(own perplexity / baseline's perplexity) with its paired standard error, the documents as samples.
    pub fn ln_ratio(&self, _baseline: &Perplexity) -> Result<Estimate, EvalError> {
        unimplemented!()
    }
}

/// Perplexity per document.
pub fn perplexity_documents<L: Logits>(
    _model: &mut L,
    _documents: impl IntoIterator<Item: AsRef<[u32]>>,
    _max_len: usize,
) -> Result<Perplexity, EvalError> {
    unimplemented!()
}

/// Perplexity over non-overlapping windows, GPTQ-style.
pub fn perplexity_windows<L: Logits>(
    _model: &mut L,
    _tokens: &[u32],
    _window: usize,
) -> Result<Perplexity, EvalError> {
    unimplemented!()
}

/// Perplexity over the second halves of windows, llama.cpp-style.
pub fn perplexity_second_half<L: Logits>(
    _model: &mut L,
    _tokens: &[u32],
    _window: usize,
    _bos: Option<u32>,
) -> Result<Perplexity, EvalError> {
    unimplemented!()
}
