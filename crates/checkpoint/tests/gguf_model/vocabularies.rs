//! Vocabularies there and back.

use fewbit_checkpoint::{
    gguf::Metadata,
    gguf_model::{Caveat, GgufArch, TokenizerFiles, Vocabulary, VocabularyModel},
};
use serde_json::{Map, Value, json};

use super::fixture::testdata;

fn files(name: &str) -> TokenizerFiles {
    TokenizerFiles::read(&testdata(&format!("tokenizers/{name}"))).unwrap()
}

fn read(files: &TokenizerFiles, rows: usize) -> (Vocabulary, Vec<Caveat>) {
    Vocabulary::of_tokenizer(files, &Map::new(), GgufArch::Exaone, rows).unwrap()
}

#[test]
fn tokenizers_come_back_from_the_metadata() {
    for (name, pre) in
        [("byte-level", Some("gpt-2")), ("digits", Some("exaone")), ("sentence-piece", None)]
    {
        let original = files(name);
        let (vocabulary, caveats) = read(&original, 352);
        assert_eq!(caveats, [], "{name}");
        let mut metadata = Metadata::new();
        vocabulary.write(&mut metadata);
        if let Some(pre) = pre {
            assert_eq!(metadata.text("tokenizer.ggml.pre").unwrap(), pre);
        }
        let back = Vocabulary::of_metadata(&metadata).unwrap().unwrap();
        assert_eq!(back, vocabulary, "{name}");
        let (files, caveats) = back.files();
        assert_eq!(caveats, [], "{name}");
        let (before, after) = (&original.tokenizer, &files.tokenizer);
        assert_eq!(after["model"]["merges"], before["model"]["merges"], "{name}");
        for (text, id) in before["model"]["vocab"].as_object().unwrap() {
            assert_eq!(after["model"]["vocab"][text], *id, "{name}: {text}");
        }
        for key in ["added_tokens", "normalizer", "decoder"] {
            assert_eq!(after[key], before[key], "{name}: {key}");
        }
        for key in ["unk_token", "byte_fallback", "fuse_unk", "ignore_merges"] {
            assert_eq!(after["model"][key], before["model"][key], "{name}: {key}");
        }
        assert_eq!(after["post_processor"]["single"], before["post_processor"]["single"]);
        for key in ["bos_token", "eos_token", "chat_template"] {
            assert_eq!(files.config[key], original.config[key], "{name}: {key}");
        }
        // And once more.
        assert_eq!(read(&files, 352).0, vocabulary, "{name}");
    }
}

#[test]
fn merges_may_be_texts_and_rows_without_a_token_are_filled() {
    let mut files = files("byte-level");
    let (pairs, _) = read(&files, 352);
    let merges = files.tokenizer["model"]["merges"].as_array().unwrap().clone();
    let text = |pair: &Value| {
        let half = |i: usize| pair[i].as_str().unwrap();
        json!(format!("{} {}", half(0), half(1)))
    };
    files.tokenizer["model"]["merges"] = merges.iter().map(text).collect();
    assert_eq!(read(&files, 352).0, pairs);
    assert_eq!((pairs.tokens[341].as_str(), pairs.types[341] as i32), ("[PAD341]", 5));
    assert_eq!((pairs.tokens[340].as_str(), pairs.types[340] as i32), ("<tool>", 4));
    assert!(pairs.add_bos && !pairs.add_eos);
}

#[test]
fn what_is_lost_is_said() {
    let mut files = files("sentence-piece");
    files.tokenizer["model"]["merges"].as_array_mut().unwrap().pop();
    let vocab = files.tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let id = vocab.remove("<0x41>").unwrap();
    vocab.insert("filler".to_owned(), id);
    let (_, caveats) = read(&files, 352);
    assert!(
        matches!(caveats[..], [Caveat::MissingBytes { missing: 1 }, Caveat::Merges { tokens: 1 }]),
        "{caveats:?}"
    );

    let mut files = self::files("byte-level");
    files.tokenizer["normalizer"] = json!({ "type": "NFC" });
    let (_, caveats) = read(&files, 352);
    assert_eq!(caveats, [Caveat::Normalizer { kind: "NFC".to_owned() }]);
}

#[test]
fn every_token_that_ends_a_text_has_a_role() {
    let mut files = files("byte-level");
    let generation = json!({ "eos_token_id": [2, 0, 7, 8] });
    files.generation = generation.as_object().unwrap().clone();
    let (vocabulary, caveats) = read(&files, 352);
    let special = vocabulary.special;
    assert_eq!((special.eos, special.eot, special.eom), (Some(2), Some(0), Some(7)));
    assert_eq!(caveats, [Caveat::EndTokens { tokens: 1 }]);
    let mut metadata = Metadata::new();
    vocabulary.write(&mut metadata);
    assert_eq!(metadata.u32("tokenizer.ggml.eot_token_id").unwrap(), 0);
    assert_eq!(Vocabulary::of_metadata(&metadata).unwrap().unwrap(), vocabulary);
}

#[test]
fn equal_scores_join_in_the_order_of_ids() {
    let (mut vocabulary, _) = read(&files("sentence-piece"), 352);
    let VocabularyModel::SentencePiece { scores, .. } = &mut vocabulary.model else { panic!() };
    let merged = scores.iter().filter(|&&score| score < 0.0).count();
    scores.fill(-1000.0);
    let (files, caveats) = vocabulary.files();
    assert!(
        matches!(caveats[..], [Caveat::TiedScores { tokens }] if tokens < merged),
        "{caveats:?}"
    );
    // The ids are in the order of the merges, as in most vocabularies.
    let original = self::files("sentence-piece");
    assert_eq!(files.tokenizer["model"]["merges"], original.tokenizer["model"]["merges"]);
}

#[test]
fn kinds_that_have_no_counterpart_are_refused_by_name() {
    let refusal = |files: &TokenizerFiles| {
        let result = Vocabulary::of_tokenizer(files, &Map::new(), GgufArch::Llama, 352);
        result.unwrap_err().to_string()
    };
    let mut word_piece = files("byte-level");
    word_piece.tokenizer["model"]["type"] = json!("WordPiece");
    let error = refusal(&word_piece);
    assert!(error.contains("tokenizer.json") && error.contains("WordPiece"), "{error}");

    let mut unknown = files("byte-level");
    unknown.tokenizer["pre_tokenizer"] = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "x" }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false } ] });
    let error = refusal(&unknown);
    assert!(error.contains("pre_tokenizer") && error.contains("Tekken"), "{error}");

    let few_rows =
        Vocabulary::of_tokenizer(&files("byte-level"), &Map::new(), GgufArch::Llama, 340);
    let error = few_rows.unwrap_err().to_string();
    assert!(error.contains("340") && error.contains("rows of the embedding"), "{error}");

    let mut twice = files("byte-level");
    twice.tokenizer["model"]["vocab"]["[PAD345]"] = json!(7);
    let error = refusal(&twice);
    assert!(error.contains("7 and 345"), "{error}");

    let mut metadata = Metadata::new();
    metadata.insert("tokenizer.ggml.model", "t5");
    metadata.insert("tokenizer.ggml.tokens", vec!["a".to_owned()]);
    let error = Vocabulary::of_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("t5") && error.contains("tokenizer.ggml.model"), "{error}");
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "kimi-k2");
    let error = Vocabulary::of_metadata(&metadata).unwrap_err().to_string();
    assert!(error.contains("kimi-k2"), "{error}");
    assert!(Vocabulary::of_metadata(&Metadata::new()).unwrap().is_none());
}
