//! From a long prompt to a prediction and its score.

use serde::{Deserialize, Serialize};

use super::{LongBenchItem, LongBenchTask};
use crate::score::check_tokens;
use crate::{EvalError, Logits, Tokenize};

/// How predictions are made.
pub struct LongBenchSpec<'a> {
    /// Most tokens of a prompt; of longer ones the middle is left out. The original takes the context less 500.
    pub max_prompt: usize,
    /// Most tokens that the model reads at once, the prediction included; more than `max_prompt`.
    pub max_len: usize,
    /// Tokens that end a prediction.
    pub end_tokens: &'a [u32],
    /// Makes a message of a prompt, for chat models.
    pub message: Option<&'a dyn Fn(&str) -> String>,
}

/// What a model answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LongBenchAnswer {
    /// The prediction as it was written.
    pub prediction: String,
    /// Its score against the best-matching reference, in 0..=1.
    pub score: f64,
    /// Length of the item in words, which decides its bucket.
    pub length: usize,
    /// Tokens left out of the middle of the prompt.
    pub tokens_cut: usize,
    /// Whether the context was full before the prediction was finished.
    pub stopped_by_context: bool,
}

/// Lets the model answer an item, taking the likeliest token each time, and scores the answer.
///
/// # Errors
/// Those of model and tokenizer.
pub fn answer_longbench<L: Logits, T: Tokenize>(
    model: &mut L,
    tokenizer: &T,
    item_number: usize,
    task: &LongBenchTask,
    item: &LongBenchItem,
    spec: &LongBenchSpec<'_>,
) -> Result<LongBenchAnswer, EvalError> {
    let failed = |source| EvalError::Tokenizer { item: item_number, source };
    let encode = |text: &str| tokenizer.encode(text).map_err(|error| failed(error.into()));
    let decode = |tokens: &[u32]| tokenizer.decode(tokens).map_err(|error| failed(error.into()));

    let mut prompt = task.prompt.fill(item);
    let tokens = encode(&prompt)?;
    let half = spec.max_prompt / 2;
    let mut tokens_cut = 0;
    if tokens.len() > spec.max_prompt {
        prompt = decode(&tokens[..half])? + &decode(&tokens[tokens.len() - half..])?;
        tokens_cut = tokens.len() - 2 * half;
    }
    if let Some(message) = spec.message.filter(|_| task.dataset.as_message) {
        prompt = message(&prompt);
    }
    let mut tokens = encode(&prompt)?;
    // Halves put together may have other tokens, and more of them: there has to be place for one new one.
    let most = spec.max_len.saturating_sub(1).max(1);
    if tokens.len() > most {
        let excess = tokens.len() - most;
        let begin = most / 2;
        tokens.drain(begin..begin + excess);
        tokens_cut += excess;
    }
    if tokens.is_empty() {
        return Err(EvalError::NoContext { item: item_number });
    }
    check_tokens(item_number, &tokens, model.vocab_size())?;

    let mut end_tokens = spec.end_tokens.to_vec();
    if task.dataset.stops_at_line_break() {
        end_tokens.extend(encode("\n")?.last());
    }
    let n_prompt = tokens.len();
    let mut finished = false;
    while tokens.len() < n_prompt + task.max_new_tokens && tokens.len() < spec.max_len {
        let logits = model
            .next_logits(&tokens)
            .map_err(|error| EvalError::Model { document: item_number, source: error.into() })?;
        check_row(item_number, &logits, tokens.len() - 1, model.vocab_size())?;
        // With a line break as end, something has to stand before it.
        let must_go_on = task.dataset.stops_at_line_break() && tokens.len() == n_prompt;
        let token = likeliest(&logits, if must_go_on { &end_tokens } else { &[] });
        if end_tokens.contains(&token) {
            finished = true;
            break;
        }
        tokens.push(token);
    }
    let prediction = decode(&tokens[n_prompt..])?;
    Ok(LongBenchAnswer {
        score: score(task, item, &prediction),
        length: item.length,
        tokens_cut,
        stopped_by_context: !finished && tokens.len() < n_prompt + task.max_new_tokens,
        prediction,
    })
}

/// The score of a prediction against the best-matching reference answer, in 0..=1.
pub(super) fn score(task: &LongBenchTask, item: &LongBenchItem, prediction: &str) -> f64 {
    let counted = if task.dataset.first_line {
        prediction.trim_start_matches('\n').split('\n').next().unwrap_or("")
    } else {
        prediction
    };
    let scores = item.answers.iter().map(|a| task.dataset.metric.score(counted, a, &item.classes));
    scores.fold(0.0, f64::max)
}

fn check_row(
    document: usize,
    logits: &[f32],
    position: usize,
    vocab_size: usize,
) -> Result<(), EvalError> {
    if logits.len() != vocab_size {
        let (rows, columns, n_tokens) = (1, logits.len(), 1);
        return Err(EvalError::LogitsShape { document, rows, columns, n_tokens, vocab_size });
    }
    match logits.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(token) => {
            let value = logits[token];
            Err(EvalError::NonFiniteLogit { document, position, token, value })
        }
    }
}

/// The first of the largest, `but` those.
fn likeliest(logits: &[f32], but: &[u32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (token, &logit) in logits.iter().enumerate() {
        if logit > best.1 && !but.contains(&(token as u32)) {
            best = (token as u32, logit);
        }
    }
    best.0
}
