//! The reference runtime as the evaluator asks for it.

use clap::ValueEnum;
use fewbit::{
    eval::{Logits, Tokenize, ndarray::Array2},
    model::{CacheType, Model, ModelError, Session, Tokenizer},
};

/// A model whose keys and values are kept from call to call: what a text has in common with the one before is computed once.
pub struct Scorer<'a> {
    session: Session<'a>,
    /// What the session holds.
    tokens: Vec<u32>,
}

impl<'a> Scorer<'a> {
    pub fn new(model: &'a Model, cache: CacheType) -> Self {
        Self { session: model.session_with(cache), tokens: vec![] }
    }

    /// Reads a text; returns the logits of what follows.
    fn read(&mut self, text: &[u32]) -> Result<&[f32], ModelError> {
        let common = self.tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
        // The last token is read in any case, because its logits are not kept.
        let kept = common.min(text.len().saturating_sub(1));
        self.tokens.truncate(kept);
        self.session.truncate(kept);
        let logits = self.session.feed(&text[kept..])?;
        self.tokens.extend_from_slice(&text[kept..]);
        Ok(logits)
    }
}

impl Logits for Scorer<'_> {
    type Error = ModelError;

    fn vocab_size(&self) -> usize {
        self.session.model().config().vocab_size
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        self.tokens.clear();
        self.session.truncate(0);
        self.session.feed_all(tokens)
    }

    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        Ok(self.read(tokens)?.to_vec())
    }

    fn continuation_logits(
        &mut self,
        prefix: &[u32],
        continuations: &[&[u32]],
    ) -> Result<Vec<Array2<f32>>, ModelError> {
        let first = self.read(prefix)?.to_vec();
        let mut all = Vec::with_capacity(continuations.len());
        for continuation in continuations {
            let mut logits = first.clone();
            // The last token of a continuation is scored, not read.
            if let [read @ .., _] = continuation
                && !read.is_empty()
            {
                logits.extend(self.session.feed_all(read)?);
                self.session.truncate(prefix.len());
            }
            let shape = (continuation.len(), first.len());
            all.push(Array2::from_shape_vec(shape, logits).expect("a row for each token"));
        }
        Ok(all)
    }
}

/// Whether a text begins with the beginning-of-text token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Bos {
    /// As the tokenizer's own file says; so does lm-evaluation-harness.
    #[default]
    Tokenizer,
    /// With the token that the model's configuration names.
    Always,
    /// Without.
    Never,
}

/// A tokenizer with its rule for the beginning of a text.
pub struct Text<'a> {
    pub tokenizer: &'a Tokenizer,
    pub rule: Bos,
    /// The token, if the model names one.
    pub bos: Option<u32>,
}

impl Tokenize for Text<'_> {
    type Error = ModelError;

    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        match self.rule {
            Bos::Tokenizer => self.tokenizer.encode(text, true),
            Bos::Always => self.tokenizer.encode_with_bos(text, self.bos),
            Bos::Never => self.tokenizer.encode(text, false),
        }
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, ModelError> {
        self.tokenizer.decode(tokens)
    }
}
