//! What can be wrong with a model.

use std::path::PathBuf;

use fewbit_checkpoint::CheckpointError;
use thiserror::Error;

/// Errors of this crate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The files could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An architecture that this runtime does not have.
    #[error("model_type {model_type:?} is not supported: this runtime has {supported}")]
    UnknownArchitecture {
        /// What the configuration says; empty if it says nothing.
        model_type: String,
        /// The names it could be.
        supported: String,
    },
    /// A configuration key with a value of the wrong kind or out of range.
    #[error("config.json: {key} is {value}, but it has to be {expected}")]
    Config {
        /// The key.
        key: &'static str,
        /// What was found, as JSON.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },
    /// A feature of the architecture that this runtime does not have.
    #[error("config.json: {key} is {value}, which this runtime does not have: {supported}")]
    Unsupported {
        /// The key.
        key: &'static str,
        /// What was found.
        value: String,
        /// What it can do.
        supported: &'static str,
    },
    /// A tensor that the architecture has and the files have not.
    #[error("there is no tensor {tensor}, which a model of type {model_type} has")]
    MissingTensor {
        /// Its name.
        tensor: String,
        /// The architecture that the files were read as.
        model_type: &'static str,
    },
    /// A tensor whose shape is not what the configuration says.
    #[error("{name} has shape {got:?}, but the configuration makes it {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// What it should be.
        expected: Vec<usize>,
    },
    /// A layer that does not exist.
    #[error("layer {layer} of a model with {n_layers} layers")]
    NoSuchLayer {
        /// The layer asked for.
        layer: usize,
        /// How many there are.
        n_layers: usize,
    },
    /// A token that the embedding has no row for.
    #[error("token {token} at position {position}, but the vocabulary has {vocab_size} tokens")]
    Token {
        /// The token.
        token: u32,
        /// Where it stands.
        position: usize,
        /// The size of the vocabulary.
        vocab_size: usize,
    },
    /// A text longer than there are learned positions.
    #[error(
        "a text of {tokens} tokens, but the model has learned {positions} positions: use shorter texts or windows"
    )]
    TooLong {
        /// Tokens with those before.
        tokens: usize,
        /// The most it can be.
        positions: usize,
    },
    /// No tokens at all.
    #[error("no tokens: give at least one, such as the beginning-of-text token")]
    NoTokens,
    /// A tokenizer file that cannot be used.
    #[error("{}: {reason}", file.display())]
    Tokenizer {
        /// The file.
        file: PathBuf,
        /// What the tokenizer library said.
        reason: String,
    },
    /// A `generation_config.json` that cannot be used.
    #[error("{}: {reason}", file.display())]
    GenerationConfig {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Text that the tokenizer cannot encode, or ids that it cannot decode.
    #[error("the tokenizer failed: {reason}")]
    Tokenization {
        /// What the tokenizer library said.
        reason: String,
    },
    /// A chat template that is not valid, or does not take a conversation.
    #[error("the chat template failed: {reason}")]
    ChatTemplate {
        /// What went wrong, and where.
        reason: String,
    },
    /// Sampling settings that make no sense.
    #[error("{setting} is {value}, but it has to be {expected}")]
    Sampling {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What it has to be.
        expected: &'static str,
    },
}

impl ModelError {
    /// With positions counted from a text that began so much earlier.
    pub(crate) fn further(self, by: usize) -> Self {
        match self {
            Self::Token { token, position, vocab_size } => {
                Self::Token { token, position: position + by, vocab_size }
            }
            other => other,
        }
    }
}
