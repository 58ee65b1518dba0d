//! The architectures that go both ways.

use serde_json::{Map, Value};

use crate::{CheckpointError, ConfigProblem, config::Keys};

/// An architecture of GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgufArch {
    /// Llama, and Mistral.
    Llama,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3 without experts.
    Qwen3,
    /// Gemma 3, text only.
    Gemma3,
    /// GPT-2.
    Gpt2,
    /// EXAONE 3.x.
    Exaone,
}

/// Names in `general.architecture`, for messages.
const SUPPORTED: &str = "llama, qwen2, qwen3, gemma3, gpt2 and exaone";

impl GgufArch {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Llama, Self::Qwen2, Self::Qwen3, Self::Gemma3, Self::Gpt2, Self::Exaone];

    /// What `general.architecture` says, and what metadata keys begin with.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Gemma3 => "gemma3",
            Self::Gpt2 => "gpt2",
            Self::Exaone => "exaone",
        }
    }

    /// What `model_type` says in `config.json`.
    pub const fn model_type(self) -> &'static str {
        match self {
            Self::Gemma3 => "gemma3_text",
            other => other.name(),
        }
    }

    /// The class in transformers.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Gemma3 => "Gemma3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::Exaone => "ExaoneForCausalLM",
        }
    }

    /// The architecture that a GGUF file names.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn of_name(name: &str) -> Result<Self, CheckpointError> {
        Self::ALL.into_iter().find(|arch| arch.name() == name).ok_or_else(|| {
            CheckpointError::MetadataValue {
                key: "general.architecture".to_owned(),
                problem: ConfigProblem::unsupported(name, SUPPORTED),
            }
        })
    }

    /// The architecture of a `config.json`, by `model_type`, or by the class where an old file has none.
    ///
    /// # Errors
    /// If it is none of these.
    pub(super) fn of_config(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        let Some(model_type) = keys.text("model_type")? else {
            let class = first_class(keys.object);
            let found = Self::ALL.into_iter().find(|arch| class == Some(arch.class()));
            return keys.need("model_type", found);
        };
        match model_type {
            "mistral" => Ok(Self::Llama),
            "gemma3" => Err(keys.unsupported("model_type", "gemma3", "its text part, gemma3_text")),
            other => {
                Self::ALL.into_iter().find(|arch| arch.model_type() == other).ok_or_else(|| {
                    let supported = "llama, mistral, qwen2, qwen3, gemma3_text, gpt2 and exaone";
                    keys.unsupported("model_type", other, supported)
                })
            }
        }
    }
}

fn first_class(config: &Map<String, Value>) -> Option<&str> {
    config.get("architectures")?.get(0)?.as_str()
}
