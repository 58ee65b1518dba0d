//! Tokens per second of prefill and decode.

use serde::Serialize;

use crate::{BoxError, EvalError};

/// Anything that reads a prompt and then generates token by token.
pub trait Decoder {
    /// The decoder's own error.
    type Error: Into<BoxError>;

    /// Forgets the sequence so far.
    fn reset(&mut self) -> Result<(), Self::Error>;

    /// Reads a prompt at once; returns the token that follows.
    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Self::Error>;

    /// Reads one token; returns the token that follows.
    fn step(&mut self, token: u32) -> Result<u32, Self::Error>;
}

/// How a throughput is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThroughputSpec {
    /// Tokens generated one by one after the prompt.
    pub n_decode: usize,
    /// Untimed runs before the first timed one.
    pub warm_up: usize,
    /// Timed runs.
    pub repeats: usize,
}

impl Default for ThroughputSpec {
    fn default() -> Self {
        Self { n_decode: 64, warm_up: 1, repeats: 5 }
    }
}

/// Speed of one phase over the repeats.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Speed {
    /// Tokens per repeat.
    pub n_tokens: usize,
    /// Median over the repeats, tokens per second.
    pub tokens_per_second: f64,
    /// Slowest repeat, tokens per second.
    pub slowest: f64,
    /// Fastest repeat, tokens per second.
    pub fastest: f64,
    /// Seconds of each repeat.
    pub seconds: Vec<f64>,
}

/// Speed of prefill and decode, never mixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Throughput {
    /// The prompt, read at once.
    pub prefill: Speed,
    /// The tokens after it, one by one; `None` if `n_decode` was 0.
    pub decode: Option<Speed>,
}

/// Measures prefill and decode of a decoder.
pub fn throughput<D: Decoder>(
    _decoder: &mut D,
    _prompt: &[u32],
    _spec: ThroughputSpec,
) -> Result<Throughput, EvalError> {
    unimplemented!()
}
