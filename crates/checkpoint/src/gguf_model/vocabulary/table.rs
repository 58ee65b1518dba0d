//! Tokens by id, as `tokenizer.json` fills the rows of an embedding.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::{CheckpointError, ConfigProblem, config::Keys};

use super::{super::Caveat, TokenType, read_json::SPACE};

/// Tokens by id.
pub(super) struct Table {
    pub(super) tokens: Vec<String>,
    pub(super) types: Vec<TokenType>,
    pub(super) ids: HashMap<String, u32>,
}

impl Table {
    pub(super) fn new(rows: usize, pieces: usize) -> Self {
        Self {
            tokens: (0..rows).map(|id| format!("[PAD{id}]")).collect(),
            types: vec![TokenType::Unused; rows],
            ids: HashMap::with_capacity(pieces),
        }
    }

    pub(super) fn set(
        &mut self,
        keys: &Keys<'_>,
        id: u64,
        text: String,
        kind: TokenType,
    ) -> Result<(), CheckpointError> {
        let rows = self.tokens.len();
        if id >= rows as u64 {
            let found = format!("the id {id} of a token");
            let expected = "less than the rows of the embedding";
            return Err(keys.error("model.vocab", ConfigProblem::Expected { found, expected }));
        }
        self.ids.insert(text.clone(), id as u32);
        self.tokens[id as usize] = text;
        self.types[id as usize] = kind;
        Ok(())
    }

    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Adds `added_tokens`, which may be among the pieces.
    pub(super) fn added(
        &mut self,
        keys: &Keys<'_>,
        caveats: &mut Vec<Caveat>,
    ) -> Result<(), CheckpointError> {
        let mut stripping = 0;
        for (i, added) in keys.list("added_tokens")?.iter().enumerate() {
            let empty = Map::new();
            let object = added.as_object().unwrap_or(&empty);
            let added = Keys { object, file: keys.file, at: format!("added_tokens.{i}.") };
            let text = added.need("content", added.text("content")?)?;
            let id = added.need("id", added.get("id").and_then(Value::as_u64))?;
            let special = added.boolean("special")?.unwrap_or(false);
            for key in ["lstrip", "rstrip", "single_word"] {
                if added.boolean(key)? == Some(true) {
                    stripping += 1;
                    break;
                }
            }
            if special || looks_special(text) {
                self.set(keys, id, text.to_owned(), TokenType::Control)?;
            } else {
                // llama.cpp looks for these before it turns spaces into ▁.
                let plain = text.replace(SPACE, " ");
                self.set(keys, id, plain, TokenType::UserDefined)?;
                self.ids.insert(text.to_owned(), id as u32);
            }
        }
        if stripping > 0 {
            caveats.push(Caveat::Stripping { tokens: stripping });
        }
        Ok(())
    }

    /// llama.cpp wants every text once.
    pub(super) fn check_unique(&self) -> Result<(), CheckpointError> {
        let mut seen = HashMap::with_capacity(self.tokens.len());
        for (second, token) in self.tokens.iter().enumerate() {
            if let Some(first) = seen.insert(token.as_str(), second) {
                return Err(CheckpointError::RepeatedToken { token: token.clone(), first, second });
            }
        }
        Ok(())
    }
}

/// Tokens that some files forget to mark as special.
fn looks_special(text: &str) -> bool {
    matches!(text, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || (text.starts_with("<|") && text.ends_with("|>"))
        || (text.starts_with("<｜") && text.ends_with("｜>"))
        || (text.starts_with("<unused") && text.ends_with('>'))
}

pub(super) fn is_byte_token(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
