//! GPT-2 and DistilGPT-2.
//!
//! Norms subtract the mean and have biases, as all layers have; positions are learned and added to the embedding; query, key and value are one
//! matrix, quantized as one; the MLP has no gate, so that nothing before its GELU can take over the scales of what the down projection reads.
//!
//! Float matrices lie `(in_features, out_features)`, the other way round than everywhere else. In few bits they lie like all others, in every
//! container: so GPTQModel writes them, so GGUF has them, and so vLLM takes them.

use super::{
    Activation, Architecture, Bias, Biases, BlockNorm, Defaults, Names, NormKind, Producer,
    Spelling, WindowRule,
};
use crate::{Role, Site};

pub(super) const GPT2: Architecture = Architecture {
    model_type: "gpt2",
    class: "GPT2LMHeadModel",
    names: Names {
        optional_prefix: "transformer.",
        embedding: "transformer.wte",
        positions: Some("transformer.wpe"),
        final_norm: "transformer.ln_f",
        head: "lm_head",
        layers: "transformer.h",
        linears: &[
            (Role::QueryKeyValue, "attn.c_attn"),
            (Role::AttentionOutput, "attn.c_proj"),
            (Role::Up, "mlp.c_fc"),
            (Role::Down, "mlp.c_proj"),
        ],
        norms: &[(BlockNorm::Attention, "ln_1"), (BlockNorm::Mlp, "ln_2")],
    },
    groups: &[
        (Site::AttentionInput, &[Role::QueryKeyValue]),
        (Site::AttentionMix, &[Role::AttentionOutput]),
        (Site::MlpInput, &[Role::Up]),
        (Site::MlpMix, &[Role::Down]),
    ],
    producers: &[
        (Site::AttentionInput, Producer::Norm),
        (Site::AttentionMix, Producer::Linear(Role::QueryKeyValue)),
        (Site::MlpInput, Producer::Norm),
    ],
    keys: Spelling {
        hidden_size: "n_embd",
        intermediate_size: "n_inner",
        n_layers: "n_layer",
        n_heads: "n_head",
        max_positions: "n_positions",
        norm_eps: "layer_norm_epsilon",
        activation: "activation_function",
    },
    defaults: Defaults {
        vocab_size: 50257,
        hidden_size: 768,
        intermediate_size: None,
        n_layers: 12,
        n_heads: 12,
        n_kv_heads: None,
        head_dim: None,
        max_positions: 1024,
        norm_eps: 1e-5,
        rope_theta: 1e4,
        tied: true,
        bos_token: Some(50256),
        eos_token: Some(50256),
    },
    norm: NormKind::Layer,
    activation: Activation::GeluTanh,
    biases: Biases {
        query_key_value: Bias::Always,
        attention_output: Bias::Always,
        mlp: Bias::Always,
    },
    window: WindowRule::Never,
    scales_embedding: false,
    transposed: true,
};
