//! From the tokenizer files of a Hugging Face model.

use std::path::Path;

use serde_json::{Map, Value};

use crate::{CheckpointError, ConfigProblem, config::Keys};

use super::{
    super::{CONFIG, Caveat, GgufArch},
    PreTokenizer, SpecialTokens, TOKENIZER, TOKENIZER_CONFIG, TokenType, TokenizerFiles,
    Vocabulary, VocabularyModel, ends,
    sentence_piece::{byte_token, check_merges, scores},
    table::{Table, is_byte_token},
    template,
};

/// What stands for a space in SentencePiece's tokens.
pub(super) const SPACE: char = '▁';
/// What stands for one in byte-level tokens.
const BYTE_LEVEL_SPACE: &str = "Ġ";

impl Vocabulary {
    /// Reads a vocabulary of `rows` tokens, the rows of the embedding; ids without a token become `[PADn]`. `config` is `config.json`,
    /// which may name special tokens that the tokenizer files do not.
    ///
    /// # Errors
    /// If the tokenizer is of a kind that llama.cpp does not have, or its parts contradict each other.
    pub fn of_tokenizer(
        files: &TokenizerFiles,
        config: &Map<String, Value>,
        arch: GgufArch,
        rows: usize,
    ) -> Result<(Self, Vec<Caveat>), CheckpointError> {
        let keys = Keys::new(&files.tokenizer, Path::new(TOKENIZER));
        let tokenizer_config = Keys::new(&files.config, Path::new(TOKENIZER_CONFIG));
        let model = keys.need("model", keys.object("model")?)?;
        let kind = model.text("type")?.unwrap_or("BPE");
        let (pieces, unigram_scores) = match kind {
            "BPE" => (bpe_pieces(&model)?, None),
            "Unigram" => unigram_pieces(&model)?,
            other => return Err(model.unsupported("type", other, "BPE and Unigram")),
        };
        let mut caveats = Vec::new();
        let space = SpaceHandling::find(&keys, &mut caveats)?;
        let byte_fallback = model.boolean("byte_fallback")?.unwrap_or(false);
        let sentence_piece = space.escapes || unigram_scores.is_some();
        let mut table = Table::new(rows, pieces.len());
        for (text, id) in pieces {
            let byte = sentence_piece && byte_fallback && is_byte_token(&text);
            let kind = if byte { TokenType::Byte } else { TokenType::Normal };
            table.set(&keys, id, text, kind)?;
        }
        let unk = match model.get("unk_id").and_then(Value::as_u64) {
            Some(id) => Some(id as u32),
            None => model.text("unk_token")?.and_then(|text| table.find(text)),
        };
        table.added(&keys, &mut caveats)?;
        if sentence_piece && let Some(unk) = unk {
            table.types[unk as usize] = TokenType::Unknown;
        }
        table.check_unique()?;
        let Table { tokens, types, ids } = table;

        let find = |text: &str| ids.get(text).copied();
        let mut special = special_tokens(&tokenizer_config, config, find, rows)?;
        special.unk = special.unk.or(unk);
        caveats.extend(ends::settle(&mut special, &tokens, &files.generation, config));
        let (add_bos, add_eos) = frame(&keys, &tokenizer_config, &mut special, find)?;
        let merges = merges(&model)?;
        let model = if sentence_piece {
            let missing = (0..=255).filter(|&byte| find(&byte_token(byte)).is_none()).count();
            if missing > 0 {
                caveats.push(Caveat::MissingBytes { missing });
            }
            let scores = match unigram_scores {
                Some(mut scores) => {
                    caveats.push(Caveat::Unigram);
                    scores.resize(tokens.len(), 0.0);
                    scores
                }
                None => {
                    caveats.extend(check_merges(&tokens, &types, &merges));
                    scores(&tokens, &types, &merges)
                }
            };
            VocabularyModel::SentencePiece { scores, add_space_prefix: space.prefix }
        } else {
            let ignore_merges = model.boolean("ignore_merges")?.unwrap_or(false);
            let pre = PreTokenizer::of_json(&keys, ignore_merges, arch)?;
            VocabularyModel::ByteLevel { pre, merges }
        };
        let chat_template = files.template().map(str::to_owned);
        let vocabulary = Self { tokens, types, model, special, add_bos, add_eos, chat_template };
        Ok((vocabulary, caveats))
    }
}

/// How spaces become part of tokens.
struct SpaceHandling {
    /// Whether a space becomes `▁`: SentencePiece.
    escapes: bool,
    /// Whether a text gets a space in front.
    prefix: bool,
}

impl SpaceHandling {
    /// Reads the normalizer, and a pre-tokenizer that takes its place.
    fn find(keys: &Keys<'_>, caveats: &mut Vec<Caveat>) -> Result<Self, CheckpointError> {
        let mut found = Self { escapes: false, prefix: false };
        if let Some(normalizer) = keys.object("normalizer")? {
            found.normalizer(&normalizer, caveats)?;
        }
        if let Some(pre) = keys.object("pre_tokenizer")?
            && pre.text("type")? == Some("Metaspace")
        {
            found.escapes = true;
            let scheme = pre.text("prepend_scheme")?.unwrap_or("always");
            found.prefix = match pre.boolean("add_prefix_space")? {
                Some(prefix) => prefix,
                None => scheme != "never",
            };
        }
        Ok(found)
    }

    fn normalizer(
        &mut self,
        object: &Keys<'_>,
        caveats: &mut Vec<Caveat>,
    ) -> Result<(), CheckpointError> {
        match object.need("type", object.text("type")?)? {
            "Sequence" => {
                for (i, part) in object.list("normalizers")?.iter().enumerate() {
                    if let Some(part) = part.as_object() {
                        let at = format!("{}normalizers.{i}.", object.at);
                        let part = Keys { object: part, file: object.file, at };
                        self.normalizer(&part, caveats)?;
                    }
                }
            }
            "Prepend" if object.text("prepend")?.is_some_and(|text| text == SPACE.to_string()) => {
                self.prefix = true;
            }
            "Replace" => {
                let pattern = object.object("pattern")?;
                let pattern = pattern.as_ref().and_then(|pattern| pattern.get("String")?.as_str());
                let content = object.text("content")?;
                match (pattern, content) {
                    (Some(" "), Some("▁")) => self.escapes = true,
                    _ => caveats.push(Caveat::Normalizer { kind: "Replace".to_owned() }),
                }
            }
            other => caveats.push(Caveat::Normalizer { kind: other.to_owned() }),
        }
        Ok(())
    }
}

fn bpe_pieces(model: &Keys<'_>) -> Result<Vec<(String, u64)>, CheckpointError> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if let Some(text) = model.text(key)?
            && !text.is_empty()
        {
            return Err(model.unsupported(key, text, "none"));
        }
    }
    let vocab = model.need("vocab", model.object("vocab")?)?;
    let pieces = vocab.object.iter().map(|(text, id)| match id.as_u64() {
        Some(id) => Ok((text.clone(), id)),
        None => Err(vocab.error(text, ConfigProblem::expected(id, "a token id"))),
    });
    pieces.collect()
}

type Scored = (Vec<(String, u64)>, Option<Vec<f32>>);

fn unigram_pieces(model: &Keys<'_>) -> Result<Scored, CheckpointError> {
    let mut pieces = Vec::new();
    let mut scores = Vec::new();
    for (id, piece) in model.list("vocab")?.iter().enumerate() {
        let text = piece.get(0).and_then(Value::as_str);
        let score = piece.get(1).and_then(Value::as_f64);
        let (Some(text), Some(score)) = (text, score) else {
            let problem = ConfigProblem::expected(piece, "a pair of text and score");
            return Err(model.error(&format!("vocab.{id}"), problem));
        };
        pieces.push((text.to_owned(), id as u64));
        scores.push(score as f32);
    }
    Ok((pieces, Some(scores)))
}

/// Pairs, or texts with a space between the halves as older files have them.
fn merges(model: &Keys<'_>) -> Result<Vec<(String, String)>, CheckpointError> {
    let half = |text: &str| text.replace(' ', BYTE_LEVEL_SPACE);
    let merge = |(i, merge): (usize, &Value)| {
        let pair = match merge {
            Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
            Value::Array(pair) => match &pair[..] {
                [Value::String(a), Value::String(b)] => Some((half(a), half(b))),
                _ => None,
            },
            _ => None,
        };
        pair.ok_or_else(|| {
            let problem = ConfigProblem::expected(merge, "a pair of tokens");
            model.error(&format!("merges.{i}"), problem)
        })
    };
    model.list("merges")?.iter().enumerate().map(merge).collect()
}

/// Special tokens by their text in `tokenizer_config.json`, or by their id in `config.json`.
fn special_tokens(
    tokenizer_config: &Keys<'_>,
    config: &Map<String, Value>,
    find: impl Fn(&str) -> Option<u32>,
    rows: usize,
) -> Result<SpecialTokens, CheckpointError> {
    let config = Keys::new(config, Path::new(CONFIG));
    let mut special = SpecialTokens::default();
    for (name, _, id) in special.named() {
        let text = match tokenizer_config.get(&format!("{name}_token")) {
            Some(Value::Object(token)) => token.get("content").and_then(Value::as_str),
            Some(Value::String(text)) => Some(text.as_str()),
            _ => None,
        };
        *id = text.and_then(&find);
        if id.is_some() {
            continue;
        }
        let key = format!("{name}_token_id");
        // Of several ends of a text, the first.
        let value = match config.get(&key) {
            Some(Value::Array(list)) => list.first(),
            other => other,
        };
        if let Some(value) = value {
            // -1 is an old way of saying that there is none.
            if value.as_i64() == Some(-1) {
                continue;
            }
            match value.as_u64() {
                Some(token) if token < rows as u64 => *id = Some(token as u32),
                // Fine-tuned models name tokens for padding that they have no row for.
                Some(_) if !matches!(name, "bos" | "eos") => {}
                _ => return Err(config.error(&key, ConfigProblem::expected(value, "a token id"))),
            }
        }
    }
    Ok(special)
}

/// Whether a text gets a token in front and at its end.
fn frame(
    keys: &Keys<'_>,
    tokenizer_config: &Keys<'_>,
    special: &mut SpecialTokens,
    find: impl Fn(&str) -> Option<u32>,
) -> Result<(bool, bool), CheckpointError> {
    let found = match keys.object("post_processor")? {
        Some(object) => template::read(&object)?,
        None => None,
    };
    let Some(found) = found else {
        // Only this class of transformers makes a template of the two switches.
        let llama = matches!(
            tokenizer_config.text("tokenizer_class")?,
            Some("LlamaTokenizer" | "LlamaTokenizerFast" | "GemmaTokenizer" | "GemmaTokenizerFast")
        );
        let bos = tokenizer_config.boolean("add_bos_token")?.unwrap_or(llama);
        let eos = tokenizer_config.boolean("add_eos_token")?.unwrap_or(false);
        return Ok((llama && bos && special.bos.is_some(), llama && eos && special.eos.is_some()));
    };
    let resolve = |text: Option<&str>, role: &mut Option<u32>| -> Result<bool, CheckpointError> {
        let Some(text) = text else { return Ok(false) };
        let token = find(text);
        let same = role.is_none() || *role == token;
        match token {
            Some(_) if same => {
                *role = token;
                Ok(true)
            }
            _ => {
                let supported = "the tokens for the beginning and the end of a text";
                Err(keys.unsupported("post_processor", text, supported))
            }
        }
    };
    let first = resolve(found.first, &mut special.bos)?;
    let last = resolve(found.last, &mut special.eos)?;
    Ok((first, last))
}
