//! EXAONE 3.0 and 3.5: Llama under other names. `c_fc_0` is the gate. (EXAONE 4 is another architecture.)

use super::{Architecture, Bias, Biases, BlockNorm, Defaults, Names, Spelling, llama};
use crate::Role;

pub(super) const EXAONE: Architecture = Architecture {
    model_type: "exaone",
    class: "ExaoneForCausalLM",
    names: Names {
        optional_prefix: "",
        embedding: "transformer.wte",
        positions: None,
        final_norm: "transformer.ln_f",
        head: "lm_head",
        layers: "transformer.h",
        linears: &[
            (Role::Query, "attn.attention.q_proj"),
            (Role::Key, "attn.attention.k_proj"),
            (Role::Value, "attn.attention.v_proj"),
            (Role::AttentionOutput, "attn.attention.out_proj"),
            (Role::Gate, "mlp.c_fc_0"),
            (Role::Up, "mlp.c_fc_1"),
            (Role::Down, "mlp.c_proj"),
        ],
        norms: &[(BlockNorm::Attention, "ln_1"), (BlockNorm::Mlp, "ln_2")],
    },
    keys: Spelling {
        n_layers: "num_layers",
        norm_eps: "layer_norm_epsilon",
        activation: "activation_function",
        ..llama::KEYS
    },
    defaults: Defaults {
        vocab_size: 102_400,
        hidden_size: 2048,
        intermediate_size: None,
        norm_eps: 1e-5,
        tied: true,
        bos_token: Some(0),
        eos_token: Some(2),
        ..llama::DEFAULTS
    },
    biases: Biases {
        query_key_value: Bias::Never,
        attention_output: Bias::Never,
        mlp: Bias::Never,
    },
    ..llama::LLAMA
};
