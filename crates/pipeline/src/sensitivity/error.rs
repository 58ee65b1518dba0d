//! What can go wrong with measuring and planning.

use std::path::PathBuf;

use fewbit_eval::EvalError;
use fewbit_planner::PlannerError;
use thiserror::Error;

use crate::PipelineError;

/// Errors of measuring and planning.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SensitivityError {
    /// The model cannot be read or quantized.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// There is no such plan.
    #[error(transparent)]
    Planner(#[from] PlannerError),
    /// A model's outputs cannot be compared.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// No text to see what errors cost.
    #[error("there are no probe documents of two tokens or more: give text to measure on")]
    NoProbes,
    /// A plan without quantized modules, or grids without one to measure.
    #[error("there are no grids to choose from")]
    NoGrids,
    /// A file that is no plan.
    #[error("{path}: not a plan: {problem}")]
    NotAPlan {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the place.
        problem: String,
    },
    /// A name that is no grid.
    #[error(
        "{path}: {module}: there is no grid {grid}; names are like int4-g128, int3-g64-sym, q4_k, nf4, float"
    )]
    UnknownGrid {
        /// The file.
        path: PathBuf,
        /// Module name.
        module: String,
        /// What is written there.
        grid: String,
    },
    /// A module that the model does not have.
    #[error("{path}: the model has no matrix {module}: correct the name or remove the line")]
    UnknownModule {
        /// The file.
        path: PathBuf,
        /// Module name.
        module: String,
    },
    /// A plan made for another model.
    #[error(
        "{path} is a plan for another model ({name}); allow `any_model` to use it for this one all the same"
    )]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// Name of the model that it was made for.
        name: String,
    },
}
