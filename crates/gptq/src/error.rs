//! What can go wrong; everything else is a value in the report.

/// An input that the solver cannot take.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GptqError {
    /// Activations are not whole tokens.
    #[error(
        "{got} activations are no whole number of tokens of {in_features} features: pass (n_tokens, in_features)"
    )]
    ActivationLength {
        /// Values passed.
        got: usize,
        /// Features of a token.
        in_features: usize,
    },
    /// An activation is NaN or infinite.
    #[error(
        "activation {value} of token {token}, column {column}: the layers before it overflow or hold non-finite weights"
    )]
    NonFiniteActivation {
        /// Token within the batch.
        token: usize,
        /// Input feature.
        column: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// Products of finite activations overflowed.
    #[error(
        "the Hessian is {value} in column {column}: its activations are too large for single precision, scale them down"
    )]
    NonFiniteHessian {
        /// Input feature.
        column: usize,
        /// NaN or an infinity.
        value: f64,
    },
    /// Two Hessians, or a Hessian and a matrix, have different widths.
    #[error("a Hessian of {hessian} features does not fit {in_features} input features")]
    Width {
        /// Features of the Hessian.
        hessian: usize,
        /// Features of what it was to be used with.
        in_features: usize,
    },
    /// Given parameters are not as many as the groups.
    #[error("{got} parameters given for {expected} groups")]
    Params {
        /// Parameters passed.
        got: usize,
        /// Groups of the matrix.
        expected: usize,
    },
    /// The weight slice does not have the shape.
    #[error("{got} weights given for a matrix of {out_features} × {in_features}")]
    WeightLength {
        /// Values passed.
        got: usize,
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
    },
    /// A weight is NaN or infinite.
    #[error("weight {value} at row {row}, column {column}: repair the checkpoint")]
    NonFiniteWeight {
        /// Output feature.
        row: usize,
        /// Input feature.
        column: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The damping is no fraction.
    #[error("damping {damping} is not between 0 and 1: 0.01 is usual")]
    Damping {
        /// The value of the spec.
        damping: f64,
    },
}
