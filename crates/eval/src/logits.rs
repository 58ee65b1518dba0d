//! The one thing the evaluator asks of a model.

use ndarray::{Array2, Axis, Slice};

#[cfg(doc)]
use crate::BATCH_LOGITS;
use crate::BoxError;

/// Continuations of one prefix, to be scored after it. None of them, nor the prefix, is empty.
#[derive(Clone, Copy, Debug)]
pub struct Continuations<'a> {
    /// What comes before each continuation.
    pub prefix: &'a [u32],
    /// What is scored.
    pub continuations: &'a [&'a [u32]],
}

/// A causal language model: tokens in, logits out.
///
/// Nothing else is asked of a model, so that in-memory models, reopened files, foreign runtimes and caches of stored
/// logits are evaluated by the same code. A closure becomes one through [`from_fn`]. The provided methods are shortcuts that a
/// model may know; whatever it keeps from call to call, its answers are those of `logits`, up to rounding.
pub trait Logits {
    /// The model's own error; `Infallible`, `String` and every `std::error::Error` will do.
    type Error: Into<BoxError>;

    /// Number of logits per position.
    fn vocab_size(&self) -> usize;

    /// Finite logits of shape (tokens.len(), vocab_size): row `t` scores the token that follows `tokens[..=t]`.
    ///
    /// Each call is a sequence of its own: no call may change what another answers.
    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, Self::Error>;

    /// The last row of the logits of `tokens`, which are at least one.
    ///
    /// Writing a text calls this with one token more each time: a model that keeps what it computed gains much here.
    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Self::Error> {
        let logits = self.logits(tokens)?;
        Ok(logits.row(logits.nrows() - 1).to_vec())
    }

    /// For each continuation the logits of its tokens after `prefix`, (continuation.len(), vocab_size): row `i` scores
    /// `continuation[i]`. Neither the prefix nor a continuation is empty.
    ///
    /// Runs the model once for each continuation, prefix included, and once for all that are a single token. A model that
    /// can compute the prefix once for all does better.
    fn continuation_logits(
        &mut self,
        prefix: &[u32],
        continuations: &[&[u32]],
    ) -> Result<Vec<Array2<f32>>, Self::Error> {
        let mut single: Option<Array2<f32>> = None;
        let mut all = Vec::with_capacity(continuations.len());
        for continuation in continuations {
            // The last token of a continuation is scored, not read.
            let read = [prefix, &continuation[..continuation.len() - 1]].concat();
            all.push(match &single {
                Some(row) if continuation.len() == 1 => row.clone(),
                _ => {
                    let scoring = Slice::from(prefix.len() - 1..);
                    self.logits(&read)?.slice_axis(Axis(0), scoring).to_owned()
                }
            });
            if continuation.len() == 1 && single.is_none() {
                single = all.last().cloned();
            }
        }
        Ok(all)
    }

    /// Tokens that this model likes to read at once, so that texts are read together until they have so many; the evaluator never asks for more than a
    /// batch of at most so many and one more text. 0 or 1: text by text.
    ///
    /// Together they also end with the text by which their logits reach [`BATCH_LOGITS`].
    fn batch_tokens(&self) -> usize {
        1
    }

    /// The [`logits`](Self::logits) of each of several texts.
    ///
    /// Runs them one after another. A model that gains by reading them together says so in [`batch_tokens`](Self::batch_tokens).
    fn batch_logits(&mut self, texts: &[&[u32]]) -> Result<Vec<Array2<f32>>, Self::Error> {
        texts.iter().map(|text| self.logits(text)).collect()
    }

    /// The [`continuation_logits`](Self::continuation_logits) of each of several items.
    ///
    /// Runs them one after another. Neighbouring items may have the beginning of their prefixes in common.
    fn batch_continuations(
        &mut self,
        items: &[Continuations<'_>],
    ) -> Result<Vec<Vec<Array2<f32>>>, Self::Error> {
        let one =
            |item: &Continuations<'_>| self.continuation_logits(item.prefix, item.continuations);
        items.iter().map(one).collect()
    }
}

impl<L: Logits + ?Sized> Logits for &mut L {
    type Error = L::Error;

    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, Self::Error> {
        (**self).logits(tokens)
    }

    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Self::Error> {
        (**self).next_logits(tokens)
    }

    fn continuation_logits(
        &mut self,
        prefix: &[u32],
        continuations: &[&[u32]],
    ) -> Result<Vec<Array2<f32>>, Self::Error> {
        (**self).continuation_logits(prefix, continuations)
    }

    fn batch_tokens(&self) -> usize {
        (**self).batch_tokens()
    }

    fn batch_logits(&mut self, texts: &[&[u32]]) -> Result<Vec<Array2<f32>>, Self::Error> {
        (**self).batch_logits(texts)
    }

    fn batch_continuations(
        &mut self,
        items: &[Continuations<'_>],
    ) -> Result<Vec<Vec<Array2<f32>>>, Self::Error> {
        (**self).batch_continuations(items)
    }
}

/// A closure as a model; made by [`from_fn`].
#[derive(Clone, Debug)]
pub struct FromFn<F> {
    vocab_size: usize,
    function: F,
}

/// Makes a model of a closure from tokens to logits of shape (tokens.len(), `vocab_size`).
///
/// ```
/// use fewbit_eval::{Logits, from_fn, ndarray::Array2};
/// use std::convert::Infallible;
///
/// let mut model = from_fn(10, |tokens: &[u32]| Ok::<_, Infallible>(Array2::zeros((tokens.len(), 10))));
/// assert_eq!(model.logits(&[1, 2, 3]).unwrap().dim(), (3, 10));
/// ```
pub fn from_fn<F, E>(vocab_size: usize, function: F) -> FromFn<F>
where
    F: FnMut(&[u32]) -> Result<Array2<f32>, E>,
    E: Into<BoxError>,
{
    FromFn { vocab_size, function }
}

impl<F, E> Logits for FromFn<F>
where
    F: FnMut(&[u32]) -> Result<Array2<f32>, E>,
    E: Into<BoxError>,
{
    type Error = E;

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, E> {
        (self.function)(tokens)
    }
}
