//! To the tokenizer files of a Hugging Face model.

use serde_json::{Map, Value, json};

use super::{
    super::Caveat, TokenType, TokenizerFiles, Vocabulary, VocabularyModel, read_json::SPACE,
    sentence_piece, template,
};

impl Vocabulary {
    /// Tokenizer files that give the tokens that llama.cpp gives. A token that fills a row of the embedding is not among them.
    pub fn files(&self) -> (TokenizerFiles, Vec<Caveat>) {
        let text = |id: u32| self.tokens[id as usize].as_str();
        let pair = |id: Option<u32>| id.map(|id| (text(id), id));
        let first = pair(self.special.bos).filter(|_| self.add_bos);
        let last = pair(self.special.eos).filter(|_| self.add_eos);
        let mut caveats = Vec::new();
        let (normalizer, pre_tokenizer, decoder, model);
        match &self.model {
            VocabularyModel::ByteLevel { pre, merges } => {
                normalizer = Value::Null;
                pre_tokenizer = pre.json();
                decoder = json!({ "type": "ByteLevel", "add_prefix_space": true,
                    "trim_offsets": true, "use_regex": true });
                model = self.bpe(merges, None, pre.ignore_merges());
            }
            VocabularyModel::SentencePiece { scores, add_space_prefix } => {
                let (merges, caveat) = sentence_piece::merges(&self.tokens, &self.types, scores);
                caveats.extend(caveat);
                normalizer = normalizer_json(*add_space_prefix);
                pre_tokenizer = Value::Null;
                decoder = decoder_json(*add_space_prefix);
                model = self.bpe(&merges, self.special.unk.map(text), false);
            }
        }
        let tokenizer = json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": self.added_tokens(),
            "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer,
            "post_processor": template::json(first, last),
            "decoder": decoder,
            "model": model,
        });
        let Value::Object(tokenizer) = tokenizer else { unreachable!("an object literal") };
        let files = TokenizerFiles {
            tokenizer,
            config: self.tokenizer_config(),
            chat_template: None,
            generation: Map::new(),
        };
        (files, caveats)
    }

    /// Token texts by id. Added tokens are among them, so that they keep their ids.
    fn bpe(&self, merges: &[(String, String)], unk: Option<&str>, ignore_merges: bool) -> Value {
        let byte_fallback = matches!(self.model, VocabularyModel::SentencePiece { .. });
        let mut vocab = Map::new();
        for (id, (token, kind)) in self.tokens.iter().zip(&self.types).enumerate() {
            if *kind != TokenType::Unused {
                vocab.insert(token.clone(), id.into());
            }
        }
        json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unk,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": unk.is_some(),
            "byte_fallback": byte_fallback,
            "ignore_merges": ignore_merges,
            "vocab": vocab,
            "merges": merges,
        })
    }

    fn added_tokens(&self) -> Vec<Value> {
        let tokens = self.tokens.iter().zip(&self.types).enumerate();
        let added = tokens.filter_map(|(id, (token, kind))| {
            let special = match kind {
                TokenType::Control | TokenType::Unknown => true,
                TokenType::UserDefined => false,
                _ => return None,
            };
            Some(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            }))
        });
        added.collect()
    }

    fn tokenizer_config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        // A class that takes tokenizer.json as it is.
        config.insert("tokenizer_class".into(), "PreTrainedTokenizerFast".into());
        for (name, _, id) in self.special.clone().named() {
            if let Some(id) = *id {
                config.insert(format!("{name}_token"), self.tokens[id as usize].as_str().into());
            }
        }
        config.insert("add_bos_token".into(), self.add_bos.into());
        config.insert("add_eos_token".into(), self.add_eos.into());
        config.insert("clean_up_tokenization_spaces".into(), false.into());
        if let Some(template) = &self.chat_template {
            config.insert("chat_template".into(), template.as_str().into());
        }
        config
    }
}

/// Spaces become `▁`, one more in front where the vocabulary asks for it.
fn normalizer_json(prefix: bool) -> Value {
    let space = SPACE.to_string();
    let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": space });
    match prefix {
        true => json!({ "type": "Sequence",
            "normalizers": [{ "type": "Prepend", "prepend": space }, replace] }),
        false => replace,
    }
}

/// The reverse of [`normalizer_json`], with bytes put together to characters.
fn decoder_json(prefix: bool) -> Value {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": SPACE.to_string() }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}
