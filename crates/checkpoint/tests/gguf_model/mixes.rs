//! The types that `llama-quantize` chooses for each matrix.

use fewbit_checkpoint::gguf_model::{
    FileType, GgufArch, Hparams, Mix, RopeParameters, RopeScaling,
};
use serde_json::Value;

use super::fixture::json;

/// `q6_k*2 q4_k*14` to one name a layer.
fn layers(runs: &str) -> Vec<&str> {
    runs.split(' ')
        .flat_map(|run| {
            let (kind, count) = run.split_once('*').unwrap();
            std::iter::repeat_n(kind, count.parse().unwrap())
        })
        .collect()
}

#[test]
fn mixes_choose_as_llama_quantize_does() {
    let mut compared = 0;
    for (model, entry) in json("mixes.json") {
        let size = |key: &str| entry["shape"][key].as_u64().unwrap() as u32;
        let hparams = Hparams {
            arch: GgufArch::Llama,
            n_layers: size("layers"),
            context_length: 64,
            hidden_size: size("hidden"),
            intermediate_size: size("inner"),
            heads: size("heads"),
            kv_heads: size("kv"),
            head_dim: size("head"),
            vocab_size: 256,
            norm_eps: 1e-5,
            rope: Some(RopeParameters { theta: 1e4, scaling: RopeScaling::Default }),
            window: None,
            final_logit_softcap: None,
            attention_bias: false,
            mlp_bias: false,
            tied: entry["shape"]["tied"] == Value::Bool(true),
        };
        for (label, choices) in entry["choices"].as_object().unwrap() {
            let (name, importance) = match label.strip_suffix("+imatrix") {
                Some(name) => (name, true),
                None => (label.as_str(), false),
            };
            let file_type = FileType::of_name(name).unwrap();
            let mix = Mix::new(file_type, &hparams, importance);
            for (module, runs) in choices.as_object().unwrap() {
                for (layer, expected) in layers(runs.as_str().unwrap()).into_iter().enumerate() {
                    let gguf = match module.as_str() {
                        "token_embd" | "output" => format!("{module}.weight"),
                        _ => format!("blk.{layer}.{module}.weight"),
                    };
                    let in_features = hparams.shape(&gguf).unwrap()[1];
                    let kind = mix.kind(&gguf, 2, in_features);
                    assert_eq!(kind.name().to_lowercase(), expected, "{model}, {label}: {gguf}");
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 10_000, "{compared}");
}
