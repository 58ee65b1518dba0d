//! Vocabularies both ways: `tokenizer.json` and the keys `tokenizer.*` of GGUF.
//!
//! GGUF knows two kinds that language models use. `gpt2` is byte-level BPE: merges in their order, and the name of a pre-tokenizer in place
//! of its pattern. `llama` is SentencePiece's BPE: a score for each token, joined wherever the highest score is; bytes stand for
//! characters outside of the vocabulary.

mod ends;
mod pre;
mod read_json;
mod read_metadata;
mod sentence_piece;
mod table;
mod template;
mod write_json;
mod write_metadata;

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{CheckpointError, error::io};

pub(super) use ends::ends;
pub use pre::PreTokenizer;

/// A tokenizer, in terms of neither kind of file.
#[derive(Clone, Debug, PartialEq)]
pub struct Vocabulary {
    /// Text of each token: of byte-level tokens in GPT-2's alphabet, of SentencePiece's with `▁` for a space, of control and
    /// user-defined ones plain.
    pub tokens: Vec<String>,
    /// Kind of each token.
    pub types: Vec<TokenType>,
    /// How text becomes tokens.
    pub model: VocabularyModel,
    /// Tokens with a role.
    pub special: SpecialTokens,
    /// Whether a text gets the beginning-of-text token.
    pub add_bos: bool,
    /// Whether a text gets the end-of-text token.
    pub add_eos: bool,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum VocabularyModel {
    /// Byte-level BPE.
    ByteLevel {
        /// How a text is cut into words, which no token crosses.
        pre: PreTokenizer,
        /// Pairs of tokens, the one that is joined first in front.
        merges: Vec<(String, String)>,
    },
    /// SentencePiece's BPE.
    SentencePiece {
        /// One for each token; the highest is joined first.
        scores: Vec<f32>,
        /// Whether a text gets a space in front.
        add_space_prefix: bool,
    },
}

/// Kind of a token, with its number in GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum TokenType {
    /// A piece of text.
    Normal = 1,
    /// Stands for what has no token.
    Unknown = 2,
    /// Steers the model, and is no text.
    Control = 3,
    /// A text that always is one token.
    UserDefined = 4,
    /// Fills a row of the embedding.
    Unused = 5,
    /// A single byte.
    Byte = 6,
}

impl TokenType {
    fn of_number(number: i64) -> Option<Self> {
        use TokenType::{Byte, Control, Normal, Unknown, Unused, UserDefined};
        [Normal, Unknown, Control, UserDefined, Unused, Byte]
            .into_iter()
            .find(|&kind| kind as i64 == number)
    }
}

/// Ids of tokens with a role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of text.
    pub bos: Option<u32>,
    /// End of text.
    pub eos: Option<u32>,
    /// What has no token.
    pub unk: Option<u32>,
    /// Between two texts.
    pub sep: Option<u32>,
    /// Fills batches.
    pub pad: Option<u32>,
    /// A gap to be filled.
    pub mask: Option<u32>,
    /// Ends a turn of a conversation.
    pub eot: Option<u32>,
    /// Ends a message.
    pub eom: Option<u32>,
}

impl SpecialTokens {
    /// Name in `tokenizer_config.json`, name in GGUF, and the id.
    fn named(&mut self) -> [(&'static str, &'static str, &mut Option<u32>); 8] {
        [
            ("bos", "bos", &mut self.bos),
            ("eos", "eos", &mut self.eos),
            ("unk", "unknown", &mut self.unk),
            // Misspelled in the format.
            ("sep", "seperator", &mut self.sep),
            ("pad", "padding", &mut self.pad),
            ("mask", "mask", &mut self.mask),
            ("eot", "eot", &mut self.eot),
            ("eom", "eom", &mut self.eom),
        ]
    }
}

/// The tokenizer files of a Hugging Face model.
#[derive(Clone, Debug)]
pub struct TokenizerFiles {
    /// `tokenizer.json`.
    pub tokenizer: Map<String, Value>,
    /// `tokenizer_config.json`; empty if there is none.
    pub config: Map<String, Value>,
    /// `chat_template.jinja`, if there is one.
    pub chat_template: Option<String>,
    /// `generation_config.json`, which may name more tokens that end a text; empty if there is none.
    pub generation: Map<String, Value>,
}

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

impl TokenizerFiles {
    /// The chat template: `chat_template.jinja`, or that of `tokenizer_config.json`; of several, the default one.
    pub fn template(&self) -> Option<&str> {
        if let Some(template) = &self.chat_template {
            return Some(template);
        }
        match self.config.get("chat_template")? {
            Value::String(template) => Some(template),
            Value::Array(templates) => {
                let default = |t: &&Value| t.get("name").and_then(Value::as_str) == Some("default");
                templates.iter().find(default)?.get("template")?.as_str()
            }
            _ => None,
        }
    }

    /// The text of a token that `tokenizer_config.json` names, such as `bos_token`.
    pub fn token(&self, key: &str) -> Option<&str> {
        let token = self.config.get(key)?;
        token.as_str().or_else(|| token.get("content")?.as_str())
    }

    /// Reads them from a model folder.
    ///
    /// # Errors
    /// If there is no `tokenizer.json`, or a file is no valid JSON object.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let object = |name: &str| {
            let file = folder.join(name);
            let text = fs::read(&file).map_err(io("read", &file))?;
            serde_json::from_slice(&text).map_err(|source| CheckpointError::Json { file, source })
        };
        let optional = |file: PathBuf| match fs::read_to_string(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(io("read", file)),
        };
        let object_or_empty = |name: &str| match folder.join(name).is_file() {
            true => object(name),
            false => Ok(Map::new()),
        };
        Ok(Self {
            tokenizer: object(TOKENIZER)?,
            config: object_or_empty(TOKENIZER_CONFIG)?,
            chat_template: optional(folder.join("chat_template.jinja"))?,
            generation: object_or_empty("generation_config.json")?,
        })
    }
}
