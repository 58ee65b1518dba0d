//! Text to tokens and back.

use std::path::Path;

use crate::ModelError;

/// The tokenizer of a model folder.
#[derive(Clone, Debug)]
pub struct Tokenizer {}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder.
    ///
    /// # Errors
    /// If there is none or it is not valid.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let _ = folder;
        unimplemented!()
    }

    /// The tokens of a text. `add_special` adds what the file's post-processor says, usually the beginning-of-text token.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let _ = (text, add_special);
        unimplemented!()
    }

    /// As [`encode`](Self::encode) with special tokens; if the file adds no beginning-of-text token, `bos` is put in front.
    ///
    /// # Errors
    /// If the tokenizer cannot encode the text.
    pub fn encode_with_bos(&self, text: &str, bos: Option<u32>) -> Result<Vec<u32>, ModelError> {
        let _ = (text, bos);
        unimplemented!()
    }

    /// The text of tokens, special ones left out.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        let _ = tokens;
        unimplemented!()
    }
}
