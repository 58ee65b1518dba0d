//! Makes a checkpoint of a known model's shape with random weights, for measuring time and memory without the model itself.
//!
//! ```text
//! cargo run --release --example synthesize -- --shape llama-3.2-1b --out DIR
//! ```
//!
//! The tokenizer is the demo model's, so any text encodes; every id is below the vocabulary size.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{Dtype, FolderWriter, TensorSpec},
    format::bf16,
    model::{ModelConfig, NormKind},
};
use fewbit_testkit::Random;
use serde_json::{Value, json};

#[derive(Parser)]
#[command(about = "Make a checkpoint of a known shape with random weights")]
struct Args {
    /// Which model's shape.
    #[arg(long, value_enum)]
    shape: Shape,
    /// Folder to write; must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Seed of the weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Shape {
    /// 16 layers of 2048 / 8192, 32 heads, 8 key/value heads, vocabulary 128256, tied: 1.24 billion parameters.
    #[value(name = "llama-3.2-1b")]
    Llama32_1b,
    /// 2 layers of the same: a tenth of the work.
    #[value(name = "llama-3.2-1b-2layers")]
    Llama32_1bShort,
    /// 26 layers of 1152 / 6912, 4 heads, 1 key/value head, vocabulary 262144, tied: 1.0 billion parameters.
    #[value(name = "gemma-3-1b")]
    Gemma3_1b,
    /// 30 layers of 2560 / 7168, 32 heads, 8 key/value heads, vocabulary 102400, tied: 2.4 billion parameters.
    #[value(name = "exaone-3.5-2.4b")]
    Exaone35_2b,
    /// 28 layers of 1024 / 3072, 16 heads, 8 key/value heads, vocabulary 151936, tied: 0.6 billion parameters.
    #[value(name = "qwen3-0.6b")]
    Qwen3_0_6b,
    /// 6 layers of 768 / 3072, 12 heads, vocabulary 50257, tied: 82 million parameters.
    #[value(name = "distilgpt2")]
    DistilGpt2,
    /// 2 layers of 64 / 128: for tests.
    #[value(name = "tiny")]
    Tiny,
}

impl Shape {
    /// `config.json`, as published but for the tokens that begin and end a text.
    fn config(self) -> Value {
        let llama = |n_layers: usize| {
            json!({
                "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
                "num_hidden_layers": n_layers, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
                "vocab_size": 128_256, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
                "max_position_embeddings": 131_072, "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true,
                "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192}
            })
        };
        let mut config = match self {
            Self::Llama32_1b => llama(16),
            Self::Llama32_1bShort => llama(2),
            Self::Gemma3_1b => json!({
                "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "hidden_size": 1152,
                "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1,
                "head_dim": 256, "vocab_size": 262_144, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window": 512,
                "sliding_window_pattern": 6, "query_pre_attn_scalar": 256, "max_position_embeddings": 32_768,
                "attention_bias": false, "tie_word_embeddings": true
            }),
            Self::Exaone35_2b => json!({
                "architectures": ["ExaoneForCausalLM"], "model_type": "exaone", "hidden_size": 2560,
                "intermediate_size": 7168, "num_layers": 30, "num_attention_heads": 32, "num_key_value_heads": 8,
                "head_dim": 80, "vocab_size": 102_400, "activation_function": "silu", "layer_norm_epsilon": 1e-5,
                "rope_theta": 1_000_000.0, "max_position_embeddings": 32_768, "tie_word_embeddings": true,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192}
            }),
            Self::Qwen3_0_6b => json!({
                "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024,
                "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
                "head_dim": 128, "vocab_size": 151_936, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                "rope_theta": 1_000_000.0, "max_position_embeddings": 40_960, "attention_bias": false,
                "tie_word_embeddings": true
            }),
            Self::DistilGpt2 => json!({
                "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 768, "n_layer": 6, "n_head": 12,
                "n_positions": 1024, "vocab_size": 50_257, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5
            }),
            Self::Tiny => {
                let mut config = llama(2);
                for (key, value) in [
                    ("hidden_size", 64),
                    ("intermediate_size", 128),
                    ("num_attention_heads", 2),
                    ("num_key_value_heads", 1),
                    ("head_dim", 32),
                    ("vocab_size", 1024),
                ] {
                    config[key] = value.into();
                }
                config
            }
        };
        for (key, value) in [
            ("bos_token_id", json!(0)),
            ("eos_token_id", json!(0)),
            ("torch_dtype", json!("bfloat16")),
        ] {
            config[key] = value;
        }
        config
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config_json = args.shape.config();
    let config = ModelConfig::parse(config_json.as_object().expect("an object"))?;
    let specs: Vec<TensorSpec> = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| TensorSpec { name, dtype: Dtype::BF16, shape })
        .collect();

    let mut writer = FolderWriter::create(&args.out, specs.clone(), FolderWriter::SHARD_BYTES)?;
    let mut random = Random::new(args.seed);
    let gain = match config.architecture.norm() {
        NormKind::RmsOnePlus => bf16::ZERO,
        _ => bf16::ONE,
    };
    for spec in &specs {
        let n: usize = spec.shape.iter().product();
        let values: Vec<bf16> = match spec.shape.len() {
            1 if spec.name.ends_with(".bias") => vec![bf16::ZERO; n],
            1 => vec![gain; n],
            // Uniform with the standard deviation 0.02 that such models start from, times a few outliers.
            _ => (0..n)
                .map(|_| {
                    let u = random.uniform() as f32 - 0.5;
                    bf16::from_f32(u * 0.0693 * if u > 0.4995 { 8.0 } else { 1.0 })
                })
                .collect(),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&spec.name, &bytes)?;
    }
    writer.write_json("config.json", &config_json)?;
    for (name, bytes) in fewbit_demo::files() {
        if name.starts_with("tokenizer") {
            writer.write_json(name, &serde_json::from_slice(bytes)?)?;
        }
    }
    let folder = writer.finish()?;
    println!("{} holds {} layers of random weights", folder.display(), config.n_layers);
    Ok(())
}
