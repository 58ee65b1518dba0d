//! The runtime opens GGUF files and computes what llama.cpp computes on them, in f32: `tools/peers/llama_cpp.py` made the goldens.

use std::path::Path;

use fewbit::{
    checkpoint::{Checkpoint, Dtype, gguf::GgmlType, gguf_model as gg},
    eval::{compare_second_half, from_fn, perplexity_second_half},
    format::{BlockMatrix, MatrixShape},
    model::{Choice, Model, ModelConfig, ModelError, Stop, Tokenizer, end_tokens, generate},
};
use fewbit_testkit::shared_or_skip;
use serde_json::Value;

#[allow(dead_code, reason = "shared with the tests of fewbit-checkpoint")]
#[path = "../crates/checkpoint/tests/gguf_model/fixture.rs"]
mod fixture;

/// Of llama.cpp's perplexity, which it prints with four digits after the point: that alone is 1.3e-5 of the smallest one.
const TOLERANCE: f64 = 1e-4;

/// Perplexity under the protocol of `llama-perplexity`.
fn perplexity(checkpoint: &Checkpoint, text: &str, context: usize) -> f64 {
    let model = Model::load(checkpoint).unwrap();
    let tokens = Tokenizer::load(checkpoint).unwrap().encode(text, true).unwrap();
    let mut logits =
        from_fn(model.config().vocab_size, |tokens: &[u32]| -> Result<_, ModelError> {
            model.logits(tokens)
        });
    // A token is put in front of each window where the vocabulary asks for one.
    let vocabulary = checkpoint.gguf().unwrap().vocabulary().unwrap().unwrap();
    let bos = vocabulary.special.bos.filter(|_| vocabulary.add_bos);
    perplexity_second_half(&mut logits, &tokens, context, bos).unwrap().perplexity
}

fn check(case: &str, found: f64, golden: &Value) {
    let golden = golden.as_f64().unwrap();
    let ratio = found / golden - 1.0;
    assert!(ratio.abs() < TOLERANCE, "{case}: {found} against {golden} of llama.cpp: {ratio:e}");
}

#[test]
fn tiny_models_of_every_architecture_of_the_runtime() {
    let golden = fixture::json("llama_cpp.json");
    let text = std::fs::read_to_string(fixture::testdata("text.txt")).unwrap().repeat(2);
    let text = text.strip_suffix('\n').unwrap();
    let mut ran = Vec::new();
    for name in fixture::MODELS {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tiny.gguf");
        fixture::Tiny::new(name).write(&file);
        let checkpoint = Checkpoint::open(&file).unwrap();
        if let Err(error) = ModelConfig::of(&checkpoint) {
            assert!(
                matches!(
                    error,
                    ModelError::UnknownArchitecture { .. } | ModelError::Unsupported { .. }
                ),
                "{name}: {error}"
            );
            eprintln!("{name}: left out, the runtime says: {error}");
            continue;
        }
        let context = golden[name]["context"].as_u64().unwrap() as usize;
        let found = perplexity(&checkpoint, text, context);
        check(name, found, &golden[name]["perplexity"]);
        ran.push(name);
    }
    // Yarn is what the runtime lacks.
    let expected: Vec<&str> =
        fixture::MODELS.into_iter().filter(|name| *name != "qwen2-yarn").collect();
    assert_eq!(ran, expected);
}

#[test]
fn trained_models_in_floats_and_blocks() {
    let Some(shared) = shared_or_skip("trained_models_in_floats_and_blocks") else { return };
    let golden = fixture::json("llama_cpp.json");
    let text = std::fs::read_to_string(shared.join("text/tinystories/validation.txt")).unwrap();
    let text = text.replace("<|endoftext|>", "");
    for name in ["stories260K", "llama-4m"] {
        let golden = &golden[name];
        let characters = golden["characters"].as_u64().unwrap() as usize;
        let text: String = text.chars().take(characters).collect();
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let context = golden["context"].as_u64().unwrap() as usize;
        let folder = tempfile::tempdir().unwrap();
        let original = shared.join("models").join(name);

        let file = folder.path().join("f32.gguf");
        convert(&original, &file, gg::FileType::F32);
        let checkpoint = Checkpoint::open(&file).unwrap();
        check(name, perplexity(&checkpoint, text, context), &golden["perplexity"]);
        check_greedy(name, &checkpoint, golden);

        for (kind, perplexity_of_llama_cpp) in golden["quantized"].as_object().unwrap() {
            let file = folder.path().join(format!("{kind}.gguf"));
            convert(&original, &file, gg::FileType::of_name(kind).unwrap());
            let found = perplexity(&Checkpoint::open(&file).unwrap(), text, context);
            check(&format!("{name}, {kind}"), found, perplexity_of_llama_cpp);
        }
        for (kind, golden) in golden["divergence"].as_object().unwrap() {
            let few_bits = Checkpoint::open(&folder.path().join(format!("{kind}.gguf"))).unwrap();
            check_divergence(
                &format!("{name}, {kind}"),
                [&checkpoint, &few_bits],
                text,
                context,
                golden,
            );
        }
    }
}

/// Under the protocol of `llama-perplexity --kl-divergence`, which keeps the logits of the floats in 16 bits.
fn check_divergence(
    case: &str,
    checkpoints: [&Checkpoint; 2],
    text: &str,
    context: usize,
    golden: &Value,
) {
    let tokens = Tokenizer::load(checkpoints[0]).unwrap().encode(text, true).unwrap();
    let vocabulary = checkpoints[0].gguf().unwrap().vocabulary().unwrap().unwrap();
    let bos = vocabulary.special.bos.filter(|_| vocabulary.add_bos);
    let models = checkpoints.map(|checkpoint| Model::load(checkpoint).unwrap());
    let [mut a, mut b] = models.each_ref().map(|model| {
        from_fn(model.config().vocab_size, |tokens: &[u32]| -> Result<_, ModelError> {
            model.logits(tokens)
        })
    });
    let found = compare_second_half(&mut a, &mut b, &tokens, context, bos).unwrap();
    let (kl, top) = (found.kl.value, 100.0 * found.top1_agreement.value);
    let (golden_kl, golden_top) =
        (golden["kl"].as_f64().unwrap(), golden["same_top"].as_f64().unwrap());
    assert!((kl / golden_kl - 1.0).abs() < 1e-3, "{case}: {kl} against {golden_kl}");
    assert!((top - golden_top).abs() < 0.06, "{case}: {top} % against {golden_top} %");
}

/// The same text for a prompt, token by token the likeliest.
fn check_greedy(name: &str, checkpoint: &Checkpoint, golden: &Value) {
    let model = Model::load(checkpoint).unwrap();
    let tokenizer = Tokenizer::load(checkpoint).unwrap();
    let prompt = tokenizer.encode(golden["prompt"].as_str().unwrap(), true).unwrap();
    let end_tokens = end_tokens(checkpoint, model.config()).unwrap();
    let stop = Stop { max_tokens: 60, end_tokens };
    let (tokens, _) =
        generate(&mut model.session(), &prompt, &Choice::Greedy, &stop, |_| true).unwrap();
    let all = tokenizer.decode(&[prompt.clone(), tokens].concat()).unwrap();
    let text = &all[tokenizer.decode(&prompt).unwrap().len()..];
    assert_eq!(text.trim_end(), golden["greedy"].as_str().unwrap().trim_end(), "{name}");
}

/// Writes a model folder as a GGUF file, by plain rounding where the mix of the file type wants blocks.
fn convert(original: &Path, out: &Path, file_type: gg::FileType) {
    let checkpoint = Checkpoint::open(original).unwrap();
    let hparams = gg::Hparams::of_config(checkpoint.config()).unwrap();
    let (mix, names) = (gg::Mix::new(file_type, &hparams, false), hparams.names());
    let planned = |info: &fewbit::checkpoint::TensorInfo| gg::PlannedTensor {
        name: info.name.clone(),
        shape: info.shape.clone(),
        dtype: info.dtype,
        kind: mix.kind(
            &names.to_gguf(&info.name).unwrap().name,
            info.shape.len(),
            *info.shape.last().unwrap(),
        ),
    };
    let tensors: Vec<gg::PlannedTensor> = checkpoint.tensors().map(planned).collect();
    let layout = gg::GgufLayout::new(&gg::GgufPlan {
        config: checkpoint.config(),
        tokenizer: &gg::TokenizerFiles::read(original).unwrap(),
        name: "trained",
        file_type,
        tensors: &tensors,
    })
    .unwrap();
    let mut writer = gg::GgufModelWriter::create(out, layout, None).unwrap();
    for tensor in &tensors {
        let Some(block) = tensor.kind.block() else {
            writer.write(&tensor.name, &checkpoint.read(&tensor.name).unwrap()).unwrap();
            continue;
        };
        assert_ne!(tensor.kind, GgmlType::F32);
        assert!(matches!(tensor.dtype, Dtype::F32 | Dtype::BF16));
        let shape = MatrixShape::new(tensor.shape[0], tensor.shape[1]);
        let values = checkpoint.read_f32(&tensor.name).unwrap();
        let matrix = BlockMatrix::round_to_nearest(&values, shape, block, None).unwrap();
        writer.write(&tensor.name, matrix.data()).unwrap();
    }
    writer.finish().unwrap();
}
