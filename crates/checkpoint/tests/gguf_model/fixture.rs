//! The tiny models of `testdata/gguf_model`.

use std::path::{Path, PathBuf};

use fewbit_checkpoint::{
    Dtype,
    gguf::GgmlType,
    gguf_model::{
        FileType, GgufLayout, GgufModelWriter, GgufPlan, Hparams, PlannedTensor, Relay,
        TokenizerFiles,
    },
};
use fewbit_testkit::crc32;
use serde_json::{Map, Value};

pub(crate) const MODELS: [&str; 8] =
    ["llama", "mistral", "qwen2", "qwen2-yarn", "qwen3", "gemma3", "gpt2", "exaone"];

/// From the tests of this crate or of the workspace.
pub(crate) fn testdata(path: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let inner = package.join("crates/checkpoint");
    let checkpoint = if inner.is_dir() { &inner } else { package };
    checkpoint.join("testdata/gguf_model").join(path)
}

pub(crate) fn json(path: &str) -> Map<String, Value> {
    serde_json::from_slice(&std::fs::read(testdata(path)).unwrap()).unwrap()
}

/// A tiny model: configuration, tokenizer, and all tensors in f32.
pub(crate) struct Tiny {
    pub(crate) config: Map<String, Value>,
    pub(crate) tokenizer: TokenizerFiles,
    pub(crate) tensors: Vec<(PlannedTensor, Vec<f32>)>,
}

impl Tiny {
    /// Builds a model with the tensors of `converted.json`.
    pub(crate) fn new(name: &str) -> Self {
        let config = json(&format!("{name}/config.json"));
        let tokenizer = match name {
            "mistral" => "sentence-piece",
            "exaone" => "digits",
            _ => "byte-level",
        };
        let tokenizer =
            TokenizerFiles::read(&testdata(&format!("tokenizers/{tokenizer}"))).unwrap();
        let names = Hparams::of_config(&config).unwrap().names();
        let golden = json(&format!("{name}/converted.json"));
        let mut tensors = Vec::new();
        for (gguf, entry) in golden["tensors"].as_object().unwrap() {
            let Some(hf) = names.to_hugging_face(gguf) else { continue };
            let dims = entry[1].as_array().unwrap().iter();
            let mut shape: Vec<usize> = dims.map(|d| d.as_u64().unwrap() as usize).collect();
            if hf.relay != Relay::Transpose {
                shape.reverse();
            }
            let values = weights(&hf.name, shape.iter().product());
            let kind = GgmlType::F32;
            let tensor = PlannedTensor { name: hf.name, shape, dtype: Dtype::F32, kind };
            tensors.push((tensor, values));
        }
        Self { config, tokenizer, tensors }
    }

    pub(crate) fn planned(&self) -> Vec<PlannedTensor> {
        self.tensors.iter().map(|(tensor, _)| tensor.clone()).collect()
    }

    pub(crate) fn layout(&self, tensors: &[PlannedTensor]) -> GgufLayout {
        let plan = GgufPlan {
            config: &self.config,
            tokenizer: &self.tokenizer,
            name: "tiny",
            file_type: FileType::F32,
            tensors,
        };
        GgufLayout::new(&plan).unwrap()
    }

    /// Writes the model in floats.
    pub(crate) fn write(&self, out: &Path) {
        let layout = self.layout(&self.planned());
        let mut writer = GgufModelWriter::create(out, layout, None).unwrap();
        for (tensor, values) in &self.tensors {
            writer.write(&tensor.name, &bytes(values)).unwrap();
        }
        writer.finish().unwrap();
    }
}

pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Pseudorandom numbers in −0.5..0.5, as `tools/goldens/gguf_model.py` makes them.
pub(crate) fn weights(name: &str, len: usize) -> Vec<f32> {
    let seed = crc32(name.as_bytes());
    let value = |i: usize| {
        let mut mixed = (i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed);
        mixed = (mixed ^ (mixed >> 15)).wrapping_mul(2_246_822_519);
        mixed ^= mixed >> 13;
        (f64::from(mixed >> 8) / f64::from(1 << 24) - 0.5) as f32
    };
    (0..len).map(value).collect()
}
