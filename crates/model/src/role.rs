//! The linear layers of a block, and the places where their inputs can be tapped.

/// A linear layer of a transformer block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Query projection, `(n_heads · head_dim, hidden_size)`.
    Query,
    /// Key projection, `(n_kv_heads · head_dim, hidden_size)`.
    Key,
    /// Value projection, `(n_kv_heads · head_dim, hidden_size)`.
    Value,
    /// Query, key and value in one matrix, rows in this order, `((n_heads + 2 · n_kv_heads) · head_dim, hidden_size)`.
    QueryKeyValue,
    /// Output projection of attention, `(hidden_size, n_heads · head_dim)`.
    AttentionOutput,
    /// Gate of the MLP, `(intermediate_size, hidden_size)`, if it has one.
    Gate,
    /// Up projection of the MLP, `(intermediate_size, hidden_size)`.
    Up,
    /// Down projection of the MLP, `(hidden_size, intermediate_size)`.
    Down,
}

/// The input of one or more linear layers: where calibration taps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Site {
    /// The normalized residual stream before attention: input of query, key and value.
    AttentionInput,
    /// The heads' weighted values: input of the output projection.
    AttentionMix,
    /// The normalized residual stream before the MLP: input of gate and up.
    MlpInput,
    /// The gated product, or without a gate the activation: input of down.
    MlpMix,
}

impl Role {
    /// Every role, in the order of computation. No block has all of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryKeyValue,
        Self::AttentionOutput,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// Where the input of this layer is tapped.
    pub const fn site(self) -> Site {
        match self {
            Self::Query | Self::Key | Self::Value | Self::QueryKeyValue => Site::AttentionInput,
            Self::AttentionOutput => Site::AttentionMix,
            Self::Gate | Self::Up => Site::MlpInput,
            Self::Down => Site::MlpMix,
        }
    }
}
