//! Speed of a model: the reference runtime as the evaluator's decoder.

use anyhow::Result;
use fewbit::{
    eval::{Decoder, Throughput, ThroughputSpec, throughput},
    model::{Model, ModelError, Session, argmax},
};

/// A session that takes the likeliest token.
pub struct Greedy<'a>(pub Session<'a>);

impl Decoder for Greedy<'_> {
    type Error = ModelError;

    fn reset(&mut self) -> Result<(), ModelError> {
        self.0.truncate(0);
        Ok(())
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, ModelError> {
        Ok(argmax(self.0.feed(tokens)?) as u32)
    }

    fn step(&mut self, token: u32) -> Result<u32, ModelError> {
        self.prefill(&[token])
    }
}

/// Tokens per second of reading `prompt` and of writing `n_decode` tokens after it.
pub fn measure(model: &Model, prompt: &[u32], n_decode: usize) -> Result<Throughput> {
    let spec = ThroughputSpec { n_decode, repeats: 3, ..ThroughputSpec::default() };
    Ok(throughput(&mut Greedy(model.session()), prompt, spec)?)
}
