//! Memory of a forward pass.

use crate::linear::LinearScratch;

/// What a block computes on its way, kept for the next block and the next tokens. Every part is `(n_tokens, width)`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Workspace {
    /// The normalized residual stream.
    pub(crate) x: Vec<f32>,
    /// Queries, keys and values of each token, where one layer computes them.
    pub(crate) fused: Vec<f32>,
    pub(crate) queries: Vec<f32>,
    pub(crate) keys: Vec<f32>,
    pub(crate) values: Vec<f32>,
    /// Input of the output projection.
    pub(crate) mixed: Vec<f32>,
    /// Input of down.
    pub(crate) inner: Vec<f32>,
    pub(crate) up: Vec<f32>,
    /// What joins the residual stream.
    pub(crate) out: Vec<f32>,
    /// Of each token in its text.
    pub(crate) positions: Vec<usize>,
    pub(crate) linear: LinearScratch,
}

/// The memory with another length; what it holds is unspecified.
pub(crate) fn sized(memory: &mut Vec<f32>, len: usize) -> &mut [f32] {
    memory.resize(len, 0.0);
    memory
}
