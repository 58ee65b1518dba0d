//! The one thing the evaluator asks of a tokenizer.

use crate::BoxError;

/// Text to tokens and back.
pub trait Tokenize {
    /// The tokenizer's own error; `Infallible`, `String` and every `std::error::Error` will do.
    type Error: Into<BoxError>;

    /// The tokens of a text, after those that the model expects at the beginning of every text, if any.
    ///
    /// Results depend on whether a beginning-of-text token comes first: say it beside them.
    fn encode(&self, text: &str) -> Result<Vec<u32>, Self::Error>;

    /// The text of tokens, special ones left out.
    fn decode(&self, tokens: &[u32]) -> Result<String, Self::Error>;
}

impl<T: Tokenize + ?Sized> Tokenize for &T {
    type Error = T::Error;

    fn encode(&self, text: &str) -> Result<Vec<u32>, T::Error> {
        (**self).encode(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, T::Error> {
        (**self).decode(tokens)
    }
}
