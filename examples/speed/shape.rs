//! Models of a known shape with random weights, made in memory and directly on a grid.

use anyhow::Result;
use clap::ValueEnum;
use fewbit::{
    checkpoint::{Dtype, Weight},
    format::{BlockMatrix, MatrixShape, QuantMatrix, Quantized, Scheme},
    model::{Activations, Block, Ends, Linear, Model, ModelConfig},
};
use fewbit_testkit::Random;
use serde_json::json;

#[derive(Clone, Copy, ValueEnum)]
pub enum Shape {
    /// 16 layers of 2048 / 8192, 32 heads, 8 key/value heads, vocabulary 128256, tied: 1.24 billion parameters.
    #[value(name = "llama-3.2-1b")]
    Llama32_1b,
    /// 28 layers of 3072 / 8192, 24 heads, 8 key/value heads, vocabulary 128256, tied: 3.2 billion parameters.
    #[value(name = "llama-3.2-3b")]
    Llama32_3b,
    /// 22 layers of 2048 / 5632, 32 heads, 4 key/value heads, vocabulary 32000: 1.1 billion parameters.
    #[value(name = "tinyllama-1.1b")]
    TinyLlama,
    /// 2 layers of 256 / 512: for tests.
    #[value(name = "tiny")]
    Tiny,
}

impl Shape {
    pub fn config(self) -> Result<ModelConfig> {
        let (layers, hidden, intermediate, heads, kv_heads, vocab, tied) = match self {
            Self::Llama32_1b => (16, 2048, 8192, 32, 8, 128_256, true),
            Self::Llama32_3b => (28, 3072, 8192, 24, 8, 128_256, true),
            Self::TinyLlama => (22, 2048, 5632, 32, 4, 32_000, false),
            Self::Tiny => (2, 256, 512, 4, 2, 1024, true),
        };
        let config = json!({
            "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab, "tie_word_embeddings": tied,
            "rope_theta": 500_000.0, "max_position_embeddings": 131_072
        });
        Ok(ModelConfig::parse(config.as_object().expect("an object"))?)
    }
}

/// What the weights of a model are stored in.
#[derive(Clone, Copy)]
pub enum Storage {
    Float(Dtype),
    Grid(Scheme),
}

/// Every matrix on the same grid, the head too.
pub fn model(config: &ModelConfig, storage: Storage, activations: Activations) -> Result<Model> {
    let mut random = Random::new(1);
    let mut linear = |shape: MatrixShape| -> Result<Linear> {
        let weight = weight(&mut random, shape, storage)?;
        Ok(Linear::with_activations(weight, None, activations))
    };
    let ones = |_: &str, shape: &[usize]| vec![1.0; shape.iter().product()];
    let shape = MatrixShape::new(config.vocab_size, config.hidden_size);
    let head = if config.tied { None } else { Some(linear(shape)?) };
    let ends = Ends::from_parts(config, linear(shape)?, head, ones);
    let mut blocks = Vec::with_capacity(config.n_layers);
    for layer in 0..config.n_layers {
        let linears =
            config.roles().map(|role| linear(config.shape(role))).collect::<Result<Vec<_>>>()?;
        blocks.push(Block::from_parts(config, layer, linears, ones));
    }
    Ok(Model::from_parts(config.clone(), ends, blocks))
}

/// Rows that are made at random; the others repeat them. What is multiplied does not change the time.
const ROWS: usize = 32;

fn weight(random: &mut Random, shape: MatrixShape, storage: Storage) -> Result<Weight> {
    let MatrixShape { out_features, in_features } = shape;
    let few = MatrixShape::new(ROWS.min(out_features), in_features);
    let values: Vec<f32> = random.normals(few.len()).iter().map(|w| 0.02 * w).collect();
    let scheme = match storage {
        Storage::Float(dtype) => {
            let values: Vec<f32> = values.iter().map(|&w| rounded(w, dtype)).collect();
            return Ok(Weight::Float { shape, dtype, data: repeated(&values, shape.len()) });
        }
        Storage::Grid(scheme) => scheme,
    };
    let matrix = match Quantized::round_to_nearest(&values, few, scheme)? {
        Quantized::Block(matrix) => {
            let bytes = matrix.data().len() / few.out_features * out_features;
            let data = repeated(matrix.data(), bytes);
            BlockMatrix::new(shape, matrix.block_type(), data)?.into()
        }
        Quantized::Int(matrix) => {
            let n_scales = matrix.scheme().granularity.n_scales(shape);
            let zero_points = match matrix.zero_points() {
                [] => vec![],
                some => repeated(some, n_scales),
            };
            let codes = repeated(matrix.codes(), shape.len());
            let scales = repeated(matrix.scales(), n_scales);
            QuantMatrix::new(shape, matrix.scheme(), codes, scales, zero_points, None)?.into()
        }
        _ => Quantized::round_to_nearest(&repeated(&values, shape.len()), shape, scheme)?,
    };
    Ok(Weight::Quant(matrix))
}

fn repeated<T: Copy>(values: &[T], len: usize) -> Vec<T> {
    values.iter().copied().cycle().take(len).collect()
}

fn rounded(value: f32, dtype: Dtype) -> f32 {
    match dtype {
        Dtype::F16 => fewbit::format::f16::from_f32(value).to_f32(),
        Dtype::BF16 => fewbit::format::bf16::from_f32(value).to_f32(),
        _ => value,
    }
}
