//! Token ids and texts against the tokenizers library of Python.
#![cfg(feature = "tokenizers")]

mod common;

use common::testdata;
use fewbit_model::Tokenizer;
use fewbit_testkit::shared_or_skip;
use serde_json::Value;

#[test]
fn shared_tokenizers_give_their_golden_ids() {
    let Some(shared) = shared_or_skip("shared_tokenizers_give_their_golden_ids") else { return };
    for (name, bos) in [("stories260K", 1), ("TinyStories-656K", 1), ("llama-4m", 0)] {
        let tokenizer = Tokenizer::open(&shared.join("models").join(name)).unwrap();
        let golden = std::fs::read(testdata().join(format!("shared-{name}.tokens.json"))).unwrap();
        let golden: Value = serde_json::from_slice(&golden).unwrap();
        let text = golden["text"].as_str().unwrap();
        let ids = |key: &str| -> Vec<u32> {
            golden[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids("ids"), "{name}");
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids("ids_with_special"), "{name}");
        // The golden text shows unknown characters as the special token that they are encoded to.
        let decoded = golden["decoded"].as_str().unwrap().replace("<unk>", "");
        assert_eq!(tokenizer.decode(&ids("ids")).unwrap(), decoded, "{name}");
        let mut ended = ids("ids");
        ended.push(bos);
        assert_eq!(tokenizer.decode(&ended).unwrap(), decoded, "{name}");

        let with_bos = tokenizer.encode_with_bos(text, Some(bos)).unwrap();
        assert_eq!((with_bos[0], &with_bos[1..]), (bos, &*ids("ids")), "{name}");
        assert_eq!(tokenizer.encode_with_bos(text, None).unwrap(), ids("ids_with_special"));
        assert!(tokenizer.vocab_size() <= 2048);
        let plain = "Once upon a time, there was a little girl named Lily.";
        let there_and_back = tokenizer.decode(&tokenizer.encode(plain, true).unwrap()).unwrap();
        assert_eq!(there_and_back.trim_start(), plain, "{name}");
    }
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json"), "{error}");
}
