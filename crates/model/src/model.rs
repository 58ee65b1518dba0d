//! A whole model.

use std::sync::Arc;

use fewbit_checkpoint::Checkpoint;
use fewbit_format::MatrixShape;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    Activations, Block, CacheType, Linear, ModelConfig, ModelError, Session, llama,
    norm::RmsNorm,
    rope::Rope,
    workspace::{Workspace, sized},
};

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
        Self::load_with(checkpoint, config, Activations::Float)
    }

    /// As [`load`](Self::load), with a head for inputs in either form.
    ///
    /// # Errors
    /// The same.
    pub fn load_with(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        activations: Activations,
    ) -> Result<Self, ModelError> {
        let (embedding, head) = llama::embedding_and_head(checkpoint, config)?;
        // Of the embedding alone only rows are read, which the form of a head would make slow.
        let embedded = if head.is_some() { Activations::Float } else { activations };
        Ok(Self {
            embedding: Linear::with_activations(embedding, None, embedded),
            norm: llama::final_norm(checkpoint, config)?,
            head: head.map(|weight| Linear::with_activations(weight, None, activations)),
        })
    }

    /// Ends from layers that are made somewhere else: the embedding, what the last norm multiplies by, and a head unless it is the embedding.
    ///
    /// # Panics
    /// If a shape is not what the configuration says.
    pub fn from_parts(
        config: &ModelConfig,
        embedding: Linear,
        norm_gain: Vec<f32>,
        head: Option<Linear>,
    ) -> Self {
        let shape = MatrixShape::new(config.vocab_size, config.hidden_size);
        for matrix in std::iter::once(&embedding).chain(&head) {
            assert_eq!(matrix.shape(), shape, "the ends are (vocab_size, hidden_size)");
        }
        Self { embedding, norm: RmsNorm::new(config, norm_gain), head }
    }

    /// The residual stream before the first block, `(n_tokens, hidden_size)`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn embed(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let shape = self.embedding.shape();
        let vocab_size = shape.out_features;
        for (position, &token) in tokens.iter().enumerate() {
            if token as usize >= vocab_size {
                return Err(ModelError::Token { token, position, vocab_size });
            }
        }
        let mut h = Array2::zeros((tokens.len(), shape.in_features));
        let rows = h.as_slice_mut().expect("a new array is contiguous");
        let rows = rows.par_chunks_mut(shape.in_features.max(1)).zip(tokens);
        rows.for_each(|(row, &token)| self.embedding.row_into(token as usize, row));
        Ok(h)
    }

    /// The residual stream after the last block, `(n_tokens, hidden_size)`, to logits `(n_tokens, vocab_size)`.
    pub fn head(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        self.head_matrix().forward(self.norm.forward(h).view())
    }

    /// The logits of one token, in memory that is kept.
    pub(crate) fn head_into(&self, h: &[f32], logits: &mut Vec<f32>, work: &mut Workspace) {
        let Workspace { x, linear, .. } = work;
        self.norm.forward_into(h, sized(x, h.len()));
        let head = self.head_matrix();
        head.forward_into(x, 1, sized(logits, head.shape().out_features), linear);
    }

    /// The matrix of the head: the embedding if they are tied.
    pub fn head_matrix(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
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
    /// Reads a whole model, float or quantized, for float inputs of its layers.
    ///
    /// # Errors
    /// If the architecture is unknown, or a tensor is missing, unreadable or of another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        Self::load_with(checkpoint, Activations::Float)
    }

    /// As [`load`](Self::load), with layers for inputs in either form.
    ///
    /// # Errors
    /// The same.
    pub fn load_with(
        checkpoint: &Checkpoint,
        activations: Activations,
    ) -> Result<Self, ModelError> {
        let config = ModelConfig::parse(checkpoint.config())?;
        let ends = Ends::load_with(checkpoint, &config, activations)?;
        let rope = Arc::new(Rope::new(config.head_dim, config.rope_theta, config.rope_scaling));
        let blocks = (0..config.n_layers)
            .map(|layer| Block::load_sharing(checkpoint, &config, layer, activations, rope.clone()))
            .collect::<Result<_, _>>()?;
        Ok(Self { config, ends, blocks })
    }

    /// A model from parts that are made somewhere else.
    ///
    /// # Panics
    /// If there are not as many blocks as the configuration says, or not in order.
    pub fn from_parts(config: ModelConfig, ends: Ends, blocks: Vec<Block>) -> Self {
        let layers = blocks.iter().map(Block::layer);
        assert!(layers.eq(0..config.n_layers), "one block for each layer, in order");
        Self { config, ends, blocks }
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
        let mut work = Workspace::default();
        for block in &self.blocks {
            block.forward_in(&mut h, &seq_lens, |_, _| (), &mut work);
        }
        Ok(self.ends.head(h.view()))
    }

    /// Begins a text that is fed piece by piece.
    pub fn session(&self) -> Session<'_> {
        self.session_with(CacheType::F32)
    }

    /// As [`session`](Self::session), with keys and values cached in fewer bits.
    pub fn session_with(&self, cache: CacheType) -> Session<'_> {
        Session::new(self, cache)
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.ends.bytes() + self.blocks.iter().map(Block::bytes).sum::<usize>()
    }
}
