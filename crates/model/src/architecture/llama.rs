//! Llama 1 to 3, and whatever else calls itself that: the pattern of most others.
//!
//! `x += o(attention(q, k, v)(norm x))`, `x += down(silu(gate(norm x)) · up(norm x))`, rotary positions, grouped queries.

use super::{
    Activation, Architecture, Bias, Biases, BlockNorm, Defaults, Groups, Names, NormKind, Producer,
    Spelling, WindowRule,
};
use crate::{Role, Site};

pub(super) const LLAMA: Architecture = Architecture {
    model_type: "llama",
    class: "LlamaForCausalLM",
    names: NAMES,
    groups: GROUPS,
    producers: PRODUCERS,
    keys: KEYS,
    defaults: DEFAULTS,
    norm: NormKind::Rms,
    activation: Activation::Silu,
    biases: Biases {
        query_key_value: Bias::Key("attention_bias"),
        attention_output: Bias::Key("attention_bias"),
        mlp: Bias::Key("mlp_bias"),
    },
    window: WindowRule::Never,
    scales_embedding: false,
    transposed: false,
};

pub(super) const NAMES: Names = Names {
    optional_prefix: "",
    embedding: "model.embed_tokens",
    positions: None,
    final_norm: "model.norm",
    head: "lm_head",
    layers: "model.layers",
    linears: &[
        (Role::Query, "self_attn.q_proj"),
        (Role::Key, "self_attn.k_proj"),
        (Role::Value, "self_attn.v_proj"),
        (Role::AttentionOutput, "self_attn.o_proj"),
        (Role::Gate, "mlp.gate_proj"),
        (Role::Up, "mlp.up_proj"),
        (Role::Down, "mlp.down_proj"),
    ],
    norms: &[
        (BlockNorm::Attention, "input_layernorm"),
        // Named after what it follows.
        (BlockNorm::Mlp, "post_attention_layernorm"),
    ],
};

pub(super) const GROUPS: Groups = &[
    (Site::AttentionInput, &[Role::Query, Role::Key, Role::Value]),
    (Site::AttentionMix, &[Role::AttentionOutput]),
    (Site::MlpInput, &[Role::Gate, Role::Up]),
    (Site::MlpMix, &[Role::Down]),
];

/// Values pass through attention linearly, and the up projection through the product with the gate.
pub(super) const PRODUCERS: &[(Site, Producer)] = &[
    (Site::AttentionInput, Producer::Norm),
    (Site::AttentionMix, Producer::Linear(Role::Value)),
    (Site::MlpInput, Producer::Norm),
    (Site::MlpMix, Producer::Linear(Role::Up)),
];

pub(super) const KEYS: Spelling = Spelling {
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    n_layers: "num_hidden_layers",
    n_heads: "num_attention_heads",
    max_positions: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    activation: "hidden_act",
};

pub(super) const DEFAULTS: Defaults = Defaults {
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: Some(11008),
    n_layers: 32,
    n_heads: 32,
    n_kv_heads: None,
    head_dim: None,
    max_positions: 2048,
    norm_eps: 1e-6,
    rope_theta: 1e4,
    tied: false,
    bos_token: Some(1),
    eos_token: Some(2),
};
