//! A whole model.

use std::convert::Infallible;

use fewbit_checkpoint::Checkpoint;
use fewbit_format::MatrixShape;
use ndarray::{Array2, ArrayView2, Axis, Slice};
use rayon::prelude::*;

use crate::{
    Activations, Block, CacheType, Linear, ModelConfig, ModelError, Session,
    norm::Norm,
    rope::Ropes,
    workspace::{Workspace, sized},
};

/// What stands around the blocks: the embedding before them, the norm and the head after them.
#[derive(Clone, Debug)]
pub struct Ends {
    /// (vocab_size, hidden_size); the head too if it has no matrix of its own.
    embedding: Linear,
    /// What embeddings are multiplied by.
    scale: Option<f32>,
    /// What each position adds to the embedding, (max_positions, hidden_size).
    positions: Option<Vec<f32>>,
    norm: Norm,
    head: Option<Linear>,
    /// What the logits are bent to stay within.
    softcap: Option<f32>,
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
        let (embedding, head) = config.embedding_and_head(checkpoint)?;
        // Of the embedding alone only rows are read, which the form of a head would make slow.
        let embedded = if head.is_some() { Activations::Float } else { activations };
        let scale = config.embedding_scale_in(checkpoint, &embedding);
        let embedding = Linear::with_activations(embedding, None, embedded);
        let head = head.map(|weight| Linear::with_activations(weight, None, activations));
        let vector = |name: &str, shape: &[usize]| config.tensor(checkpoint, name, shape);
        Ok(Self { scale, ..Self::new(config, embedding, head, vector)? })
    }

    /// Ends from layers that are made somewhere else: the embedding, a head unless it is the embedding, and the float tensors of the last norm and of
    /// learned positions, by name and shape.
    ///
    /// # Panics
    /// If a shape is not what the configuration says.
    pub fn from_parts(
        config: &ModelConfig,
        embedding: Linear,
        head: Option<Linear>,
        mut vector: impl FnMut(&str, &[usize]) -> Vec<f32>,
    ) -> Self {
        let shape = MatrixShape::new(config.vocab_size, config.hidden_size);
        for matrix in std::iter::once(&embedding).chain(&head) {
            assert_eq!(matrix.shape(), shape, "the ends are (vocab_size, hidden_size)");
        }
        let ends = Self::new::<Infallible>(config, embedding, head, |name, shape| {
            let values = vector(name, shape);
            assert_eq!(values.len(), shape.iter().product::<usize>(), "length of {name}");
            Ok(values)
        });
        ends.unwrap_or_else(|never| match never {})
    }

    fn new<E>(
        config: &ModelConfig,
        embedding: Linear,
        head: Option<Linear>,
        mut vector: impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Self, E> {
        let shape = [config.max_positions, config.hidden_size];
        let positions = config.positions().map(|name| vector(&name, &shape)).transpose()?;
        let norm = config.read_norm(&config.final_norm(), config.hidden_size, &mut vector)?;
        let scale = config.embedding_scale();
        Ok(Self { embedding, scale, positions, norm, head, softcap: config.logit_softcap })
    }

    /// The residual stream of a text before the first block, `(n_tokens, hidden_size)`.
    ///
    /// # Errors
    /// If a token is not in the vocabulary, or the text longer than there are learned positions.
    pub fn embed(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        self.embed_after(0, tokens)
    }

    /// As [`embed`](Self::embed), of a text's tokens from position `first` on.
    ///
    /// # Errors
    /// The same.
    pub fn embed_after(&self, first: usize, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        let shape = self.embedding.shape();
        let vocab_size = shape.out_features;
        for (position, &token) in tokens.iter().enumerate() {
            if token as usize >= vocab_size {
                return Err(ModelError::Token { token, position, vocab_size });
            }
        }
        let width = shape.in_features;
        let positions = match &self.positions {
            None => None,
            Some(positions) => {
                let after = positions.get(first * width..(first + tokens.len()) * width);
                Some(after.ok_or_else(|| ModelError::TooLong {
                    tokens: first + tokens.len(),
                    positions: positions.len() / width,
                })?)
            }
        };
        let mut h = Array2::zeros((tokens.len(), width));
        let rows = h.as_slice_mut().expect("a new array is contiguous");
        let rows = rows.par_chunks_mut(width.max(1)).zip(tokens).enumerate();
        rows.for_each(|(i, (row, &token))| {
            self.embedding.row_into(token as usize, row);
            if let Some(scale) = self.scale {
                row.iter_mut().for_each(|x| *x *= scale);
            }
            if let Some(positions) = positions {
                row.iter_mut().zip(&positions[i * width..]).for_each(|(x, p)| *x += p);
            }
        });
        Ok(h)
    }

    /// The residual stream after the last block, `(n_tokens, hidden_size)`, to logits `(n_tokens, vocab_size)`.
    pub fn head(&self, h: ArrayView2<'_, f32>) -> Array2<f32> {
        let mut logits = self.head_matrix().forward(self.norm.forward(h).view());
        self.bend(logits.as_slice_mut().expect("a new array is contiguous"));
        logits
    }

    /// The logits of one token, in memory that is kept.
    pub(crate) fn head_into(&self, h: &[f32], logits: &mut Vec<f32>, work: &mut Workspace) {
        let Workspace { x, linear, .. } = work;
        self.norm.forward_into(h, sized(x, h.len()));
        let head = self.head_matrix();
        head.forward_into(x, 1, sized(logits, head.shape().out_features), linear);
        self.bend(logits);
    }

    fn bend(&self, logits: &mut [f32]) {
        let Some(cap) = self.softcap else { return };
        logits.par_iter_mut().with_min_len(1 << 12).for_each(|x| *x = cap * (*x / cap).tanh());
    }

    /// Learned positions; `None` where positions need not be learned.
    pub fn n_positions(&self) -> Option<usize> {
        Some(self.positions.as_ref()?.len() / self.embedding.shape().in_features)
    }

    /// The matrix of the head: the embedding if they are tied.
    pub fn head_matrix(&self) -> &Linear {
        self.head.as_ref().unwrap_or(&self.embedding)
    }

    /// Bytes of all weights in memory.
    pub fn bytes(&self) -> usize {
        self.embedding.bytes()
            + self.norm.bytes()
            + self.positions.as_ref().map_or(0, |positions| size_of_val(&**positions))
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
        let config = ModelConfig::of(checkpoint)?;
        let ends = Ends::load_with(checkpoint, &config, activations)?;
        let mut ropes = Ropes::default();
        let blocks = (0..config.n_layers)
            .map(|layer| Block::load_sharing(checkpoint, &config, layer, activations, &mut ropes))
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
    /// If a token is not in the vocabulary, or the text longer than there are learned positions.
    pub fn logits(&self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        self.logits_of_batch(&[tokens])
    }

    /// Logits of several texts at once: row after row, text after text.
    ///
    /// # Errors
    /// If a text is longer than there are learned positions, or a token is not in the vocabulary; its position counts from the first text's first token.
    pub fn logits_of_batch(&self, texts: &[&[u32]]) -> Result<Array2<f32>, ModelError> {
        let seq_lens: Vec<usize> = texts.iter().map(|text| text.len()).collect();
        let mut h = Array2::zeros((seq_lens.iter().sum(), self.config.hidden_size));
        let mut first = 0;
        for text in texts {
            let own = self.ends.embed(text).map_err(|error| error.further(first))?;
            h.slice_axis_mut(Axis(0), Slice::from(first..first + text.len())).assign(&own);
            first += text.len();
        }
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
