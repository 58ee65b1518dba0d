//! A text fed piece by piece, with the keys and values of what came before.

use ndarray::{Array2, ArrayView2};

use crate::{
    Block, CacheType, Model, ModelError, Wanted, attention::KeyValues, tree::Tree,
    workspace::Workspace,
};

/// Rows of a product with the head.
const HEAD_ROWS: usize = 256;

/// A text in progress. Feeding it token by token gives the same logits as all at once, up to rounding.
#[derive(Clone, Debug)]
pub struct Session<'a> {
    model: &'a Model,
    /// One per block.
    caches: Vec<KeyValues>,
    cache_type: CacheType,
    /// What it holds.
    tokens: Vec<u32>,
    work: Workspace,
    logits: Vec<f32>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(model: &'a Model, cache_type: CacheType) -> Self {
        let cache = |block: &Block| KeyValues::new(cache_type, block.heads());
        let caches = model.blocks().iter().map(cache).collect();
        Self {
            model,
            caches,
            cache_type,
            tokens: vec![],
            work: Workspace::default(),
            logits: vec![],
        }
    }

    /// The model.
    pub fn model(&self) -> &'a Model {
        self.model
    }

    /// Number of tokens fed so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens fed so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether nothing has been fed.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many more tokens it takes; `None` if as many as there is memory for.
    pub fn room(&self) -> Option<usize> {
        Some(self.model.ends().n_positions()?.saturating_sub(self.len()))
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
        let mut h = self.model.ends().embed_after(self.len(), tokens)?;
        let stream = h.as_slice_mut().expect("a new array is contiguous");
        for (block, cache) in self.model.blocks().iter().zip(&mut self.caches) {
            block.forward_cached(stream, cache, &mut self.work);
        }
        self.tokens.extend_from_slice(tokens);
        Ok(h)
    }

    /// Reads whole texts at once and returns their logits, `(rows wanted, vocab_size)` of each. Then the session holds the last text.
    ///
    /// Tokens with which a text begins like the one before it, and the first like what the session holds, are read once. Whatever is read goes through
    /// each linear layer in one product. The answers are those of feeding each text alone, up to rounding.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or a text is longer than there are learned positions. The session is then as before.
    pub fn read(&mut self, texts: &[Wanted<'_>]) -> Result<Vec<Array2<f32>>, ModelError> {
        in_pool(|| {
            let tree = Tree::new(&self.tokens, texts);
            let h = self.branch(&tree)?;
            if let Some(last) = texts.last() {
                self.tokens.clear();
                self.tokens.extend_from_slice(last.tokens);
            }
            Ok(self.heads(&h, &tree, texts))
        })
    }

    /// Runs a tree through the blocks: the rows whose logits are wanted, segment after segment.
    fn branch(&mut self, tree: &Tree<'_>) -> Result<Vec<f32>, ModelError> {
        let ends = self.model.ends();
        let mut h = vec![];
        for (segment, tokens) in tree.segments.iter().zip(&tree.tokens) {
            let own = ends.embed_after(segment.first, tokens);
            h.extend(own.map_err(|error| error.further(segment.first))?);
        }
        let blocks = self.model.blocks();
        for (i, (block, cache)) in blocks.iter().zip(&mut self.caches).enumerate() {
            let (segments, last) = (&tree.segments, i + 1 == blocks.len());
            block.forward_branches(&mut h, segments, cache, tree.last, last, &mut self.work);
        }
        Ok(h)
    }

    /// The logits of each text from the rows that a tree wants.
    fn heads(&self, h: &[f32], tree: &Tree<'_>, texts: &[Wanted<'_>]) -> Vec<Array2<f32>> {
        let config = self.model.config();
        let (width, vocab_size) = (config.hidden_size, config.vocab_size);
        let wanted: Vec<usize> = tree.segments.iter().map(|segment| segment.wanted).collect();
        let head = |rows| self.model.ends().head(rows).into_raw_vec_and_offset().0;
        let mut of_segments = Vec::with_capacity(wanted.len());
        let mut rest = h;
        let mut segments = &*wanted;
        while !segments.is_empty() {
            // As many as make a product of some size: each group's logits are in memory twice.
            let mut n_rows = 0;
            let n = segments.iter().take_while(|&rows| (n_rows < HEAD_ROWS, n_rows += rows).0);
            let (group, after) = segments.split_at(n.count());
            segments = after;
            let n_rows: usize = group.iter().sum();
            let (rows, after) = rest.split_at(n_rows * width);
            rest = after;
            let rows = ArrayView2::from_shape((n_rows, width), rows).expect("whole rows");
            let logits = if n_rows == 0 { vec![] } else { head(rows) };
            let mut rest = &*logits;
            of_segments.extend(group.iter().map(|n_rows| {
                rest.split_off(..n_rows * vocab_size).expect("a row for each").to_vec()
            }));
        }
        let mut last_user = vec![0; of_segments.len()];
        for (number, text) in texts.iter().enumerate() {
            tree.rows_of(number, *text).for_each(|(segment, _)| last_user[segment] = number);
        }
        let of_text = |(number, text): (usize, &Wanted<'_>)| {
            let mut all = vec![];
            for (segment, rows) in tree.rows_of(number, *text) {
                let logits = &mut of_segments[segment];
                let own = rows.start * vocab_size..rows.end * vocab_size;
                let done = last_user[segment] == number;
                if done && all.is_empty() && own.len() == logits.len() {
                    all = std::mem::take(logits);
                } else {
                    all.extend_from_slice(&logits[own]);
                }
                if done {
                    *logits = vec![];
                }
            }
            let n_rows = text.rows.min(text.tokens.len());
            Array2::from_shape_vec((n_rows, vocab_size), all).expect("a row for each")
        };
        texts.iter().enumerate().map(of_text).collect()
    }

    /// Forgets all but the first `len` tokens; nothing if there are no more.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        for (block, cache) in self.model.blocks().iter().zip(&mut self.caches) {
            cache.truncate(self.tokens.len(), block.heads());
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
