//! Gemma 3, text only.
//!
//! Against Llama: norms multiply by `1 + w`, and stand after attention and MLP too; queries and keys have norms; embeddings are multiplied
//! by the root of their width; scores are divided by the root of `query_pre_attn_scalar`; five layers of six see a window, with a rotary base of
//! their own; the gate is a GELU.
//!
//! The norms after attention and MLP read what the output projections write: no scale could be folded into them, and none needs to be.

use super::{
    Activation, Architecture, Bias, Biases, BlockNorm, Defaults, Names, NormKind, Spelling,
    WindowRule, llama,
};

pub(super) const GEMMA3: Architecture = Architecture {
    model_type: "gemma3_text",
    class: "Gemma3ForCausalLM",
    names: Names {
        norms: &[
            (BlockNorm::Attention, "input_layernorm"),
            (BlockNorm::Query, "self_attn.q_norm"),
            (BlockNorm::Key, "self_attn.k_norm"),
            (BlockNorm::AfterAttention, "post_attention_layernorm"),
            (BlockNorm::Mlp, "pre_feedforward_layernorm"),
            (BlockNorm::AfterMlp, "post_feedforward_layernorm"),
        ],
        ..llama::NAMES
    },
    keys: Spelling { activation: "hidden_activation", ..llama::KEYS },
    defaults: Defaults {
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: Some(9216),
        n_layers: 26,
        n_heads: 8,
        n_kv_heads: Some(4),
        head_dim: Some(256),
        max_positions: 131_072,
        norm_eps: 1e-6,
        rope_theta: 1e6,
        tied: true,
        bos_token: Some(2),
        eos_token: Some(1),
    },
    norm: NormKind::RmsOnePlus,
    activation: Activation::GeluTanh,
    biases: Biases {
        query_key_value: Bias::Key("attention_bias"),
        attention_output: Bias::Key("attention_bias"),
        mlp: Bias::Never,
    },
    window: WindowRule::Periodic,
    scales_embedding: true,
    ..llama::LLAMA
};
