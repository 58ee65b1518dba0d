//! What the architectures are made of. Each is a value of [`Architecture`] in a file of its own: a page of names and settings. The one
//! [`Block`](crate::Block) of this crate reads them when it is loaded; nothing asks for an architecture while it computes.

mod exaone;
mod gemma3;
mod gpt2;
mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::{Role, Site};

/// A family of models that differ in sizes and settings alone.
#[derive(Debug)]
pub struct Architecture {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// The class in `architectures`, by which files without `model_type` are known.
    pub class: &'static str,
    pub(crate) names: Names,
    pub(crate) groups: Groups,
    pub(crate) producers: &'static [(Site, Producer)],
    pub(crate) keys: Spelling,
    pub(crate) defaults: Defaults,
    pub(crate) norm: NormKind,
    pub(crate) activation: Activation,
    pub(crate) biases: Biases,
    pub(crate) window: WindowRule,
    /// Whether embeddings are multiplied by the root of their width.
    pub(crate) scales_embedding: bool,
    /// Whether matrices of blocks lie `(in_features, out_features)` in Hugging Face models. In few bits they never do.
    pub(crate) transposed: bool,
}

/// The sites of a block in the order of computation, each with the layers that read it. Layers of one site share their input, so they
/// are quantized together; later sites see the earlier ones already quantized.
pub type Groups = &'static [(Site, &'static [Role])];

/// What produces the inputs of a site, so that their scales can be folded into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Producer {
    /// The norm before the site.
    Norm,
    /// A linear layer, of which the inputs are linear: those of the heads' values, or the up projection behind a gate.
    Linear(Role),
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x / rms(x) · w`.
    Rms,
    /// `x / rms(x) · (1 + w)`.
    RmsOnePlus,
    /// `(x − mean(x)) / std(x) · w + b`.
    Layer,
}

/// The activation of the MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`.
    Silu,
    /// GELU by a hyperbolic tangent.
    GeluTanh,
}

impl Activation {
    /// Its names in `config.json`.
    pub(crate) const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Silu => &["silu", "swish"],
            Self::GeluTanh => &["gelu_pytorch_tanh", "gelu_new"],
        }
    }
}

/// Where the tensors are.
#[derive(Debug)]
pub(crate) struct Names {
    /// Left out in some files, with all that begins with it.
    pub(crate) optional_prefix: &'static str,
    pub(crate) embedding: &'static str,
    /// Of each position, added to the embedding. Without it, queries and keys are rotated.
    pub(crate) positions: Option<&'static str>,
    pub(crate) final_norm: &'static str,
    pub(crate) head: &'static str,
    /// What stands before the number of a block.
    pub(crate) layers: &'static str,
    pub(crate) linears: &'static [(Role, &'static str)],
    pub(crate) norms: &'static [(BlockNorm, &'static str)],
}

/// A norm of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockNorm {
    /// Before query, key and value.
    Attention,
    /// Of what attention adds to the residual stream.
    AfterAttention,
    /// Before the MLP.
    Mlp,
    /// Of what the MLP adds to the residual stream.
    AfterMlp,
    /// Of each head's query, before it is rotated.
    Query,
    /// Of each head's key.
    Key,
}

/// Keys of `config.json` that have different spellings.
#[derive(Debug)]
pub(crate) struct Spelling {
    pub(crate) hidden_size: &'static str,
    pub(crate) intermediate_size: &'static str,
    pub(crate) n_layers: &'static str,
    pub(crate) n_heads: &'static str,
    pub(crate) max_positions: &'static str,
    pub(crate) norm_eps: &'static str,
    pub(crate) activation: &'static str,
}

/// What a missing key means: the configuration classes of transformers 4.57, and EXAONE's own.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    /// `None`: four times `hidden_size`.
    pub(crate) intermediate_size: Option<usize>,
    pub(crate) n_layers: usize,
    pub(crate) n_heads: usize,
    /// `None`: as many as `n_heads`.
    pub(crate) n_kv_heads: Option<usize>,
    /// `None`: `hidden_size / n_heads`.
    pub(crate) head_dim: Option<usize>,
    pub(crate) max_positions: usize,
    pub(crate) norm_eps: f64,
    pub(crate) rope_theta: f64,
    pub(crate) tied: bool,
    pub(crate) bos_token: Option<u32>,
    pub(crate) eos_token: Option<u32>,
}

/// Which layers have biases.
#[derive(Debug)]
pub(crate) struct Biases {
    pub(crate) query_key_value: Bias,
    pub(crate) attention_output: Bias,
    pub(crate) mlp: Bias,
}

/// Whether a layer has a bias.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bias {
    Never,
    Always,
    /// If this key of `config.json` says so.
    Key(&'static str),
}

/// Which layers see only so many tokens before.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WindowRule {
    /// None.
    Never,
    /// All, unless `sliding_window` is null.
    EveryLayer,
    /// If `use_sliding_window` says so, those of `layer_types`, or from `max_window_layers` on.
    Switched,
    /// Those of `layer_types`, or all but every sixth (`sliding_window_pattern`); their rotary base is `rope_local_base_freq`.
    Periodic,
}

/// All of them.
pub(crate) const ALL: [&Architecture; 7] = [
    &llama::LLAMA,
    &mistral::MISTRAL,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &gemma3::GEMMA3,
    &gpt2::GPT2,
    &exaone::EXAONE,
];

impl Architecture {
    /// The architecture of a `model_type`.
    pub fn of_type(model_type: &str) -> Option<&'static Self> {
        ALL.into_iter().find(|architecture| architecture.model_type == model_type)
    }

    /// Every `model_type` of this runtime.
    pub fn types() -> impl Iterator<Item = &'static str> {
        ALL.into_iter().map(|architecture| architecture.model_type)
    }

    /// The sites of a block, each with the layers that read it.
    pub fn groups(&self) -> Groups {
        self.groups
    }

    /// The linear layers of a block, in the order of computation.
    pub fn roles(&self) -> impl Iterator<Item = Role> + Clone + use<> {
        self.groups.iter().flat_map(|(_, roles)| roles.iter().copied())
    }

    /// Whether a norm, which then has a gain, or some layer can take over the scales of a site's inputs; `None` if nothing can.
    pub fn producer(&self, site: Site) -> Option<Producer> {
        self.producers.iter().find(|(s, _)| *s == site).map(|(_, producer)| *producer)
    }

    /// Whether matrices of blocks lie `(in_features, out_features)` in float models. In few bits they never do.
    pub fn lies_transposed(&self) -> bool {
        self.transposed
    }

    /// What its norms compute.
    pub fn norm(&self) -> NormKind {
        self.norm
    }

    /// The norms that its blocks have.
    pub fn block_norms(&self) -> impl Iterator<Item = BlockNorm> + Clone + use<> {
        self.names.norms.iter().map(|(norm, _)| *norm)
    }

    /// The activation of its MLP.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    pub(crate) fn norm_name(&self, norm: BlockNorm) -> Option<&'static str> {
        self.names.norms.iter().find(|(n, _)| *n == norm).map(|(_, name)| *name)
    }
}

impl PartialEq for Architecture {
    fn eq(&self, other: &Self) -> bool {
        self.model_type == other.model_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_a_name_and_a_site() {
        for architecture in ALL {
            let roles: Vec<Role> = architecture.roles().collect();
            for (site, readers) in architecture.groups {
                assert!(readers.iter().all(|role| role.site() == *site));
            }
            for role in Role::ALL {
                let named = architecture.names.linears.iter().any(|(r, _)| *r == role);
                assert_eq!(named, roles.contains(&role), "{}: {role:?}", architecture.model_type);
            }
            for (site, producer) in architecture.producers {
                match producer {
                    Producer::Norm => {
                        assert!(matches!(site, Site::AttentionInput | Site::MlpInput));
                    }
                    Producer::Linear(role) => assert!(roles.contains(role)),
                }
            }
            assert!(architecture.norm_name(BlockNorm::Attention).is_some());
            assert!(architecture.norm_name(BlockNorm::Mlp).is_some());
        }
    }
}
