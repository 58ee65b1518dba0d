//! What can end a job.

use std::{
    io,
    path::{Path, PathBuf},
};

use fewbit_awq::AwqError;
use fewbit_checkpoint::CheckpointError;
use fewbit_format::FormatError;
use fewbit_gptq::GptqError;
use fewbit_model::ModelError;
use thiserror::Error;

use crate::Repair;

/// Errors of the pipeline. Those that can be known beforehand come before any work.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A file cannot be read or written as it should.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The model cannot be built.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The solver refused a matrix.
    #[error("{module}: {source}")]
    Gptq {
        /// Module name.
        module: String,
        /// Why.
        source: GptqError,
    },
    /// Fixed steps for inputs, which only calibration text can tell.
    #[error(
        "{method} sees no calibration text, which fixed steps of inputs come from; take smoothquant, gptq or awq, or a container that rounds inputs token by token"
    )]
    InputScales {
        /// Name of the method.
        method: &'static str,
    },
    /// The statistics or the rounding of a transform refused a matrix.
    #[error("{module}: {source}")]
    Awq {
        /// Module name.
        module: String,
        /// Why.
        source: AwqError,
    },
    /// A grid or matrix is not sound.
    #[error("{module}: {source}")]
    Format {
        /// Module name.
        module: String,
        /// Why.
        source: FormatError,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "tensor {tensor}: element {index} is {value}; repair or download the checkpoint again before quantizing it"
    )]
    NonFiniteWeight {
        /// Tensor name.
        tensor: String,
        /// Position in the tensor, row-major.
        index: usize,
        /// The value.
        value: f32,
    },
    /// A search without candidates or tokens.
    #[error("a search of scales needs at least one ratio and one token: 20 and 4096 are usual")]
    EmptySearch,
    /// Less calibration text than one window.
    #[error(
        "calibration text has {tokens} tokens, but one window needs {needed}: give more text or a shorter window"
    )]
    CalibrationTooShort {
        /// Tokens there are.
        tokens: usize,
        /// Tokens of one window.
        needed: usize,
    },
    /// A calibration token that the model does not have.
    #[error(
        "calibration token {token} at position {position} is not below the vocabulary size {vocab_size}: the tokenizer belongs to another model"
    )]
    TokenRange {
        /// The token.
        token: u32,
        /// Where it stands.
        position: usize,
        /// Rows of the embedding.
        vocab_size: usize,
    },
    /// The share of mismatch correction is no share.
    #[error("mismatch correction {mismatch} is not between 0 (none) and 1 (all of it)")]
    Mismatch {
        /// The value asked for.
        mismatch: f32,
    },
    /// GPTQ without calibration.
    #[error("GPTQ needs calibration text: give some, or choose plain rounding")]
    CalibrationMissing,
    /// A grid that the solver does not know.
    #[error(
        "{module}: GPTQ rounds to integers, GGML blocks of 2 to 8 bits and tables under one scale, not to {grid}: choose plain rounding"
    )]
    GridOfMethod {
        /// Module name.
        module: String,
        /// Its grid.
        grid: String,
    },
    /// The residual stream of this architecture cannot be rotated.
    #[error(
        "{model_type}: the residual stream cannot be rotated, because its norms subtract means or stand behind layers too: rotate the values of heads alone"
    )]
    CannotRotate {
        /// `model_type` of the configuration.
        model_type: String,
    },
    /// Zero points are to be moved on a grid that has none.
    #[error("{module}: HQQ moves zero points, and {grid} has none: choose an affine grid")]
    NoZeroPoint {
        /// Module name.
        module: String,
        /// Its grid.
        grid: String,
    },
    /// The model is already quantized.
    #[error(
        "{folder} is already quantized ({container}): quantize the original checkpoint instead"
    )]
    AlreadyQuantized {
        /// Model folder.
        folder: PathBuf,
        /// Its container.
        container: String,
    },
    /// The plan leaves everything in float.
    #[error("the plan quantizes none of the {matrices} matrices")]
    NothingToQuantize {
        /// Matrices of the model.
        matrices: usize,
    },
    /// The plan names a matrix that the model does not have.
    #[error("the plan names {module}, which the model does not have")]
    UnknownModule {
        /// Module name.
        module: String,
    },
    /// A matrix whose values have no place in another container.
    #[error(
        "{module} lies on {grid}, which {container} cannot hold without loss: {reason}; choose another container, or a grid to round it to anew"
    )]
    NotLossless {
        /// Module name.
        module: String,
        /// Its grid.
        grid: String,
        /// The container.
        container: String,
        /// Why its values have no place there.
        reason: String,
    },
    /// A float model where a quantized one is asked for.
    #[error("nothing in {model} is quantized: quantize it instead of converting it")]
    NothingToConvert {
        /// The model.
        model: PathBuf,
    },
    /// Float matrices that lie transposed.
    #[error(
        "{model} is a GPT-2 model, whose float matrices lie transposed and can only be converted as they are: leave floats in floating point and few bits in few bits"
    )]
    TransposedFloats {
        /// The model.
        model: PathBuf,
    },
    /// Importances that do not fit a module.
    #[error(
        "module {module} has {in_features} inputs, but {got} importances, or one that is negative or not finite: measure them on this model"
    )]
    Importance {
        /// Module name.
        module: String,
        /// Inputs it has.
        in_features: usize,
        /// Importances given.
        got: usize,
    },
    /// The output folder exists.
    #[error("{folder} exists already: remove it or choose another output folder")]
    OutputExists {
        /// Output folder.
        folder: PathBuf,
    },
    /// Less space than output and work folder need.
    #[error(
        "{folder} and its work folder need {needed} bytes, but the disk has {free} free: free some, or choose another disk"
    )]
    DiskFull {
        /// Output folder.
        folder: PathBuf,
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The work folder is of another job.
    #[error(
        "{folder} cannot be continued, because of its {what}: remove it, or run the command that began it"
    )]
    WorkFolderMismatch {
        /// Work folder.
        folder: PathBuf,
        /// The part that differs.
        what: &'static str,
    },
    /// The work folder was written by another version of this program.
    #[error(
        "{folder} was begun by version {version} (layout {schema}), this is {own_version} (layout {own_schema}): finish it with the version that began it, or remove it to begin anew"
    )]
    WorkFolderVersion {
        /// Work folder.
        folder: PathBuf,
        /// Version that began it.
        version: String,
        /// Its layout.
        schema: u32,
        /// This version.
        own_version: String,
        /// The layout that this version writes.
        own_schema: u32,
    },
    /// Resuming was demanded, but there is nothing to resume.
    #[error("there is no work folder {folder} to resume: run without --resume to begin")]
    NothingToResume {
        /// Work folder.
        folder: PathBuf,
    },
    /// Strict mode met a repair.
    #[error("{module}: {repair} (strict mode; without it this would be repaired and reported)")]
    Strict {
        /// Module name.
        module: String,
        /// What would have been repaired.
        repair: Repair,
    },
    /// The written folder does not decode to what was computed.
    #[error(
        "{module}: the written file decodes to other values than were computed; the disk or memory is faulty, or this is a bug"
    )]
    Verify {
        /// Module name.
        module: String,
    },
    /// The written folder has another size than planned.
    #[error("{folder} holds {got} bytes of tensors, but the plan says {expected}")]
    VerifySize {
        /// Output folder.
        folder: PathBuf,
        /// Bytes found.
        got: u64,
        /// Bytes planned.
        expected: u64,
    },
    /// The caller cancelled.
    #[error("cancelled; the same command continues from {folder}")]
    Cancelled {
        /// Work folder.
        folder: PathBuf,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The evaluation failed.
    #[error(transparent)]
    Eval(#[from] fewbit_eval::EvalError),
}

impl PipelineError {
    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}
