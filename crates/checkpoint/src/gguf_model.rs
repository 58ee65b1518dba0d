//! Models in GGUF files, as Hugging Face models: names, orientation, configuration and vocabulary both ways.
//!
//! A Hugging Face model and a GGUF file say the same in different words. The parts of the translation are pure functions, each both ways:
//! [`TensorNames`] and [`Relay`] for tensors, [`Hparams`] for sizes and settings, [`Vocabulary`] for the tokenizer. What cannot be carried
//! over exactly is a [`Caveat`], what cannot be carried over at all an error.
//!
//! ```text
//! config.json      ⇄  Hparams     ⇄  {arch}.block_count, {arch}.rope.freq_base, …
//! tokenizer.json   ⇄  Vocabulary  ⇄  tokenizer.ggml.tokens, .scores, .merges, …
//! model.layers.0.self_attn.q_proj.weight  ⇄  blk.0.attn_q.weight, rows of each head interleaved
//! ```

mod arch;
mod caveat;
mod config_json;
mod container;
mod file_type;
mod find;
mod floats;
mod hparams;
mod layout;
mod metadata_keys;
mod mix;
mod model;
mod names;
mod numbers;
mod relay;
mod rope;
mod vocabulary;
mod writer;

pub use arch::GgufArch;
pub use caveat::Caveat;
pub use container::GgufContainer;
pub use file_type::FileType;
pub(crate) use find::find_gguf;
pub use hparams::{Hparams, SlidingWindow};
pub(crate) use layout::metadata;
pub use layout::{GgufLayout, GgufPlan, PlannedTensor};
pub use mix::Mix;
pub use model::GgufModel;
pub use names::{ROPE_FREQS, Renamed, TensorNames};
pub use relay::{Relay, Towards};
pub use rope::{RopeParameters, RopeScaling};
pub use vocabulary::{
    PreTokenizer, SpecialTokens, TokenType, TokenizerFiles, Vocabulary, VocabularyModel,
};
pub use writer::GgufModelWriter;

/// Name of a model's configuration file.
pub(crate) const CONFIG: &str = "config.json";
