//! What was done to each matrix and what it cost: values for a table, and the same as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A repair or departure from what was asked. Strict mode turns each into an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Repair {
    /// The factorization failed with the damping asked for.
    DampingRaised {
        /// Fraction of the mean diagonal asked for.
        asked: f64,
        /// Fraction used.
        used: f64,
    },
    /// No damping made the Hessian definite: its diagonal alone was used.
    DiagonalOnly,
    /// Inputs that were zero in every calibration token; their columns are rounded to nearest.
    DeadColumns {
        /// How many.
        count: usize,
    },
    /// Fewer calibration tokens than inputs: the Hessian is singular without damping.
    FewTokens {
        /// Tokens seen.
        tokens: usize,
        /// Columns of the matrix.
        in_features: usize,
    },
    /// Calibration changed nothing: the result has the error of plain rounding.
    NoEffect,
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DampingRaised { asked, used } => {
                write!(
                    f,
                    "damping raised from {asked} to {used}, because the Hessian was not positive definite"
                )
            }
            Self::DiagonalOnly => {
                write!(f, "no damping made the Hessian definite: only its diagonal was used")
            }
            Self::DeadColumns { count } => {
                write!(f, "{count} inputs were zero in all calibration text: rounded to nearest")
            }
            Self::FewTokens { tokens, in_features } => {
                write!(f, "{tokens} calibration tokens for {in_features} inputs: give more text")
            }
            Self::NoEffect => {
                write!(
                    f,
                    "calibration changed nothing against plain rounding: is the text what the model reads?"
                )
            }
        }
    }
}

/// One matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixReport {
    /// Module name, `model.layers.0.mlp.down_proj`.
    pub module: String,
    /// Block it belongs to.
    pub block: usize,
    /// What it does in the block, `down_proj`.
    pub role: String,
    /// Rows.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
    /// The grid, as `int4 affine g128, f16 scales`.
    pub grid: String,
    /// Bits per weight as stored, scales and zero points included.
    pub bits_per_weight: f64,
    /// ‖Ŵ − W‖ / ‖W‖, of the matrix as it was rounded: after its channels were scaled, if they were.
    pub weight_error: f64,
    /// ‖(Ŵ − W)X‖² / ‖WX‖² of plain rounding on the calibration inputs (without a solver, on the first 1024 tokens of them), of the matrix as it was
    /// rounded; `None` where nothing was calibrated.
    pub output_error_plain: Option<f64>,
    /// The same of the codes chosen.
    pub output_error: Option<f64>,
    /// Damping used, as a fraction of the mean diagonal of the Hessian.
    pub damping: Option<f64>,
    /// Share of codes at either end of the range of an integer grid; 0 for other grids.
    pub clipped: f64,
    /// Rows for which nothing beat plain rounding.
    pub rows_kept_plain: usize,
    /// Seconds of solving, without the calibration pass.
    pub seconds: f64,
    /// Hash of the dequantized values, by which the written file is verified.
    pub values_hash: String,
    /// What was repaired.
    pub repairs: Vec<Repair>,
}

/// The inputs of some layers, scaled by a transform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteReport {
    /// Block it belongs to.
    pub block: usize,
    /// The layers that read there, `q_proj` and so on.
    pub site: Vec<String>,
    /// The tensor or module that carries the reciprocals of the scales.
    pub folded_into: String,
    /// The exponent chosen; 0 for no scaling.
    pub ratio: f64,
    /// Whether the scales also divide by the mean size of the weights.
    pub by_weights: bool,
    /// Smallest scale.
    pub smallest: f32,
    /// Largest scale.
    pub largest: f32,
    /// Relative squared change of the output of attention or the MLP by rounding to nearest, without scales.
    pub loss_before: f64,
    /// The same with the scales.
    pub loss_after: f64,
    /// The float tensors that changed: a gain and what is added, or a bias.
    pub tensors: Vec<FoldedTensor>,
}

/// A float tensor that carries the reciprocals of scales.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FoldedTensor {
    /// Its name.
    pub name: String,
    /// Hash of what it multiplies by or adds, by which the written file is verified.
    pub values_hash: String,
    /// Whether it multiplies by one more than its values, as Gemma's norms.
    pub one_plus: bool,
}

/// What was done in a block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct BlockReport {
    pub(crate) matrices: Vec<MatrixReport>,
    pub(crate) sites: Vec<SiteReport>,
}

impl BlockReport {
    pub(crate) fn append(&mut self, mut other: Self) {
        self.matrices.append(&mut other.matrices);
        self.sites.append(&mut other.sites);
    }
}

/// The whole job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of these crates.
    pub version: String,
    /// `rtn`, `gptq`, `awq` or `awq+gptq`.
    pub method: String,
    /// Container written.
    pub container: String,
    /// Calibration tokens; 0 for methods that need none.
    pub calibration_tokens: usize,
    /// Tokens of a calibration window.
    pub calibration_window: usize,
    /// Bytes of all tensors before.
    pub bytes_before: u64,
    /// Bytes of all tensors after, as written.
    pub bytes_after: u64,
    /// Bits per weight over the quantized matrices.
    pub bits_per_weight: f64,
    /// Bits per weight over every parameter of the model.
    pub bits_per_parameter: f64,
    /// Seconds, this run alone.
    pub seconds: f64,
    /// Blocks that an earlier run had finished.
    pub resumed_blocks: usize,
    /// Peak resident memory of the process in bytes, where the system tells.
    pub peak_memory: Option<u64>,
    /// What was estimated before the start.
    pub estimate: crate::Estimate,
    /// Every matrix, in the order of the model.
    pub matrices: Vec<MatrixReport>,
    /// Every scaled input, in the order of the model; none without a transform.
    pub sites: Vec<SiteReport>,
}

impl MatrixReport {
    /// Number of weights.
    pub fn weights(&self) -> usize {
        self.out_features * self.in_features
    }
}

impl Report {
    /// Repairs of all matrices, with the module's name.
    pub fn repairs(&self) -> impl Iterator<Item = (&str, &Repair)> {
        self.matrices.iter().flat_map(|m| m.repairs.iter().map(move |r| (m.module.as_str(), r)))
    }
}
