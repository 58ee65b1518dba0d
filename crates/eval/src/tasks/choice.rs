//! Multiple choice by likelihood, as lm-evaluation-harness scores it.
//!
//! Each choice is a continuation of the same text; the model chooses the one that it finds likeliest, or likeliest for its
//! length. Nothing is generated.

use serde::{Deserialize, Serialize};

use super::python;
use crate::score::{check_tokens, not_finite, row, row_major};
use crate::softmax::Softmax;
use crate::{EvalError, Logits, Tokenize};

/// What stands between the text and a choice.
const DELIMITER: &str = " ";

/// A question whose answer is one of several texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChoiceItem {
    /// What comes before every choice: instructions, solved examples and the question; not empty.
    pub context: String,
    /// The choices, without the space that separates them from the context; none is empty.
    pub choices: Vec<String>,
    /// Index of the right one.
    pub gold: usize,
}

/// What a model makes of a [`ChoiceItem`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceScore {
    /// ln p of each choice after the context, in nats, summed over its tokens.
    pub log_likelihoods: Vec<f64>,
    /// Length of each choice in Unicode characters.
    pub chars: Vec<usize>,
    /// Length of each choice in bytes of UTF-8.
    pub bytes: Vec<usize>,
    /// Index of the right choice.
    pub gold: usize,
    /// Tokens that were cut off at the beginning of the context because the whole was too long (with the longest choice).
    pub tokens_cut: usize,
}

impl ChoiceScore {
    /// The likeliest choice; the first of several.
    pub fn predicted(&self) -> usize {
        first_largest(self.log_likelihoods.iter().copied())
    }

    /// The likeliest choice for its number of characters: the harness's `acc_norm`.
    pub fn predicted_by_chars(&self) -> usize {
        first_largest(self.log_likelihoods.iter().zip(&self.chars).map(|(ll, &n)| ll / n as f64))
    }

    /// The likeliest choice for its number of bytes: the harness's `acc_bytes`.
    pub fn predicted_by_bytes(&self) -> usize {
        first_largest(self.log_likelihoods.iter().zip(&self.bytes).map(|(ll, &n)| ll / n as f64))
    }
}

fn first_largest(values: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (index, value) in values.enumerate() {
        if value > best.1 {
            best = (index, value);
        }
    }
    best.0
}

/// The tokens of a pair of texts.
struct Pair {
    context: Vec<u32>,
    continuation: Vec<u32>,
}

/// Scores one item, whose number only names it in errors. The model reads at most `max_len` tokens at once; of what is longer, the
/// beginning is cut off.
///
/// White space at the end of the context belongs to the choices, and the tokens of a choice are those by which the text of
/// both is longer than the text of the context: so it is in lm-evaluation-harness.
///
/// # Errors
/// Those of model and tokenizer; a choice that adds no token to the context or alone is longer than `max_len`.
pub fn score_choice<L: Logits, T: Tokenize>(
    model: &mut L,
    tokenizer: &T,
    item_number: usize,
    item: &ChoiceItem,
    max_len: usize,
) -> Result<ChoiceScore, EvalError> {
    let pairs = encode(tokenizer, item_number, item, max_len)?;
    // All but the last token of a choice are read, and so much of the context as has place before them.
    let cut =
        |pair: &Pair| (pair.context.len() + pair.continuation.len()).saturating_sub(max_len + 1);
    let mut log_likelihoods = Vec::with_capacity(pairs.len());
    // Choices before which equally much is cut share their prefix.
    for group in pairs.chunk_by(|a, b| cut(a) == cut(b)) {
        let prefix = &group[0].context[cut(&group[0])..];
        let continuations: Vec<&[u32]> = group.iter().map(|pair| &*pair.continuation).collect();
        log_likelihoods.extend(score_group(model, item_number, prefix, &continuations)?);
    }
    Ok(ChoiceScore {
        log_likelihoods,
        chars: item.choices.iter().map(|choice| choice.chars().count()).collect(),
        bytes: item.choices.iter().map(String::len).collect(),
        gold: item.gold,
        tokens_cut: pairs.iter().map(cut).max().unwrap_or(0),
    })
}

/// Tokens that the longest pair of an item would have the model read, if nothing were cut.
pub(super) fn tokens_read<T: Tokenize>(
    tokenizer: &T,
    item_number: usize,
    item: &ChoiceItem,
) -> Result<usize, EvalError> {
    let pairs = encode(tokenizer, item_number, item, usize::MAX - 1)?;
    Ok(pairs.iter().map(|p| p.context.len() + p.continuation.len() - 1).max().unwrap_or(0))
}

fn encode<T: Tokenize>(
    tokenizer: &T,
    item_number: usize,
    item: &ChoiceItem,
    max_len: usize,
) -> Result<Vec<Pair>, EvalError> {
    let tokens = |text: &str| {
        let failed = |source| EvalError::Tokenizer { item: item_number, source };
        tokenizer.encode(text).map_err(|error| failed(error.into()))
    };
    let stripped = item.context.trim_end_matches(python::is_space);
    let context = tokens(stripped)?;
    if context.is_empty() {
        return Err(EvalError::NoContext { item: item_number });
    }
    let pair = |(choice, text): (usize, &String)| {
        let whole = tokens(&[&item.context, DELIMITER, text].concat())?;
        let continuation = whole.get(context.len()..).unwrap_or(&[]).to_vec();
        let n_tokens = continuation.len();
        if n_tokens == 0 {
            return Err(EvalError::NoContinuation { item: item_number, choice });
        }
        if n_tokens > max_len {
            return Err(EvalError::ChoiceTooLong { item: item_number, choice, n_tokens, max_len });
        }
        Ok(Pair { context: context.clone(), continuation })
    };
    item.choices.iter().enumerate().map(pair).collect()
}

/// ln p of each continuation after a prefix.
fn score_group<L: Logits>(
    model: &mut L,
    item: usize,
    prefix: &[u32],
    continuations: &[&[u32]],
) -> Result<Vec<f64>, EvalError> {
    let vocab_size = model.vocab_size();
    check_tokens(item, prefix, vocab_size)?;
    for continuation in continuations {
        check_tokens(item, continuation, vocab_size)?;
    }
    let all = model
        .continuation_logits(prefix, continuations)
        .map_err(|source| EvalError::Model { document: item, source: source.into() })?;
    let (rows, columns) = (all.len(), vocab_size);
    if rows != continuations.len() {
        let n_tokens = continuations.len();
        return Err(EvalError::LogitsShape { document: item, rows, columns, n_tokens, vocab_size });
    }
    let one = |(logits, continuation): (_, &&[u32])| {
        let logits = row_major(item, logits, continuation.len(), vocab_size)?;
        let mut sum = 0.0;
        for (i, &token) in continuation.iter().enumerate() {
            let row = row(&logits, i);
            let softmax = Softmax::of(row).map_err(|bad| not_finite(&logits, item, i, bad))?;
            sum -= softmax.nll(row, token as usize);
        }
        Ok(sum)
    };
    all.into_iter().zip(continuations).map(one).collect()
}
