//! Qwen2 and Qwen2.5: Llama with biases of query, key and value, whatever the configuration says, and windows where that is switched on.

use super::{Architecture, Bias, Biases, Defaults, WindowRule, llama};

pub(super) const QWEN2: Architecture = Architecture {
    model_type: "qwen2",
    class: "Qwen2ForCausalLM",
    defaults: DEFAULTS,
    biases: Biases {
        query_key_value: Bias::Always,
        attention_output: Bias::Never,
        mlp: Bias::Never,
    },
    window: WindowRule::Switched,
    ..llama::LLAMA
};

pub(super) const DEFAULTS: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate_size: Some(22016),
    n_kv_heads: Some(32),
    max_positions: 32768,
    bos_token: None,
    eos_token: None,
    ..llama::DEFAULTS
};
