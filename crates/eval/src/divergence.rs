//! How far a model is from its baseline: KL divergence, agreement, both perplexities.

use ndarray::Array2;
use serde::Serialize;

use crate::batch::{for_each_document, logits_of};
use crate::documents::windows;
use crate::perplexity::{Tally, beginning_with, mean_error};
use crate::score::{check_length, map_positions, not_finite, row};
use crate::softmax::{NotFinite, RowDivergence};
use crate::statistics::{clustered, percentile_of_sorted};
use crate::{Estimate, EvalError, Logits, Perplexity};

/// Distance of a model from its baseline over the predicted tokens of a set of documents.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Divergence {
    /// Mean KL(baseline ‖ model) per predicted token in nats; the documents are the samples of its standard error.
    pub kl: Estimate,
    /// Standard error of the mean KL with the tokens as independent samples; too small, because the tokens of a document
    /// are correlated.
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

/// Compares a model with its baseline, document by document: each is one sequence of its own, cut to `max_len` tokens;
/// every token but its first is predicted.
///
/// No more than the logits of one document of both models is in memory, or of one batch, if both like to read more tokens at once
/// ([`Logits::batch_tokens`]). For windows of a token stream pass
/// [`windows`](crate::windows).
///
/// ```
/// use fewbit_eval::{compare, from_fn, ndarray::Array2};
/// use std::convert::Infallible;
///
/// // The baseline gives token 0 three quarters, the model one half.
/// let coin = |odds: f32| {
///     from_fn(2, move |tokens: &[u32]| {
///         Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 2), |(_, i)| if i == 0 { odds.ln() } else { 0.0 }))
///     })
/// };
/// let result = compare(&mut coin(3.0), &mut coin(1.0), [[0, 1, 0], [1, 0, 0]], 512)?;
/// let expected: f64 = 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln();
/// assert!((result.kl.value - expected).abs() < 1e-7);
/// assert_eq!(result.top1_agreement.value, 1.0);
/// # Ok::<(), fewbit_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::VocabularyMismatch`] before anything is run, then those of
/// [`perplexity_documents`](crate::perplexity_documents) for either model, as [`EvalError::Baseline`] if it was the
/// baseline.
pub fn compare<B: Logits, L: Logits>(
    baseline: &mut B,
    model: &mut L,
    documents: impl IntoIterator<Item: AsRef<[u32]>>,
    max_len: usize,
) -> Result<Divergence, EvalError> {
    check_length(max_len, 2)?;
    check_vocabularies(baseline, model)?;
    compare_after(baseline, model, documents, max_len, 0)
}

/// Compares over all tokens of each document that come after its token `first`.
fn compare_after<B: Logits, L: Logits>(
    baseline: &mut B,
    model: &mut L,
    documents: impl IntoIterator<Item: AsRef<[u32]>>,
    max_len: usize,
    first: usize,
) -> Result<Divergence, EvalError> {
    let batch_tokens = baseline.batch_tokens().min(model.batch_tokens());
    let vocab_size = model.vocab_size();
    let mut tally = DivergenceTally::default();
    for_each_document(
        documents,
        max_len,
        batch_tokens,
        vocab_size,
        |document, texts| {
            let base = logits_of(baseline, document, texts).map_err(EvalError::of_baseline)?;
            Ok(base.into_iter().zip(logits_of(model, document, texts)?).collect())
        },
        |document, tokens, (base, own)| {
            tally.add(&document_rows(&base, &own, document, tokens, first)?);
            Ok(())
        },
    )?;
    tally.finish()
}

/// Compares a model with its baseline as llama.cpp's `perplexity --kl-divergence` does: windows without overlap, of which only the
/// second half is predicted, as in [`perplexity_second_half`](crate::perplexity_second_half).
///
/// # Errors
/// [`EvalError::VocabularyMismatch`], [`EvalError::TooFewTokens`] if no window is filled, [`EvalError::LengthTooSmall`] below a window of 3, and those of
/// the models.
pub fn compare_second_half<B: Logits, L: Logits>(
    baseline: &mut B,
    model: &mut L,
    tokens: &[u32],
    window: usize,
    bos: Option<u32>,
) -> Result<Divergence, EvalError> {
    check_length(window, 3)?;
    check_vocabularies(baseline, model)?;
    let documents = beginning_with(bos, windows(tokens, window)?);
    compare_after(baseline, model, documents, window, window / 2)
}

fn check_vocabularies(baseline: &impl Logits, model: &impl Logits) -> Result<(), EvalError> {
    match (baseline.vocab_size(), model.vocab_size()) {
        (a, b) if a == b => Ok(()),
        (baseline, model) => Err(EvalError::VocabularyMismatch { baseline, model }),
    }
}

/// What one predicted token contributes.
struct Token {
    baseline_nll: f64,
    model_nll: f64,
    kl: f64,
    same_top: bool,
}

/// Both models on `tokens[first + 1..]`.
fn document_rows(
    base_logits: &Array2<f32>,
    logits: &Array2<f32>,
    document: usize,
    tokens: &[u32],
    first: usize,
) -> Result<Vec<Token>, EvalError> {
    map_positions(first..tokens.len() - 1, |position| {
        let (p, q) = (row(base_logits, position), row(logits, position));
        let d = RowDivergence::of(p, q).map_err(|place| match place {
            NotFinite::Baseline(token) => {
                EvalError::of_baseline(not_finite(base_logits, document, position, token))
            }
            NotFinite::Model(token) => not_finite(logits, document, position, token),
        })?;
        let target = tokens[position + 1] as usize;
        Ok(Token {
            baseline_nll: d.p.nll(p, target),
            model_nll: d.q.nll(q, target),
            kl: d.kl,
            same_top: d.same_top,
        })
    })
}

/// Sums of a comparison under way.
#[derive(Default)]
struct DivergenceTally {
    baseline: Tally,
    model: Tally,
    /// KL of every token.
    kl: Vec<f64>,
    /// (sum of KL, tokens) per document.
    kl_documents: Vec<(f64, usize)>,
    /// (agreements, tokens) per document.
    agreements: Vec<(f64, usize)>,
}

impl DivergenceTally {
    fn add(&mut self, tokens: &[Token]) {
        let column = |value: fn(&Token) -> f64| -> Vec<f64> { tokens.iter().map(value).collect() };
        self.baseline.add(&column(|t| t.baseline_nll));
        self.model.add(&column(|t| t.model_nll));
        let kl = column(|t| t.kl);
        self.kl_documents.push((kl.iter().sum(), tokens.len()));
        self.kl.extend(kl);
        let agreements = tokens.iter().filter(|t| t.same_top).count();
        self.agreements.push((agreements as f64, tokens.len()));
    }

    fn finish(mut self) -> Result<Divergence, EvalError> {
        let kl = clustered(&self.kl_documents).ok_or(EvalError::NoDocuments)?;
        let top1_agreement = clustered(&self.agreements).ok_or(EvalError::NoDocuments)?;
        let squares = self.kl.iter().map(|x| x * x).sum();
        self.kl.sort_unstable_by(f64::total_cmp);
        let at = |fraction| percentile_of_sorted(&self.kl, fraction).ok_or(EvalError::NoDocuments);
        let (baseline, model) = (self.baseline.finish()?, self.model.finish()?);
        Ok(Divergence {
            kl,
            kl_token_standard_error: mean_error(kl.value, squares, self.kl.len()),
            kl_median: at(0.5)?,
            kl_p99: at(0.99)?,
            kl_max: at(1.0)?,
            top1_agreement,
            ln_ratio: model.ln_ratio(&baseline)?,
            baseline,
            model,
        })
    }
}
