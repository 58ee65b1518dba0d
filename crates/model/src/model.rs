//! A whole model.

use std::sync::Arc;

use fewbit_checkpoint::Checkpoint;
use ndarray::{Array2, ArrayView2, Axis};

use crate::{Block, Linear, ModelConfig, ModelError, Session, llama, norm::RmsNorm, rope::Rope};

/// What stands around the blocks: the embedding before them, the norm and the head after them.
#[derive(Clone, Debug)]
pub struct Ends {
    /// (vocab_size, hidden_size); the head too if it has no matrix of its own.
    embedding: Linear,
    norm: RmsNorm,
    head: Option<Linear>,
}

impl Ends {
    /// Reads embedding, final norm and head.
    ///
    /// A tied matrix may be stored as embedding, head or both; if both, the embedding counts.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, ModelError> {
        let (embedding, head) = llama::embedding_and_head(checkpoint, config)?;
        Ok(Self {
            embedding: Linear::from_weight(embedding, None),
            norm: llama::final_norm(checkpoint, config)?,
            head: head.map(|weight| Linear::from_weight(weight, None)),
        })
    }

    /// The residual stream before the first block, `(n_tokens, hidden_size)`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let shape = self.embedding.shape();
        let vocab_size = shape.out_features;
        let mut h = Array2::zeros((tokens.len(), shape.in_features));
        for (position, (&token, mut row)) in tokens.iter().zip(h.rows_mut()).enumerate() {
            if token as usize >= vocab_size {
                return Err(ModelError::Token { token, position, vocab_size });
            }
            let row = row.as_slice_mut().expect("a row of a new array is contiguous");
            self.embedding.row_into(token as usize, row);
        }
        Ok(h)
    }

    /// The residual stream after the last block, `(n_tokens, hidden_size)`, to logits `(n_tokens, vocab_size)`.
    pub fn head(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        self.head.as_ref().unwrap_or(&self.embedding).forward(self.norm.forward(h).view())
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.embedding.bytes()
            + size_of_val(&*self.norm.weight)
            + self.head.as_ref().map_or(0, Linear::bytes)
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
        let rope = Arc::new(Rope::new(config.head_dim, config.rope_theta, config.rope_scaling));
        let blocks = (0..config.n_layers)
            .map(|layer| Block::load_with(checkpoint, &config, layer, rope.clone()))
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
        self.logits_of_batch(&[tokens])
    }

    /// Logits of several texts at once: row after row, text after text.
    ///
    /// # Errors
    /// If a token is not in the vocabulary; its position counts from the first text's first token.
    pub fn logits_of_batch(&self, texts: &[&[u32]]) -> Result<Array2<f32>, ModelError> {
        let seq_lens: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let mut h = self.ends.embed(&texts.concat())?;
        for block in &self.blocks {
            block.forward(&mut h, &seq_lens, |_, _| ());
        }
        Ok(self.ends.head(h.view()))
    }

    /// Begins a text that is fed piece by piece.
    pub fn session(&self) -> Session<'_> {
        Session::new(self)
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.ends.bytes() + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }
}

/// The last row of a matrix that has one.
pub(crate) fn last_row(h: &Array2<f32>) -> ArrayView2<'_, f32> {
    h.row(h.nrows() - 1).insert_axis(Axis(0))
}
