//! What both kinds of files say about the shape of a model, in terms of neither.

use serde_json::{Map, Value};

use crate::{CheckpointError, ConfigProblem, config::Keys};

use super::{CONFIG, GgufArch, RopeParameters, RopeScaling, TensorNames, numbers::MOST_LAYERS};

/// Sizes and settings of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Hparams {
    /// The architecture.
    pub arch: GgufArch,
    /// Number of blocks.
    pub n_layers: u32,
    /// Longest text that the model was made for, in tokens.
    pub context_length: u32,
    /// Width of the residual stream.
    pub hidden_size: u32,
    /// Width inside the MLP.
    pub intermediate_size: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Rows of the embedding.
    pub vocab_size: u32,
    /// Added to the variance or mean square before the root.
    pub norm_eps: f32,
    /// Rotary embedding, if the architecture has one.
    pub rope: Option<RopeParameters>,
    /// Layers that see a window only, in Gemma 3.
    pub window: Option<SlidingWindow>,
    /// Bound of the logits, in Gemma 3.
    pub final_logit_softcap: Option<f32>,
    /// Whether query, key and value projections have a bias that the configuration speaks of.
    pub attention_bias: bool,
    /// Whether the layers of the MLP have a bias.
    pub mlp_bias: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
}

/// Layers that see a window of the text, and their rotary base.
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingWindow {
    /// Tokens that are seen, the present one included.
    pub width: u32,
    /// Base of the rotary frequencies in these layers.
    pub theta: f32,
    /// Which layers they are.
    pub layers: Vec<bool>,
}

/// What a missing key means.
struct Defaults {
    model_type: &'static str,
    vocab_size: u32,
    hidden_size: u32,
    /// `None`: four times `hidden_size`.
    intermediate_size: Option<u32>,
    n_layers: u32,
    heads: u32,
    /// `None`: as many as `heads`.
    kv_heads: Option<u32>,
    /// `None`: `hidden_size / heads`.
    head_dim: Option<u32>,
    context_length: u32,
    norm_eps: f32,
    theta: f32,
    tied: bool,
    activation: &'static [&'static str],
}

/// The configuration classes of transformers 4.57, and EXAONE's own.
const DEFAULTS: [Defaults; 7] = [
    Defaults { model_type: "llama", ..LLAMA },
    Defaults {
        model_type: "mistral",
        intermediate_size: Some(14336),
        kv_heads: Some(8),
        context_length: 131_072,
        ..LLAMA
    },
    Defaults { model_type: "qwen2", ..QWEN },
    Defaults { model_type: "qwen3", head_dim: Some(128), ..QWEN },
    Defaults {
        model_type: "gemma3_text",
        vocab_size: 262_208,
        hidden_size: 2304,
        intermediate_size: Some(9216),
        n_layers: 26,
        heads: 8,
        kv_heads: Some(4),
        head_dim: Some(256),
        context_length: 131_072,
        norm_eps: 1e-6,
        theta: 1e6,
        tied: true,
        activation: &["gelu_pytorch_tanh"],
    },
    Defaults {
        model_type: "gpt2",
        vocab_size: 50257,
        hidden_size: 768,
        intermediate_size: None,
        n_layers: 12,
        heads: 12,
        kv_heads: None,
        head_dim: None,
        context_length: 1024,
        norm_eps: 1e-5,
        theta: 1e4,
        tied: true,
        activation: &["gelu_new", "gelu_pytorch_tanh"],
    },
    Defaults {
        model_type: "exaone",
        vocab_size: 102_400,
        hidden_size: 2048,
        intermediate_size: None,
        context_length: 2048,
        norm_eps: 1e-5,
        tied: true,
        ..LLAMA
    },
];

const LLAMA: Defaults = Defaults {
    model_type: "",
    vocab_size: 32000,
    hidden_size: 4096,
    intermediate_size: Some(11008),
    n_layers: 32,
    heads: 32,
    kv_heads: None,
    head_dim: None,
    context_length: 2048,
    norm_eps: 1e-6,
    theta: 1e4,
    tied: false,
    activation: &["silu", "swish"],
};
const QWEN: Defaults = Defaults {
    vocab_size: 151_936,
    intermediate_size: Some(22016),
    kv_heads: Some(32),
    context_length: 32768,
    ..LLAMA
};

impl Hparams {
    /// Reads a `config.json`, in the forms of transformers 4 and 5.
    ///
    /// # Errors
    /// If the architecture is unknown, a value cannot be, or asks for something that llama.cpp's version of the architecture lacks.
    pub fn of_config(config: &Map<String, Value>) -> Result<Self, CheckpointError> {
        let keys = Keys::new(config, CONFIG.as_ref());
        let arch = GgufArch::of_config(&keys)?;
        let model_type = keys.text("model_type")?.unwrap_or(arch.model_type());
        let defaults = DEFAULTS.iter().find(|defaults| defaults.model_type == model_type);
        let defaults = defaults.expect("every architecture has defaults");
        // Each spelling of a key, the first that is there counts.
        let count = |spellings: &[&str]| -> Result<Option<u32>, CheckpointError> {
            for key in spellings {
                if let Some(value) = keys.count(key)? {
                    return Ok(Some(value));
                }
            }
            Ok(None)
        };
        let hidden_size = count(&["hidden_size", "n_embd"])?.unwrap_or(defaults.hidden_size);
        let heads = count(&["num_attention_heads", "n_head"])?.unwrap_or(defaults.heads);
        let kv_heads = count(&["num_key_value_heads"])?.or(defaults.kv_heads).unwrap_or(heads);
        if heads % kv_heads != 0 {
            let value = keys.get("num_key_value_heads").unwrap_or(&Value::Null);
            let problem = ConfigProblem::expected(value, "a divisor of num_attention_heads");
            return Err(keys.error("num_key_value_heads", problem));
        }
        let n_layers = count(&["num_hidden_layers", "n_layer", "num_layers"])?;
        let n_layers = n_layers.unwrap_or(defaults.n_layers);
        if n_layers > MOST_LAYERS {
            let problem = ConfigProblem::expected(&n_layers.into(), "at most 65536 layers");
            return Err(keys.error("num_hidden_layers", problem));
        }
        let head_dim = match arch {
            GgufArch::Gpt2 => hidden_size / heads,
            _ => keys.count("head_dim")?.or(defaults.head_dim).unwrap_or(hidden_size / heads),
        };
        let eps = match keys.number("rms_norm_eps")? {
            Some(eps) => Some(eps),
            None => keys.number("layer_norm_epsilon")?,
        };
        let rope = match arch {
            GgufArch::Gpt2 => None,
            _ => Some(RopeParameters::of_config(&keys, defaults.theta, "full_attention")?),
        };
        let intermediate_size = count(&["intermediate_size", "n_inner"])?;
        let hparams = Self {
            arch,
            n_layers,
            context_length: count(&["max_position_embeddings", "n_positions", "n_ctx"])?
                .unwrap_or(defaults.context_length),
            hidden_size,
            intermediate_size: intermediate_size
                .or(defaults.intermediate_size)
                .unwrap_or(4 * hidden_size),
            heads,
            kv_heads,
            head_dim,
            vocab_size: count(&["vocab_size"])?.unwrap_or(defaults.vocab_size),
            norm_eps: eps.unwrap_or(defaults.norm_eps),
            rope,
            window: match arch {
                GgufArch::Gemma3 => Some(gemma3_window(&keys, n_layers)?),
                _ => None,
            },
            final_logit_softcap: keys.number("final_logit_softcapping")?,
            attention_bias: keys.boolean("attention_bias")?.unwrap_or(false),
            mlp_bias: keys.boolean("mlp_bias")?.unwrap_or(false),
            tied: keys.boolean("tie_word_embeddings")?.unwrap_or(defaults.tied),
        };
        hparams.check(&keys, defaults)?;
        Ok(hparams)
    }

    /// Refuses what llama.cpp's graph of the architecture does not compute.
    fn check(&self, keys: &Keys<'_>, defaults: &Defaults) -> Result<(), CheckpointError> {
        for key in ["hidden_act", "hidden_activation", "activation_function"] {
            if let Some(found) = keys.text(key)?
                && !defaults.activation.contains(&found)
            {
                return Err(keys.unsupported(key, found, defaults.activation[0]));
            }
        }
        let only = |key: &str, allowed: f64, supported| match keys.get(key) {
            Some(value) if value.as_f64() != Some(allowed) => {
                Err(keys.unsupported(key, &value.to_string(), supported))
            }
            _ => Ok(()),
        };
        let switched_off = |key: &str| match keys.boolean(key)? {
            Some(true) => Err(keys.unsupported(key, "true", "false")),
            _ => Ok(()),
        };
        only("partial_rotary_factor", 1.0, "1, as whole heads are rotated")?;
        if let Some(RopeParameters { scaling: RopeScaling::Llama3 { .. }, .. }) = self.rope
            && !matches!(self.arch, GgufArch::Llama | GgufArch::Exaone)
        {
            let supported = "default, linear and yarn in this architecture";
            return Err(keys.unsupported("rope_scaling.rope_type", "llama3", supported));
        }
        match self.arch {
            GgufArch::Gpt2 => {
                let inner = f64::from(4 * self.hidden_size);
                only("n_inner", inner, "four times n_embd")?;
                switched_off("scale_attn_by_inverse_layer_idx")?;
                switched_off("reorder_and_upcast_attn")?;
                if keys.boolean("scale_attn_weights")? == Some(false) {
                    return Err(keys.unsupported("scale_attn_weights", "false", "true"));
                }
            }
            GgufArch::Gemma3 => {
                // llama.cpp takes the model of 62 layers for the one that is scaled otherwise.
                let scalar = match self.n_layers {
                    62 => self.hidden_size / self.heads,
                    _ => self.head_dim,
                };
                let scalar = f64::from(scalar);
                only("query_pre_attn_scalar", scalar, "the width of a head")?;
                switched_off("use_bidirectional_attention")?;
                if let Some(value) = keys.get("attn_logit_softcapping") {
                    let (key, value) = ("attn_logit_softcapping", value.to_string());
                    return Err(keys.unsupported(key, &value, "null"));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Shape of a tensor by its GGUF name, slowest dimension first; `None` for a name that stands for none.
    pub fn shape(&self, gguf_name: &str) -> Option<Vec<usize>> {
        let (module, part) = gguf_name.rsplit_once('.')?;
        let module = match module.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((_, inner)) => inner,
            None => module,
        };
        let size = |n: u32| n as usize;
        let (hidden, inner) = (size(self.hidden_size), size(self.intermediate_size));
        let (head, vocab) = (size(self.head_dim), size(self.vocab_size));
        let (queries, keys) = (size(self.heads) * head, size(self.kv_heads) * head);
        let [rows, columns] = match module {
            "token_embd" | "output" => [vocab, hidden],
            "position_embd" => [size(self.context_length), hidden],
            "attn_q" => [queries, hidden],
            "attn_k" | "attn_v" => [keys, hidden],
            "attn_qkv" => [queries + 2 * keys, hidden],
            "attn_output" => [hidden, queries],
            "ffn_gate" | "ffn_up" => [inner, hidden],
            "ffn_down" => [hidden, inner],
            "attn_q_norm" | "attn_k_norm" => return Some(vec![head]),
            norm if norm.ends_with("_norm") => return Some(vec![hidden]),
            _ => return None,
        };
        Some(if part == "bias" { vec![rows] } else { vec![rows, columns] })
    }

    /// The names of the model's tensors in both kinds of files.
    pub fn names(&self) -> TensorNames {
        let (heads, kv_heads) = (self.heads as usize, self.kv_heads as usize);
        TensorNames { arch: self.arch, heads, kv_heads }
    }
}

/// Every so many layers of Gemma 3, one sees the whole text.
pub(super) const GEMMA3_PERIOD: u32 = 6;

/// Which layers see a window only where nothing says so.
pub(super) fn periodic(period: u32, n_layers: u32) -> Vec<bool> {
    (1..=n_layers).map(|number| number % period != 0).collect()
}

fn gemma3_window(keys: &Keys<'_>, n_layers: u32) -> Result<SlidingWindow, CheckpointError> {
    let period = match keys.count("sliding_window_pattern")? {
        Some(period) => Some(period),
        None => keys.count("_sliding_window_pattern")?,
    };
    let types = keys.list("layer_types")?;
    let layers = match types.is_empty() {
        true => periodic(period.unwrap_or(GEMMA3_PERIOD), n_layers),
        false => types
            .iter()
            .map(|layer| match layer.as_str() {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                _ => {
                    let supported = "sliding_attention and full_attention";
                    Err(keys.unsupported("layer_types", &layer.to_string(), supported))
                }
            })
            .collect::<Result<_, _>>()?,
    };
    if layers.len() != n_layers as usize {
        let value = Value::from(layers.len());
        let problem = ConfigProblem::expected(&value, "as many types as there are layers");
        return Err(keys.error("layer_types", problem));
    }
    let theta = keys.number("rope_local_base_freq")?.unwrap_or(1e4);
    let theta = match keys.object("rope_parameters")? {
        Some(_) => RopeParameters::of_config(keys, theta, "sliding_attention")?.theta,
        None => theta,
    };
    let width = keys.count("sliding_window")?.unwrap_or(4096);
    Ok(SlidingWindow { width, theta, layers })
}
