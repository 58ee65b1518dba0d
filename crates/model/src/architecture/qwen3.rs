//! Qwen3 without experts: Qwen2 with a norm of each head's query and key instead of biases. The width of a head does not follow from the
//! number of heads.

use super::{Architecture, Bias, Biases, BlockNorm, Defaults, Names, llama, qwen2};

pub(super) const QWEN3: Architecture = Architecture {
    model_type: "qwen3",
    class: "Qwen3ForCausalLM",
    names: Names {
        norms: &[
            (BlockNorm::Attention, "input_layernorm"),
            (BlockNorm::Query, "self_attn.q_norm"),
            (BlockNorm::Key, "self_attn.k_norm"),
            (BlockNorm::Mlp, "post_attention_layernorm"),
        ],
        ..llama::NAMES
    },
    defaults: Defaults { head_dim: Some(128), ..qwen2::DEFAULTS },
    biases: Biases {
        query_key_value: Bias::Key("attention_bias"),
        attention_output: Bias::Key("attention_bias"),
        mlp: Bias::Never,
    },
    ..qwen2::QWEN2
};
