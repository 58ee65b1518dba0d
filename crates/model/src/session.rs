//! A text fed piece by piece, with the keys and values of what came before.

use ndarray::Array2;

use crate::{Model, ModelError, attention::KeyValues, model::last_row};

/// A text in progress. Feeding it token by token gives the same logits as all at once, up to rounding.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    model: &'a Model,
    /// One per block.
    caches: Vec<KeyValues>,
    len: usize,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Model) -> Self {
        Self { model, caches: vec![KeyValues::default(); model.blocks().len()], len: 0 }
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
        if tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        let h = self.advance(tokens)?;
        Ok(self.model.ends().head(last_row(&h)).into_raw_vec_and_offset().0)
    }

    /// Appends tokens; returns the logits after each of them, `(n_tokens, vocab_size)`.
    ///
    /// # Errors
    /// If one is not in the vocabulary. The session is then as before.
    pub fn feed_all(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let h = self.advance(tokens)?;
        Ok(self.model.ends().head(h.view()))
    }

    /// Runs the tokens through the blocks.
    fn advance(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let mut h = self.model.ends().embed(tokens)?;
        for (block, cache) in self.model.blocks().iter().zip(&mut self.caches) {
            block.forward_cached(&mut h, cache);
        }
        self.len += tokens.len();
        Ok(h)
    }

    /// Forgets all but the first `len` tokens; nothing if there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        for (block, cache) in self.model.blocks().iter().zip(&mut self.caches) {
            cache.truncate(self.len, block.heads());
        }
    }

    /// Bytes of the cached keys and values.
    pub fn cache_bytes(&self) -> usize {
        self.caches.iter().map(KeyValues::bytes).sum()
    }
}
