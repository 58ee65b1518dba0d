//! From the metadata of a GGUF file.

use crate::{
    CheckpointError, ConfigProblem,
    gguf::{Array, Metadata, Value},
};

use super::{PreTokenizer, SpecialTokens, TokenType, Vocabulary, VocabularyModel};

impl Vocabulary {
    /// Reads the keys `tokenizer.*`; `None` if the file has no vocabulary.
    ///
    /// # Errors
    /// If the vocabulary is of a kind that `tokenizer.json` has no form for here, or its parts contradict each other.
    pub fn of_metadata(metadata: &Metadata) -> Result<Option<Self>, CheckpointError> {
        let kind = match metadata.find::<&str>("tokenizer.ggml.model")? {
            None | Some("none" | "no_vocab") => return Ok(None),
            Some(kind) => kind,
        };
        let wrong = |key: &str, found: String, expected| CheckpointError::MetadataValue {
            key: key.to_owned(),
            problem: ConfigProblem::Expected { found, expected },
        };
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let mut tokens = metadata.strings(TOKENS)?.to_vec();
        for (id, token) in tokens.iter_mut().enumerate() {
            // As llama.cpp reads it.
            if token.is_empty() {
                *token = format!("[EMPTY_{id}]");
            }
        }
        let n = tokens.len();
        let types = match metadata.find::<Vec<i64>>("tokenizer.ggml.token_type")? {
            None => vec![TokenType::Normal; n],
            Some(numbers) if numbers.len() < n => {
                let found = format!("a list of {}", numbers.len());
                let expected = "as many types as there are tokens";
                return Err(wrong("tokenizer.ggml.token_type", found, expected));
            }
            // What has no known type is text, as in files of old.
            Some(numbers) => (numbers[..n].iter())
                .map(|&number| TokenType::of_number(number).unwrap_or(TokenType::Normal))
                .collect(),
        };
        let mut special = SpecialTokens::default();
        // llama.cpp's defaults of this kind of vocabulary.
        if kind == "llama" {
            special = SpecialTokens { bos: Some(1), eos: Some(2), unk: Some(0), ..special };
        }
        for (_, name, id) in special.named() {
            let key = format!("tokenizer.ggml.{name}_token_id");
            *id = match metadata.find::<u32>(&key)? {
                // Out of range: as llama.cpp, which warns and goes on.
                Some(found) if (found as usize) < n => Some(found),
                _ => id.filter(|&default| (default as usize) < n),
            };
        }
        let model = match kind {
            "gpt2" => VocabularyModel::ByteLevel {
                pre: PreTokenizer::of_name(
                    metadata.find("tokenizer.ggml.pre")?.unwrap_or("default"),
                )?,
                merges: merges(metadata)?,
            },
            "llama" => VocabularyModel::SentencePiece {
                scores: scores(metadata, n)?,
                add_space_prefix: metadata.find("tokenizer.ggml.add_space_prefix")?.unwrap_or(true),
            },
            other => {
                let problem = ConfigProblem::unsupported(other, "gpt2 and llama");
                let key = "tokenizer.ggml.model".to_owned();
                return Err(CheckpointError::MetadataValue { key, problem });
            }
        };
        let adds_bos = match &model {
            VocabularyModel::ByteLevel { pre, .. } => pre.adds_bos(),
            VocabularyModel::SentencePiece { .. } => true,
        };
        let add_bos = metadata.find("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let add_eos = metadata.find("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let chat_template = metadata.find::<&str>("tokenizer.chat_template")?.map(str::to_owned);
        let (add_bos, add_eos) =
            (add_bos && special.bos.is_some(), add_eos && special.eos.is_some());
        Ok(Some(Self { tokens, types, model, special, add_bos, add_eos, chat_template }))
    }
}

fn merges(metadata: &Metadata) -> Result<Vec<(String, String)>, CheckpointError> {
    const KEY: &str = "tokenizer.ggml.merges";
    let split = |merge: &String| {
        // The first half may be a space itself.
        let first = merge.chars().next()?.len_utf8();
        let at = first + merge[first..].find(' ')?;
        Some((merge[..at].to_owned(), merge[at + 1..].to_owned()))
    };
    let merge = |merge: &String| {
        split(merge).ok_or_else(|| {
            let problem = ConfigProblem::Expected {
                found: format!("{merge:?}"),
                expected: "two tokens with a space between",
            };
            CheckpointError::MetadataValue { key: KEY.to_owned(), problem }
        })
    };
    metadata.strings(KEY)?.iter().map(merge).collect()
}

fn scores(metadata: &Metadata, n: usize) -> Result<Vec<f32>, CheckpointError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let scores = match metadata.get(KEY) {
        None => return Ok(vec![0.0; n]),
        Some(Value::Array(Array::F32(scores))) => scores.clone(),
        Some(Value::Array(Array::I32(scores))) => scores.iter().map(|&s| s as f32).collect(),
        Some(_) => metadata.floats(KEY)?.to_vec(),
    };
    match scores.get(..n) {
        Some(scores) => Ok(scores.to_vec()),
        None => {
            let found = format!("a list of {}", scores.len());
            let expected = "as many scores as there are tokens";
            let problem = ConfigProblem::Expected { found, expected };
            Err(CheckpointError::MetadataValue { key: KEY.to_owned(), problem })
        }
    }
}
