//! What can be learned: slices of numbers with a name, a kind, and a natural size.

use fewbit_format::MatrixShape;

/// What a number is for; each kind has a learning rate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Weights, be they rounded on the way or not.
    Weight,
    /// Offsets that decide which way a weight is rounded, in codes.
    Rounding,
    /// Step sizes.
    Scale,
    /// Zero points, in codes.
    ZeroPoint,
    /// Norms and biases, which stay floats.
    Norm,
    /// Embedding, learned positions and head, which stay floats.
    End,
    /// Factors of low-rank adapters.
    Adapter,
}

/// Numbers that an optimizer may change.
#[derive(Debug)]
pub(crate) struct Param<'a> {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// What a learning rate is multiplied by.
    pub(crate) unit: f32,
    /// Values outside are brought back.
    pub(crate) range: [f32; 2],
    /// Rows and columns of a matrix of floats.
    pub(crate) matrix: Option<MatrixShape>,
    pub(crate) values: &'a mut [f32],
}

/// Any number.
pub(crate) const ANY: [f32; 2] = [f32::NEG_INFINITY, f32::INFINITY];

/// Which kinds are learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Learn {
    /// Weights on grids.
    pub weights: bool,
    /// Weights of linear layers without a grid.
    pub floats: bool,
    /// Rounding offsets.
    pub rounding: bool,
    /// Step sizes, those of inputs too where they are fixed.
    pub scales: bool,
    /// Zero points of affine grids.
    pub zero_points: bool,
    /// Norms and biases.
    pub norms: bool,
    /// Embedding, learned positions and head.
    pub ends: bool,
    /// Low-rank adapters.
    pub adapters: bool,
}

impl Learn {
    /// Nothing.
    pub const NOTHING: Self = Self {
        weights: false,
        floats: false,
        rounding: false,
        scales: false,
        zero_points: false,
        norms: false,
        ends: false,
        adapters: false,
    };
    /// Everything in a model without grids: training from nothing.
    pub const FLOAT: Self = Self { floats: true, norms: true, ends: true, ..Self::NOTHING };
    /// Weights with their grids: Block-AP (EfficientQAT, arXiv 2407.11062) and full quantization-aware training.
    pub const WEIGHTS: Self =
        Self { weights: true, scales: true, zero_points: true, ..Self::NOTHING };
    /// Rounding offsets and ranges alone: SignRound (AutoRound, arXiv 2309.05516).
    pub const ROUNDING: Self =
        Self { rounding: true, scales: true, zero_points: true, ..Self::NOTHING };
    /// Step sizes alone, under codes that stay as they are: E2E-QP (EfficientQAT).
    pub const SCALES: Self = Self { scales: true, ..Self::NOTHING };
    /// Norms and biases alone: the file of a quantized model keeps all its codes and step sizes (Norm Tweaking, arXiv 2309.02784).
    pub const NORMS: Self = Self { norms: true, ..Self::NOTHING };
    /// Low-rank adapters alone, on codes that stay as they are: QLoRA, where these are NF4 (arXiv 2305.14314).
    pub const ADAPTERS: Self = Self { adapters: true, ..Self::NOTHING };
}
