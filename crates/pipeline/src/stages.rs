//! The calibration windows on their way through the model, stage by stage.
//!
//! A block has four sites at which linear layers read the same input. To quantize with true sequential statistics, the states
//! stop before each site, its matrices are rounded, and the states go on through the rounded ones. Running the whole block anew for each site
//! would cost five passes; stopping in the middle costs one, and the gate and up products a second time, because
//! their output is too wide to keep:
//!
//! | site | input | kept for the next step |
//! |---|---|---|
//! | query, key, value | norm of the states | |
//! | attention output | mix of the values | the mix, as wide as the states |
//! | gate, up | norm of the states | |
//! | down | gated product | |

use std::{
    fs,
    io::{self, Read, Write},
};

use fewbit_checkpoint::Checkpoint;
use fewbit_model::{Block, Ends, ModelConfig, Site};
use ndarray::{Array2, ArrayView2, Axis, Slice};

use crate::PipelineError;

/// Tokens that pass through a block at once: long enough for full speed, short enough that their activations are small beside the
/// states. Fixed, so that results do not depend on the machine.
pub(crate) const CHUNK_TOKENS: usize = 2048;

/// Hidden states of many sequences.
#[derive(Clone, Debug)]
pub(crate) struct States {
    chunks: Vec<Chunk>,
}

/// Whole sequences, one after the other.
#[derive(Clone, Debug)]
struct Chunk {
    /// (tokens, hidden_size)
    h: Array2<f32>,
    seq_lens: Vec<usize>,
    /// Input of the site at hand.
    input: Option<Array2<f32>>,
}

impl States {
    /// Zeros for sequences of these lengths.
    pub(crate) fn zeros(seq_lens: impl IntoIterator<Item = usize>, hidden_size: usize) -> Self {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut tokens = 0;
        for len in seq_lens {
            if groups.is_empty() || tokens + len > CHUNK_TOKENS {
                groups.push(Vec::new());
                tokens = 0;
            }
            tokens += len;
            groups.last_mut().expect("not empty").push(len);
        }
        let chunks = groups.into_iter().map(|seq_lens| {
            let h = Array2::zeros((seq_lens.iter().sum(), hidden_size));
            Chunk { h, seq_lens, input: None }
        });
        Self { chunks: chunks.collect() }
    }

    /// States before the first block.
    pub(crate) fn embed<T: AsRef<[u32]>>(
        model: &Checkpoint,
        config: &ModelConfig,
        sequences: &[T],
    ) -> Result<Self, PipelineError> {
        let ends = Ends::load(model, config)?;
        let lens = sequences.iter().map(|t| t.as_ref().len());
        let mut states = Self::zeros(lens, config.hidden_size);
        let mut sequences = sequences.iter();
        for chunk in &mut states.chunks {
            let mut row = 0;
            for &len in &chunk.seq_lens {
                let tokens = sequences.next().expect("a sequence per length").as_ref();
                let rows = Slice::from(row..row + len);
                chunk.h.slice_axis_mut(Axis(0), rows).assign(&ends.embed(tokens)?);
                row += len;
            }
        }
        Ok(states)
    }

    /// Whole sequences of at most `tokens` tokens in all, but at least one sequence, evenly spread.
    pub(crate) fn sample(&self, tokens: usize) -> Self {
        let total: usize = self.chunks.iter().map(|c| c.h.nrows()).sum();
        let sequences: Vec<ArrayView2<'_, f32>> = self.sequences().collect();
        let longest = sequences.iter().map(|s| s.nrows()).max().unwrap_or(1).max(1);
        let n = if total <= tokens { sequences.len() } else { (tokens / longest).max(1) };
        let picked: Vec<_> =
            (0..n.min(sequences.len())).map(|i| sequences[i * sequences.len() / n]).collect();
        let mut sample = Self::zeros(picked.iter().map(|s| s.nrows()), self.width());
        let mut picked = picked.into_iter();
        for chunk in &mut sample.chunks {
            let mut row = 0;
            for &len in &chunk.seq_lens {
                let sequence = picked.next().expect("a sequence per length");
                chunk.h.slice_axis_mut(Axis(0), Slice::from(row..row + len)).assign(&sequence);
                row += len;
            }
        }
        sample
    }

    /// Width of a state.
    pub(crate) fn width(&self) -> usize {
        self.chunks.first().map_or(0, |chunk| chunk.h.ncols())
    }

    /// Lengths of the sequences of a chunk.
    pub(crate) fn seq_lens(&self, chunk: usize) -> &[usize] {
        &self.chunks[chunk].seq_lens
    }

    /// Fills the states with what [`write`](Self::write) wrote.
    pub(crate) fn read(&mut self, file: &mut fs::File) -> io::Result<()> {
        for chunk in &mut self.chunks {
            let values = chunk.h.as_slice_mut().expect("standard layout");
            file.read_exact(bytemuck::cast_slice_mut(values))?;
        }
        Ok(())
    }

    pub(crate) fn write(&self, file: &mut fs::File) -> io::Result<()> {
        for chunk in &self.chunks {
            file.write_all(bytemuck::cast_slice(chunk.h.as_slice().expect("standard layout")))?;
        }
        Ok(())
    }

    /// Bytes of the states.
    pub(crate) fn bytes(&self) -> u64 {
        self.chunks.iter().map(|c| c.h.len() as u64 * 4).sum()
    }

    /// Chunks in which sequences pass through a block.
    pub(crate) fn n_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The input of a site for a chunk, `(n_tokens, features)` in standard layout.
    pub(crate) fn input(&mut self, chunk: usize, block: &Block, site: Site) -> ArrayView2<'_, f32> {
        let Chunk { h, seq_lens, input } = &mut self.chunks[chunk];
        let x = match site {
            Site::AttentionInput => block.attention_input(h.view()),
            Site::AttentionMix => {
                block.attention_mix(block.attention_input(h.view()).view(), seq_lens)
            }
            Site::MlpInput => block.mlp_input(h.view()),
            Site::MlpMix => block.mlp_mix(block.mlp_input(h.view()).view()),
        };
        input.insert(x).view()
    }

    /// Forgets the input of a chunk, unless [`advance`](Self::advance) needs it.
    pub(crate) fn release(&mut self, chunk: usize, site: Site) {
        if site != Site::AttentionMix {
            self.chunks[chunk].input = None;
        }
    }

    /// Moves the states past a site, through the layers that read from it. For [`Site::AttentionMix`], [`input`](Self::input) has to come first.
    pub(crate) fn advance(&mut self, block: &Block, site: Site) {
        for Chunk { h, input, .. } in &mut self.chunks {
            match site {
                Site::AttentionInput | Site::MlpInput => {}
                Site::AttentionMix => {
                    let mix = input.take().expect("the input comes before advance");
                    block.attention_output(mix.view(), h);
                }
                Site::MlpMix => {
                    let y = block.mlp_mix(block.mlp_input(h.view()).view());
                    block.mlp_output(y.view(), h);
                }
            }
        }
    }

    /// Moves the states through a whole block.
    pub(crate) fn forward(&mut self, block: &Block) {
        for Chunk { h, seq_lens, .. } in &mut self.chunks {
            block.forward(h, seq_lens, |_, _| {});
        }
    }

    /// The states of each sequence, in order.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = ArrayView2<'_, f32>> {
        self.chunks.iter().flat_map(|chunk| {
            let mut row = 0;
            chunk.seq_lens.iter().map(move |&len| {
                row += len;
                chunk.h.slice_axis(Axis(0), Slice::from(row - len..row))
            })
        })
    }
}
