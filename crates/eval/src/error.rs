//! What can go wrong in an evaluation.

use thiserror::Error;

/// Any error, as a model or decoder hands it over.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Errors of this crate. Documents and positions count from 0; a window of a token stream counts as a document.
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
