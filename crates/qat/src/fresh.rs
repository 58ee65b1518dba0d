//! Weights to begin with where there are none.

use fewbit_checkpoint::Dtype;
use fewbit_model::{ModelConfig, NormKind, Role};

use crate::{BlockTensors, EndTensors, NormValues, Student, TrainBlock, random};

impl Student {
    /// A model that knows nothing: normal weights that keep the size of what they multiply, smaller where they write into the residual stream, which adds up
    /// two of each block (Radford et al., 2019). Attention begins as a copier, from which a model learns much sooner that words come back: the output of every
    /// head is the transpose of its values, and in the upper half of the blocks queries are keys. The same on every machine.
    pub fn fresh(config: &ModelConfig, seed: u64) -> Self {
        /// Standard deviation of the embedding, small as it is the head too, and of positions.
        const EMBEDDING: f64 = 0.02;
        let mut tensor = 0u64;
        let mut normals = |n: usize, deviation: f64| -> Vec<f32> {
            tensor += 1;
            let seed = random::bits(seed, tensor);
            (0..n as u64).map(|i| (random::normal(seed, i) * deviation) as f32).collect()
        };
        let vocabulary = config.vocab_size * config.hidden_size;
        // Norms begin with a factor of 1.
        let norm = |width: usize| NormValues {
            gain: match config.architecture.norm() {
                NormKind::RmsOnePlus => vec![0.0; width],
                NormKind::Rms | NormKind::Layer => vec![1.0; width],
            },
            bias: (config.architecture.norm() == NormKind::Layer).then(|| vec![0.0; width]),
        };
        let ends = EndTensors {
            embedding: normals(vocabulary, EMBEDDING),
            scale: config.embedding_scale(),
            norm: norm(config.hidden_size),
            head: (!config.tied).then(|| normals(vocabulary, EMBEDDING)),
            positions: config
                .positions()
                .map(|_| normals(config.max_positions * config.hidden_size, EMBEDDING)),
            dtype: Dtype::F32,
        };
        let depth = (2.0 * config.n_layers as f64).sqrt();
        let blocks = (0..config.n_layers)
            .map(|layer| {
                let upper = layer >= config.n_layers / 2;
                let linear = |role| {
                    let shape = config.shape(role);
                    let writes = matches!(role, Role::AttentionOutput | Role::Down);
                    let deviation = 1.0 / (shape.in_features as f64).sqrt();
                    normals(shape.len(), if writes { deviation / depth } else { deviation })
                };
                let bias = |role| {
                    config.has_bias(role).then(|| vec![0.0; config.shape(role).out_features])
                };
                let norms = config.architecture.block_norms();
                let mut linears: Vec<Vec<f32>> = config.roles().map(linear).collect();
                copy_heads(config, &mut linears, upper);
                let tensors = BlockTensors {
                    linears,
                    biases: config.roles().map(bias).collect(),
                    norms: norms.map(|kind| norm(config.norm_width(kind))).collect(),
                    dtype: Dtype::F32,
                };
                TrainBlock::float(config, layer, tensors)
            })
            .collect();
        Self { config: config.clone(), ends, blocks }
    }
}

/// Lets every head write what it reads: its part of the output matrix is the transpose of its values, as small as outputs are. With `same_query`, it looks for
/// what is like the place it looks from: its queries are its keys. After Trockman and Kolter, "Mimetic initialization of self-attention layers" (arXiv
/// 2305.09828); for heads that share keys and values, the same for each.
fn copy_heads(config: &ModelConfig, linears: &mut [Vec<f32>], same_query: bool) {
    let place = |wanted| config.roles().position(|role| role == wanted);
    let (width, size) = (config.hidden_size, config.head_dim);
    let [queries, keys] = [config.n_heads, config.n_kv_heads].map(|n| n * size * width);
    // Where queries, keys and values begin, and in which matrix.
    let fused = place(Role::QueryKeyValue).map(|i| [(i, 0), (i, queries), (i, queries + keys)]);
    let apart =
        || Some([(place(Role::Query)?, 0), (place(Role::Key)?, 0), (place(Role::Value)?, 0)]);
    let Some((parts, output)) = fused.or_else(apart).zip(place(Role::AttentionOutput)) else {
        return;
    };
    let [query, key, value] = parts;
    let shrink = 1.0 / (2.0 * config.n_layers as f32).sqrt();
    let head = size * width;
    for i in 0..config.n_heads {
        let shared = i / (config.n_heads / config.n_kv_heads) * head;
        if same_query {
            let keys = linears[key.0][key.1 + shared..][..head].to_vec();
            linears[query.0][query.1 + i * head..][..head].copy_from_slice(&keys);
        }
        let values = linears[value.0][value.1 + shared..][..head].to_vec();
        let row = config.n_heads * size;
        for (j, values) in values.chunks_exact(width).enumerate() {
            let column = linears[output][i * size + j..].iter_mut().step_by(row);
            column.zip(values).for_each(|(output, value)| *output = value * shrink);
        }
    }
}
