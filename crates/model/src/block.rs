//! One transformer block, in four stages.

use fewbit_checkpoint::Checkpoint;
use ndarray::{Array2, ArrayView2};

use crate::{Linear, ModelConfig, ModelError, Role, Site};

/// One transformer block: attention and MLP, each after a norm and added to the residual stream.
///
/// The four stages each compute the input of some linear layers ([`SEQUENTIAL_GROUPS`](crate::SEQUENTIAL_GROUPS)):
///
/// ```text
/// x = attention_input(h)      input of query, key, value
/// y = attention_mix(x)        input of the output projection
/// attention_output(y, h)      h += o(y)
/// x = mlp_input(h)            input of gate, up
/// y = mlp_mix(x)              input of down
/// mlp_output(y, h)            h += down(y)
/// ```
#[derive(Clone, Debug)]
pub struct Block {
    config: ModelConfig,
    layer: usize,
}

impl Block {
    /// Reads the weights of one block, float or quantized.
    ///
    /// # Errors
    /// If there is no such layer, or a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Self, ModelError> {
        let _ = checkpoint;
        Ok(Self { config: config.clone(), layer })
    }

    /// Which block of the model this is, from 0.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`.
    pub fn module(&self, role: Role) -> String {
        self.config.module(self.layer, role)
    }

    /// A linear layer.
    pub fn linear(&self, role: Role) -> &Linear {
        let _ = role;
        unimplemented!()
    }

    /// Replaces a linear layer.
    ///
    /// # Panics
    /// If its shape differs.
    pub fn set_linear(&mut self, role: Role, linear: Linear) {
        let _ = (role, linear);
        unimplemented!()
    }

    /// The normalized residual stream: `h (n_tokens, hidden_size)` to the input of query, key and value.
    pub fn attention_input(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        let _ = h;
        unimplemented!()
    }

    /// Projections, rotation and causal attention within each sequence: to the input of the output projection, `(n_tokens, n_heads ·
    /// head_dim)`. The rows of `x` are sequences one after the other, `seq_lens` tokens each, positions from 0.
    ///
    /// # Panics
    /// If the lengths do not add up to the rows of `x`.
    pub fn attention_mix(&self, x: ArrayView2<'_, f32>, seq_lens: &[usize]) -> Array2<f32> {
        let _ = (x, seq_lens);
        unimplemented!()
    }

    /// Adds the output projection of `y` to the residual stream.
    pub fn attention_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        let _ = (y, h);
        unimplemented!()
    }

    /// The normalized residual stream: to the input of gate and up.
    pub fn mlp_input(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        let _ = h;
        unimplemented!()
    }

    /// `silu(gate(x)) · up(x)`: the input of down, `(n_tokens, intermediate_size)`.
    pub fn mlp_mix(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let _ = x;
        unimplemented!()
    }

    /// Adds the down projection of `y` to the residual stream.
    pub fn mlp_output(&self, y: ArrayView2<'_, f32>, h: &mut Array2<f32>) {
        let _ = (y, h);
        unimplemented!()
    }

    /// All stages: the residual stream before this block to the one after it. `tap` sees the input of the linear layers at each site, in
    /// the order of computation.
    pub fn forward(
        &self,
        h: &mut Array2<f32>,
        seq_lens: &[usize],
        tap: impl FnMut(Site, ArrayView2<'_, f32>),
    ) {
        let _ = (h, seq_lens, tap);
        unimplemented!()
    }
}
