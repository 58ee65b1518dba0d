//! GGUF files opened as the models that they were written from.

use std::fs;

use fewbit_checkpoint::{
    Checkpoint, CheckpointError,
    gguf_model::{GgufModelWriter, Hparams},
};

use super::fixture::{MODELS, Tiny, bytes};

#[test]
fn every_tensor_comes_back() {
    for name in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (tiny, file) = (Tiny::new(name), folder.path().join("tiny.gguf"));
        tiny.write(&file);
        // By the file, and by the folder that holds it alone.
        for path in [file.as_path(), folder.path()] {
            let model = Checkpoint::open(path).unwrap();
            assert_eq!(model.tensors().len(), tiny.tensors.len(), "{name}");
            for (tensor, values) in &tiny.tensors {
                let info = model.tensor(&tensor.name).unwrap_or_else(|| panic!("{}", tensor.name));
                assert_eq!((&info.shape, info.dtype), (&tensor.shape, tensor.dtype));
                let found = model.read_f32(&tensor.name).unwrap();
                let raw = model.read(&tensor.name).unwrap();
                assert_eq!(raw.len() as u64, info.bytes);
                let raw: Vec<f32> = raw
                    .chunks_exact(4)
                    .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
                    .collect();
                assert_eq!(found, raw, "{}", tensor.name);
                // Gemma's norms were added one to, and lost what then is below the last digit.
                let norm = name == "gemma3" && tensor.name.ends_with("norm.weight");
                let slack = if norm { f32::EPSILON / 2.0 } else { 0.0 };
                for (a, b) in found.iter().zip(values) {
                    assert!((a - b).abs() <= slack, "{name}: {}: {a} and {b}", tensor.name);
                }
            }
        }
    }
}

#[test]
fn the_configuration_means_the_same() {
    for name in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (tiny, file) = (Tiny::new(name), folder.path().join("tiny.gguf"));
        tiny.write(&file);
        let model = Checkpoint::open(&file).unwrap();
        let (before, after) =
            (Hparams::of_config(&tiny.config), Hparams::of_config(model.config()));
        let mut before = before.unwrap();
        if name == "qwen2" {
            // Its biases are no setting, but are there.
            before.attention_bias = false;
        }
        let mut after = after.unwrap();
        if name == "exaone" {
            after.mlp_bias = before.mlp_bias;
        }
        assert_eq!(after, before, "{name}");
        // What transformers goes by, word for word.
        for key in [
            "rms_norm_eps",
            "layer_norm_epsilon",
            "rope_theta",
            "head_dim",
            "hidden_act",
            "tie_word_embeddings",
            "bos_token_id",
            "n_embd",
            "sliding_window",
            "vocab_size",
        ] {
            if let Some(value) = tiny.config.get(key).filter(|value| !value.is_null()) {
                assert_eq!(model.config().get(key), Some(value), "{name}: {key}");
            }
        }
        assert_eq!(model.config()["eos_token_id"], 2);
        assert_eq!(model.config()["torch_dtype"], "float32");
        assert!(model.container().is_none() && model.companions().is_empty());
        assert_eq!(model.file_of(&tiny.tensors[0].0.name), Some(file.as_path()));
        assert_eq!(model.file_bytes(), std::fs::metadata(&file).unwrap().len());
    }
}

#[test]
fn published_configurations_come_back() {
    // (configuration, what the same model's GGUF says instead)
    let llama32 = serde_json::json!({
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256,
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "tie_word_embeddings": true, "rope_scaling": { "rope_type": "llama3", "factor": 32.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 }
    });
    let exaone = serde_json::json!({
        "model_type": "exaone", "hidden_size": 2560, "intermediate_size": 7168, "num_layers": 30,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 80, "vocab_size": 102400,
        "max_position_embeddings": 32768, "layer_norm_epsilon": 1e-5, "rope_theta": 1000000.0,
        "activation_function": "silu", "rope_scaling": { "rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 }
    });
    let gemma = serde_json::json!({
        "model_type": "gemma3_text", "hidden_size": 1152, "intermediate_size": 6912,
        "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256,
        "vocab_size": 262144, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "query_pre_attn_scalar": 256, "sliding_window": 512,
        "rope_parameters": { "full_attention": { "rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0 },
            "sliding_attention": { "rope_type": "default", "rope_theta": 10000.0 } }
    });
    for config in [llama32, exaone, gemma] {
        let config = config.as_object().expect("an object").clone();
        let before = Hparams::of_config(&config).unwrap();
        let mut metadata = fewbit_checkpoint::gguf::Metadata::new();
        metadata.insert("general.architecture", before.arch.name());
        before.write(&mut metadata, 15);
        let freqs = before.rope.and_then(|rope| rope.freqs(before.head_dim));
        let dims = |name: &str| match name {
            "token_embd.weight" => Some(vec![before.hidden_size.into(), before.vocab_size.into()]),
            _ => None,
        };
        let after = Hparams::of_metadata(&metadata, dims, freqs.as_deref()).unwrap();
        assert_eq!(after, before);
        let again = Hparams::of_config(&after.config("bfloat16", Some(1), &[2, 3])).unwrap();
        assert_eq!(again, before);
    }
}

/// Heads are interleaved and matrices transposed on the way, so that pieces are whole heads and whole matrices.
#[test]
fn pieces_make_the_same_file_and_come_back_as_rows() {
    for name in MODELS {
        let folder = tempfile::tempdir().unwrap();
        let (tiny, file) = (Tiny::new(name), folder.path().join("tiny.gguf"));
        tiny.write(&file);
        let pieces = folder.path().join("pieces.gguf");
        let layout = tiny.layout(&tiny.planned());
        let mut writer = GgufModelWriter::create(&pieces, layout, None).unwrap();
        for (tensor, values) in &tiny.tensors {
            let bytes = bytes(values);
            let unit = writer.layout().row_unit(&tensor.name).unwrap();
            let row = bytes.len() / tensor.shape[0];
            if unit > 1 {
                let error = writer.write_part(&tensor.name, 0, &bytes[..row]).unwrap_err();
                assert!(matches!(error, CheckpointError::TensorRange { .. }), "{error}");
            }
            for (i, piece) in bytes.chunks(unit * row).enumerate() {
                writer.write_part(&tensor.name, (i * unit * row) as u64, piece).unwrap();
            }
        }
        writer.finish().unwrap();
        assert!(fs::read(&pieces).unwrap() == fs::read(&file).unwrap(), "{name}");

        let model = Checkpoint::open(&pieces).unwrap();
        let mut rows = Vec::new();
        for info in model.tensors() {
            let whole = model.read(&info.name).unwrap();
            let (n, row) = (info.shape[0], whole.len() / info.shape[0]);
            for (begin, end) in [(0, n), (0, 1), (n - 1, n), (n / 3, n - n / 3), (n, n)] {
                model.read_rows_into(&info.name, begin..end, &mut rows).unwrap();
                assert!(*rows == whole[begin * row..end * row], "{name}: {}", info.name);
            }
            let error = model.read_rows_into(&info.name, 0..n + 1, &mut rows).unwrap_err();
            assert!(matches!(error, CheckpointError::TensorRange { .. }), "{error}");
        }
    }
}
