//! The one thing the evaluator asks of a model.

use ndarray::Array2;

use crate::BoxError;

/// A causal language model: tokens in, logits out.
///
/// Nothing else is asked of a model, so that in-memory models, reopened files, foreign runtimes and caches of stored
/// logits are evaluated by the same code. A closure becomes one through [`from_fn`].
pub trait Logits {
    /// The model's own error; `Infallible`, `String` and every `std::error::Error` will do.
    type Error: Into<BoxError>;

    /// Number of logits per position.
    fn vocab_size(&self) -> usize;

    /// Finite logits of shape (tokens.len(), vocab_size): row `t` scores the token that follows `tokens[..=t]`.
    ///
    /// Each call is a sequence of its own: nothing may be remembered from the call before.
    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, Self::Error>;
}

impl<L: Logits + ?Sized> Logits for &mut L {
    type Error = L::Error;

    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, Self::Error> {
        (**self).logits(tokens)
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
