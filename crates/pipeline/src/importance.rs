//! How much each input of a matrix matters: its mean square on calibration text.

use std::collections::BTreeMap;

use fewbit_checkpoint::{
    Checkpoint, CheckpointError,
    gguf::{Importance as Sums, ImportanceMatrix},
    gguf_model::{Hparams, Renamed},
};
use fewbit_model::{Block, ModelConfig};
use rayon::prelude::*;

use crate::{Calibration, Event, Phase, PipelineError, Progress, stages::States};

/// Mean square of each input, by module name: `in_features` values each.
pub type Importance = BTreeMap<String, Vec<f32>>;

/// Where the importances of a job come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ImportanceSource {
    /// As given.
    Given(Importance),
    /// Measured on the job's calibration text, when it runs.
    Measured,
}

/// Measures the inputs of every linear layer of the float model on calibration text, one block in memory at a time.
///
/// What llama.cpp's `imatrix` tool measures, but for the output layer.
///
/// # Errors
/// If the model cannot be read, or a token is not in the vocabulary.
pub fn measure_importance(
    model: &Checkpoint,
    calibration: &Calibration,
    progress: &mut dyn Progress,
) -> Result<Importance, PipelineError> {
    progress.event(Event::Phase(Phase::Measure));
    let config = ModelConfig::of(model)?;
    let windows: Vec<&[u32]> = calibration.windows().collect();
    let mut states = States::embed(model, &config, &windows)?;
    let mut importance = Importance::new();
    for layer in 0..config.n_layers {
        let block = Block::load(model, &config, layer)?;
        for &(site, roles) in config.groups() {
            let mut squares = vec![0f64; config.shape(roles[0]).in_features];
            let mut tokens = 0;
            for chunk in 0..states.n_chunks() {
                let x = states.input(chunk, &block, site);
                tokens += x.nrows();
                let (x, n) = (x.as_slice().expect("standard layout"), squares.len());
                /// Columns of a task, whose sums run over the tokens in order.
                const COLUMNS: usize = 64;
                squares.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, squares)| {
                    for x in x.chunks_exact(n) {
                        for (square, &x) in squares.iter_mut().zip(&x[task * COLUMNS..]) {
                            *square += f64::from(x).powi(2);
                        }
                    }
                });
                states.release(chunk, site);
            }
            states.advance(&block, site);
            let mean: Vec<f32> =
                squares.iter().map(|s| (s / tokens.max(1) as f64) as f32).collect();
            for &role in roles {
                importance.insert(config.module(layer, role), mean.clone());
            }
        }
        let fraction = (layer + 1) as f64 / config.n_layers as f64;
        progress.event(Event::Advanced { fraction });
    }
    Ok(importance)
}

/// Importances as a file of llama.cpp holds them, under the names of GGUF tensors.
///
/// # Errors
/// If there are no GGUF names for this architecture.
pub fn importance_matrix(
    importance: &Importance,
    model: &Checkpoint,
    calibration: &Calibration,
    dataset: &str,
) -> Result<ImportanceMatrix, PipelineError> {
    let names = Hparams::of_config(model.config())?.names();
    let tokens = calibration.tokens().len() as u64;
    let mut matrix = ImportanceMatrix {
        datasets: vec![dataset.to_owned()],
        chunk_count: calibration.windows().count() as u32,
        chunk_size: calibration.window() as u32,
        ..ImportanceMatrix::default()
    };
    for (module, means) in importance {
        let tensor = format!("{module}.weight");
        let Some(Renamed { name, .. }) = names.to_gguf(&tensor) else {
            return Err(unnamed(tensor).into());
        };
        let sums = means.iter().map(|mean| mean * tokens as f32).collect();
        let Ok(sums) = Sums::new(sums, vec![tokens]) else {
            let (module, in_features, got) = (module.clone(), means.len(), means.len());
            return Err(PipelineError::Importance { module, in_features, got });
        };
        matrix.entries.insert(name, sums);
    }
    Ok(matrix)
}

/// Importances of the modules of a model from a file of llama.cpp. Entries for other tensors are left out.
///
/// # Errors
/// If there are no GGUF names for this architecture.
pub fn importance_of_matrix(
    matrix: &ImportanceMatrix,
    model: &Checkpoint,
) -> Result<Importance, PipelineError> {
    let names = Hparams::of_config(model.config())?.names();
    let entries = matrix.entries.iter().filter_map(|(name, sums)| {
        let module = names.to_hugging_face(name)?.name.strip_suffix(".weight")?.to_owned();
        (sums.counts().len() == 1).then(|| (module, sums.means()))
    });
    Ok(entries.collect())
}

fn unnamed(tensor: String) -> CheckpointError {
    CheckpointError::GgufTensor {
        tensor,
        problem: "has no place in a GGUF file of this architecture",
    }
}
