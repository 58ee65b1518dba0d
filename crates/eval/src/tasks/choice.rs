//! Multiple choice by likelihood, as lm-evaluation-harness scores it.
//!
//! Each choice is a continuation of the same text; the model chooses the one that it finds likeliest, or likeliest for its
//! length. Nothing is generated.

use ndarray::Array2;
use serde::{Deserialize, Serialize};

use super::python;
use crate::batch::{Filling, wrong_number};
use crate::score::{check_tokens, not_finite, row, row_major};
use crate::softmax::Softmax;
use crate::{Continuations, EvalError, Logits, Tokenize};

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
    let asked = Asked::new(tokenizer, item_number, item, max_len, model.vocab_size())?;
    score_alone(model, item_number, &asked)
}

fn score_alone<L: Logits>(
    model: &mut L,
    item_number: usize,
    asked: &Asked<'_>,
) -> Result<ChoiceScore, EvalError> {
    let mut log_likelihoods = vec![];
    for (prefix, continuations) in asked.groups() {
        let all = model
            .continuation_logits(prefix, &continuations)
            .map_err(|source| EvalError::Model { document: item_number, source: source.into() })?;
        log_likelihoods.extend(group_scores(item_number, model.vocab_size(), &continuations, all)?);
    }
    Ok(asked.score(log_likelihoods))
}

/// Scores the first of these items, as many as the model likes to read at once ([`Logits::batch_tokens`]), but at least one if there is one; `first` is the
/// number of the first of them. Otherwise as [`score_choice`]; for [`run_batches`](super::run_batches).
///
/// Tokens that an item has in common with the one before it count once.
///
/// # Errors
/// Those of [`score_choice`] for the first item. An item further on that cannot be scored ends the batch before it. If the model fails, the first item is
/// scored by itself: the error is its own, or comes again when it is the failing item's turn.
pub fn score_choices<L: Logits, T: Tokenize>(
    model: &mut L,
    tokenizer: &T,
    first: usize,
    items: &[ChoiceItem],
    max_len: usize,
) -> Result<Vec<ChoiceScore>, EvalError> {
    let vocab_size = model.vocab_size();
    let mut filling = Filling::new(model.batch_tokens(), vocab_size);
    let mut batch: Vec<Asked<'_>> = vec![];
    for (i, item) in items.iter().enumerate() {
        let asked = match Asked::new(tokenizer, first + i, item, max_len, vocab_size) {
            Err(error) if i == 0 => return Err(error),
            Err(_) => break,
            Ok(asked) => asked,
        };
        let (tokens, rows) = asked.size(batch.last());
        batch.push(asked);
        if !filling.add(tokens, rows) {
            break;
        }
    }
    let alone = |model: &mut L| Ok(vec![score_alone(model, first, &batch[0])?]);
    match batch.len() {
        0 => return Ok(vec![]),
        1 => return alone(model),
        _ => {}
    }

    // Each group after the number of its item in the batch.
    let of_item = |(i, asked)| Asked::groups(asked).into_iter().map(move |group| (i, group));
    let groups: Vec<(usize, Group<'_>)> = batch.iter().enumerate().flat_map(of_item).collect();
    let continuations: Vec<Continuations<'_>> = groups
        .iter()
        .map(|(_, (prefix, continuations))| Continuations { prefix, continuations })
        .collect();
    let all = match model.batch_continuations(&continuations) {
        Ok(all) if all.len() == groups.len() => all,
        Ok(all) => {
            let source = wrong_number(all.len(), groups.len());
            return Err(EvalError::Model { document: first, source });
        }
        Err(_) => return alone(model),
    };
    let mut log_likelihoods: Vec<Result<Vec<f64>, EvalError>> = vec![];
    log_likelihoods.resize_with(batch.len(), || Ok(vec![]));
    for ((i, (_, continuations)), logits) in groups.iter().zip(all) {
        let scores = group_scores(first + i, vocab_size, continuations, logits);
        match (&mut log_likelihoods[*i], scores) {
            (Ok(own), Ok(scores)) => own.extend(scores),
            (own @ Ok(_), Err(error)) => *own = Err(error),
            (Err(_), _) => {}
        }
    }
    let mut scores = vec![];
    for (asked, log_likelihoods) in batch.iter().zip(log_likelihoods) {
        match log_likelihoods {
            Ok(log_likelihoods) => scores.push(asked.score(log_likelihoods)),
            Err(error) if scores.is_empty() => return Err(error),
            Err(_) => break,
        }
    }
    Ok(scores)
}

/// A prefix and its continuations.
type Group<'a> = (&'a [u32], Vec<&'a [u32]>);

/// An item as tokens.
struct Asked<'a> {
    item: &'a ChoiceItem,
    pairs: Vec<Pair>,
    max_len: usize,
}

impl<'a> Asked<'a> {
    fn new<T: Tokenize>(
        tokenizer: &T,
        number: usize,
        item: &'a ChoiceItem,
        max_len: usize,
        vocab_size: usize,
    ) -> Result<Self, EvalError> {
        let pairs = encode(tokenizer, number, item, max_len)?;
        let asked = Self { item, pairs, max_len };
        for pair in &asked.pairs {
            check_tokens(number, &pair.context[asked.cut(pair)..], vocab_size)?;
            check_tokens(number, &pair.continuation, vocab_size)?;
        }
        Ok(asked)
    }

    /// Tokens of the context that have no place: all but the last token of a choice are read, and so much of the context as has place before them.
    fn cut(&self, pair: &Pair) -> usize {
        (pair.context.len() + pair.continuation.len()).saturating_sub(self.max_len + 1)
    }

    /// Choices before which equally much is cut share their prefix.
    fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = vec![];
        for pairs in self.pairs.chunk_by(|a, b| self.cut(a) == self.cut(b)) {
            let prefix = &pairs[0].context[self.cut(&pairs[0])..];
            groups.push((prefix, pairs.iter().map(|pair| &*pair.continuation).collect()));
        }
        groups
    }

    /// Tokens to read and rows of logits, after the item before it.
    fn size(&self, before: Option<&Self>) -> (usize, usize) {
        let mut last = before.and_then(|before| Some(before.groups().pop()?.0)).unwrap_or(&[]);
        let (mut tokens, mut rows) = (0, 0);
        for (prefix, continuations) in self.groups() {
            let common = last.iter().zip(prefix).take_while(|(a, b)| a == b).count();
            let scored: usize = continuations.iter().map(|tokens| tokens.len()).sum();
            tokens += prefix.len() - common + scored - continuations.len();
            rows += scored;
            last = prefix;
        }
        (tokens, rows)
    }

    fn score(&self, log_likelihoods: Vec<f64>) -> ChoiceScore {
        let choices = &self.item.choices;
        ChoiceScore {
            log_likelihoods,
            chars: choices.iter().map(|choice| choice.chars().count()).collect(),
            bytes: choices.iter().map(String::len).collect(),
            gold: self.item.gold,
            tokens_cut: self.pairs.iter().map(|pair| self.cut(pair)).max().unwrap_or(0),
        }
    }
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

/// ln p of each continuation by its logits.
fn group_scores(
    item: usize,
    vocab_size: usize,
    continuations: &[&[u32]],
    all: Vec<Array2<f32>>,
) -> Result<Vec<f64>, EvalError> {
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
