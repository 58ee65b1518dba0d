//! Files that nobody writes any more, read only: llama.cpp's before GGUF, and those of llama2.c.
//!
//! * [`GgmlFile`]: LLaMA models as `ggml`, `ggmf` v1 and `ggjt` v1 to v3, in one file or several;
//! * [`Llama2c`]: `.bin` files of llama2.c, float (v0, v1) and with 8-bit codes (v2); [`llama2c_vocabulary`] reads its `tokenizer.bin`;
//! * [`LegacyFile`]: either of them, and its way into a GGUF file.
//!
//! Both name their tensors as Meta does: `layers.0.attention.wq.weight`. In both, query and key rows are ordered for rotations of adjacent pairs,
//! as in GGUF, not of halves, as in Hugging Face models.
//!
//! Before anything is allocated, its size is compared with what is left of the file. An opened header takes at most about eight times its size in the file;
//! the list of tensors of a [`Llama2c`] at most about sixty times the tensors (where each holds a single number).

mod blocks;
mod file;
mod ggml;
mod gguf;
mod llama2c;
mod parts;

pub use file::{LegacyFile, LegacyTensor};
pub use gguf::LegacySettings;

pub use ggml::{GgmlFile, GgmlHyperparameters, GgmlTensor, GgmlVersion};
pub use llama2c::{
    Llama2c, Llama2cKind, Llama2cParameters, Llama2cTensor, Llama2cVersion, llama2c_vocabulary,
};

/// A token of a vocabulary.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its bytes, which need not be UTF-8.
    pub text: Vec<u8>,
    /// Score; higher ones are merged first. 0 where the file has none.
    pub score: f32,
}
