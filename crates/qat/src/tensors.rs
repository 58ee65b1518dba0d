//! The float tensors of a model, in f32.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Dtype, Weight};
use fewbit_format::{bf16, f16};
use fewbit_model::{ModelConfig, Role, Site};

use crate::QatError;

/// Architectures whose blocks are the one implemented here: norm, attention with rotary positions, norm, gated MLP.
const ARCHITECTURES: [&str; 3] = ["llama", "mistral", "qwen2"];

/// The linear layers of these blocks, in the order of computation.
pub const ROLES: [Role; 7] =
    [Role::Query, Role::Key, Role::Value, Role::AttentionOutput, Role::Gate, Role::Up, Role::Down];

/// Where a layer's values lie in arrays of the order of [`ROLES`].
pub(crate) fn place(role: Role) -> usize {
    ROLES.iter().position(|&r| r == role).expect("a layer of these blocks")
}

/// Checks that models of this configuration can be trained.
pub(crate) fn check_architecture(config: &ModelConfig) -> Result<(), QatError> {
    if ARCHITECTURES.contains(&config.model_type()) {
        return Ok(());
    }
    let (model_type, supported) = (config.model_type().to_owned(), ARCHITECTURES.join(", "));
    Err(QatError::Architecture { model_type, supported })
}

/// Values of one transformer block: weights, or gradients by them.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockTensors {
    /// Weights in the order of [`ROLES`], `(out_features, in_features)` row-major.
    pub linears: [Vec<f32>; 7],
    /// Their biases.
    pub biases: [Option<Vec<f32>>; 7],
    /// What the norms before attention and before the MLP multiply by.
    pub norms: [Vec<f32>; 2],
    /// The type in which a file has norms and biases. Where they are learned, they are rounded to it on the way.
    pub dtype: Dtype,
}

impl BlockTensors {
    /// Reads the float weights of a block.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable, quantized, or of another size than the configuration says.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Self, QatError> {
        check_architecture(config)?;
        let linear = |role| {
            let module = config.module(layer, role);
            matrix(checkpoint, &module, config.shape(role).len())
        };
        let bias = |role| match config.has_bias(role) {
            false => Ok(None),
            true => {
                let name = format!("{}.bias", config.module(layer, role));
                vector(checkpoint, &name, config.shape(role).out_features).map(Some)
            }
        };
        let norm = |site| vector(checkpoint, &norm_gain(config, layer, site), config.hidden_size);
        Ok(Self {
            linears: array(ROLES.map(linear))?,
            biases: array(ROLES.map(bias))?,
            norms: [norm(Site::AttentionInput)?, norm(Site::MlpInput)?],
            dtype: dtype(checkpoint, &norm_gain(config, layer, Site::AttentionInput)),
        })
    }

    /// The values, borrowed.
    pub fn view(&self) -> BlockView<'_> {
        BlockView {
            linears: self.linears.each_ref().map(Vec::as_slice),
            biases: self.biases.each_ref().map(Option::as_deref),
            norms: self.norms.each_ref().map(Vec::as_slice),
        }
    }
}

/// Values of one block that lie somewhere else.
#[derive(Clone, Copy, Debug)]
pub struct BlockView<'a> {
    /// As in [`BlockTensors`].
    pub linears: [&'a [f32]; 7],
    /// As in [`BlockTensors`].
    pub biases: [Option<&'a [f32]>; 7],
    /// As in [`BlockTensors`].
    pub norms: [&'a [f32]; 2],
}

/// What lies around the blocks: embedding, last norm, head.
#[derive(Clone, Debug, PartialEq)]
pub struct EndTensors {
    /// `(vocab_size, hidden_size)`.
    pub embedding: Vec<f32>,
    /// What the last norm multiplies by.
    pub norm: Vec<f32>,
    /// `(vocab_size, hidden_size)`; `None` if it is the embedding.
    pub head: Option<Vec<f32>>,
    /// The type in which a file has the norm, as in [`BlockTensors`].
    pub dtype: Dtype,
}

impl EndTensors {
    /// Reads them. As in the runtime, a tied matrix may be stored under either name, and a head that is not there is the embedding.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable, quantized, or of another size than the configuration says.
    pub fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, QatError> {
        check_architecture(config)?;
        let [embedding, head] = &config.end_modules();
        let has = |module: &str| checkpoint.tensor(&format!("{module}.weight")).is_some();
        let len = config.vocab_size * config.hidden_size;
        let only_head = config.tied && !has(embedding) && has(head);
        Ok(Self {
            embedding: matrix(checkpoint, if only_head { head } else { embedding }, len)?,
            norm: vector(checkpoint, LAST_NORM, config.hidden_size)?,
            head: match !config.tied && has(head) {
                true => Some(matrix(checkpoint, head, len)?),
                false => None,
            },
            dtype: dtype(checkpoint, LAST_NORM),
        })
    }

    /// The matrix of the head.
    pub(crate) fn head(&self) -> &[f32] {
        self.head.as_deref().unwrap_or(&self.embedding)
    }
}

/// The tensor of a norm before attention or before the MLP.
pub(crate) fn norm_gain(config: &ModelConfig, layer: usize, site: Site) -> String {
    config.norm(layer, site).expect("these sites have norms").gain
}

/// The tensor of the last norm.
pub(crate) const LAST_NORM: &str = "model.norm.weight";

/// Values as a type holds them.
pub(crate) fn as_stored(values: &[f32], dtype: Dtype) -> Cow<'_, [f32]> {
    match dtype {
        Dtype::F16 => values.iter().map(|&x| f16::from_f32(x).to_f32()).collect(),
        Dtype::BF16 => values.iter().map(|&x| bf16::from_f32(x).to_f32()).collect(),
        _ => Cow::Borrowed(values),
    }
}

fn dtype(checkpoint: &Checkpoint, tensor: &str) -> Dtype {
    checkpoint.tensor(tensor).map_or(Dtype::F32, |info| info.dtype)
}

fn matrix(checkpoint: &Checkpoint, module: &str, expected: usize) -> Result<Vec<f32>, QatError> {
    match checkpoint.weight(module)? {
        Weight::Float { data, .. } => sized(&format!("{module}.weight"), data, expected),
        Weight::Quant(_) => Err(QatError::NotFloat { module: module.to_owned() }),
    }
}

fn vector(checkpoint: &Checkpoint, name: &str, expected: usize) -> Result<Vec<f32>, QatError> {
    sized(name, checkpoint.read_f32(name)?, expected)
}

fn sized(tensor: &str, data: Vec<f32>, expected: usize) -> Result<Vec<f32>, QatError> {
    match data.len() == expected {
        true => Ok(data),
        false => Err(QatError::Length { tensor: tensor.into(), got: data.len(), expected }),
    }
}

fn array<T: std::fmt::Debug, const N: usize>(
    all: [Result<T, QatError>; N],
) -> Result<[T; N], QatError> {
    let values = all.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(values.try_into().expect("as many as there were"))
}
