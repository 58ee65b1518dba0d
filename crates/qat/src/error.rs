//! What can end a training run.

use std::path::PathBuf;

use fewbit_checkpoint::CheckpointError;
use fewbit_format::FormatError;
use fewbit_model::ModelError;
use thiserror::Error;

/// Errors of training. Whatever was kept on disk before one stays there.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QatError {
    /// A file cannot be read or written as it should.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The configuration is not one of a language model, or a tensor does not follow from it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A grid or matrix is not sound.
    #[error("{module}: {source}")]
    Format {
        /// Module name.
        module: String,
        /// Why.
        source: FormatError,
    },
    /// A window is longer than there are learned positions.
    #[error(
        "windows of {window} tokens, but the model has learned {positions} positions; train with windows of that"
    )]
    Window {
        /// Tokens of a window.
        window: usize,
        /// Positions of the model.
        positions: usize,
    },
    /// A model to learn from that is itself in few bits.
    #[error("{module} is quantized; train from a float model")]
    NotFloat {
        /// Module name.
        module: String,
    },
    /// A grid that cannot be trained.
    #[error(
        "{module}: {grid} cannot be trained; take integers, GGML blocks that divide a row, or 4-bit floats without double quantization"
    )]
    Grid {
        /// Module name.
        module: String,
        /// The grid.
        grid: String,
    },
    /// A quantized matrix to begin with that does not follow the plan.
    #[error("{module}: the model to begin with has {got}, the plan says {planned}")]
    Start {
        /// Module name.
        module: String,
        /// What was found.
        got: String,
        /// What the plan says.
        planned: String,
    },
    /// Plan or model leaves nothing to train.
    #[error("the plan keeps every matrix in float: nothing to train")]
    NothingToTrain,
    /// A container that has no place for the fixed steps of inputs.
    #[error(
        "{container} has no place for fixed steps of inputs; take compressed-tensors with static inputs, or round inputs token by token"
    )]
    InputScales {
        /// Name of the container.
        container: &'static str,
    },
    /// A model without adapters, to write them.
    #[error("the model has no adapters to write; call Student::adapt first")]
    NoAdapters,
    /// Not enough text.
    #[error(
        "the text has {tokens} tokens in documents, too few for one window of {window} and one to check on; give more text or a smaller window"
    )]
    TextTooShort {
        /// Tokens there are.
        tokens: usize,
        /// Tokens of a window.
        window: usize,
    },
    /// A token that the model does not know.
    #[error(
        "token {token} at position {position} of the text is not among the {vocab_size} of the model; was it made with this model's tokenizer?"
    )]
    Token {
        /// The token.
        token: u32,
        /// Where in the text.
        position: usize,
        /// Tokens the model knows.
        vocab_size: usize,
    },
    /// A teacher that cannot teach this model.
    #[error(
        "the teacher's {key} is {teacher}, the model's {student}; take a teacher of the same {key}"
    )]
    Teacher {
        /// Key of `config.json`.
        key: &'static str,
        /// Value of the teacher.
        teacher: String,
        /// Value of the model.
        student: String,
    },
    /// A setting without meaning.
    #[error("{setting} is {value}; it has to be {expected}")]
    Setting {
        /// Name of the setting.
        setting: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// The loss is NaN or infinite.
    #[error(
        "the loss became {loss} at step {step}; the state of step {kept} is kept: continue from it with a smaller learning rate"
    )]
    Diverged {
        /// Step, counted from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// Step of the last state that was kept.
        kept: u64,
    },
    /// A work folder of other settings.
    #[error(
        "{file} belongs to a run with other settings ({what}); continue with those, or remove the folder to begin anew"
    )]
    OtherRun {
        /// The file that says so.
        file: PathBuf,
        /// What differs.
        what: String,
    },
    /// A state that cannot be read back.
    #[error("{file} is not a state of this run: {problem}; remove it to begin anew")]
    State {
        /// File.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The caller asked to stop.
    #[error("stopped at step {step}; the same command continues there")]
    Cancelled {
        /// Step that was kept.
        step: u64,
    },
    /// The written model does not decode to what was trained.
    #[error(
        "{module} reads back differently from what was trained; the output was not given its name"
    )]
    Verify {
        /// Module or tensor.
        module: String,
    },
}

impl QatError {
    /// Adds the name of a module to an error of its grid.
    pub(crate) fn format(module: &str) -> impl FnOnce(FormatError) -> Self + '_ {
        move |source| Self::Format { module: module.to_owned(), source }
    }
}
