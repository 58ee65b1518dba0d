//! `config.json`.

mod keys;

use fewbit_checkpoint::Checkpoint;
use fewbit_format::MatrixShape;
use serde_json::{Map, Value};

use self::keys::Keys;
pub(crate) use self::keys::token_list;
use crate::{
    Architecture, BlockNorm, Groups, ModelError, NormKind, Producer, Role, RopeSettings, Site,
    architecture::{Bias, WindowRule},
};

/// What `config.json` says about a model, with the defaults of its architecture.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Names of tensors, and how blocks compute.
    pub architecture: &'static Architecture,
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
    /// Width of a head; even where it is rotated.
    pub head_dim: usize,
    /// Rows of the embedding and outputs of the head.
    pub vocab_size: usize,
    /// Longest sequence that the model was made for. Enforced only where positions are learned.
    pub max_positions: usize,
    /// Added to the variance or mean square before the root.
    pub norm_eps: f32,
    /// Rotation of queries and keys; `None` where positions are learned.
    pub rope: Option<RopeSettings>,
    /// Rotation in layers with a window, where that is another.
    pub local_rope: Option<RopeSettings>,
    /// Layers that see a window of the text.
    pub window: Option<SlidingWindow>,
    /// What products of queries and keys are multiplied by.
    pub attention_scale: f32,
    /// Logits are bent to stay within this.
    pub logit_softcap: Option<f32>,
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
    /// Whether names lack the prefix that files may leave out.
    bare_names: bool,
}

/// Layers that see a window of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Tokens that are seen, the present one included.
    pub width: usize,
    /// Which layers they are, one for each layer.
    pub layers: Vec<bool>,
}

/// The tensors of a norm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormTensors {
    /// What it multiplies by.
    pub gain: String,
    /// What it adds.
    pub bias: Option<String>,
}

impl ModelConfig {
    /// Reads the configuration of a checkpoint, in the forms of transformers 4 (`rope_scaling`, `rope_theta`) and 5 (`rope_parameters`).
    ///
    /// # Errors
    /// If the architecture is unknown, a key has a value it cannot have, or asks for a feature that this runtime lacks.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let mut config = Self::parse(checkpoint.config())?;
        let prefix = config.architecture.names.optional_prefix;
        let full =
            prefix.is_empty() || checkpoint.tensors().any(|tensor| tensor.name.starts_with(prefix));
        config.bare_names = !full;
        Ok(config)
    }

    /// As [`of`](Self::of), of a configuration alone. Tensors are expected under their full names.
    ///
    /// # Errors
    /// The same.
    pub fn parse(config: &Map<String, Value>) -> Result<Self, ModelError> {
        let keys = Keys(config);
        let architecture = architecture(&keys)?;
        let (names, spelling, defaults) =
            (&architecture.names, &architecture.keys, &architecture.defaults);
        keys.supported(architecture)?;

        let hidden_size = keys.count(spelling.hidden_size, defaults.hidden_size)?;
        let n_heads = keys.count(spelling.n_heads, defaults.n_heads)?;
        let n_kv_heads =
            keys.count("num_key_value_heads", defaults.n_kv_heads.unwrap_or(n_heads))?;
        if n_heads % n_kv_heads != 0 {
            return Err(keys.wrong("num_key_value_heads", "a divisor of num_attention_heads"));
        }
        let head_dim =
            keys.count("head_dim", defaults.head_dim.unwrap_or(hidden_size / n_heads))?;
        let rotary = names.positions.is_none();
        if head_dim == 0 || rotary && head_dim % 2 != 0 {
            return Err(keys.wrong("head_dim", "even, because its halves are rotated in pairs"));
        }
        let n_layers = keys.count(spelling.n_layers, defaults.n_layers)?;
        if n_layers > MOST_LAYERS {
            return Err(keys.wrong(spelling.n_layers, "a whole number from 1 to 65536"));
        }
        let rope = match rotary {
            true => Some(keys.rope("rope_theta", defaults.rope_theta, "full_attention")?),
            false => None,
        };
        let local_rope = match architecture.window {
            WindowRule::Periodic => {
                Some(keys.rope("rope_local_base_freq", 10_000.0, "sliding_attention")?)
            }
            _ => None,
        };
        let has_bias = |bias: Bias| match bias {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => keys.flag(key, false),
        };
        let inner = defaults.intermediate_size.unwrap_or(4 * hidden_size);
        let attention_scale = match architecture.window {
            WindowRule::Periodic => keys.number("query_pre_attn_scalar", 256.0)?.powf(-0.5) as f32,
            _ => 1.0 / (head_dim as f32).sqrt(),
        };
        let softcap = match keys.get("final_logit_softcapping") {
            None => None,
            Some(_) => Some(keys.number("final_logit_softcapping", 0.0)? as f32),
        };
        Ok(Self {
            architecture,
            hidden_size,
            intermediate_size: keys.count(spelling.intermediate_size, inner)?,
            n_layers,
            n_heads,
            n_kv_heads,
            head_dim,
            vocab_size: keys.count("vocab_size", defaults.vocab_size)?,
            max_positions: keys.count(spelling.max_positions, defaults.max_positions)?,
            norm_eps: keys.number(spelling.norm_eps, defaults.norm_eps)? as f32,
            rope,
            local_rope,
            window: keys.window(architecture.window, n_layers)?,
            attention_scale,
            logit_softcap: softcap,
            qkv_bias: has_bias(architecture.biases.query_key_value)?,
            attention_output_bias: has_bias(architecture.biases.attention_output)?,
            mlp_bias: has_bias(architecture.biases.mlp)?,
            tied: keys.flag("tie_word_embeddings", defaults.tied)?,
            bos_token: keys.tokens("bos_token_id", defaults.bos_token)?.first().copied(),
            eos_tokens: keys.tokens("eos_token_id", defaults.eos_token)?,
            bare_names: false,
        })
    }

    /// `model_type`, such as `llama`.
    pub fn model_type(&self) -> &'static str {
        self.architecture.model_type
    }

    /// The sites of a block in the order of computation, each with the layers that read it.
    pub fn groups(&self) -> Groups {
        self.architecture.groups
    }

    /// The layers that read at a site.
    pub fn roles_at(&self, site: Site) -> &'static [Role] {
        self.groups().iter().find(|(s, _)| *s == site).map_or(&[], |(_, roles)| roles)
    }

    /// The linear layers of a block, in the order of computation.
    pub fn roles(&self) -> impl Iterator<Item = Role> + Clone + use<> {
        self.architecture.roles()
    }

    /// Shape of a linear layer of a block.
    pub const fn shape(&self, role: Role) -> MatrixShape {
        let (hidden, heads) = (self.hidden_size, self.n_heads * self.head_dim);
        let kv = self.n_kv_heads * self.head_dim;
        match role {
            Role::Query => MatrixShape::new(heads, hidden),
            Role::Key | Role::Value => MatrixShape::new(kv, hidden),
            Role::QueryKeyValue => MatrixShape::new(heads + 2 * kv, hidden),
            Role::AttentionOutput => MatrixShape::new(hidden, heads),
            Role::Gate | Role::Up => MatrixShape::new(self.intermediate_size, hidden),
            Role::Down => MatrixShape::new(hidden, self.intermediate_size),
        }
    }

    /// Whether a linear layer of a block has a bias.
    pub const fn has_bias(&self, role: Role) -> bool {
        match role {
            Role::Query | Role::Key | Role::Value | Role::QueryKeyValue => self.qkv_bias,
            Role::AttentionOutput => self.attention_output_bias,
            Role::Gate | Role::Up | Role::Down => self.mlp_bias,
        }
    }

    /// Module name of a linear layer, such as `model.layers.3.self_attn.q_proj`: the tensor's name without `.weight`.
    ///
    /// # Panics
    /// If blocks of this architecture have no such layer.
    pub fn module(&self, layer: usize, role: Role) -> String {
        let name = self.architecture.names.linears.iter().find(|(r, _)| *r == role);
        let (_, name) = name.expect("a role of this architecture");
        self.in_layer(layer, name)
    }

    /// The matrices around the blocks, `(vocab_size, hidden_size)` each: the embedding and the head. They stay as they are unless a plan names them.
    pub fn end_modules(&self) -> [String; 2] {
        [self.name(self.architecture.names.embedding), self.name(self.architecture.names.head)]
    }

    /// The tensors of the norm before a site, if there is a norm.
    pub fn norm(&self, layer: usize, site: Site) -> Option<NormTensors> {
        match site {
            Site::AttentionInput => self.block_norm(layer, BlockNorm::Attention),
            Site::MlpInput => self.block_norm(layer, BlockNorm::Mlp),
            Site::AttentionMix | Site::MlpMix => None,
        }
    }

    /// What can take over the scales of a site's inputs, if anything can; of a linear layer, its rows from `.1` on.
    pub fn producer(&self, site: Site) -> Option<(Producer, usize)> {
        let producer = self.architecture.producer(site)?;
        let first = match producer {
            // Queries and keys come first.
            Producer::Linear(Role::QueryKeyValue) => {
                (self.n_heads + self.n_kv_heads) * self.head_dim
            }
            _ => 0,
        };
        Some((producer, first))
    }

    /// Whether a rotation of the residual stream can be folded into the weights: its norms divide by a root mean square and stand before layers only.
    pub fn rotates(&self) -> bool {
        let after = [BlockNorm::AfterAttention, BlockNorm::AfterMlp];
        self.architecture.norm() != NormKind::Layer
            && self.positions().is_none()
            && after.iter().all(|&norm| self.block_norm(0, norm).is_none())
    }

    /// Tokens that a layer sees, if not all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        let window = self.window.as_ref()?;
        window.layers.get(layer).copied().unwrap_or(false).then_some(window.width)
    }

    /// How a layer rotates queries and keys, if it does.
    pub fn rope(&self, layer: usize) -> Option<RopeSettings> {
        match self.window(layer) {
            Some(_) => self.local_rope.or(self.rope),
            None => self.rope,
        }
    }

    /// The tensors of a norm of a block, if blocks have it.
    pub fn block_norm(&self, layer: usize, norm: BlockNorm) -> Option<NormTensors> {
        let module = self.in_layer(layer, self.architecture.norm_name(norm)?);
        Some(self.norm_tensors(&module))
    }

    /// Values of a row that a norm of a block takes.
    pub const fn norm_width(&self, norm: BlockNorm) -> usize {
        match norm {
            BlockNorm::Query | BlockNorm::Key => self.head_dim,
            _ => self.hidden_size,
        }
    }

    /// The tensors of the norm before the head.
    pub fn final_norm(&self) -> NormTensors {
        self.norm_tensors(&self.name(self.architecture.names.final_norm))
    }

    /// The tensor of learned positions, `(max_positions, hidden_size)`, if there is one.
    pub fn positions(&self) -> Option<String> {
        let module = self.architecture.names.positions?;
        Some(format!("{}.weight", self.name(module)))
    }

    fn norm_tensors(&self, module: &str) -> NormTensors {
        let bias = self.architecture.norm == crate::NormKind::Layer;
        let bias = bias.then(|| format!("{module}.bias"));
        NormTensors { gain: format!("{module}.weight"), bias }
    }

    fn in_layer(&self, layer: usize, name: &str) -> String {
        format!("{}.{layer}.{name}", self.name(self.architecture.names.layers))
    }

    /// A name as the files of this model have it.
    fn name(&self, full: &str) -> String {
        let prefix = self.architecture.names.optional_prefix;
        full.strip_prefix(prefix).filter(|_| self.bare_names).unwrap_or(full).to_owned()
    }
}

/// No model has more; each takes a few bytes before its tensors are looked for.
const MOST_LAYERS: usize = 1 << 16;

/// By `model_type`, or by the class where an old file has none.
fn architecture(keys: &Keys<'_>) -> Result<&'static Architecture, ModelError> {
    let model_type = keys.get("model_type").and_then(Value::as_str);
    let class = keys.get("architectures").and_then(|list| list.get(0)?.as_str());
    let found = match (model_type, class) {
        (Some(model_type), _) => Architecture::of_type(model_type),
        (None, Some(class)) => crate::architecture::ALL.into_iter().find(|a| a.class == class),
        (None, None) => None,
    };
    found.ok_or_else(|| ModelError::UnknownArchitecture {
        model_type: model_type.or(class).unwrap_or_default().to_owned(),
        supported: Architecture::types().collect::<Vec<_>>().join(", "),
    })
}

impl Keys<'_> {
    /// Refuses what changes the computation and is not implemented.
    fn supported(&self, architecture: &Architecture) -> Result<(), ModelError> {
        let unsupported = |key, value: &Value, supported| {
            Err(ModelError::Unsupported { key, value: value.to_string(), supported })
        };
        let names = architecture.activation.names();
        if let Some(value) = self.get(architecture.keys.activation)
            && !value.as_str().is_some_and(|name| names.contains(&name))
        {
            return unsupported(architecture.keys.activation, value, names[0]);
        }
        for (key, only, supported) in [
            ("partial_rotary_factor", Value::from(1.0), "only whole heads are rotated"),
            ("scale_attn_weights", true.into(), "scores are always scaled"),
            ("scale_attn_by_inverse_layer_idx", false.into(), "layers scale scores alike"),
            ("use_bidirectional_attention", false.into(), "only what came before is seen"),
            ("attn_logit_softcapping", Value::Null, "scores are not bent"),
        ] {
            if let Some(value) = self.get(key)
                && *value != only
                && (value.as_f64().is_none() || value.as_f64() != only.as_f64())
            {
                return unsupported(key, value, supported);
            }
        }
        Ok(())
    }

    /// Layers that see a window of the text.
    fn window(
        &self,
        rule: WindowRule,
        n_layers: usize,
    ) -> Result<Option<SlidingWindow>, ModelError> {
        let layers = match rule {
            WindowRule::Never => return Ok(None),
            // Null switches it off, a missing key does not.
            WindowRule::EveryLayer if self.0.get("sliding_window").is_some_and(Value::is_null) => {
                return Ok(None);
            }
            WindowRule::EveryLayer => vec![true; n_layers],
            WindowRule::Switched if !self.flag("use_sliding_window", false)? => return Ok(None),
            WindowRule::Switched => match self.layer_types(n_layers)? {
                Some(layers) => layers,
                None => {
                    let first = match self.get("max_window_layers").map(Value::as_u64) {
                        None => 28,
                        Some(Some(first)) => first,
                        Some(None) => {
                            return Err(self.wrong("max_window_layers", "a number of layers"));
                        }
                    };
                    (0..n_layers as u64).map(|layer| layer >= first).collect()
                }
            },
            WindowRule::Periodic => match self.layer_types(n_layers)? {
                Some(layers) => layers,
                None => {
                    let period = self.count("_sliding_window_pattern", 6)?;
                    let period = self.count("sliding_window_pattern", period)?;
                    (1..=n_layers).map(|number| number % period != 0).collect()
                }
            },
        };
        let width = self.count("sliding_window", 4096)?;
        Ok(Some(SlidingWindow { width, layers }).filter(|window| window.layers.contains(&true)))
    }

    /// Which layers see a window, where `layer_types` says it.
    fn layer_types(&self, n_layers: usize) -> Result<Option<Vec<bool>>, ModelError> {
        let Some(types) = self.get("layer_types") else { return Ok(None) };
        let layer = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        let layers = types.as_array().and_then(|types| types.iter().map(layer).collect());
        match layers.filter(|layers: &Vec<bool>| layers.len() == n_layers) {
            Some(layers) => Ok(Some(layers)),
            None => Err(self
                .wrong("layer_types", "full_attention or sliding_attention, one for each layer")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RopeScaling;
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
        assert_eq!(config.norm_eps, 1e-6);
        let rope = RopeSettings { theta: 10_000.0, scaling: RopeScaling::Default };
        assert_eq!((config.rope(5), config.window(5)), (Some(rope), None));
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
        let scaling = config.rope.unwrap().scaling;
        let RopeScaling::Llama3 { factor, original_max_positions, .. } = scaling else {
            panic!("{scaling:?}")
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
            assert_eq!(config.rope, Some(RopeSettings { theta: 5.0, scaling: linear }));
        }
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        for (config, message) in [
            (
                json!({}),
                r#"model_type "" is not supported: this runtime has llama, mistral, qwen2, qwen3, gemma3_text, gpt2, exaone"#,
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
            (
                json!({"model_type": "gemma3_text", "num_hidden_layers": 2, "layer_types": ["full_attention"]}),
                "one for each layer",
            ),
            (
                json!({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}),
                "attn_logit_softcapping is 50.0",
            ),
            (json!({"model_type": "gpt2", "activation_function": "relu"}), r#"is "relu""#),
            (json!({"model_type": "gpt2", "scale_attn_weights": false}), "scale_attn_weights"),
            (json!({"model_type": "llama", "num_hidden_layers": 100_000}), "from 1 to 65536"),
            (json!({"model_type": "mistral", "sliding_window": 0}), "sliding_window is 0"),
        ] {
            let got = refusal(config);
            assert!(got.contains(message), "{got:?} should contain {message:?}");
        }
    }

    #[test]
    fn windows_are_those_of_the_configuration_classes() {
        let windows = |config: Value| -> Vec<Option<usize>> {
            let config = parse(config).unwrap();
            (0..config.n_layers).map(|layer| config.window(layer)).collect()
        };
        let (wide, own) = (Some(4096), Some(9));
        for (config, expected) in [
            (json!({"model_type": "mistral", "num_hidden_layers": 2}), vec![wide; 2]),
            (
                json!({"model_type": "mistral", "num_hidden_layers": 1, "sliding_window": null}),
                vec![None],
            ),
            (
                json!({"model_type": "qwen2", "num_hidden_layers": 1, "sliding_window": 9}),
                vec![None],
            ),
            (
                json!({"model_type": "qwen3", "num_hidden_layers": 3, "sliding_window": 9, "use_sliding_window": true,
                    "max_window_layers": 2}),
                vec![None, None, own],
            ),
            (
                json!({"model_type": "qwen2", "num_hidden_layers": 2, "sliding_window": 9, "use_sliding_window": true,
                    "layer_types": ["sliding_attention", "full_attention"]}),
                vec![own, None],
            ),
            (
                json!({"model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 9}),
                vec![own, own, own, own, own, None, own],
            ),
            (
                json!({"model_type": "gemma3_text", "num_hidden_layers": 3, "sliding_window": 9,
                    "sliding_window_pattern": 2}),
                vec![own, None, own],
            ),
        ] {
            assert_eq!(windows(config.clone()), expected, "{config}");
        }
    }

    #[test]
    fn gemma_rotates_its_layers_in_two_ways() {
        let scaling = RopeScaling::Linear { factor: 8.0 };
        let global = RopeSettings { theta: 1e6, scaling };
        let local = RopeSettings { theta: 1e4, scaling: RopeScaling::Default };
        for rope in [
            json!({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
            json!({"rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
        ] {
            let mut config = json!({"model_type": "gemma3_text", "query_pre_attn_scalar": 16});
            config.as_object_mut().unwrap().extend(rope.as_object().unwrap().clone());
            let config = parse(config).unwrap();
            assert_eq!((config.rope(5), config.rope(6)), (Some(global), Some(local)));
            assert_eq!((config.attention_scale, config.head_dim, config.tied), (0.25, 256, true));
        }
    }

    #[test]
    fn gpt2_and_exaone_spell_their_keys_otherwise() {
        // DistilGPT-2 once came without `model_type`.
        let gpt2 = parse(
            json!({"architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 6, "n_head": 4}),
        )
        .unwrap();
        assert_eq!((gpt2.hidden_size, gpt2.intermediate_size, gpt2.n_layers), (64, 256, 6));
        assert_eq!((gpt2.n_kv_heads, gpt2.head_dim, gpt2.max_positions), (4, 16, 1024));
        assert_eq!(gpt2.shape(Role::QueryKeyValue), MatrixShape::new(192, 64));
        assert!(gpt2.rope.is_none() && gpt2.tied && gpt2.has_bias(Role::Down));
        assert_eq!(gpt2.module(2, Role::QueryKeyValue), "transformer.h.2.attn.c_attn");
        assert_eq!(
            gpt2.producer(Site::AttentionMix),
            Some((Producer::Linear(Role::QueryKeyValue), 128))
        );
        assert_eq!(gpt2.producer(Site::MlpMix), None);
        let exaone =
            parse(json!({"model_type": "exaone", "num_layers": 3, "layer_norm_epsilon": 1e-3}))
                .unwrap();
        assert_eq!((exaone.n_layers, exaone.norm_eps, exaone.intermediate_size), (3, 1e-3, 8192));
        assert_eq!(exaone.module(0, Role::Gate), "transformer.h.0.mlp.c_fc_0");
        let norm = exaone.norm(1, Site::MlpInput).unwrap();
        assert_eq!((&*norm.gain, norm.bias), ("transformer.h.1.ln_2.weight", None));
    }
}
