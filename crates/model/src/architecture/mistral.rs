//! Mistral: Llama whose layers see a window of the text, unless the configuration switches that off.

use super::{Architecture, Bias, Biases, Defaults, WindowRule, llama};

pub(super) const MISTRAL: Architecture = Architecture {
    model_type: "mistral",
    class: "MistralForCausalLM",
    defaults: Defaults {
        intermediate_size: Some(14336),
        n_kv_heads: Some(8),
        max_positions: 131_072,
        ..llama::DEFAULTS
    },
    biases: Biases {
        query_key_value: Bias::Never,
        attention_output: Bias::Never,
        mlp: Bias::Never,
    },
    window: WindowRule::EveryLayer,
    ..llama::LLAMA
};
