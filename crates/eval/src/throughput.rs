//! Tokens per second of prefill and decode.
//!
//! Prefill reads a prompt at once and is bound by arithmetic; decode reads one token at a time and is bound by memory
//! bandwidth. They are measured apart and never mixed in one number. State threads, prompt length and data type beside
//! them: tokenization and sampling are not part of it.

use std::time::Instant;

use serde::Serialize;

use crate::statistics::median;
use crate::{BoxError, EvalError};

/// Anything that reads a prompt and then generates token by token.
pub trait Decoder {
    /// The decoder's own error; `Infallible`, `String` and every `std::error::Error` will do.
    type Error: Into<BoxError>;

    /// Forgets the sequence so far.
    fn reset(&mut self) -> Result<(), Self::Error>;

    /// Reads a prompt at once; returns the token that follows.
    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Self::Error>;

    /// Reads one token; returns the token that follows.
    fn step(&mut self, token: u32) -> Result<u32, Self::Error>;
}

impl<D: Decoder + ?Sized> Decoder for &mut D {
    type Error = D::Error;

    fn reset(&mut self) -> Result<(), D::Error> {
        (**self).reset()
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, D::Error> {
        (**self).prefill(tokens)
    }

    fn step(&mut self, token: u32) -> Result<u32, D::Error> {
        (**self).step(token)
    }
}

/// How a throughput is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThroughputSpec {
    /// Tokens read one by one after the prompt; 0 measures prefill alone.
    pub n_decode: usize,
    /// Untimed runs before the first timed one: they fault pages in and wake threads.
    pub warm_up: usize,
    /// Timed runs, at least 1.
    pub repeats: usize,
}

impl Default for ThroughputSpec {
    /// 64 tokens, one warm-up run, five timed ones.
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
    /// n_tokens over the median time of the repeats.
    pub tokens_per_second: f64,
    /// Tokens per second of the slowest repeat.
    pub slowest: f64,
    /// Tokens per second of the fastest repeat.
    pub fastest: f64,
    /// Seconds of each repeat, in order.
    pub seconds: Vec<f64>,
}

impl Speed {
    fn new(n_tokens: usize, seconds: Vec<f64>) -> Self {
        // A clock may stand still over a trivial step; the speed is then limited by its resolution.
        let rate = |time: f64| n_tokens as f64 / time.max(1e-9);
        let extreme =
            |pick: fn(f64, f64) -> f64| seconds.iter().copied().reduce(pick).unwrap_or(0.0);
        Self {
            n_tokens,
            tokens_per_second: rate(median(&seconds).unwrap_or(0.0)),
            slowest: rate(extreme(f64::max)),
            fastest: rate(extreme(f64::min)),
            seconds,
        }
    }

    /// Median milliseconds per token.
    pub fn milliseconds_per_token(&self) -> f64 {
        1e3 / self.tokens_per_second
    }

    /// (fastest − slowest) / median: how much the repeats disagree. Above 0.1 the machine was probably busy.
    pub fn spread(&self) -> f64 {
        (self.fastest - self.slowest) / self.tokens_per_second
    }
}

/// Speed of prefill and decode, never mixed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Throughput {
    /// The prompt, read at once; its time is the time to the first token.
    pub prefill: Speed,
    /// The tokens after it, one by one; `None` if none were asked for.
    pub decode: Option<Speed>,
}

/// Measures prefill of `prompt` and decode of `spec.n_decode` tokens after it, the decoder reading its own output.
///
/// ```
/// use fewbit_eval::{Decoder, ThroughputSpec, throughput};
/// use std::convert::Infallible;
///
/// struct Echo;
/// impl Decoder for Echo {
///     type Error = Infallible;
///     fn reset(&mut self) -> Result<(), Infallible> { Ok(()) }
///     fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Infallible> { Ok(tokens[0]) }
///     fn step(&mut self, token: u32) -> Result<u32, Infallible> { Ok(token) }
/// }
/// let speed = throughput(&mut Echo, &[1, 2, 3], ThroughputSpec { n_decode: 8, warm_up: 1, repeats: 3 })?;
/// assert_eq!(speed.prefill.n_tokens, 3);
/// assert_eq!(speed.decode.unwrap().seconds.len(), 3);
/// # Ok::<(), fewbit_eval::EvalError>(())
/// ```
///
/// # Errors
/// [`EvalError::EmptyMeasurement`] without prompt or repeats, [`EvalError::Decoder`] if the decoder fails, for example
/// because prompt and decoded tokens exceed its context.
pub fn throughput<D: Decoder>(
    decoder: &mut D,
    prompt: &[u32],
    spec: ThroughputSpec,
) -> Result<Throughput, EvalError> {
    let start = Instant::now();
    measure(decoder, prompt, spec, || start.elapsed().as_secs_f64())
}

/// [`throughput`] by any clock that tells seconds.
fn measure<D: Decoder>(
    decoder: &mut D,
    prompt: &[u32],
    spec: ThroughputSpec,
    mut clock: impl FnMut() -> f64,
) -> Result<Throughput, EvalError> {
    if prompt.is_empty() || spec.repeats == 0 {
        let (n_prompt, repeats) = (prompt.len(), spec.repeats);
        return Err(EvalError::EmptyMeasurement { n_prompt, repeats });
    }
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for repeat in 0..spec.warm_up + spec.repeats {
        let failed = |phase| {
            move |source: D::Error| EvalError::Decoder { phase, repeat, source: source.into() }
        };
        decoder.reset().map_err(failed("reset"))?;
        let start = clock();
        let mut token = decoder.prefill(prompt).map_err(failed("prefill"))?;
        let middle = clock();
        for _ in 0..spec.n_decode {
            token = decoder.step(token).map_err(failed("decode"))?;
        }
        let end = clock();
        if repeat >= spec.warm_up {
            prefill.push(middle - start);
            decode.push(end - middle);
        }
    }
    Ok(Throughput {
        prefill: Speed::new(prompt.len(), prefill),
        decode: (spec.n_decode > 0).then(|| Speed::new(spec.n_decode, decode)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Advances a clock by a scripted time per call and records the tokens it is given.
    struct Scripted<'a> {
        clock: &'a Cell<f64>,
        run: usize,
        seen: Vec<u32>,
        fail_at: Option<usize>,
    }

    impl Decoder for Scripted<'_> {
        type Error = String;

        fn reset(&mut self) -> Result<(), String> {
            self.run += 1;
            self.seen.clear();
            Ok(())
        }

        fn prefill(&mut self, tokens: &[u32]) -> Result<u32, String> {
            self.clock.set(self.clock.get() + 2.0 * self.run as f64);
            self.seen.extend(tokens);
            Ok(100)
        }

        fn step(&mut self, token: u32) -> Result<u32, String> {
            if Some(self.run) == self.fail_at {
                return Err("context full".to_string());
            }
            self.clock.set(self.clock.get() + 0.5);
            self.seen.push(token);
            Ok(token + 1)
        }
    }

    fn scripted(clock: &Cell<f64>, fail_at: Option<usize>) -> Scripted<'_> {
        Scripted { clock, run: 0, seen: Vec::new(), fail_at }
    }

    #[test]
    fn medians_without_the_warm_up() {
        let clock = Cell::new(0.0);
        let mut decoder = scripted(&clock, None);
        let spec = ThroughputSpec { n_decode: 4, warm_up: 1, repeats: 3 };
        let result = measure(&mut decoder, &[5; 12], spec, || clock.get()).unwrap();
        assert_eq!(decoder.seen, [vec![5; 12], vec![100, 101, 102, 103]].concat());
        // Runs 2, 3, 4 are timed and take 4, 6, 8 seconds for 12 tokens.
        let prefill = result.prefill;
        assert_eq!(prefill.seconds, [4.0, 6.0, 8.0]);
        assert_eq!((prefill.slowest, prefill.tokens_per_second, prefill.fastest), (1.5, 2.0, 3.0));
        assert_eq!(prefill.spread(), 0.75);
        assert_eq!(prefill.milliseconds_per_token(), 500.0);
        let decode = result.decode.unwrap();
        assert_eq!((decode.n_tokens, decode.tokens_per_second, decode.spread()), (4, 2.0, 0.0));
    }

    #[test]
    fn prefill_alone() {
        let clock = Cell::new(0.0);
        let spec = ThroughputSpec { n_decode: 0, warm_up: 0, repeats: 1 };
        let result = measure(&mut scripted(&clock, None), &[1], spec, || clock.get()).unwrap();
        assert_eq!(result.decode, None);
        assert_eq!(result.prefill.tokens_per_second, 0.5);
    }

    #[test]
    fn errors_say_when_and_why() {
        let clock = Cell::new(0.0);
        let run = |prompt: &[u32], repeats| {
            let spec = ThroughputSpec { n_decode: 2, warm_up: 1, repeats };
            measure(&mut scripted(&clock, Some(2)), prompt, spec, || clock.get()).unwrap_err()
        };
        let error = run(&[1], 3);
        assert_eq!(error.to_string(), "the decoder failed in decode of repeat 1");
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "context full");
        assert!(matches!(run(&[], 3), EvalError::EmptyMeasurement { n_prompt: 0, repeats: 3 }));
        assert!(matches!(run(&[1], 0), EvalError::EmptyMeasurement { n_prompt: 1, repeats: 0 }));
    }

    #[test]
    fn a_clock_that_stands_still_gives_a_finite_speed() {
        let speed = Speed::new(3, vec![0.0]);
        assert!(speed.tokens_per_second.is_finite() && speed.spread() == 0.0);
    }
}
