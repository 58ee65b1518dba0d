//! Sizes and settings as metadata of a GGUF file, both ways.

use crate::{
    CheckpointError, ConfigProblem,
    gguf::{Array, FromValue, Metadata, Value},
};

use super::{
    GgufArch, Hparams, RopeParameters, RopeScaling, SlidingWindow,
    hparams::{GEMMA3_PERIOD, periodic},
    numbers::{LARGEST, MOST_LAYERS},
};

impl Hparams {
    /// Appends the keys that llama.cpp needs, in the order of its own converter. `file_type` is `general.file_type`.
    pub fn write(&self, metadata: &mut Metadata, file_type: u32) {
        let mut put = |key: &str, value: Value| {
            metadata.insert(format!("{}.{key}", self.arch.name()), value);
        };
        put("block_count", self.n_layers.into());
        put("context_length", self.context_length.into());
        put("embedding_length", self.hidden_size.into());
        put("feed_forward_length", self.intermediate_size.into());
        put("attention.head_count", self.heads.into());
        if self.arch == GgufArch::Gpt2 {
            put("attention.layer_norm_epsilon", self.norm_eps.into());
        } else {
            put("attention.head_count_kv", self.kv_heads.into());
        }
        if let Some(rope) = self.rope {
            write_rope(&mut put, rope);
            if let Some(window) = &self.window {
                put("rope.freq_base_swa", window.theta.into());
            }
            put("attention.layer_norm_rms_epsilon", self.norm_eps.into());
            put("attention.key_length", self.head_dim.into());
            put("attention.value_length", self.head_dim.into());
        }
        metadata.insert("general.file_type", file_type);
        let mut put = |key: &str, value: Value| {
            metadata.insert(format!("{}.{key}", self.arch.name()), value);
        };
        if let Some(softcap) = self.final_logit_softcap {
            put("final_logit_softcapping", softcap.into());
        }
        if let Some(window) = &self.window {
            put("attention.sliding_window", window.width.into());
            if window.layers != periodic(GEMMA3_PERIOD, self.n_layers) {
                put("attention.sliding_window_pattern", window.layers.clone().into());
            }
        }
        if self.arch == GgufArch::Llama {
            put("vocab_size", self.vocab_size.into());
        }
        if matches!(self.arch, GgufArch::Llama | GgufArch::Exaone) {
            put("rope.dimension_count", self.head_dim.into());
        }
    }

    /// Reads the keys of a GGUF file. What no key says follows from the tensors that are there: biases, a head of its own, the rows of the
    /// embedding. `dims` gives the dimensions of the file's tensors, fastest first; `rope_freqs` are the values of [`ROPE_FREQS`](super::ROPE_FREQS), if the file has
    /// this tensor.
    ///
    /// # Errors
    /// If the architecture is unknown, a key is missing or has an impossible value, or asks for something that has no counterpart in a
    /// Hugging Face configuration.
    pub fn of_metadata(
        metadata: &Metadata,
        dims: impl Fn(&str) -> Option<Vec<u64>>,
        rope_freqs: Option<&[f32]>,
    ) -> Result<Self, CheckpointError> {
        let arch = GgufArch::of_name(metadata.text("general.architecture")?)?;
        let keys = ArchKeys { arch: arch.name(), metadata };
        let n_layers = keys.count("block_count")?;
        if n_layers > MOST_LAYERS {
            return Err(keys.wrong("block_count", "at most 65536"));
        }
        let hidden_size = keys.count("embedding_length")?;
        let heads = keys.count("attention.head_count")?;
        let kv_heads = keys.find_count("attention.head_count_kv")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(keys.wrong("attention.head_count_kv", "a divisor of attention.head_count"));
        }
        let head_dim = keys.find_count("attention.key_length")?.unwrap_or(hidden_size / heads);
        let same = |key: &'static str, expected: u32| match keys.find_count(key)? {
            Some(found) if found != expected => {
                Err(keys.wrong(key, "the same as the width of a head"))
            }
            _ => Ok(()),
        };
        same("attention.value_length", head_dim)?;
        same("rope.dimension_count", head_dim)?;
        for key in ["expert_count", "expert_used_count"] {
            if keys.find::<u32>(key)?.is_some_and(|count| count > 0) {
                return Err(keys.wrong(key, "0: experts are not supported"));
            }
        }
        let rope = match arch {
            GgufArch::Gpt2 => None,
            _ => {
                let rope = read_rope(&keys)?;
                Some(match rope_freqs {
                    Some(freqs) => rope.with_freqs(head_dim, freqs)?,
                    None => rope,
                })
            }
        };
        let eps = match arch {
            GgufArch::Gpt2 => "attention.layer_norm_epsilon",
            _ => "attention.layer_norm_rms_epsilon",
        };
        let window = match (arch, keys.find_count("attention.sliding_window")?) {
            (GgufArch::Gemma3, Some(width)) => Some(read_window(&keys, width, n_layers)?),
            _ => None,
        };
        let has = |name: &str| dims(name).is_some();
        let Some(&[_, vocab_size]) = dims("token_embd.weight").as_deref() else {
            return Err(CheckpointError::GgufTensor {
                tensor: "token_embd.weight".to_owned(),
                problem: "is needed, with two dimensions",
            });
        };
        Ok(Self {
            arch,
            n_layers,
            context_length: keys.count("context_length")?,
            hidden_size,
            intermediate_size: keys.count("feed_forward_length")?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: u32::try_from(vocab_size).unwrap_or(u32::MAX),
            norm_eps: keys.require(eps)?,
            rope,
            window,
            final_logit_softcap: keys.find("final_logit_softcapping")?,
            attention_bias: has("blk.0.attn_q.bias"),
            mlp_bias: arch != GgufArch::Gpt2 && has("blk.0.ffn_up.bias"),
            tied: !has("output.weight"),
        })
    }
}

fn write_rope(put: &mut dyn FnMut(&str, Value), rope: RopeParameters) {
    match rope.scaling {
        // Llama 3's scaling is a tensor.
        RopeScaling::Default | RopeScaling::Llama3 { .. } => {}
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", "linear".into());
            put("rope.scaling.factor", factor.into());
        }
        RopeScaling::Yarn {
            factor,
            original_max_positions,
            attention_factor,
            beta_fast,
            beta_slow,
        } => {
            put("rope.scaling.type", "yarn".into());
            put("rope.scaling.factor", factor.into());
            put("rope.scaling.original_context_length", original_max_positions.into());
            for (key, value) in [
                ("rope.scaling.yarn_attn_factor", attention_factor),
                ("rope.scaling.yarn_beta_fast", beta_fast),
                ("rope.scaling.yarn_beta_slow", beta_slow),
            ] {
                if let Some(value) = value {
                    put(key, value.into());
                }
            }
        }
    }
    put("rope.freq_base", rope.theta.into());
}

fn read_rope(keys: &ArchKeys<'_>) -> Result<RopeParameters, CheckpointError> {
    let theta = keys.find("rope.freq_base")?.unwrap_or(1e4);
    let factor = match keys.find::<f32>("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.find("rope.scale_linear")?,
    };
    let factor = factor.filter(|&factor| factor != 0.0 && factor != 1.0);
    let scaling = match (keys.find::<&str>("rope.scaling.type")?, factor) {
        (Some("none"), _) | (None | Some("linear"), None) => RopeScaling::Default,
        (None | Some("linear"), Some(factor)) => RopeScaling::Linear { factor },
        (Some("yarn"), factor) => RopeScaling::Yarn {
            factor: factor.unwrap_or(1.0),
            original_max_positions: match keys.find_count("rope.scaling.original_context_length")? {
                Some(original) => original,
                None => keys.count("context_length")?,
            },
            attention_factor: keys.find("rope.scaling.yarn_attn_factor")?,
            beta_fast: keys.find("rope.scaling.yarn_beta_fast")?,
            beta_slow: keys.find("rope.scaling.yarn_beta_slow")?,
        },
        (Some(_), _) => return Err(keys.wrong("rope.scaling.type", "none, linear or yarn")),
    };
    Ok(RopeParameters { theta, scaling })
}

fn read_window(
    keys: &ArchKeys<'_>,
    width: u32,
    n_layers: u32,
) -> Result<SlidingWindow, CheckpointError> {
    const KEY: &str = "attention.sliding_window_pattern";
    let layers = match keys.value(KEY) {
        Some(Value::Array(Array::Bool(layers))) if layers.len() == n_layers as usize => {
            layers.clone()
        }
        Some(Value::Array(_)) => return Err(keys.wrong(KEY, "one truth value for each layer")),
        _ => periodic(keys.find_count(KEY)?.unwrap_or(GEMMA3_PERIOD), n_layers),
    };
    let theta = keys.find("rope.freq_base_swa")?.unwrap_or(1e4);
    Ok(SlidingWindow { width, theta, layers })
}

/// Metadata keys that begin with the name of an architecture.
struct ArchKeys<'a> {
    arch: &'static str,
    metadata: &'a Metadata,
}

impl<'a> ArchKeys<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.metadata.get(&format!("{}.{key}", self.arch))
    }

    fn find<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, CheckpointError> {
        self.metadata.find(&format!("{}.{key}", self.arch))
    }

    fn require<T: FromValue<'a>>(&self, key: &str) -> Result<T, CheckpointError> {
        self.metadata.require(&format!("{}.{key}", self.arch))
    }

    fn find_count(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        match self.find::<u32>(key)? {
            Some(count) if count == 0 || u64::from(count) > LARGEST => {
                Err(self.wrong(key, "from 1 to 2^28"))
            }
            other => Ok(other),
        }
    }

    fn count(&self, key: &str) -> Result<u32, CheckpointError> {
        match self.find_count(key)? {
            Some(count) => Ok(count),
            None => self.require(key),
        }
    }

    fn wrong(&self, key: &str, expected: &'static str) -> CheckpointError {
        let found = match self.value(key) {
            Some(Value::Text(text)) => format!("{text:?}"),
            Some(Value::Array(array)) => {
                format!("a list of {} {}", array.len(), array.value_type())
            }
            Some(value) => value.integer().map_or("a number".to_owned(), |n| n.to_string()),
            None => "nothing".to_owned(),
        };
        let key = format!("{}.{key}", self.arch);
        CheckpointError::MetadataValue { key, problem: ConfigProblem::Expected { found, expected } }
    }
}
