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
};
use fewbit_testkit::Random;
use serde_json::json;

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
    /// 2 layers of 64 / 128: for tests.
    #[value(name = "tiny")]
    Tiny,
}

struct Sizes {
    n_layers: usize,
    hidden: usize,
    intermediate: usize,
    vocab: usize,
    head_dim: usize,
    n_heads: usize,
    n_kv: usize,
}

impl Shape {
    fn sizes(self) -> Sizes {
        let llama = |n_layers| Sizes {
            n_layers,
            hidden: 2048,
            intermediate: 8192,
            vocab: 128_256,
            head_dim: 64,
            n_heads: 32,
            n_kv: 8,
        };
        match self {
            Self::Llama32_1b => llama(16),
            Self::Llama32_1bShort => llama(2),
            Self::Tiny => Sizes {
                n_layers: 2,
                hidden: 64,
                intermediate: 128,
                vocab: 1024,
                head_dim: 32,
                n_heads: 2,
                n_kv: 1,
            },
        }
    }
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let Sizes { n_layers, hidden, intermediate, vocab, head_dim, n_heads, n_kv } =
        args.shape.sizes();
    let mut specs = vec![spec("model.embed_tokens.weight", &[vocab, hidden])];
    for layer in 0..n_layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        specs.push(spec(&name("input_layernorm"), &[hidden]));
        specs.push(spec(&name("self_attn.q_proj"), &[n_heads * head_dim, hidden]));
        specs.push(spec(&name("self_attn.k_proj"), &[n_kv * head_dim, hidden]));
        specs.push(spec(&name("self_attn.v_proj"), &[n_kv * head_dim, hidden]));
        specs.push(spec(&name("self_attn.o_proj"), &[hidden, n_heads * head_dim]));
        specs.push(spec(&name("post_attention_layernorm"), &[hidden]));
        specs.push(spec(&name("mlp.gate_proj"), &[intermediate, hidden]));
        specs.push(spec(&name("mlp.up_proj"), &[intermediate, hidden]));
        specs.push(spec(&name("mlp.down_proj"), &[hidden, intermediate]));
    }
    specs.push(spec("model.norm.weight", &[hidden]));

    let mut writer = FolderWriter::create(&args.out, specs.clone(), FolderWriter::SHARD_BYTES)?;
    let mut random = Random::new(args.seed);
    for spec in &specs {
        let n: usize = spec.shape.iter().product();
        let values: Vec<bf16> = if spec.shape.len() == 1 {
            vec![bf16::ONE; n]
        } else {
            // Uniform with the standard deviation 0.02 that such models start from, times a few outliers.
            (0..n)
                .map(|_| {
                    let u = random.uniform() as f32 - 0.5;
                    bf16::from_f32(u * 0.0693 * if u > 0.4995 { 8.0 } else { 1.0 })
                })
                .collect()
        };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&spec.name, &bytes)?;
    }
    writer.write_json(
        "config.json",
        &json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16",
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": n_layers,
            "num_attention_heads": n_heads, "num_key_value_heads": n_kv, "head_dim": head_dim, "vocab_size": vocab,
            "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "max_position_embeddings": 131_072,
            "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192},
            "attention_bias": false, "mlp_bias": false, "tie_word_embeddings": true,
            "bos_token_id": 0, "eos_token_id": 0
        }),
    )?;
    for (name, bytes) in fewbit_demo::files() {
        if name.starts_with("tokenizer") {
            writer.write_json(name, &serde_json::from_slice(bytes)?)?;
        }
    }
    let folder = writer.finish()?;
    println!("{} holds {n_layers} layers of random weights", folder.display());
    Ok(())
}

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.into(), dtype: Dtype::BF16, shape: shape.to_vec() }
}
