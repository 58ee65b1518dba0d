//! What can go wrong.

/// An input that cannot be taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AwqError {
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
    /// Statistics or scales have another width than what they are used with.
    #[error("{got} channels do not fit {expected} input features")]
    Width {
        /// Channels given.
        got: usize,
        /// Channels wanted.
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
    /// Zero points are to be moved on a grid that has none.
    #[error("a symmetric grid has no zero point to move: choose an affine one")]
    NoZeroPoint,
    /// A scale that cannot be divided by.
    #[error("scale {value} of channel {channel} is not a positive finite number")]
    Scale {
        /// The channel.
        channel: usize,
        /// The scale.
        value: f32,
    },
}
