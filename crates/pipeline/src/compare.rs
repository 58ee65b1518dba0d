//! Comparison with the original, one block of each model in memory at a time.
//!
//! All documents go through block 0 of every model, then through block 1, and so on; only hidden states are kept. So a model can be compared with its
//! original on a machine that could not hold either of them.

use fewbit_checkpoint::{Checkpoint, Weight};
use fewbit_eval::{Divergence, compare, from_fn};
use fewbit_format::{MatrixShape, Plan, Quantized, Scheme};
use fewbit_model::{Block, Ends, Linear, ModelConfig, ModelError};
use ndarray::Array2;

use crate::{Event, Phase, PipelineError, Progress, stages::States};

/// A model to compare with the original.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    /// A checkpoint of its own.
    Checkpoint(&'a Checkpoint),
    /// The original with its matrices rounded to nearest by a plan, on the fly: what a calibrated method has to beat.
    RoundedToNearest(&'a Plan),
}

/// Divergence of each candidate from the original, over the predicted tokens of `documents`, each cut to `max_len` tokens.
///
/// # Errors
/// If a model cannot be read, a token is not in the vocabulary, a document has fewer than two tokens, or logits are not finite.
pub fn compare_streamed(
    original: &Checkpoint,
    candidates: &[Candidate<'_>],
    documents: &[Vec<u32>],
    max_len: usize,
    progress: &mut dyn Progress,
) -> Result<Vec<Divergence>, PipelineError> {
    progress.event(Event::Phase(Phase::Evaluate));
    let config = ModelConfig::of(original)?;
    let documents: Vec<&[u32]> = documents.iter().map(|d| &d[..d.len().min(max_len)]).collect();
    // A candidate may differ from the original in more than its weights: a head of its own, for one.
    let configs = candidates.iter().map(|c| ModelConfig::of(c.checkpoint(original)));
    let configs = configs.collect::<Result<Vec<_>, _>>()?;
    let embedded = |(candidate, config): (&Candidate<'_>, &ModelConfig)| {
        States::embed(candidate.checkpoint(original), config, &documents)
    };
    let mut reference = States::embed(original, &config, &documents)?;
    let streams = candidates.iter().zip(&configs).map(embedded);
    let mut streams = streams.collect::<Result<Vec<_>, _>>()?;
    let steps = (config.n_layers * (1 + candidates.len())) as f64;
    let mut done = 0.0;
    let mut advance = |states: &mut States, block: &Block, progress: &mut dyn Progress| {
        states.forward(block);
        done += 1.0;
        progress.event(Event::Advanced { fraction: done / steps });
    };
    for layer in 0..config.n_layers {
        advance(&mut reference, &Block::load(original, &config, layer)?, progress);
        for ((candidate, states), config) in candidates.iter().zip(&mut streams).zip(&configs) {
            advance(states, &candidate.block(original, config, layer)?, progress);
        }
    }
    let reference_ends = Ends::load(original, &config)?;
    let mut results = Vec::new();
    for ((candidate, states), own_config) in candidates.iter().zip(&streams).zip(&configs) {
        let own = match candidate {
            Candidate::Checkpoint(model) => Some(Ends::load(model, own_config)?),
            Candidate::RoundedToNearest(_) => None,
        };
        let ends = own.as_ref().unwrap_or(&reference_ends);
        let mut baseline = in_order(config.vocab_size, &reference_ends, &reference);
        let mut model = in_order(config.vocab_size, ends, states);
        results.push(compare(&mut baseline, &mut model, &documents, max_len)?);
    }
    Ok(results)
}

impl Candidate<'_> {
    fn checkpoint<'c>(&'c self, original: &'c Checkpoint) -> &'c Checkpoint {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint,
            Self::RoundedToNearest(_) => original,
        }
    }

    fn block(
        &self,
        original: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Block, PipelineError> {
        let mut block = Block::load(self.checkpoint(original), config, layer)?;
        let Self::RoundedToNearest(plan) = self else { return Ok(block) };
        for role in config.roles() {
            let module = config.module(layer, role);
            let scheme = plan.scheme(&module);
            if scheme == Scheme::Float {
                continue;
            }
            let weight = config.weight_f32(original, layer, role)?;
            let shape: MatrixShape = config.shape(role);
            let matrix = Quantized::round_to_nearest(&weight, shape, scheme)
                .map_err(|source| PipelineError::Format { module: module.clone(), source })?;
            let bias = original.bias(&module)?;
            block.set_linear(role, Linear::from_weight(Weight::Quant(matrix), bias));
        }
        Ok(block)
    }
}

/// The last step of a model whose states are computed: logits of the documents, which must be asked for in order.
fn in_order<'a>(
    vocab_size: usize,
    ends: &'a Ends,
    states: &'a States,
) -> impl fewbit_eval::Logits + 'a {
    let mut sequences = states.sequences();
    from_fn(vocab_size, move |tokens: &[u32]| -> Result<Array2<f32>, ModelError> {
        let h = sequences.next().expect("one sequence per document");
        debug_assert_eq!(h.nrows(), tokens.len());
        Ok(ends.head(h))
    })
}
