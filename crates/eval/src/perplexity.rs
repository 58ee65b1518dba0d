//! Perplexity over documents, over windows of a token stream, and over the second halves of windows.
//!
//! The three protocols give different numbers for the same model; a perplexity means something only with its protocol,
//! window, tokenizer and begin-of-sequence policy beside it.

use ndarray::Array2;
use serde::Serialize;

use crate::batch::{for_each_document, logits_of};
use crate::documents::windows;
use crate::score::{check_length, map_positions, not_finite, row};
use crate::softmax::Softmax;
use crate::statistics::clustered;
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
    /// Standard error of `mean_nll` with the tokens as independent samples, as llama.cpp prints it; too small, because
    /// the tokens of a document are correlated. `None` for a single token.
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
    ///
    /// # Errors
    /// [`EvalError::NotPaired`] unless both were measured on the same documents in the same order.
    pub fn ln_ratio(&self, baseline: &Perplexity) -> Result<Estimate, EvalError> {
        let (own, other) = (&self.documents, &baseline.documents);
        let n_tokens = |scores: &[DocumentScore], i: usize| scores.get(i).map_or(0, |d| d.n_tokens);
        for document in 0..own.len().max(other.len()) {
            let (left, right) = (n_tokens(own, document), n_tokens(other, document));
            if left != right {
                return Err(EvalError::NotPaired { document, left, right });
            }
        }
        let differences: Vec<(f64, usize)> =
            own.iter().zip(other).map(|(a, b)| (a.nll - b.nll, a.n_tokens)).collect();
        clustered(&differences).ok_or(EvalError::NoDocuments)
    }
}

/// Perplexity per document: each is one sequence of its own, cut to `max_len` tokens, never joined with another; every
/// token but its first is predicted.
///
/// The caller starts each document with the beginning-of-sequence token if the model knows one. Documents are read together as the model likes
/// ([`Logits::batch_tokens`]); the logits of one batch are in memory at a time.
///
/// # Errors
/// See [`EvalError`]; documents of fewer than two tokens are refused, not skipped.
pub fn perplexity_documents<L: Logits>(
    model: &mut L,
    documents: impl IntoIterator<Item: AsRef<[u32]>>,
    max_len: usize,
) -> Result<Perplexity, EvalError> {
    check_length(max_len, 2)?;
    perplexity_after(model, documents, max_len, 0)
}

/// Perplexity of all tokens of each document that come after its token `first`.
fn perplexity_after<L: Logits>(
    model: &mut L,
    documents: impl IntoIterator<Item: AsRef<[u32]>>,
    max_len: usize,
    first: usize,
) -> Result<Perplexity, EvalError> {
    let (batch_tokens, vocab_size) = (model.batch_tokens(), model.vocab_size());
    let mut tally = Tally::default();
    for_each_document(
        documents,
        max_len,
        batch_tokens,
        vocab_size,
        |document, texts| logits_of(model, document, texts),
        |document, tokens, logits| {
            tally.add(&token_nlls(document, &logits, tokens, first)?);
            Ok(())
        },
    )?;
    tally.finish()
}

/// Perplexity as the GPTQ paper measures it: non-overlapping windows of `window` tokens, the remainder dropped, no token
/// inserted, every token of a window but its first predicted.
///
/// ```
/// use fewbit_eval::{from_fn, ndarray::Array2, perplexity_windows};
/// use std::convert::Infallible;
///
/// // A model without an opinion is as perplexed as its vocabulary is large.
/// let mut model = from_fn(50, |tokens: &[u32]| Ok::<_, Infallible>(Array2::zeros((tokens.len(), 50))));
/// let result = perplexity_windows(&mut model, &[7; 100], 32)?;
/// assert!((result.perplexity - 50.0).abs() < 1e-9);
/// assert_eq!((result.n_documents, result.n_tokens), (3, 3 * 31));
/// # Ok::<(), fewbit_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::TooFewTokens`] if no window is filled, and those of the model.
pub fn perplexity_windows<L: Logits>(
    model: &mut L,
    tokens: &[u32],
    window: usize,
) -> Result<Perplexity, EvalError> {
    perplexity_documents(model, windows(tokens, window)?, window)
}

/// Perplexity as llama.cpp's `perplexity` measures it: non-overlapping windows, of which only the second half is
/// predicted (positions `window/2 ..= window − 2`); `bos`, if given, replaces the first token of each window.
///
/// # Errors
/// [`EvalError::TooFewTokens`] if no window is filled, [`EvalError::LengthTooSmall`] below a window of 3, and those of
/// the model.
pub fn perplexity_second_half<L: Logits>(
    model: &mut L,
    tokens: &[u32],
    window: usize,
    bos: Option<u32>,
) -> Result<Perplexity, EvalError> {
    check_length(window, 3)?;
    perplexity_after(model, beginning_with(bos, windows(tokens, window)?), window, window / 2)
}

/// Windows whose first token is replaced.
pub(crate) fn beginning_with<'a>(
    bos: Option<u32>,
    windows: impl Iterator<Item = &'a [u32]>,
) -> impl Iterator<Item = Vec<u32>> {
    windows.map(move |window| {
        let mut window = window.to_vec();
        window[0] = bos.unwrap_or(window[0]);
        window
    })
}

/// Negative log-likelihoods of `tokens[first + 1..]`, in nats.
fn token_nlls(
    document: usize,
    logits: &Array2<f32>,
    tokens: &[u32],
    first: usize,
) -> Result<Vec<f64>, EvalError> {
    map_positions(first..tokens.len() - 1, |position| {
        let row = row(logits, position);
        let softmax =
            Softmax::of(row).map_err(|token| not_finite(logits, document, position, token))?;
        Ok(softmax.nll(row, tokens[position + 1] as usize))
    })
}

/// Sums of a perplexity under way.
#[derive(Default)]
pub(crate) struct Tally {
    documents: Vec<DocumentScore>,
    squares: f64,
}

impl Tally {
    /// Adds a document by the negative log-likelihoods of its predicted tokens.
    pub(crate) fn add(&mut self, nlls: &[f64]) {
        self.documents.push(DocumentScore { nll: nlls.iter().sum(), n_tokens: nlls.len() });
        self.squares += nlls.iter().map(|x| x * x).sum::<f64>();
    }

    pub(crate) fn finish(self) -> Result<Perplexity, EvalError> {
        let clusters: Vec<(f64, usize)> =
            self.documents.iter().map(|d| (d.nll, d.n_tokens)).collect();
        let Estimate { value: mean_nll, standard_error } =
            clustered(&clusters).ok_or(EvalError::NoDocuments)?;
        let n_tokens = self.documents.iter().map(|d| d.n_tokens).sum();
        Ok(Perplexity {
            perplexity: mean_nll.exp(),
            mean_nll,
            standard_error,
            token_standard_error: mean_error(mean_nll, self.squares, n_tokens),
            n_tokens,
            n_documents: self.documents.len(),
            documents: self.documents,
        })
    }
}

/// Standard error of the mean of `n` independent values with this sum of squares.
pub(crate) fn mean_error(mean: f64, squares: f64, n: usize) -> Option<f64> {
    let variance = (squares / n as f64 - mean * mean).max(0.0);
    (n > 1).then(|| (variance / (n - 1) as f64).sqrt())
}
