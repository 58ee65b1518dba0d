//! How codes are chosen: a transform of the model, and a rounding of what it leaves.

use fewbit_awq::HqqSpec;
use fewbit_format::{MatrixShape, Scheme, Symmetry};
use fewbit_gptq::GptqSpec;
use fewbit_model::Producer;

use crate::solver;

/// A function-preserving change of each block before it is rounded, and the rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Method {
    /// What is done to the model first.
    pub transform: Transform,
    /// How each matrix is then rounded.
    pub rounding: Rounding,
}

/// A change of the float model that leaves its function as it is and makes it easier to round.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Transform {
    /// None.
    #[default]
    None,
    /// Channels scaled by a power of the size of their inputs, folded into the norm or matrix before.
    Awq(AwqSpec),
    /// Large inputs of the layers behind norms made smaller, and their weights larger, so that inputs can be rounded to 8 bits too.
    SmoothQuant(SmoothQuantSpec),
}

/// How each weight gets its code.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// To the nearest value. Without a transform, ranges come from the weights alone and no calibration is needed; with one, ranges and blocks are
    /// chosen by what their errors do to the outputs on calibration text.
    #[default]
    Nearest,
    /// To the nearest value, around zero points that are moved for a loss which cares little for outliers. No calibration is needed; affine grids only.
    HalfQuadratic(HqqSpec),
    /// GPTQ on calibration text.
    Gptq {
        /// The solver's settings.
        spec: GptqSpec,
        /// How much of the errors of earlier layers a layer makes up for, in 0..=1. Above 0 the calibration text also passes through the
        /// float model, which doubles the states and the passes.
        mismatch: f32,
    },
}

impl Transform {
    /// Whether it scales inputs that this produces: AWQ all, SmoothQuant those of norms.
    pub(crate) const fn scales(self, producer: Producer) -> bool {
        match self {
            Self::None => false,
            Self::Awq(_) => true,
            Self::SmoothQuant(_) => matches!(producer, Producer::Norm),
        }
    }
}

/// How AWQ searches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AwqSpec {
    /// Exponents that are tried for each set of scales, besides none: `1/n, 2/n, … 1`.
    pub n_ratios: u32,
    /// Whether as many again are tried that also divide by the mean size of the weights (AutoAWQ's "duo scaling").
    pub weights: bool,
    /// Calibration tokens on which candidates are compared: whole windows, evenly spread over the text, as many as fit.
    pub tokens: usize,
}

impl Default for AwqSpec {
    fn default() -> Self {
        Self { n_ratios: 20, weights: true, tokens: 4096 }
    }
}

impl AwqSpec {
    /// The search in front of GPTQ: few candidates, since each is rounded by GPTQ.
    pub const fn before_gptq() -> Self {
        Self { n_ratios: 5, weights: false, tokens: 4096 }
    }
}

/// How SmoothQuant searches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothQuantSpec {
    /// Share of the difficulty that goes from inputs to weights, in 0..=1; `None` tries some and none at all for each input, by what rounded inputs and
    /// weights do to the unit around it.
    pub strength: Option<f32>,
    /// Calibration tokens from which maxima are taken and on which candidates are compared.
    pub tokens: usize,
}

impl SmoothQuantSpec {
    /// Strengths that are tried.
    pub const STRENGTHS: [f64; 5] = [0.35, 0.5, 0.65, 0.75, 0.85];
}

impl Default for SmoothQuantSpec {
    fn default() -> Self {
        Self { strength: None, tokens: 4096 }
    }
}

impl Method {
    /// Plain rounding (RTN).
    pub const fn nearest() -> Self {
        Self { transform: Transform::None, rounding: Rounding::Nearest }
    }

    /// GPTQ alone.
    pub const fn gptq(spec: GptqSpec, mismatch: f32) -> Self {
        Self { transform: Transform::None, rounding: Rounding::Gptq { spec, mismatch } }
    }

    /// AWQ, then rounding to nearest.
    pub const fn awq(spec: AwqSpec) -> Self {
        Self { transform: Transform::Awq(spec), rounding: Rounding::Nearest }
    }

    /// HQQ.
    pub const fn hqq(spec: HqqSpec) -> Self {
        Self { transform: Transform::None, rounding: Rounding::HalfQuadratic(spec) }
    }

    /// SmoothQuant, then rounding to nearest.
    pub const fn smoothquant(spec: SmoothQuantSpec) -> Self {
        Self { transform: Transform::SmoothQuant(spec), rounding: Rounding::Nearest }
    }

    /// `rtn`, `hqq`, `gptq`, or one of these behind `awq+` or `smoothquant+`; of the latter two alone, rounding to nearest is not named.
    pub const fn name(&self) -> &'static str {
        match (self.transform, self.rounding) {
            (Transform::None, Rounding::Nearest) => "rtn",
            (Transform::None, Rounding::HalfQuadratic(_)) => "hqq",
            (Transform::None, Rounding::Gptq { .. }) => "gptq",
            (Transform::Awq(_), Rounding::Nearest) => "awq",
            (Transform::Awq(_), Rounding::HalfQuadratic(_)) => "awq+hqq",
            (Transform::Awq(_), Rounding::Gptq { .. }) => "awq+gptq",
            (Transform::SmoothQuant(_), Rounding::Nearest) => "smoothquant",
            (Transform::SmoothQuant(_), Rounding::HalfQuadratic(_)) => "smoothquant+hqq",
            (Transform::SmoothQuant(_), Rounding::Gptq { .. }) => "smoothquant+gptq",
        }
    }

    /// Whether calibration text passes through the model.
    pub const fn needs_calibration(&self) -> bool {
        let rounds_freely = matches!(self.rounding, Rounding::Nearest | Rounding::HalfQuadratic(_));
        !(matches!(self.transform, Transform::None) && rounds_freely)
    }

    /// Whether a matrix of this shape can be rounded to this grid.
    pub fn takes(&self, scheme: &Scheme, shape: MatrixShape) -> bool {
        match self.rounding {
            Rounding::Nearest => true,
            Rounding::Gptq { .. } => solver::takes(scheme, shape),
            Rounding::HalfQuadratic(_) => match scheme {
                Scheme::Int(scheme) => scheme.symmetry == Symmetry::Affine,
                Scheme::Float | Scheme::Offset(_) => true,
                _ => false,
            },
        }
    }

    /// The solver's settings, if there is a solver.
    pub const fn gptq_spec(&self) -> Option<GptqSpec> {
        match self.rounding {
            Rounding::Gptq { spec, .. } => Some(spec),
            Rounding::Nearest | Rounding::HalfQuadratic(_) => None,
        }
    }

    /// Candidates that the transform tries at each site and the calibration tokens it tries them on, if there is one.
    pub(crate) const fn search(&self) -> Option<(u32, usize)> {
        match self.transform {
            Transform::Awq(AwqSpec { n_ratios, weights, tokens }) => {
                Some((1 + n_ratios * if weights { 2 } else { 1 }, tokens))
            }
            Transform::SmoothQuant(SmoothQuantSpec { strength, tokens }) => {
                let tried = match strength {
                    Some(_) => 1,
                    None => SmoothQuantSpec::STRENGTHS.len() as u32,
                };
                Some((1 + tried, tokens))
            }
            Transform::None => None,
        }
    }

    /// The share of mismatch that is corrected; 0 without a solver.
    pub const fn mismatch(&self) -> f32 {
        match self.rounding {
            Rounding::Gptq { mismatch, .. } => mismatch,
            Rounding::Nearest | Rounding::HalfQuadratic(_) => 0.0,
        }
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::nearest()
    }
}
