//! The tensors of a model, by the names that its architecture says.

use fewbit_checkpoint::{Checkpoint, CheckpointError, Dtype, TensorInfo, Weight};
use fewbit_format::{MatrixShape, bf16, f16};

use crate::{Activations, Linear, ModelConfig, ModelError, NormTensors, Role, norm::Norm};

impl ModelConfig {
    /// Names and shapes of all tensors that a float Hugging Face model of this configuration has.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let hidden = self.hidden_size;
        let [embedding, head] = self.end_modules().map(|module| format!("{module}.weight"));
        let mut all = vec![(embedding, vec![self.vocab_size, hidden])];
        all.extend(self.positions().map(|name| (name, vec![self.max_positions, hidden])));
        let norm = |NormTensors { gain, bias }, width: usize| {
            [gain].into_iter().chain(bias).map(move |name| (name, vec![width]))
        };
        for layer in 0..self.n_layers {
            for kind in self.architecture.block_norms() {
                let width = self.norm_width(kind);
                all.extend(self.block_norm(layer, kind).into_iter().flat_map(|n| norm(n, width)));
            }
            for role in self.roles() {
                let MatrixShape { out_features, in_features } = self.shape(role);
                let mut shape = vec![out_features, in_features];
                if self.architecture.transposed {
                    shape.reverse();
                }
                let module = self.module(layer, role);
                all.push((format!("{module}.weight"), shape));
                if self.has_bias(role) {
                    all.push((format!("{module}.bias"), vec![out_features]));
                }
            }
        }
        all.extend(norm(self.final_norm(), hidden));
        if !self.tied {
            all.push((head, vec![self.vocab_size, hidden]));
        }
        all
    }

    /// The weight of a linear layer of a block, `(out_features, in_features)` however the file has it. What the file's header says of its shape is
    /// checked before it is read.
    ///
    /// # Errors
    /// If it is missing, unreadable, or of another shape than the configuration says.
    pub fn weight(
        &self,
        checkpoint: &Checkpoint,
        layer: usize,
        role: Role,
    ) -> Result<Weight, ModelError> {
        let (module, shape) = (self.module(layer, role), self.shape(role));
        let weight = self.matrix(checkpoint, &module, shape, self.architecture.transposed)?;
        match weight {
            Weight::Float { shape, dtype, data } if self.architecture.transposed => {
                let MatrixShape { out_features: rows, in_features: columns } = shape;
                let shape = MatrixShape::new(columns, rows);
                Ok(Weight::Float { shape, dtype, data: transposed(&data, rows, columns) })
            }
            weight => Ok(weight),
        }
    }

    /// As [`weight`](Self::weight), as floats.
    ///
    /// # Errors
    /// The same.
    pub fn weight_f32(
        &self,
        checkpoint: &Checkpoint,
        layer: usize,
        role: Role,
    ) -> Result<Vec<f32>, ModelError> {
        Ok(match self.weight(checkpoint, layer, role)? {
            Weight::Float { data, .. } => data,
            Weight::Quant(matrix) => matrix.dequantize(),
        })
    }

    /// A linear layer of a block, with its bias.
    pub(crate) fn linear(
        &self,
        checkpoint: &Checkpoint,
        layer: usize,
        role: Role,
        activations: Activations,
    ) -> Result<Linear, ModelError> {
        let weight = self.weight(checkpoint, layer, role)?;
        let bias = match self.has_bias(role) {
            true => {
                let name = format!("{}.bias", self.module(layer, role));
                Some(self.tensor(checkpoint, &name, &[self.shape(role).out_features])?)
            }
            false => None,
        };
        Ok(Linear::with_activations(weight, bias, activations))
    }

    /// A norm from where its tensors come from, by name and shape.
    pub(crate) fn read_norm<E>(
        &self,
        tensors: &NormTensors,
        width: usize,
        vector: &mut impl FnMut(&str, &[usize]) -> Result<Vec<f32>, E>,
    ) -> Result<Norm, E> {
        let gain = vector(&tensors.gain, &[width])?;
        let bias = tensors.bias.as_ref().map(|bias| vector(bias, &[width])).transpose()?;
        Ok(Norm::new(self.architecture.norm, gain, bias, self.norm_eps))
    }

    /// The embedding, and the head where it is another matrix.
    ///
    /// Tied, the matrix may be stored under either name; under both, the embedding counts. Untied without a head, the head is the embedding
    /// too, as files of tied models often say nothing about it.
    ///
    /// # Errors
    /// If one is missing, unreadable, or of another shape than the configuration says.
    pub fn embedding_and_head(
        &self,
        checkpoint: &Checkpoint,
    ) -> Result<(Weight, Option<Weight>), ModelError> {
        let shape = MatrixShape::new(self.vocab_size, self.hidden_size);
        let [embedding, head] = self.end_modules();
        let has = |module: &str| {
            let prefix = format!("{module}.");
            checkpoint.tensors().any(|tensor| tensor.name.starts_with(&prefix))
        };
        let only_head = self.tied && !has(&embedding) && has(&head);
        let first = if only_head { &head } else { &embedding };
        let first = self.matrix(checkpoint, first, shape, false)?;
        let second = match !self.tied && has(&head) {
            true => Some(self.matrix(checkpoint, &head, shape, false)?),
            false => None,
        };
        Ok((first, second))
    }

    /// What embeddings are multiplied by, in architectures that do.
    pub fn embedding_scale(&self) -> Option<f32> {
        self.architecture.scales_embedding.then(|| (self.hidden_size as f32).sqrt())
    }

    /// [`embedding_scale`](Self::embedding_scale) as a file's model has it: rounded to the type of a Hugging Face model's embedding, as the models were
    /// trained and transformers runs them; not rounded for GGUF files, as llama.cpp runs those.
    pub fn embedding_scale_in(&self, checkpoint: &Checkpoint, embedding: &Weight) -> Option<f32> {
        let scale = self.embedding_scale()?;
        Some(match embedding {
            _ if checkpoint.gguf().is_some() => scale,
            Weight::Float { dtype: Dtype::BF16, .. } => bf16::from_f32(scale).to_f32(),
            Weight::Float { dtype: Dtype::F16, .. } => f16::from_f32(scale).to_f32(),
            _ => scale,
        })
    }

    /// The values of a float tensor.
    ///
    /// # Errors
    /// If it is missing, unreadable, or of another shape.
    pub fn tensor(
        &self,
        checkpoint: &Checkpoint,
        name: &str,
        shape: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        if let Some(info) = checkpoint.tensor(name)
            && info.shape != shape
        {
            return Err(wrong_shape(name, &info.shape, shape));
        }
        checkpoint.read_f32(name).map_err(|error| self.named(error))
    }

    fn matrix(
        &self,
        checkpoint: &Checkpoint,
        module: &str,
        shape: MatrixShape,
        transposed: bool,
    ) -> Result<Weight, ModelError> {
        let name = format!("{module}.weight");
        let expected = [shape.out_features, shape.in_features];
        let stored = if transposed { [expected[1], expected[0]] } else { expected };
        // Of a quantized weight, a tensor of this name may hold bytes in any shape.
        let float =
            |info: &&TensorInfo| matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if let Some(info) = checkpoint.tensor(&name).filter(float)
            && info.shape != stored
        {
            return Err(wrong_shape(&name, &info.shape, &stored));
        }
        let weight = checkpoint.weight(module).map_err(|error| self.named(error))?;
        let MatrixShape { out_features, in_features } = weight.shape();
        let (got, expected) = (
            [out_features, in_features],
            match &weight {
                Weight::Float { .. } => stored,
                Weight::Quant(_) => expected,
            },
        );
        if got != expected {
            return Err(wrong_shape(module, &got, &expected));
        }
        Ok(weight)
    }

    fn named(&self, error: CheckpointError) -> ModelError {
        match error {
            CheckpointError::MissingTensor { tensor, .. } => {
                ModelError::MissingTensor { tensor, model_type: self.model_type() }
            }
            other => other.into(),
        }
    }
}

fn wrong_shape(name: &str, got: &[usize], expected: &[usize]) -> ModelError {
    ModelError::Shape { name: name.to_owned(), got: got.to_vec(), expected: expected.to_vec() }
}

/// `(rows, columns)` to `(columns, rows)`, in tiles that stay in the caches.
fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const TILE: usize = 32;
    let mut out = vec![0.0; values.len()];
    for first_row in (0..rows).step_by(TILE) {
        for first in (0..columns).step_by(TILE) {
            for row in first_row..(first_row + TILE).min(rows) {
                for column in first..(first + TILE).min(columns) {
                    out[column * rows + row] = values[row * columns + column];
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposes() {
        let (rows, columns) = (35, 67);
        let values: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let out = transposed(&values, rows, columns);
        for (i, &value) in out.iter().enumerate() {
            assert_eq!(value, (i % rows * columns + i / rows) as f32);
        }
        assert_eq!(transposed(&out, columns, rows), values);
    }
}
