//! Weights to begin with where there are none.

use fewbit_checkpoint::Dtype;
use fewbit_model::{ModelConfig, NormKind, Role};

use crate::{BlockTensors, EndTensors, NormValues, Student, TrainBlock, random};

impl Student {
    /// A model that knows nothing: normal weights that keep the size of what they multiply, smaller where they write into the residual stream, which adds up
    /// two of each block (Radford et al., 2019). The same on every machine.
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
                let tensors = BlockTensors {
                    linears: config.roles().map(linear).collect(),
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
