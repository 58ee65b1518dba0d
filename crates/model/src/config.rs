//! `config.json` of the Llama family.

use fewbit_format::MatrixShape;
use serde_json::{Map, Value};

use crate::{ModelError, Role, rope::RopeScaling};

/// What `config.json` says about a model, with the defaults of its `model_type`.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// `model_type`, such as `llama`.
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a head; even.
    pub head_dim: usize,
    /// Rows of the embedding and outputs of the head.
    pub vocab_size: usize,
    /// Longest sequence that the model was made for. Not enforced.
    pub max_positions: usize,
    /// Added to the mean square before the root.
    pub rms_norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Beginning-of-text token.
    pub bos_token: Option<u32>,
    /// Tokens that end a text.
    pub eos_tokens: Vec<u32>,
}

impl ModelConfig {
    /// Reads the keys of a Hugging Face `config.json`.
    ///
    /// # Errors
    /// If the architecture is unknown, a key has a value it cannot have, or asks for a feature that this runtime lacks.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, ModelError> {
        let _ = config;
        Err(ModelError::NoTokens)
    }

    /// Shape of a linear layer of a block.
    pub const fn shape(&self, role: Role) -> MatrixShape {
        let (hidden, heads) = (self.hidden_size, self.n_heads * self.head_dim);
        let kv = self.n_kv_heads * self.head_dim;
        match role {
            Role::Query => MatrixShape::new(heads, hidden),
            Role::Key | Role::Value => MatrixShape::new(kv, hidden),
            Role::AttentionOutput => MatrixShape::new(hidden, heads),
            Role::Gate | Role::Up => MatrixShape::new(self.intermediate_size, hidden),
            Role::Down => MatrixShape::new(hidden, self.intermediate_size),
        }
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`: the tensor's name without `.weight`.
    pub fn module(&self, layer: usize, role: Role) -> String {
        crate::llama::module(layer, role)
    }
}
