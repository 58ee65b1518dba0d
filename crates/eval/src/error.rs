//! What can go wrong in an evaluation.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::tasks::Fault;

/// Any error, as a model or decoder hands it over.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of this crate. Documents, items and positions count from 0; a window of a token
/// stream counts as a document, and so does an item of a task.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The evaluated model failed.
    #[error("the model failed on document {document}")]
    Model {
        /// The document it was given.
        document: usize,
        /// Its own error.
        source: BoxError,
    },
    /// Anything that went wrong with the baseline of a comparison rather than with the model.
    #[error("in the baseline of the comparison")]
    Baseline {
        /// What went wrong.
        source: Box<EvalError>,
    },
    /// The evaluated decoder failed.
    #[error("the decoder failed in {phase} of repeat {repeat}")]
    Decoder {
        /// `reset`, `prefill` or `decode`.
        phase: &'static str,
        /// Run it failed in, warm-up runs included.
        repeat: usize,
        /// Its own error.
        source: BoxError,
    },
    /// A logit that is NaN or infinite.
    #[error(
        "logit {value} of token {token} at position {position} of document {document}: logits must be finite \
         (check the weights for overflow; give tokens that cannot occur a large negative logit)"
    )]
    NonFiniteLogit {
        /// The document.
        document: usize,
        /// Row of the logits.
        position: usize,
        /// Column of the logits.
        token: usize,
        /// The value found.
        value: f32,
    },
    /// Logits of the wrong shape.
    #[error(
        "logits of document {document} are {rows}x{columns}, but {n_tokens} tokens and a vocabulary of {vocab_size} \
         need {n_tokens}x{vocab_size}"
    )]
    LogitsShape {
        /// The document.
        document: usize,
        /// Rows found.
        rows: usize,
        /// Columns found.
        columns: usize,
        /// Tokens given.
        n_tokens: usize,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// Two models that cannot be compared token by token.
    #[error(
        "the baseline has a vocabulary of {baseline} and the model of {model}: divergence needs models that share \
         one tokenizer"
    )]
    VocabularyMismatch {
        /// Vocabulary of the baseline.
        baseline: usize,
        /// Vocabulary of the model.
        model: usize,
    },
    /// A token that the model does not have.
    #[error(
        "token {token} at position {position} of document {document} is outside the vocabulary of {vocab_size}: \
         encode the text with the tokenizer of this model"
    )]
    UnknownToken {
        /// The document.
        document: usize,
        /// Position in it.
        position: usize,
        /// The token.
        token: u32,
        /// The model's vocabulary.
        vocab_size: usize,
    },
    /// Nothing to evaluate.
    #[error("no documents: give at least one document of two tokens")]
    NoDocuments,
    /// A document in which nothing is predicted.
    #[error(
        "document {document} has {n_tokens} tokens, but at least 2 are needed to predict one: drop empty documents \
         and start each with the beginning-of-sequence token"
    )]
    DocumentTooShort {
        /// The document.
        document: usize,
        /// Its tokens.
        n_tokens: usize,
    },
    /// A token stream shorter than one window.
    #[error(
        "{n_tokens} tokens do not fill one window of {window}: give more text or a window of at most {n_tokens}"
    )]
    TooFewTokens {
        /// Tokens given.
        n_tokens: usize,
        /// Window asked for.
        window: usize,
    },
    /// A window or maximal length in which nothing would be predicted.
    #[error("a length of {length} tokens predicts nothing: use at least {minimum}")]
    LengthTooSmall {
        /// The length asked for.
        length: usize,
        /// The smallest that works.
        minimum: usize,
    },
    /// Two results over different documents.
    #[error(
        "the results differ at document {document} ({left} predicted tokens against {right}): paired statistics need \
         the same documents in the same order"
    )]
    NotPaired {
        /// First document that differs.
        document: usize,
        /// Predicted tokens on the left (0: the document is absent).
        left: usize,
        /// Predicted tokens on the right (0: the document is absent).
        right: usize,
    },
    /// A task file that cannot be read.
    #[error("cannot read {}", file.display())]
    TaskFile {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of a task file that is not what the task says.
    #[error("{}, line {line}", file.display())]
    TaskLine {
        /// The file.
        file: PathBuf,
        /// The line on which the item begins, from 1.
        line: usize,
        /// What is wrong.
        source: Fault,
    },
    /// A task without items.
    #[error("{} holds no item of {task}: {remedy}", file.display())]
    NoItems {
        /// Where they were looked for.
        file: PathBuf,
        /// The task.
        task: &'static str,
        /// What has to be there.
        remedy: &'static str,
    },
    /// The tokenizer failed.
    #[error("the tokenizer failed on item {item}")]
    Tokenizer {
        /// The item.
        item: usize,
        /// Its own error.
        source: BoxError,
    },
    /// A text before a choice that has no tokens.
    #[error(
        "the text before the choices of item {item} has no tokens: nothing predicts the first token of a choice"
    )]
    NoContext {
        /// The item.
        item: usize,
    },
    /// A choice that the tokenizer hides in its context.
    #[error("choice {choice} of item {item} adds no token to the text before it")]
    NoContinuation {
        /// The item.
        item: usize,
        /// The choice, from 0.
        choice: usize,
    },
    /// A choice that alone is longer than the context of the model.
    #[error(
        "choice {choice} of item {item} has {n_tokens} tokens, and the model reads {max_len}: drop the item"
    )]
    ChoiceTooLong {
        /// The item.
        item: usize,
        /// The choice, from 0.
        choice: usize,
        /// Its tokens.
        n_tokens: usize,
        /// Tokens that the model reads.
        max_len: usize,
    },
    /// The caller stopped the work.
    #[error("stopped after {done} of {total} items")]
    Stopped {
        /// Finished items.
        done: usize,
        /// Items of the task.
        total: usize,
    },
    /// A journal that cannot be read or written.
    #[error("cannot use the journal {}", file.display())]
    Journal {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A journal of another task, model or settings.
    #[error(
        "the journal {} belongs to another run ({found}, but this one is {expected}): remove it or name another folder",
        file.display()
    )]
    JournalOfAnotherRun {
        /// The file.
        file: PathBuf,
        /// What its first line says.
        found: String,
        /// What it should say.
        expected: String,
    },
    /// A line of a journal that is no finished item.
    #[error("line {line} of the journal {} is no finished item: remove the file to begin anew", file.display())]
    JournalLine {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A throughput measurement of nothing.
    #[error(
        "a throughput measurement needs a prompt and at least one repeat: got {n_prompt} prompt tokens, {repeats} repeats"
    )]
    EmptyMeasurement {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Timed repeats.
        repeats: usize,
    },
    /// A figure without anything to draw.
    #[error("figure `{title}` has nothing to draw: {what}")]
    EmptyFigure {
        /// Title of the figure.
        title: String,
        /// What is missing.
        what: &'static str,
    },
    /// A figure whose data contradict each other or cannot be drawn.
    #[error("series `{series}` of figure `{title}`: {what}")]
    FigureData {
        /// Title of the figure.
        title: String,
        /// Name of the series.
        series: String,
        /// What is wrong, with the numbers.
        what: String,
    },
}

impl EvalError {
    /// Marks an error as the baseline's.
    pub(crate) fn of_baseline(self) -> Self {
        Self::Baseline { source: Box::new(self) }
    }
}
