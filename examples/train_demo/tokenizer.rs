//! The demo's tokenizer: byte-level BPE of 1024 tokens, trained on the demo's stories.
//!
//! Words that a story comes back to are counted some thousand times more than they occur, so that each is one token: a small model learns to copy a token
//! long before it learns to copy a word in pieces.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, anyhow, ensure};
use fewbit::model::Tokenizer;
use fewbit_demo::{SEPARATOR, remembered};
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper,
    PreTokenizerWrapper, TokenizerImpl,
    decoders::byte_level::ByteLevel,
    models::{
        TrainerWrapper,
        bpe::{BPE, BpeTrainer},
    },
    processors::template::TemplateProcessing,
};

type Bpe = TokenizerImpl<
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

const END: &str = "<|endoftext|>";
const VOCABULARY: usize = 1024;
/// Bytes of text to train on.
pub const TEXT: usize = 12_000_000;
/// How often a remembered word is added to the text.
const EXTRA: usize = 3000;

/// `tokenizer.json`, from the beginning of the training text.
pub fn train(text: &str) -> Result<String> {
    let text = &text[..TEXT.min(text.len())];
    let mut inputs: Vec<String> = text.split(SEPARATOR).map(str::to_owned).collect();
    // Names also begin paragraphs and quotations, where no space goes before them.
    let spaced = remembered().map(|word| format!(" {word}"));
    let extra: Vec<String> = spaced.chain(names().map(str::to_owned)).collect();
    for _ in 0..EXTRA {
        inputs.extend(extra.iter().cloned());
    }
    let mut tokenizer = Bpe::new(ModelWrapper::BPE(BPE::default()));
    tokenizer
        .with_pre_tokenizer(Some(ByteLevel::default().add_prefix_space(false)))
        .with_decoder(Some(ByteLevel::default()));
    let alphabet = ByteLevel::alphabet();
    let trainer = BpeTrainer::builder()
        .vocab_size(VOCABULARY)
        // The line breaks around the token on its own line belong to it.
        .special_tokens(vec![AddedToken::from(END, true).lstrip(true).rstrip(true)])
        .initial_alphabet(alphabet.into_iter().collect())
        .show_progress(false)
        .build();
    let mut trainer = TrainerWrapper::from(trainer);
    let failed = |error| anyhow!("the tokenizer cannot be trained: {error}");
    tokenizer.train(&mut trainer, inputs.into_iter()).map_err(failed)?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{END} $A"))
        .and_then(|builder| builder.try_pair(format!("{END} $A {END} $B")))
        .map_err(|error| anyhow!("{error}"))?
        .special_tokens(vec![(END, 0)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    ensure!(
        tokenizer.get_vocab_size(true) == VOCABULARY,
        "the text is too short for {VOCABULARY} tokens"
    );
    tokenizer.to_string(true).map_err(|error| anyhow!("{error}"))
}

/// A word that stories come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mention {
    /// For the first time in its story.
    First,
    /// Once more.
    Again,
}

/// For each token of a text whether it is such a word. The end-of-text token begins a story.
pub fn mentions(tokenizer: &Tokenizer) -> impl Fn(&[u32]) -> Vec<Option<Mention>> {
    let mut words = HashMap::new();
    for (number, word) in remembered().enumerate() {
        words.extend(tokenizer.token(&format!("Ġ{word}")).map(|token| (token, number)));
        // Without a space before it, only a capital letter shows that a token is not the end of a longer word.
        if word.starts_with(char::is_uppercase) {
            words.extend(tokenizer.token(word).map(|token| (token, number)));
        }
    }
    move |tokens| {
        let mut seen = HashSet::new();
        let mut mention = |&token: &u32| {
            if token == 0 {
                seen.clear();
            }
            let first = seen.insert(*words.get(&token)?);
            Some(if first { Mention::First } else { Mention::Again })
        };
        tokens.iter().map(&mut mention).collect()
    }
}

/// The first two lists of the remembered words: people.
fn names() -> impl Iterator<Item = &'static str> {
    remembered().take(32)
}
