//! Every architecture as a folder and as a GGUF file: the same model.

use std::path::Path;

use fewbit::{
    checkpoint::{Checkpoint, Dtype, FolderWriter, TensorSpec, gguf_model::GgufContainer},
    format::{BlockType, Plan, Scheme},
    model::{CacheType, Model, ModelConfig},
    pipeline::{AwqSpec, Calibration, Job, Method, Silent},
};
use fewbit_testkit::max_abs_diff;
use serde_json::Value;

#[allow(dead_code, reason = "shared with the tests of fewbit-checkpoint")]
#[path = "../crates/checkpoint/tests/gguf_model/fixture.rs"]
mod fixture;

/// Of the largest logit. Both files hold the same numbers, but Gemma's norms, which GGUF has rounded after adding one.
const TOLERANCE: f32 = 1e-5;

/// Writes a tiny model as a Hugging Face folder.
fn write_folder(tiny: &fixture::Tiny, folder: &Path) {
    let spec = |(tensor, _): &(fewbit::checkpoint::gguf_model::PlannedTensor, Vec<f32>)| {
        TensorSpec { name: tensor.name.clone(), dtype: Dtype::F32, shape: tensor.shape.clone() }
    };
    let specs = tiny.tensors.iter().map(spec).collect();
    let mut writer = FolderWriter::create(folder, specs, FolderWriter::SHARD_BYTES).unwrap();
    for (tensor, values) in &tiny.tensors {
        writer.write(&tensor.name, &fixture::bytes(values)).unwrap();
    }
    writer.write_json("config.json", &Value::Object(tiny.config.clone())).unwrap();
    for (name, object) in [
        ("tokenizer.json", &tiny.tokenizer.tokenizer),
        ("tokenizer_config.json", &tiny.tokenizer.config),
    ] {
        writer.write_json(name, &Value::Object(object.clone())).unwrap();
    }
    writer.finish().unwrap();
}

fn logits(path: &Path, tokens: &[u32]) -> (Vec<f32>, Vec<f32>) {
    let model = Model::load(&Checkpoint::open(path).unwrap()).unwrap();
    let at_once = model.logits(tokens).unwrap().iter().copied().collect();
    let mut session = model.session_with(CacheType::F32);
    let step = tokens.iter().flat_map(|&t| session.feed(&[t]).unwrap().to_vec()).collect();
    (at_once, step)
}

fn assert_close(got: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let largest = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
    let (worst, at) = max_abs_diff(got, expected);
    assert!(worst <= tolerance * largest, "{what}: off by {worst} at {at}, largest {largest}");
}

#[test]
fn folder_and_file_compute_the_same_in_floats_and_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tokens: Vec<u32> = (0..50).map(|i| (i * 37 + 11) % 340).collect();
    for name in fixture::MODELS.into_iter().filter(|name| *name != "qwen2-yarn") {
        let tiny = fixture::Tiny::new(name);
        let (original, file) = (at(name), at(&format!("{name}.gguf")));
        write_folder(&tiny, &original);
        tiny.write(&file);
        let (expected, step) = logits(&original, &tokens);
        assert_close(&step, &expected, TOLERANCE, name);
        let (of_file, step) = logits(&file, &tokens);
        assert_close(&of_file, &expected, TOLERANCE, name);
        assert_close(&step, &expected, TOLERANCE, name);

        // What does not divide into blocks of 32 stays in floats.
        let config = ModelConfig::of(&Checkpoint::open(&original).unwrap()).unwrap();
        let mut plan = Plan::uniform(Scheme::Block(BlockType::Q8_0));
        for layer in 0..config.n_layers {
            for role in
                config.roles().filter(|&role| !config.shape(role).in_features.is_multiple_of(32))
            {
                plan = plan.with(config.module(layer, role), Scheme::Float);
            }
        }
        for (kind, method) in [("rtn", Method::nearest()), ("awq", awq())] {
            let out = at(&format!("{name}-{kind}-q8_0.gguf"));
            let mut job = Job::new(&original, &out, plan.clone(), GgufContainer::default());
            let text: Vec<u32> = (0..40 * 6).map(|i| (i * i * 7 + 3 * i) % 340).collect();
            job.calibration = Some(Calibration::from_documents([text], 40, 6).unwrap());
            job.method = method;
            let report = job.prepare(&mut Silent).unwrap().run(&mut Silent).unwrap();
            assert!(report.matrices.iter().any(|m| m.grid == "q8_0"), "{name}");
            let (quantized, _) = logits(&out, &tokens);
            assert_ne!(quantized, expected);
            // Half a step of 127 in each weight, averaged over a row.
            assert_close(&quantized, &expected, 0.05, &format!("{name}, {kind} in q8_0"));
        }
    }
}

fn awq() -> Method {
    Method::awq(AwqSpec { n_ratios: 3, tokens: 200, ..AwqSpec::default() })
}
