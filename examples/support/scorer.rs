//! The reference runtime as the evaluator asks for it.

use clap::ValueEnum;
use fewbit::{
    eval::{Continuations, Logits, Tokenize, ndarray::Array2},
    model::{CacheType, Model, ModelError, Session, Tokenizer, Wanted},
};

/// A model whose keys and values are kept from call to call: what a text has in common with the one before is computed once, in a batch too.
pub struct Scorer<'a> {
    session: Session<'a>,
    batch_tokens: usize,
}

impl<'a> Scorer<'a> {
    /// Tokens that are read at once, unless a caller knows better: `docs/benchmarks.md` has what was measured.
    pub const BATCH_TOKENS: usize = 256;

    pub fn new(model: &'a Model, cache: CacheType) -> Self {
        Self { session: model.session_with(cache), batch_tokens: Self::BATCH_TOKENS }
    }

    /// Texts are read together until they have so many tokens.
    pub fn with_batch_tokens(self, batch_tokens: usize) -> Self {
        Self { batch_tokens, ..self }
    }
}

impl Logits for Scorer<'_> {
    type Error = ModelError;

    fn vocab_size(&self) -> usize {
        self.session.model().config().vocab_size
    }

    fn logits(&mut self, tokens: &[u32]) -> Result<Array2<f32>, ModelError> {
        self.session.truncate(0);
        self.session.feed_all(tokens)
    }

    fn next_logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let common = self.session.tokens().iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token is read in any case, because its logits are not kept.
        let kept = common.min(tokens.len().saturating_sub(1));
        self.session.truncate(kept);
        Ok(self.session.feed(&tokens[kept..])?.to_vec())
    }

    fn continuation_logits(
        &mut self,
        prefix: &[u32],
        continuations: &[&[u32]],
    ) -> Result<Vec<Array2<f32>>, ModelError> {
        Ok(self.batch_continuations(&[Continuations { prefix, continuations }])?.remove(0))
    }

    fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    fn batch_logits(&mut self, texts: &[&[u32]]) -> Result<Vec<Array2<f32>>, ModelError> {
        let texts: Vec<Wanted<'_>> = texts.iter().map(|text| Wanted::all(text)).collect();
        self.session.read(&texts)
    }

    fn batch_continuations(
        &mut self,
        items: &[Continuations<'_>],
    ) -> Result<Vec<Vec<Array2<f32>>>, ModelError> {
        // The last token of a continuation is scored, not read.
        let text = |prefix: &[u32], continuation: &[u32]| {
            [prefix, &continuation[..continuation.len() - 1]].concat()
        };
        let mut texts = vec![];
        for item in items {
            for continuation in item.continuations {
                texts.push((text(item.prefix, continuation), continuation.len()));
            }
        }
        let wanted: Vec<Wanted<'_>> =
            texts.iter().map(|(tokens, rows)| Wanted { tokens, rows: *rows }).collect();
        let mut logits = self.session.read(&wanted)?.into_iter();
        let of_item = |item: &Continuations<'_>| {
            logits.by_ref().take(item.continuations.len()).collect::<Vec<_>>()
        };
        Ok(items.iter().map(of_item).collect())
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
