//! A text fed piece by piece, with the keys and values of what came before.

use ndarray::Array2;

use crate::{Model, ModelError};

/// A text in progress.
#[derive(Debug)]
pub struct Session<'a> {
    model: &'a Model,
    len: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        Self { model, len: 0 }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// Tokens fed so far.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing has been fed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends tokens; returns the logits after the last of them, `vocab_size` long.
    ///
    /// # Errors
    /// If there are none, or one is not in the vocabulary. The session is then as before.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let _ = tokens;
        unimplemented!()
    }

    /// Appends tokens; returns the logits after each of them, `(n_tokens, vocab_size)`.
    ///
    /// # Errors
    /// If one is not in the vocabulary. The session is then as before.
    pub fn feed_all(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let _ = tokens;
        unimplemented!()
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of the cached keys and values.
    pub fn cache_bytes(&self) -> usize {
        unimplemented!()
    }
}
