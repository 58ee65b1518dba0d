//! Weights to begin with where there are none.

use fewbit_checkpoint::Dtype;
use fewbit_model::{ModelConfig, Role};

use crate::{
    BlockTensors, EndTensors, QatError, Student, TrainBlock, random,
    tensors::{self, ROLES},
};

impl Student {
    /// A model that knows nothing: normal weights that keep the size of what they multiply, smaller where they write into the residual stream, which adds up
    /// two of each block (Radford et al., 2019). The same on every machine.
    ///
    /// # Errors
    /// If the architecture cannot be trained.
    pub fn fresh(config: &ModelConfig, seed: u64) -> Result<Self, QatError> {
        /// Standard deviation of the embedding, small as it is the head too.
        const EMBEDDING: f64 = 0.02;
        tensors::check_architecture(config)?;
        let mut tensor = 0u64;
        let mut normals = |n: usize, deviation: f64| -> Vec<f32> {
            tensor += 1;
            let seed = random::bits(seed, tensor);
            (0..n as u64).map(|i| (random::normal(seed, i) * deviation) as f32).collect()
        };
        let vocabulary = config.vocab_size * config.hidden_size;
        let ends = EndTensors {
            embedding: normals(vocabulary, EMBEDDING),
            norm: vec![1.0; config.hidden_size],
            head: (!config.tied).then(|| normals(vocabulary, EMBEDDING)),
            dtype: Dtype::F32,
        };
        let depth = (2.0 * config.n_layers as f64).sqrt();
        let blocks = (0..config.n_layers)
            .map(|layer| {
                let linears = ROLES.map(|role| {
                    let shape = config.shape(role);
                    let writes = matches!(role, Role::AttentionOutput | Role::Down);
                    let deviation = 1.0 / (shape.in_features as f64).sqrt();
                    normals(shape.len(), if writes { deviation / depth } else { deviation })
                });
                let biases = ROLES.map(|role| {
                    config.has_bias(role).then(|| vec![0.0; config.shape(role).out_features])
                });
                let norms = [(); 2].map(|()| vec![1.0; config.hidden_size]);
                TrainBlock::float(
                    config,
                    layer,
                    BlockTensors { linears, biases, norms, dtype: Dtype::F32 },
                )
            })
            .collect();
        Ok(Self { config: config.clone(), ends, blocks })
    }
}
