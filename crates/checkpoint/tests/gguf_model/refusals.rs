//! What cannot be laid out or opened is refused before any work, by name.

use fewbit_checkpoint::{
    Checkpoint, Dtype,
    gguf::{GgmlType, Gguf, GgufWriter},
    gguf_model::{Caveat, FileType, GgufLayout, GgufPlan, Hparams, PlannedTensor},
};
use serde_json::{Value, json};

use super::fixture::{Tiny, bytes};

fn lay_out(tiny: &Tiny, tensors: &[PlannedTensor]) -> Result<GgufLayout, String> {
    let plan = GgufPlan {
        config: &tiny.config,
        tokenizer: &tiny.tokenizer,
        name: "tiny",
        file_type: FileType::F32,
        tensors,
    };
    GgufLayout::new(&plan).map_err(|error| error.to_string())
}

#[test]
fn tensors() {
    let tiny = Tiny::new("llama");
    let refusal = |change: &dyn Fn(&mut Vec<PlannedTensor>)| {
        let mut planned = tiny.planned();
        change(&mut planned);
        lay_out(&tiny, &planned).unwrap_err()
    };
    let find = |planned: &[PlannedTensor], name: &str| {
        planned.iter().position(|tensor| tensor.name == name).unwrap()
    };
    let down = "model.layers.1.mlp.down_proj.weight";

    let error = refusal(&|planned| {
        planned.remove(find(planned, down));
    });
    assert!(error.contains(down) && error.contains("missing"), "{error}");

    let error = refusal(&|planned| {
        let i = find(planned, down);
        planned[i].shape[1] = 40;
    });
    assert!(error.contains(down) && error.contains("40") && error.contains("48"), "{error}");

    let error = refusal(&|planned| planned[0].name = "model.layers.0.mlp.experts.0.weight".into());
    assert!(error.contains("experts") && error.contains("no place"), "{error}");

    // Rows of 48 are no whole blocks of 32.
    let error = refusal(&|planned| {
        let i = find(planned, down);
        planned[i].kind = GgmlType::Q4_0;
    });
    assert!(error.contains("blk.1.ffn_down.weight") && error.contains("48"), "{error}");

    let error = refusal(&|planned| {
        let i = find(planned, "model.norm.weight");
        planned[i].kind = GgmlType::Q8_0;
    });
    assert!(error.contains("model.norm.weight") && error.contains("floating point"), "{error}");

    let error = refusal(&|planned| {
        let i = find(planned, down);
        planned[i].dtype = Dtype::I64;
    });
    assert!(error.contains(down) && error.contains("I64"), "{error}");
}

#[test]
fn buffers_and_a_head_that_is_there_twice_are_left_out() {
    let tiny = Tiny::new("qwen3");
    let mut planned = tiny.planned();
    let mut add = |name: &str, shape: &[usize]| {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        planned.push(PlannedTensor { name, shape, dtype: Dtype::F32, kind: GgmlType::F32 });
    };
    add("lm_head.weight", &[352, 32]);
    add("model.layers.0.self_attn.rotary_emb.inv_freq", &[8]);
    let layout = lay_out(&tiny, &planned).unwrap();
    assert_eq!(layout.specs().len(), tiny.tensors.len());
    assert_eq!(layout.gguf_name("lm_head.weight"), None);
    assert!(layout.relay("lm_head.weight", &[]).is_err());
    // Stored under the head's name alone.
    planned.retain(|tensor| tensor.name != "model.embed_tokens.weight");
    let layout = lay_out(&tiny, &planned).unwrap();
    assert_eq!(layout.gguf_name("lm_head.weight"), Some("token_embd.weight"));
}

#[test]
fn what_llama_cpp_does_otherwise_is_said() {
    let mut tiny = Tiny::new("mistral");
    assert_eq!(lay_out(&tiny, &tiny.planned()).unwrap().caveats(), []);
    tiny.config.insert("sliding_window".into(), json!(32));
    let layout = lay_out(&tiny, &tiny.planned()).unwrap();
    assert_eq!(layout.caveats(), [Caveat::SlidingWindow { width: 32 }]);
    // A missing key means 4096, longer than any text of this model.
    tiny.config.remove("sliding_window");
    assert_eq!(lay_out(&tiny, &tiny.planned()).unwrap().caveats(), []);
}

#[test]
fn numbers_that_do_not_fit() {
    let tiny = Tiny::new("qwen3");
    let mut planned = tiny.planned();
    let name = "model.layers.0.mlp.up_proj.weight";
    let tensor = planned.iter_mut().find(|tensor| tensor.name == name).unwrap();
    tensor.kind = GgmlType::F16;
    let layout = lay_out(&tiny, &planned).unwrap();
    let mut values = vec![1.0f32; 48 * 32];
    assert_eq!(layout.relay(name, &bytes(&values)).unwrap().len(), 2 * 48 * 32);
    let error = layout.relay(name, &bytes(&values[1..])).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("6144"), "{error}");
    values[7] = 1e5;
    let error = layout.relay(name, &bytes(&values)).unwrap_err().to_string();
    assert!(error.contains(name) && error.contains("100000"), "{error}");
}

#[test]
fn settings() {
    let refusal = |model: &str, key: &str, value: Value| {
        let mut config = Tiny::new(model).config;
        config.insert(key.to_owned(), value);
        Hparams::of_config(&config).unwrap_err().to_string()
    };
    for (model, key, value) in [
        ("llama", "hidden_act", json!("gelu")),
        ("llama", "model_type", json!("mamba")),
        ("llama", "model_type", json!("gemma3")),
        ("llama", "num_key_value_heads", json!(3)),
        ("llama", "num_hidden_layers", json!(100_000)),
        ("llama", "hidden_size", json!(-1)),
        ("llama", "rms_norm_eps", json!("small")),
        ("llama", "rope_scaling", json!({ "rope_type": "longrope", "factor": 2.0 })),
        (
            "qwen2",
            "rope_scaling",
            json!({ "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 32 }),
        ),
        ("qwen3", "partial_rotary_factor", json!(0.5)),
        ("gemma3", "attn_logit_softcapping", json!(50.0)),
        ("gemma3", "query_pre_attn_scalar", json!(8)),
        ("gemma3", "layer_types", json!(["full_attention"])),
        ("gpt2", "n_inner", json!(100)),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
    ] {
        let error = refusal(model, key, value);
        assert!(error.contains("config.json") && error.contains(key), "{error}");
    }
}

#[test]
fn files_that_stand_for_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("good.gguf");
    Tiny::new("llama").write(&good);
    let gguf = Gguf::open(&good).unwrap();
    let refusal = |name: &str, change: &dyn Fn(&mut fewbit_checkpoint::gguf::Metadata)| {
        let mut metadata = gguf.metadata().clone();
        change(&mut metadata);
        let specs = gguf.tensors().map(|t| {
            fewbit_checkpoint::gguf::GgufSpec::new(t.name.as_str(), t.kind, t.dims.as_slice())
        });
        let out = folder.path().join(name);
        let mut writer = GgufWriter::create(&out, &metadata, specs.collect(), None).unwrap();
        for tensor in gguf.tensors() {
            writer.write(&tensor.name, &gguf.read(&tensor.name).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        Checkpoint::open(&out).unwrap_err().to_string()
    };
    let error = refusal("arch.gguf", &|m| {
        m.insert("general.architecture", "mamba");
    });
    assert!(error.contains("general.architecture") && error.contains("mamba"), "{error}");
    let error = refusal("missing.gguf", &|m| {
        m.remove("llama.block_count");
    });
    assert!(error.contains("llama.block_count"), "{error}");
    let error = refusal("zero.gguf", &|m| {
        m.insert("llama.attention.head_count", 0u32);
    });
    assert!(error.contains("llama.attention.head_count"), "{error}");
    let error = refusal("heads.gguf", &|m| {
        m.insert("llama.attention.head_count", 2u32);
    });
    assert!(error.contains("blk.0.attn") && error.contains("shape"), "{error}");
    let error = refusal("layers.gguf", &|m| {
        m.insert("llama.block_count", u32::MAX);
    });
    assert!(error.contains("llama.block_count"), "{error}");
    let error = refusal("rope.gguf", &|m| {
        m.insert("llama.rope.freq_base", 77.0f32);
    });
    assert!(error.contains("rope_freqs.weight"), "{error}");
    let error = refusal("experts.gguf", &|m| {
        m.insert("llama.expert_count", 8u32);
    });
    assert!(error.contains("llama.expert_count"), "{error}");
}
