//! Text to tokens and back.

use std::{collections::HashSet, path::Path};

use fewbit_checkpoint::Checkpoint;

use crate::ModelError;

/// The tokenizer of a model folder.
#[derive(Clone, Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    special: HashSet<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder. Truncation and padding that the file asks for are switched off.
    ///
    /// # Errors
    /// If there is none or it is not valid.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let file = folder.join("tokenizer.json");
        match tokenizers::Tokenizer::from_file(&file) {
            Ok(inner) => Self::new(inner),
            Err(error) => Err(ModelError::Tokenizer { file, reason: error.to_string() }),
        }
    }

    /// The tokenizer of a checkpoint: `tokenizer.json` of its folder, or what follows from the metadata of a GGUF file.
    ///
    /// # Errors
    /// If there is none or it is not valid.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let wrong = |reason: String| ModelError::Tokenizer {
            file: checkpoint.folder().join("tokenizer.json"),
            reason,
        };
        let json = checkpoint.tokenizer_json()?.ok_or_else(|| wrong("there is none".into()))?;
        let inner = tokenizers::Tokenizer::from_bytes(json);
        Self::new(inner.map_err(|error| wrong(error.to_string()))?)
    }

    fn new(mut inner: tokenizers::Tokenizer) -> Result<Self, ModelError> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(failed)?;
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        Ok(Self { inner, special })
    }

    /// Tokens it knows, added ones included. The embedding of a model may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token by its text, such as `</s>`.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.inner.token_to_id(text)
    }

    /// The tokens of a text. `add_special` adds what the file's post-processor says, usually the beginning-of-text token.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        Ok(self.inner.encode_fast(text, add_special).map_err(failed)?.get_ids().to_vec())
    }

    /// As [`encode`](Self::encode) with special tokens, but the first one is always `bos`: many files name a beginning-of-text token in the
    /// model's configuration and yet do not add it.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode_with_bos(&self, text: &str, bos: Option<u32>) -> Result<Vec<u32>, ModelError> {
        let mut tokens = self.encode(text, true)?;
        if let Some(bos) = bos
            && tokens.first() != Some(&bos)
        {
            tokens.insert(0, bos);
        }
        Ok(tokens)
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        // By id: the library looks for the text of a special token, and misses those whose text it has normalized.
        let plain: Vec<u32> =
            tokens.iter().copied().filter(|token| !self.special.contains(token)).collect();
        self.inner.decode(&plain, false).map_err(failed)
    }
}

fn failed(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenization { reason: error.to_string() }
}
