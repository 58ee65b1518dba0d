//! A text fed piece by piece, with the keys and values of what came before.

use ndarray::Array2;

use crate::{Block, CacheType, Model, ModelError, attention::KeyValues, workspace::Workspace};

/// A text in progress. Feeding it token by token gives the same logits as all at once, up to rounding.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    model: &'a Model,
    /// One per block.
    caches: Vec<KeyValues>,
    cache_type: CacheType,
    len: usize,
    work: Workspace,
    logits: Vec<f32>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Model, cache_type: CacheType) -> Self {
        let cache = |block: &Block| KeyValues::new(cache_type, block.heads());
        let caches = model.blocks().iter().map(cache).collect();
        Self { model, caches, cache_type, len: 0, work: Workspace::default(), logits: vec![] }
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

    /// How many more tokens it takes; `None` if as many as there is memory for.
    pub fn room(&self) -> Option<usize> {
        Some(self.model.ends().n_positions()?.saturating_sub(self.len))
    }

    /// How keys and values are cached.
    pub fn cache_type(&self) -> CacheType {
        self.cache_type
    }

    /// Appends tokens; returns the logits after the last of them, `vocab_size` long.
    ///
    /// # Errors
    /// If there are none, one is not in the vocabulary, or the text gets longer than there are learned positions. The session is then as before.
    pub fn feed(&mut self, tokens: &[u32]) -> Result<&[f32], ModelError> {
        if tokens.is_empty() {
            return Err(ModelError::NoTokens);
        }
        in_pool(|| {
            let h = self.advance(tokens)?;
            let last = h.row(h.nrows() - 1);
            let last = last.as_slice().expect("a row of a contiguous array is contiguous");
            self.model.ends().head_into(last, &mut self.logits, &mut self.work);
            Ok(&*self.logits)
        })
    }

    /// Appends tokens; returns the logits after each of them, `(n_tokens, vocab_size)`.
    ///
    /// # Errors
    /// If one is not in the vocabulary, or the text gets longer than there are learned positions. The session is then as before.
    pub fn feed_all(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        in_pool(|| {
            let h = self.advance(tokens)?;
            Ok(self.model.ends().head(h.view()))
        })
    }

    /// Runs the tokens through the blocks.
    fn advance(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let mut h = self.model.ends().embed_after(self.len, tokens)?;
        let stream = h.as_slice_mut().expect("a new array is contiguous");
        for (block, cache) in self.model.blocks().iter().zip(&mut self.caches) {
            block.forward_cached(stream, cache, &mut self.work);
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

/// Runs `f` on a thread of rayon's current pool, so that the many parallel loops within need not each wake one.
fn in_pool<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    rayon::scope(|_| f())
}
