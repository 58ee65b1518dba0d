//! The float tensors of a model, in f32.

use std::borrow::Cow;

use fewbit_checkpoint::{Checkpoint, Dtype, Weight};
use fewbit_format::{MatrixShape, bf16, f16};
use fewbit_model::{ModelConfig, NormTensors, Role};

use crate::{
    QatError,
    norm::Norm,
    product::{add, transpose},
};

/// Where a layer's values lie in the order of [`ModelConfig::roles`]; `None` if blocks have no such layer.
pub(crate) fn place(config: &ModelConfig, role: Role) -> Option<usize> {
    config.roles().position(|r| r == role)
}

/// Values of a norm: as a file stores them, or gradients by them.
#[derive(Clone, Debug, PartialEq)]
pub struct NormValues {
    /// What it multiplies by; of Gemma's norms, one less.
    pub gain: Vec<f32>,
    /// What it adds, if it does.
    pub bias: Option<Vec<f32>>,
}

impl NormValues {
    fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        tensors: &NormTensors,
        width: usize,
    ) -> Result<Self, QatError> {
        let vector = |name: &String| config.tensor(checkpoint, name, &[width]);
        let bias = tensors.bias.as_ref().map(vector).transpose()?;
        Ok(Self { gain: vector(&tensors.gain)?, bias })
    }

    /// Gain and bias.
    pub(crate) fn into_values(self) -> impl Iterator<Item = Vec<f32>> {
        [self.gain].into_iter().chain(self.bias)
    }

    /// The values as a type holds them.
    pub(crate) fn as_stored(&self, dtype: Dtype) -> StoredNorm<'_> {
        let bias = self.bias.as_deref().map(|bias| as_stored(bias, dtype));
        StoredNorm { gain: as_stored(&self.gain, dtype), bias }
    }
}

/// Values of a norm as they are multiplied and added.
pub(crate) struct StoredNorm<'a> {
    gain: Cow<'a, [f32]>,
    bias: Option<Cow<'a, [f32]>>,
}

impl StoredNorm<'_> {
    /// The norm of a model.
    pub(crate) fn norm(&self, config: &ModelConfig) -> Norm<'_> {
        let (kind, eps) = (config.architecture.norm(), config.norm_eps);
        Norm { kind, gain: &self.gain, bias: self.bias.as_deref(), eps }
    }
}

/// Values of one transformer block: weights, or gradients by them.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockTensors {
    /// Weights in the order of [`ModelConfig::roles`], `(out_features, in_features)` row-major however a file has them.
    pub linears: Vec<Vec<f32>>,
    /// Their biases.
    pub biases: Vec<Option<Vec<f32>>>,
    /// Norms in the order of [`Architecture::block_norms`](fewbit_model::Architecture::block_norms).
    pub norms: Vec<NormValues>,
    /// The type in which a file has norms and biases. Where they are learned, they are rounded to it on the way.
    pub dtype: Dtype,
}

impl BlockTensors {
    /// Reads the float weights of a block.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable, quantized, or of another shape than the configuration says.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        layer: usize,
    ) -> Result<Self, QatError> {
        let linear = |role| {
            let weight = config.weight(checkpoint, layer, role)?;
            float(weight, || config.module(layer, role))
        };
        let bias = |role| {
            let name = || format!("{}.bias", config.module(layer, role));
            let len = config.shape(role).out_features;
            let read = || Ok(config.tensor(checkpoint, &name(), &[len])?);
            config.has_bias(role).then(read).transpose()
        };
        let names = norm_tensors(config, layer);
        let widths = config.architecture.block_norms().map(|norm| config.norm_width(norm));
        let norm = |(tensors, width)| NormValues::load(checkpoint, config, tensors, width);
        Ok(Self {
            linears: config.roles().map(linear).collect::<Result<_, QatError>>()?,
            biases: config.roles().map(bias).collect::<Result<_, QatError>>()?,
            norms: names.iter().zip(widths).map(norm).collect::<Result<_, _>>()?,
            dtype: dtype(checkpoint, &names[0].gain),
        })
    }
}

/// The tensors of a block's norms.
pub(crate) fn norm_tensors(config: &ModelConfig, layer: usize) -> Vec<NormTensors> {
    let norms = config.architecture.block_norms();
    norms.filter_map(|norm| config.block_norm(layer, norm)).collect()
}

/// What lies around the blocks: embedding, last norm, head.
#[derive(Clone, Debug, PartialEq)]
pub struct EndTensors {
    /// `(vocab_size, hidden_size)`.
    pub embedding: Vec<f32>,
    /// What embeddings are multiplied by, if they are.
    pub scale: Option<f32>,
    /// `(max_positions, hidden_size)`, added to the embeddings; `None` where queries and keys are rotated instead.
    pub positions: Option<Vec<f32>>,
    /// The last norm.
    pub norm: NormValues,
    /// `(vocab_size, hidden_size)`; `None` if it is the embedding.
    pub head: Option<Vec<f32>>,
    /// The type in which a file has the norm, as in [`BlockTensors`].
    pub dtype: Dtype,
}

impl EndTensors {
    /// Reads them. As in the runtime, a tied matrix may be stored under either name, and a head that is not there is the embedding.
    ///
    /// # Errors
    /// If a tensor is missing, unreadable, quantized, or of another shape than the configuration says.
    pub fn load(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Self, QatError> {
        let (embedding, head) = config.embedding_and_head(checkpoint)?;
        let scale = config.embedding_scale_in(checkpoint, &embedding);
        let [embedding_name, head_name] = config.end_modules();
        let shape = [config.max_positions, config.hidden_size];
        let positions = config.positions().map(|name| config.tensor(checkpoint, &name, &shape));
        let norm = config.final_norm();
        Ok(Self {
            embedding: float(embedding, || embedding_name)?,
            scale,
            positions: positions.transpose()?,
            norm: NormValues::load(checkpoint, config, &norm, config.hidden_size)?,
            head: head.map(|head| float(head, || head_name)).transpose()?,
            dtype: dtype(checkpoint, &norm.gain),
        })
    }

    /// The residual stream before the first block: `h (n_tokens, hidden_size)` of windows of this length, one after another.
    pub(crate) fn embed(&self, h: &mut [f32], tokens: &[u32], window: usize) {
        let width = h.len() / tokens.len().max(1);
        for (i, (h, &token)) in h.chunks_exact_mut(width).zip(tokens).enumerate() {
            let row = &self.embedding[token as usize * width..][..width];
            h.copy_from_slice(&as_stored(row, self.dtype));
            if let Some(scale) = self.scale {
                h.iter_mut().for_each(|x| *x *= scale);
            }
            if let Some(positions) = &self.positions {
                add(h, &positions[i % window * width..][..width]);
            }
        }
    }

    /// Gradients by embedding, added to `d_embedding`, and by positions, from that by the residual stream.
    pub(crate) fn embed_backward(
        &self,
        d_embedding: &mut [f32],
        dh: &mut [f32],
        tokens: &[u32],
        window: usize,
    ) -> Option<Vec<f32>> {
        let width = dh.len() / tokens.len().max(1);
        let mut d_positions = self.positions.as_ref().map(|positions| vec![0.0; positions.len()]);
        for (i, (dh, &token)) in dh.chunks_exact_mut(width).zip(tokens).enumerate() {
            if let Some(d_positions) = &mut d_positions {
                add(&mut d_positions[i % window * width..][..width], dh);
            }
            if let Some(scale) = self.scale {
                dh.iter_mut().for_each(|x| *x *= scale);
            }
            add(&mut d_embedding[token as usize * width..][..width], dh);
        }
        d_positions
    }

    /// The matrix of the head, as a file holds it.
    pub(crate) fn head(&self) -> Cow<'_, [f32]> {
        as_stored(self.head.as_deref().unwrap_or(&self.embedding), self.dtype)
    }
}

/// A float tensor of a model in training.
pub(crate) struct FloatTensor<'a> {
    /// Its name in a file.
    pub(crate) name: String,
    values: &'a [f32],
    /// Shape of the values, if they lie transposed in a file.
    transposed: Option<MatrixShape>,
}

impl<'a> FloatTensor<'a> {
    /// A tensor that lies in files as it does here.
    pub(crate) fn new(name: String, values: &'a [f32]) -> Self {
        Self { name, values, transposed: None }
    }

    /// The weight of a linear layer of a block.
    pub(crate) fn weight(
        config: &ModelConfig,
        module: &str,
        role: Role,
        values: &'a [f32],
    ) -> Self {
        let transposed = config.architecture.lies_transposed().then(|| config.shape(role));
        Self { name: format!("{module}.weight"), values, transposed }
    }

    /// The values as they lie in a file.
    pub(crate) fn in_file(&self) -> Cow<'a, [f32]> {
        match self.transposed {
            None => Cow::Borrowed(self.values),
            Some(MatrixShape { out_features, in_features }) => {
                let mut values = vec![0.0; self.values.len()];
                transpose(&mut values, self.values, out_features, in_features);
                Cow::Owned(values)
            }
        }
    }
}

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

fn float(weight: Weight, module: impl FnOnce() -> String) -> Result<Vec<f32>, QatError> {
    match weight {
        Weight::Float { data, .. } => Ok(data),
        Weight::Quant(_) => Err(QatError::NotFloat { module: module() }),
    }
}
