//! Fused rotations: a float model that computes the same with its residual stream, and its heads' values, in other coordinates (QuaRot, Ashkboos et al., 2024;
//! SpinQuant, Liu et al., 2024).
//!
//! ```text
//! Q, orthogonal, of the residual stream:      embedding ← E·Q
//!     query, key, value, gate, up             W ← W·diag(gain)·Q        gain of the norm before ← 1, for x/rms(x) does not change under Q
//!     attention output, down                  W ← Qᵀ·W,  bias ← bias·Q
//!     head                                    W ← W·diag(gain of the last norm)·Q
//! R, orthogonal, of the values of each head:  value ← Rᵀ·W,  bias ← bias·R;   attention output ← W·R
//! ```
//!
//! What stood out in single channels is then spread over all. Nothing is left to do at run time. A head that was tied to the embedding becomes a matrix of its
//! own, since the last gain does not commute with Q: that costs `vocab_size × hidden_size` floats.

use std::path::Path;

use fewbit_checkpoint::{
    Access, Checkpoint, Dtype, FolderWriter, ModelOutput, ModelWriter, PlanInfo, TensorSpec,
    float_folder,
};
use fewbit_model::{ModelConfig, NormKind, Role, Site};
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::{Event, Phase, PipelineError, Progress, hadamard::Hadamard, job::cancelled, transform};

/// What is rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The residual stream.
    pub stream: bool,
    /// The values of each head.
    pub values: bool,
    /// Which of the possible signs.
    pub seed: u64,
    /// Whether embedding and head stay in their type, which rounds them anew, in place of f32.
    pub narrow_ends: bool,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { stream: true, values: true, seed: 0, narrow_ends: false }
    }
}

/// Writes a rotated copy of a float model as a folder of f32, embedding and head in their own type if that is asked for, a tensor in memory at a time.
///
/// # Errors
/// [`PipelineError::CannotRotate`] for architectures whose norms do not commute with rotations, [`PipelineError::AlreadyQuantized`], and if a file cannot be read or
/// written.
pub fn rotate(
    model: &Path,
    out: &Path,
    rotation: Rotation,
    progress: &mut dyn Progress,
) -> Result<(), PipelineError> {
    progress.event(Event::Phase(Phase::Rotate));
    if out.exists() {
        return Err(PipelineError::OutputExists { folder: out.into() });
    }
    let checkpoint = Checkpoint::open_with(model, Access::Positioned)?;
    if let Some(container) = checkpoint.container() {
        let (folder, container) = (model.into(), container.name().into());
        return Err(PipelineError::AlreadyQuantized { folder, container });
    }
    let config = ModelConfig::of(&checkpoint)?;
    if rotation.stream && !config.rotates() {
        let model_type = config.model_type().to_owned();
        return Err(PipelineError::CannotRotate { model_type });
    }
    if config.architecture.lies_transposed() {
        return Err(PipelineError::TransposedFloats { model: model.into() });
    }
    Copy::new(&checkpoint, config, rotation).write(out, progress)
}

/// The copy of a model in other coordinates.
struct Copy<'a> {
    model: &'a Checkpoint,
    config: ModelConfig,
    stream: Option<Hadamard>,
    values: Option<Hadamard>,
    /// Names of embedding and head.
    ends: [String; 2],
    last_gain: String,
    narrow_ends: bool,
}

impl<'a> Copy<'a> {
    fn new(model: &'a Checkpoint, config: ModelConfig, rotation: Rotation) -> Self {
        let (width, head) = (config.hidden_size, config.head_dim);
        let stream = rotation.stream.then(|| Hadamard::new(width, rotation.seed));
        let values = rotation.values.then(|| Hadamard::new(head, rotation.seed ^ 1));
        let ends = config.end_modules().map(|module| format!("{module}.weight"));
        let last_gain = config.final_norm().gain;
        let narrow_ends = rotation.narrow_ends;
        Self { model, config, stream, values, ends, last_gain, narrow_ends }
    }

    /// The tensors in which embedding and head are stored now.
    fn stored_ends(&self) -> [&String; 2] {
        let [embedding, head] = &self.ends;
        let has = |tensor: &str| self.model.tensor(tensor).is_some();
        match (has(embedding), has(head)) {
            // Of a tied model with both, the embedding counts.
            (true, true) if self.config.tied => [embedding, embedding],
            (true, true) => [embedding, head],
            (true, false) => [embedding, embedding],
            (false, _) => [head, head],
        }
    }

    fn write(self, out: &Path, progress: &mut dyn Progress) -> Result<(), PipelineError> {
        let mut specs: Vec<TensorSpec> = self.model.tensors().map(TensorSpec::from).collect();
        let narrow = |spec: &TensorSpec| self.narrow_ends && self.ends.contains(&spec.name);
        for spec in specs.iter_mut().filter(|spec| is_float(spec.dtype) && !narrow(spec)) {
            spec.dtype = Dtype::F32;
        }
        let mut changes = Map::new();
        let stored = self.stored_ends();
        if self.stream.is_some() {
            // Both are needed from now on.
            let spec = specs.iter().find(|spec| spec.name == *stored[0]).cloned();
            let missing = self.ends.iter().filter(|end| self.model.tensor(end).is_none());
            specs.extend(
                missing.filter_map(|end| Some(TensorSpec { name: end.clone(), ..spec.clone()? })),
            );
            changes.insert("tie_word_embeddings".into(), Value::Bool(false));
        }
        let output = ModelOutput {
            out,
            original: self.model,
            specs: &specs,
            plan: &PlanInfo { modules: &[], damping: None },
            part_bytes: FolderWriter::SHARD_BYTES,
        };
        let mut writer = float_folder(&output, changes)?;
        let layers = self.layers();
        let n_tensors = specs.len();
        for (done, spec) in specs.iter().enumerate() {
            cancelled(progress, out)?;
            let end = self.ends.iter().position(|end| *end == spec.name);
            let source = match end {
                Some(end) if self.stream.is_some() => stored[end],
                _ => &spec.name,
            };
            self.tensor(spec, source, &layers, &mut *writer)?;
            let fraction = (done + 1) as f64 / n_tensors as f64;
            progress.event(Event::Advanced { fraction });
        }
        Ok(writer.finish()?)
    }

    /// Weights and biases of the linear layers, by the names of their modules.
    fn layers(&self) -> Vec<(String, usize, Role)> {
        let of = |layer| self.config.roles().map(move |role| (layer, role));
        let layers = (0..self.config.n_layers).flat_map(of);
        layers.map(|(layer, role)| (self.config.module(layer, role), layer, role)).collect()
    }

    fn tensor(
        &self,
        spec: &TensorSpec,
        source: &str,
        layers: &[(String, usize, Role)],
        writer: &mut dyn ModelWriter,
    ) -> Result<(), PipelineError> {
        let name = &spec.name;
        let info = self.model.tensor(source).expect("a tensor of the model");
        if !is_float(info.dtype) {
            return Ok(writer.write(name, &self.model.read(source)?)?);
        }
        let mut values = self.model.read_f32(source)?;
        let [embedding, head] = &self.ends;
        let width = self.config.hidden_size;
        if let Some(stream) = &self.stream {
            if name == embedding {
                rotate_rows(stream, &mut values, width, None);
            } else if name == head {
                rotate_rows(stream, &mut values, width, Some(&self.gain(&self.last_gain)?));
            } else if self.is_gain(name) {
                values.fill(self.unit_gain());
            }
        }
        let module = |ending: &str| {
            let module = name.strip_suffix(ending)?;
            layers.iter().find(|(own, ..)| own == module)
        };
        if let Some((_, layer, role)) = module(".weight") {
            self.matrix(*layer, *role, &mut values)?;
        } else if let Some((_, _, role)) = module(".bias") {
            self.bias(*role, &mut values);
        }
        Ok(writer.write(name, &transform::bytes(&values, spec.dtype))?)
    }

    fn matrix(&self, layer: usize, role: Role, values: &mut [f32]) -> Result<(), PipelineError> {
        let shape = self.config.shape(role);
        if let Some(stream) = &self.stream {
            match role.site() {
                Site::AttentionInput | Site::MlpInput => {
                    let norm = self.config.norm(layer, role.site()).expect("a norm before");
                    let gain = self.gain(&norm.gain)?;
                    rotate_rows(stream, values, shape.in_features, Some(&gain));
                }
                Site::AttentionMix | Site::MlpMix => {
                    rotate_columns(stream, values, shape.in_features);
                }
            }
        }
        if let Some(heads) = &self.values {
            let head_dim = self.config.head_dim;
            match role {
                // All heads of a row, one after another.
                Role::AttentionOutput => rotate_rows(heads, values, head_dim, None),
                _ => {
                    let rows = &mut values[self.first_value(role) * shape.in_features..];
                    for head in rows.chunks_exact_mut(head_dim * shape.in_features) {
                        rotate_columns(heads, head, shape.in_features);
                    }
                }
            }
        }
        Ok(())
    }

    fn bias(&self, role: Role, values: &mut [f32]) {
        if let Some(stream) = &self.stream
            && matches!(role.site(), Site::AttentionMix | Site::MlpMix)
        {
            rotate_rows(stream, values, self.config.hidden_size, None);
        }
        if let Some(heads) = &self.values {
            let first = self.first_value(role).min(values.len());
            rotate_rows(heads, &mut values[first..], self.config.head_dim, None);
        }
    }

    /// The first row of a layer that is a value of a head; its end if none is.
    fn first_value(&self, role: Role) -> usize {
        let all = self.config.shape(role).out_features;
        match role {
            Role::Value => 0,
            Role::QueryKeyValue => all - self.config.n_kv_heads * self.config.head_dim,
            _ => all,
        }
    }

    /// What a norm multiplies by.
    fn gain(&self, tensor: &str) -> Result<Vec<f32>, PipelineError> {
        let mut gain = self.model.read_f32(tensor)?;
        if self.unit_gain() == 0.0 {
            gain.iter_mut().for_each(|g| *g += 1.0);
        }
        Ok(gain)
    }

    /// What a file stores of a norm that multiplies by 1.
    fn unit_gain(&self) -> f32 {
        match self.config.architecture.norm() {
            NormKind::RmsOnePlus => 0.0,
            _ => 1.0,
        }
    }

    /// Whether the tensor is the gain of a norm of the residual stream.
    fn is_gain(&self, tensor: &str) -> bool {
        let mut layers = 0..self.config.n_layers;
        let sites = [Site::AttentionInput, Site::MlpInput];
        let own = |layer, site| self.config.norm(layer, site).is_some_and(|n| n.gain == tensor);
        tensor == self.last_gain || layers.any(|layer| sites.iter().any(|&s| own(layer, s)))
    }
}

fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32)
}

/// Each run of `width` values, times `gain` if there is one, becomes itself times the matrix.
fn rotate_rows(matrix: &Hadamard, values: &mut [f32], width: usize, gain: Option<&[f32]>) {
    values.par_chunks_exact_mut(width).for_each_init(Vec::new, |buffer: &mut Vec<f64>, row| {
        buffer.clear();
        match gain {
            None => buffer.extend(row.iter().map(|&x| f64::from(x))),
            Some(gain) => {
                buffer.extend(row.iter().zip(gain).map(|(&x, &g)| f64::from(x) * f64::from(g)))
            }
        }
        matrix.apply(buffer);
        row.iter_mut().zip(&*buffer).for_each(|(x, y)| *x = *y as f32);
    });
}

/// Each column becomes the transposed matrix times itself.
fn rotate_columns(matrix: &Hadamard, values: &mut [f32], width: usize) {
    let columns: Vec<Vec<f32>> = (0..width)
        .into_par_iter()
        .map(|j| {
            let mut column: Vec<f64> =
                values[j..].iter().step_by(width).map(|&x| f64::from(x)).collect();
            matrix.apply(&mut column);
            column.into_iter().map(|x| x as f32).collect()
        })
        .collect();
    for (j, column) in columns.into_iter().enumerate() {
        values[j..].iter_mut().step_by(width).zip(column).for_each(|(x, y)| *x = y);
    }
}
