//! A whole model.

use fewbit_checkpoint::Checkpoint;
use ndarray::{Array2, ArrayView2};

use crate::{Block, ModelConfig, ModelError, Session};

/// What stands around the blocks: the embedding before them, the norm and the head after them.
#[derive(Clone, Debug)]
pub struct Ends {}

impl Ends {
    /// Reads embedding, final norm and head.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, ModelError> {
        let _ = (checkpoint, config);
        unimplemented!()
    }

    /// The residual stream before the first block, `(n_tokens, hidden_size)`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let _ = tokens;
        unimplemented!()
    }

    /// The residual stream after the last block, `(n_tokens, hidden_size)`, to logits `(n_tokens, vocab_size)`.
    pub fn head(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        let _ = h;
        unimplemented!()
    }
}

/// A language model in memory.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    ends: Ends,
    blocks: Vec<Block>,
}

impl Model {
    /// Reads a whole model, float or quantized.
    ///
    /// # Errors
    /// If the architecture is unknown, or a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let config = ModelConfig::parse(checkpoint.config())?;
        let ends = Ends::load(checkpoint, &config)?;
        let blocks = (0..config.n_layers)
            .map(|layer| Block::load(checkpoint, &config, layer))
            .collect::<Result<_, _>>()?;
        Ok(Self { config, ends, blocks })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Embedding and head.
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The blocks, to replace layers in.
    pub fn blocks_mut(&mut self) -> &mut [Block] {
        &mut self.blocks
    }

    /// Logits after every token, `(n_tokens, vocab_size)`, computed at once.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn logits(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let _ = tokens;
        unimplemented!()
    }

    /// Logits of several texts at once: row after row, text after text.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn logits_of_batch(&self, texts: &[&[u32]]) -> Result<Array2<f32>, ModelError> {
        let _ = texts;
        unimplemented!()
    }

    /// Begins a text that is fed piece by piece.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        unimplemented!()
    }
}
