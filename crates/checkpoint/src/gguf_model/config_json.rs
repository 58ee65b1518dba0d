//! Sizes and settings as a `config.json`.

use serde_json::{Map, Value, json};

use super::{
    GgufArch, Hparams,
    hparams::{GEMMA3_PERIOD, periodic},
    numbers::json_number,
};

impl Hparams {
    /// A `config.json` that transformers 4 and 5 and this crate's readers accept. `dtype` is the type of the float weights, such as `float32`;
    /// tokens that begin and end a text come from the tokenizer.
    pub fn config(&self, dtype: &str, bos: Option<u32>, ends: &[u32]) -> Map<String, Value> {
        let mut config = Map::new();
        let mut put = |key: &str, value: Value| config.insert(key.to_owned(), value);
        put("architectures", json!([self.arch.class()]));
        put("model_type", self.arch.model_type().into());
        put("torch_dtype", dtype.into());
        put("vocab_size", self.vocab_size.into());
        if self.arch == GgufArch::Gpt2 {
            put("n_embd", self.hidden_size.into());
            put("n_layer", self.n_layers.into());
            put("n_head", self.heads.into());
            put("n_inner", self.intermediate_size.into());
            put("n_positions", self.context_length.into());
            put("n_ctx", self.context_length.into());
            put("layer_norm_epsilon", json_number(self.norm_eps));
            put("activation_function", "gelu_new".into());
        } else {
            put("hidden_size", self.hidden_size.into());
            put("intermediate_size", self.intermediate_size.into());
            put("num_attention_heads", self.heads.into());
            put("num_key_value_heads", self.kv_heads.into());
            put("head_dim", self.head_dim.into());
            put("max_position_embeddings", self.context_length.into());
        }
        match self.arch {
            GgufArch::Gpt2 => {}
            GgufArch::Exaone => {
                put("num_layers", self.n_layers.into());
                put("layer_norm_epsilon", json_number(self.norm_eps));
                put("activation_function", "silu".into());
            }
            GgufArch::Gemma3 => {
                put("num_hidden_layers", self.n_layers.into());
                put("rms_norm_eps", json_number(self.norm_eps));
                put("hidden_activation", "gelu_pytorch_tanh".into());
                // As llama.cpp has it: the model of 62 layers is scaled otherwise.
                let scalar = match self.n_layers {
                    62 => self.hidden_size / self.heads,
                    _ => self.head_dim,
                };
                put("query_pre_attn_scalar", scalar.into());
                let softcap = self.final_logit_softcap.map_or(Value::Null, json_number);
                put("final_logit_softcapping", softcap);
                put("attn_logit_softcapping", Value::Null);
                put("attention_bias", self.attention_bias.into());
            }
            GgufArch::Llama | GgufArch::Qwen2 | GgufArch::Qwen3 => {
                put("num_hidden_layers", self.n_layers.into());
                put("rms_norm_eps", json_number(self.norm_eps));
                put("hidden_act", "silu".into());
                if self.arch != GgufArch::Qwen2 {
                    put("attention_bias", self.attention_bias.into());
                }
                if self.arch == GgufArch::Llama {
                    put("mlp_bias", self.mlp_bias.into());
                } else {
                    put("use_sliding_window", false.into());
                }
            }
        }
        if let Some(rope) = self.rope {
            put("rope_theta", json_number(rope.theta));
            put("rope_scaling", rope.config());
        }
        if let (GgufArch::Gemma3, None) = (self.arch, &self.window) {
            // The configuration has no way to leave the window out.
            put("layer_types", (0..self.n_layers).map(|_| "full_attention").collect());
        }
        if let Some(window) = &self.window {
            put("sliding_window", window.width.into());
            put("rope_local_base_freq", json_number(window.theta));
            if window.layers == periodic(GEMMA3_PERIOD, self.n_layers) {
                put("sliding_window_pattern", GEMMA3_PERIOD.into());
            }
            let kind = |&local: &bool| if local { "sliding_attention" } else { "full_attention" };
            put("layer_types", window.layers.iter().map(kind).collect());
        }
        put("bos_token_id", bos.map_or(Value::Null, Value::from));
        put(
            "eos_token_id",
            match ends {
                [] => Value::Null,
                &[one] => one.into(),
                several => several.into(),
            },
        );
        put("tie_word_embeddings", self.tied.into());
        config
    }
}
