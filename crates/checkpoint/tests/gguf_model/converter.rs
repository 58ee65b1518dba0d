//! Our files against those of llama.cpp's converter: the same keys, types and values, the same bytes of every tensor.

use std::{collections::BTreeMap, path::Path};

use fewbit_checkpoint::{
    Checkpoint,
    gguf::{Array, Gguf, Metadata, Value as Meta},
    gguf_model::{FileType, GgufLayout, GgufModelWriter, GgufPlan, PlannedTensor, TokenizerFiles},
};
use fewbit_testkit::{crc32, shared_or_skip};
use serde_json::{Map, Value, json};

use super::fixture::{MODELS, Tiny, json as golden};

/// Keys whose values differ, and why that is right.
const ACCEPTED: [&str; 4] = [
    // The converter guesses title, family and size from the folder's name; ours are the name and the size that are given.
    "general.name",
    "general.basename",
    "general.size_label",
    // The default.
    "tokenizer.ggml.add_sep_token",
];

/// Keys that the converter leaves out where they say what is assumed anyway, or where it cannot tell.
const EXTRA: [&str; 6] = [
    "exaone.attention.layer_norm_rms_epsilon",
    "tokenizer.ggml.add_bos_token",
    "tokenizer.ggml.add_eos_token",
    ".attention.key_length",
    ".attention.value_length",
    ".rope.dimension_count",
];

/// Without SentencePiece's own file the converter gives every token the score −1000, so that llama.cpp joins from left to right, and
/// takes the unknown token for a control token.
const WITHOUT_SCORES: [&str; 2] = ["tokenizer.ggml.scores", "tokenizer.ggml.token_type"];

/// The converter takes this key for the one of a layer norm; llama.cpp then misses that of the RMS norm, which we write.
const EXAONE_EPSILON: &str = "exaone.attention.layer_norm_epsilon";

#[test]
fn tiny_models_become_what_the_converter_makes_of_them() {
    for name in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        Tiny::new(name).write(&file);
        let accepted = match name {
            "mistral" => [&ACCEPTED[..], &WITHOUT_SCORES].concat(),
            "exaone" => [&ACCEPTED[..], &[EXAONE_EPSILON]].concat(),
            _ => ACCEPTED.to_vec(),
        };
        compare(name, &file, &golden(&format!("{name}/converted.json")), &accepted);
    }
}

#[test]
fn trained_models_become_what_the_converter_makes_of_them() {
    let Some(shared) = shared_or_skip("trained_models_become_what_the_converter_makes_of_them")
    else {
        return;
    };
    for name in ["stories260K", "llama-4m"] {
        let model = shared.join("models").join(name);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        convert(&model, &file);
        // SentencePiece's own file is there: even the scores, which we take from the merges, are those of the training.
        compare(name, &file, &golden(&format!("shared/{name}.json")), &ACCEPTED);
    }
}

fn convert(model: &Path, out: &Path) {
    let checkpoint = Checkpoint::open(model).unwrap();
    let planned = |info: &fewbit_checkpoint::TensorInfo| PlannedTensor {
        name: info.name.clone(),
        shape: info.shape.clone(),
        dtype: info.dtype,
        kind: FileType::F32.base(),
    };
    let tensors: Vec<PlannedTensor> = checkpoint.tensors().map(planned).collect();
    let layout = GgufLayout::new(&GgufPlan {
        config: checkpoint.config(),
        tokenizer: &TokenizerFiles::read(model).unwrap(),
        name: "trained",
        file_type: FileType::F32,
        tensors: &tensors,
    })
    .unwrap();
    assert_eq!(layout.caveats(), []);
    let mut writer = GgufModelWriter::create(out, layout, None).unwrap();
    for tensor in &tensors {
        writer.write(&tensor.name, &checkpoint.read(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn compare(model: &str, file: &Path, golden: &Map<String, Value>, accepted: &[&str]) {
    let gguf = Gguf::open(file).unwrap();
    let ours = describe(gguf.metadata());
    let theirs = golden["metadata"].as_object().unwrap();
    for (key, value) in theirs {
        if !accepted.contains(&key.as_str()) {
            assert_eq!(ours.get(key), Some(value), "{model}: {key}");
        }
    }
    for key in ours.keys() {
        let extra = EXTRA.iter().any(|ending| key.ends_with(ending));
        assert!(extra || theirs.contains_key(key), "{model}: {key} is ours alone");
    }
    let tensors: BTreeMap<String, Value> = gguf
        .tensors()
        .map(|tensor| {
            let crc = crc32(&gguf.read(&tensor.name).unwrap());
            (tensor.name.clone(), json!([tensor.kind.name(), tensor.dims, crc]))
        })
        .collect();
    let theirs = golden["tensors"].as_object().unwrap();
    assert_eq!(tensors.len(), theirs.len(), "{model}");
    for (name, tensor) in &tensors {
        assert_eq!(Some(tensor), theirs.get(name), "{model}: {name}");
    }
}

/// As `describe` of `tools/goldens/gguf_model.py`: type and value, of lists number, type and CRC-32.
fn describe(metadata: &Metadata) -> BTreeMap<String, Value> {
    let numbers =
        |kind: &str, bytes: Vec<u8>| json!([format!("{} {kind}", bytes.len() / 4), crc32(&bytes)]);
    let describe = |value: &Meta| match value {
        Meta::U32(v) => json!(["UINT32", v]),
        Meta::F32(v) => json!(["FLOAT32", f64::from(*v)]),
        Meta::Bool(v) => json!(["BOOL", v]),
        Meta::Text(v) => json!(["STRING", v]),
        Meta::Array(Array::Text(v)) => {
            let text = serde_json::to_string(v).unwrap();
            json!([format!("{} STRING", v.len()), crc32(text.as_bytes())])
        }
        Meta::Array(Array::F32(v)) => {
            numbers("FLOAT32", v.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        Meta::Array(Array::I32(v)) => {
            numbers("INT32", v.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        other => panic!("no golden has {other:?}"),
    };
    metadata.iter().map(|(key, value)| (key.to_owned(), describe(value))).collect()
}
