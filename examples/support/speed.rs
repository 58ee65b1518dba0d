//! Speed of a model: the reference runtime as the evaluator's decoder.

use anyhow::Result;
use fewbit::{
    eval::{Decoder, Throughput, ThroughputSpec, throughput},
    model::{Model, ModelError, Session},
};

struct Greedy<'a>(Session<'a>);

impl Greedy<'_> {
    fn next(&mut self, tokens: &[u32]) -> Result<u32, ModelError> {
        let logits = self.0.feed(tokens)?;
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        Ok(best.map_or(0, |(token, _)| token as u32))
    }
}

impl Decoder for Greedy<'_> {
    type Error = ModelError;

    fn reset(&mut self) -> Result<(), ModelError> {
        self.0.truncate(0);
        Ok(())
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, ModelError> {
        self.next(tokens)
    }

    fn step(&mut self, token: u32) -> Result<u32, ModelError> {
        self.next(&[token])
    }
}

/// Tokens per second of reading `prompt` and of writing `n_decode` tokens after it.
pub fn measure(model: &Model, prompt: &[u32], n_decode: usize) -> Result<Throughput> {
    let spec = ThroughputSpec { n_decode, repeats: 3, ..ThroughputSpec::default() };
    Ok(throughput(&mut Greedy(model.session()), prompt, spec)?)
}
