//! `config.json` of the Llama family.

use fewbit_format::MatrixShape;
use serde_json::{Map, Value};

use crate::{ModelError, Role, RopeScaling, Site, llama};

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
    /// Whether query, key and value projections have a bias.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub attention_output_bias: bool,
    /// Whether the layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Beginning-of-text token.
    pub bos_token: Option<u32>,
    /// Tokens that end a text.
    pub eos_tokens: Vec<u32>,
}

/// What a missing key means in each architecture.
struct Defaults {
    model_type: &'static str,
    vocab_size: usize,
    intermediate_size: usize,
    n_kv_heads: Option<usize>,
    max_positions: usize,
    bos_token: Option<u32>,
    eos_token: Option<u32>,
    /// Whether queries, keys and values have a bias that no key speaks of.
    qkv_bias: bool,
}

/// The architectures of this runtime, with the defaults of the configuration classes in transformers 4.57.
const ARCHITECTURES: [Defaults; 3] = [
    Defaults {
        model_type: "llama",
        vocab_size: 32000,
        intermediate_size: 11008,
        n_kv_heads: None,
        max_positions: 2048,
        bos_token: Some(1),
        eos_token: Some(2),
        qkv_bias: false,
    },
    Defaults {
        model_type: "mistral",
        vocab_size: 32000,
        intermediate_size: 14336,
        n_kv_heads: Some(8),
        max_positions: 131_072,
        bos_token: Some(1),
        eos_token: Some(2),
        qkv_bias: false,
    },
    Defaults {
        model_type: "qwen2",
        vocab_size: 151_936,
        intermediate_size: 22016,
        n_kv_heads: Some(32),
        max_positions: 32768,
        bos_token: None,
        eos_token: None,
        qkv_bias: true,
    },
];

impl ModelConfig {
    /// Reads the keys of a Hugging Face `config.json`, in the forms of transformers 4 (`rope_scaling`, `rope_theta`) and 5
    /// (`rope_parameters`). Architectures: `llama`; `mistral` without a sliding window; `qwen2` without one.
    ///
    /// # Errors
    /// If the architecture is unknown, a key has a value it cannot have, or asks for a feature that this runtime lacks.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, ModelError> {
        let keys = Keys(config);
        let model_type = match keys.get("model_type") {
            Some(Value::String(name)) => name.clone(),
            _ => String::new(),
        };
        let Some(defaults) = ARCHITECTURES.iter().find(|d| d.model_type == model_type) else {
            let supported = ARCHITECTURES.map(|d| d.model_type).join(", ");
            return Err(ModelError::UnknownArchitecture { model_type, supported });
        };
        keys.supported()?;

        let hidden_size = keys.count("hidden_size", 4096)?;
        let n_heads = keys.count("num_attention_heads", 32)?;
        let n_kv_heads =
            keys.count("num_key_value_heads", defaults.n_kv_heads.unwrap_or(n_heads))?;
        if n_heads % n_kv_heads != 0 {
            return Err(keys.wrong("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim = keys.count("head_dim", hidden_size / n_heads)?;
        if head_dim % 2 != 0 || head_dim == 0 {
            return Err(keys.wrong("head_dim", "even, because its halves are rotated in pairs"));
        }
        let (rope_theta, rope_scaling) = keys.rope()?;
        // Llama's key speaks of all four projections, and has no meaning in Qwen2.
        let attention_bias = !defaults.qkv_bias && keys.flag("attention_bias", false)?;
        Ok(Self {
            hidden_size,
            intermediate_size: keys.count("intermediate_size", defaults.intermediate_size)?,
            n_layers: keys.count("num_hidden_layers", 32)?,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: keys.count("vocab_size", defaults.vocab_size)?,
            max_positions: keys.count("max_position_embeddings", defaults.max_positions)?,
            rms_norm_eps: keys.number("rms_norm_eps", 1e-6)? as f32,
            rope_theta,
            rope_scaling,
            qkv_bias: defaults.qkv_bias || attention_bias,
            attention_output_bias: attention_bias,
            mlp_bias: keys.flag("mlp_bias", false)?,
            tied: keys.flag("tie_word_embeddings", false)?,
            bos_token: keys.tokens("bos_token_id", defaults.bos_token)?.first().copied(),
            eos_tokens: keys.tokens("eos_token_id", defaults.eos_token)?,
            model_type,
        })
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

    /// Whether a linear layer of a block has a bias.
    pub const fn has_bias(&self, role: Role) -> bool {
        match role {
            Role::Query | Role::Key | Role::Value => self.qkv_bias,
            Role::AttentionOutput => self.attention_output_bias,
            Role::Gate | Role::Up | Role::Down => self.mlp_bias,
        }
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`: the tensor's name without `.weight`.
    pub fn module(&self, layer: usize, role: Role) -> String {
        llama::module(layer, role)
    }

    /// The tensor that holds what the norm before a site multiplies by, if there is a norm.
    pub fn norm_gain(&self, layer: usize, site: Site) -> Option<String> {
        llama::norm_gain(layer, site)
    }
}

/// Reads values of a JSON object; null counts as missing.
struct Keys<'a>(&'a Map<String, Value>);

/// No size of a model is larger; products of two fit in 64 bits.
const LARGEST: u64 = 1 << 28;

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &'static str, expected: &'static str) -> ModelError {
        let value = self.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        ModelError::Config { key, value, expected }
    }

    fn count(&self, key: &'static str, default: usize) -> Result<usize, ModelError> {
        match self.get(key).map(Value::as_u64) {
            None => Ok(default),
            Some(Some(n)) if (1..=LARGEST).contains(&n) => Ok(n as usize),
            Some(_) => Err(self.wrong(key, "a whole number from 1 to 2^28")),
        }
    }

    fn number(&self, key: &'static str, default: f64) -> Result<f64, ModelError> {
        match self.get(key).map(Value::as_f64) {
            None => Ok(default),
            Some(Some(x)) if x.is_finite() && x > 0.0 => Ok(x),
            Some(_) => Err(self.wrong(key, "a positive number")),
        }
    }

    fn required(&self, key: &'static str) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Err(self.wrong(key, "given for this kind of rotary scaling")),
            Some(_) => self.number(key, 0.0),
        }
    }

    fn flag(&self, key: &'static str, default: bool) -> Result<bool, ModelError> {
        match self.get(key).map(Value::as_bool) {
            None => Ok(default),
            Some(Some(flag)) => Ok(flag),
            Some(None) => Err(self.wrong(key, "true or false")),
        }
    }

    /// One token or a list of them.
    fn tokens(&self, key: &'static str, default: Option<u32>) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.0.get(key) else { return Ok(default.into_iter().collect()) };
        token_list(value).ok_or_else(|| self.wrong(key, "a token id, a list of them, or null"))
    }

    /// Refuses what changes the computation and is not implemented.
    fn supported(&self) -> Result<(), ModelError> {
        let unsupported = |key, value: &Value, supported| {
            Err(ModelError::Unsupported { key, value: value.to_string(), supported })
        };
        if let Some(value) = self.get("hidden_act")
            && !matches!(value.as_str(), Some("silu" | "swish"))
        {
            return unsupported("hidden_act", value, "only silu");
        }
        if let Some(value) = self.get("partial_rotary_factor")
            && value.as_f64() != Some(1.0)
        {
            return unsupported("partial_rotary_factor", value, "only whole heads are rotated");
        }
        // Mistral's class default is a window of 4096; a window as long as the longest text is none.
        let is_mistral = self.get("model_type").and_then(Value::as_str) == Some("mistral");
        let default_window = Value::from(4096);
        let window = match self.0.get("sliding_window") {
            None if is_mistral => Some(&default_window),
            other => other.filter(|value| !value.is_null()),
        };
        let switched_off = !is_mistral && !self.flag("use_sliding_window", false)?;
        if let Some(window) = window
            && !switched_off
            && window.as_u64()
                < self.get("max_position_embeddings").map_or(Some(131_072), Value::as_u64)
        {
            return unsupported("sliding_window", window, "attention is to the whole text");
        }
        Ok(())
    }

    /// Base and scaling of the rotary frequencies.
    fn rope(&self) -> Result<(f64, RopeScaling), ModelError> {
        let theta = self.number("rope_theta", 10_000.0)?;
        let (key, value) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(value), _) => ("rope_parameters", value),
            (None, Some(value)) => ("rope_scaling", value),
            (None, None) => return Ok((theta, RopeScaling::Default)),
        };
        let Value::Object(value) = value else {
            return Err(self.wrong(key, "an object or null"));
        };
        let rope = Keys(value);
        let theta = rope.number("rope_theta", theta)?;
        // `type` is the older spelling.
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let scaling = match kind.and_then(Value::as_str) {
            Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: rope.required("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: rope.required("factor")?,
                low_freq_factor: rope.required("low_freq_factor")?,
                high_freq_factor: rope.required("high_freq_factor")?,
                original_max_positions: rope.required("original_max_position_embeddings")?,
            },
            _ => {
                let value = kind.map_or_else(|| "without rope_type".to_owned(), Value::to_string);
                let supported = "only default, linear and llama3";
                return Err(ModelError::Unsupported { key, value, supported });
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
            && low_freq_factor >= high_freq_factor
        {
            return Err(rope.wrong("low_freq_factor", "less than high_freq_factor"));
        }
        Ok((theta, scaling))
    }
}

/// The tokens of a JSON value: a number, a list of numbers, or none for null.
pub(crate) fn token_list(value: &Value) -> Option<Vec<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    match value {
        Value::Null => Some(vec![]),
        Value::Array(list) => list.iter().map(token).collect(),
        _ => token(value).map(|token| vec![token]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<ModelConfig, ModelError> {
        let Value::Object(map) = value else { panic!("an object") };
        ModelConfig::parse(&map)
    }

    fn refusal(value: Value) -> String {
        parse(value).expect_err("should be refused").to_string()
    }

    #[test]
    fn missing_keys_have_the_defaults_of_the_architecture() {
        let config = parse(json!({"model_type": "llama"})).unwrap();
        assert_eq!((config.hidden_size, config.intermediate_size), (4096, 11008));
        assert_eq!((config.n_layers, config.n_heads, config.n_kv_heads), (32, 32, 32));
        assert_eq!((config.head_dim, config.vocab_size, config.max_positions), (128, 32000, 2048));
        assert_eq!((config.rms_norm_eps, config.rope_theta), (1e-6, 10_000.0));
        assert_eq!(config.rope_scaling, RopeScaling::Default);
        assert!(!config.tied && !config.qkv_bias && !config.mlp_bias);
        assert_eq!((config.bos_token, config.eos_tokens), (Some(1), vec![2]));
        let qwen = parse(json!({"model_type": "qwen2"})).unwrap();
        assert!(qwen.has_bias(Role::Key) && !qwen.has_bias(Role::AttentionOutput));
    }

    #[test]
    fn reads_a_published_configuration() {
        let config = parse(json!({
            "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
            "eos_token_id": [128001, 128008, 128009], "bos_token_id": 128000,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        }))
        .unwrap();
        assert_eq!(config.shape(Role::Key), MatrixShape::new(512, 2048));
        assert_eq!(config.shape(Role::Down), MatrixShape::new(2048, 8192));
        assert_eq!(config.module(3, Role::Up), "model.layers.3.mlp.up_proj");
        assert_eq!(config.eos_tokens, [128001, 128008, 128009]);
        let RopeScaling::Llama3 { factor, original_max_positions, .. } = config.rope_scaling else {
            panic!("{:?}", config.rope_scaling)
        };
        assert_eq!((factor, original_max_positions), (32.0, 8192.0));
    }

    #[test]
    fn both_forms_of_rotary_settings_are_read() {
        let linear = RopeScaling::Linear { factor: 4.0 };
        for config in [
            json!({"model_type": "llama", "rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 4}}),
            json!({"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5}}),
        ] {
            let config = parse(config).unwrap();
            assert_eq!((config.rope_theta, config.rope_scaling), (5.0, linear));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        for (config, message) in [
            (
                json!({}),
                r#"model_type "" is not supported: this runtime has llama, mistral, qwen2"#,
            ),
            (json!({"model_type": "mamba"}), r#"model_type "mamba" is not supported"#),
            (json!({"model_type": "llama", "hidden_act": "gelu"}), r#"hidden_act is "gelu""#),
            (
                json!({"model_type": "llama", "hidden_size": 0}),
                "hidden_size is 0, but it has to be a whole number",
            ),
            (json!({"model_type": "llama", "hidden_size": 1e300}), "hidden_size is 1e+300"),
            (
                json!({"model_type": "llama", "num_hidden_layers": "two"}),
                r#"num_hidden_layers is "two""#,
            ),
            (
                json!({"model_type": "llama", "num_key_value_heads": 5}),
                "a divisor of num_attention_heads",
            ),
            (json!({"model_type": "llama", "head_dim": 7}), "head_dim is 7, but it has to be even"),
            (
                json!({"model_type": "llama", "num_attention_heads": 8192, "num_key_value_heads": 8}),
                "head_dim",
            ),
            (json!({"model_type": "llama", "rms_norm_eps": -1.0}), "a positive number"),
            (json!({"model_type": "llama", "eos_token_id": "x"}), "eos_token_id"),
            (
                json!({"model_type": "llama", "rope_scaling": {"rope_type": "yarn", "factor": 2}}),
                r#"rope_scaling is "yarn""#,
            ),
            (
                json!({"model_type": "llama", "rope_parameters": {"full_attention": {}}}),
                "without rope_type",
            ),
            (
                json!({"model_type": "llama", "rope_scaling": {"rope_type": "llama3", "factor": 2}}),
                "low_freq_factor is missing",
            ),
            (json!({"model_type": "mistral"}), "sliding_window is 4096"),
            (
                json!({"model_type": "qwen2", "use_sliding_window": true, "sliding_window": 100}),
                "sliding_window is 100",
            ),
        ] {
            let got = refusal(config);
            assert!(got.contains(message), "{got:?} should contain {message:?}");
        }
        assert!(parse(json!({"model_type": "mistral", "sliding_window": null})).is_ok());
        assert!(parse(json!({"model_type": "qwen2", "sliding_window": 100})).is_ok());
    }
}
