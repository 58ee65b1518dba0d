//! To the metadata of a GGUF file.

use crate::gguf::Metadata;

use super::{Vocabulary, VocabularyModel};

impl Vocabulary {
    /// Appends the keys `tokenizer.*`, in the order of llama.cpp's converter.
    ///
    /// Whether a text gets tokens in front or at its end is always said: llama.cpp's own guess depends on the pre-tokenizer.
    pub fn write(&self, metadata: &mut Metadata) {
        let mut put = |key: &str, value: crate::gguf::Value| {
            metadata.insert(format!("tokenizer.ggml.{key}"), value);
        };
        match &self.model {
            VocabularyModel::ByteLevel { pre, .. } => {
                put("model", "gpt2".into());
                put("pre", pre.name().into());
            }
            VocabularyModel::SentencePiece { .. } => {
                put("model", "llama".into());
                put("pre", "default".into());
            }
        }
        put("tokens", self.tokens.clone().into());
        if let VocabularyModel::SentencePiece { scores, .. } = &self.model {
            put("scores", scores.clone().into());
        }
        let types: Vec<i32> = self.types.iter().map(|&kind| kind as i32).collect();
        put("token_type", types.into());
        if let VocabularyModel::ByteLevel { merges, .. } = &self.model {
            let merges = merges.iter().map(|(left, right)| format!("{left} {right}"));
            put("merges", merges.collect::<Vec<_>>().into());
        }
        for (_, name, id) in self.special.clone().named() {
            if let Some(id) = *id {
                put(&format!("{name}_token_id"), id.into());
            }
        }
        put("add_bos_token", self.add_bos.into());
        put("add_eos_token", self.add_eos.into());
        if let VocabularyModel::SentencePiece { add_space_prefix: false, .. } = self.model {
            put("add_space_prefix", false.into());
        }
        if let Some(template) = &self.chat_template {
            metadata.insert("tokenizer.chat_template", template.as_str());
        }
    }
}
