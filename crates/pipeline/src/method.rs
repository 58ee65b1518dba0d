//! How codes are chosen: a transform of the model, and a rounding of what it leaves.

use fewbit_gptq::GptqSpec;

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
}

/// How each weight gets its code.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[non_exhaustive]
pub enum Rounding {
    /// To the nearest value. Without a transform, ranges come from the weights alone and no calibration is needed; with one, ranges and blocks are
    /// chosen by what their errors do to the outputs on calibration text.
    #[default]
    Nearest,
    /// GPTQ on calibration text.
    Gptq {
        /// The solver's settings.
        spec: GptqSpec,
        /// How much of the errors of earlier layers a layer makes up for, in 0..=1. Above 0 the calibration text also passes through the
        /// float model, which doubles the states and the passes.
        mismatch: f32,
    },
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

    /// `rtn`, `gptq`, `awq` or `awq+gptq`.
    pub const fn name(&self) -> &'static str {
        match (self.transform, self.rounding) {
            (Transform::None, Rounding::Nearest) => "rtn",
            (Transform::None, Rounding::Gptq { .. }) => "gptq",
            (Transform::Awq(_), Rounding::Nearest) => "awq",
            (Transform::Awq(_), Rounding::Gptq { .. }) => "awq+gptq",
        }
    }

    /// Whether calibration text passes through the model.
    pub const fn needs_calibration(&self) -> bool {
        !matches!((self.transform, self.rounding), (Transform::None, Rounding::Nearest))
    }

    /// The solver's settings, if there is a solver.
    pub const fn gptq_spec(&self) -> Option<GptqSpec> {
        match self.rounding {
            Rounding::Gptq { spec, .. } => Some(spec),
            Rounding::Nearest => None,
        }
    }

    /// How the transform searches, if there is one.
    pub const fn awq_spec(&self) -> Option<AwqSpec> {
        match self.transform {
            Transform::Awq(spec) => Some(spec),
            Transform::None => None,
        }
    }

    /// The share of mismatch that is corrected; 0 without a solver.
    pub const fn mismatch(&self) -> f32 {
        match self.rounding {
            Rounding::Gptq { mismatch, .. } => mismatch,
            Rounding::Nearest => 0.0,
        }
    }
}

impl Default for Method {
    fn default() -> Self {
        Self::nearest()
    }
}
