//! A model folder, opened for reading.

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use fewbit_format::{MatrixShape, QuantMatrix};
use serde_json::{Map, Value};

use crate::{CheckpointError, ContainerConfig, Dtype, TensorInfo, TensorSource};

/// A model folder or a single safetensors file, opened for reading.
#[derive(Debug)]
pub struct Checkpoint {}

/// The weight of a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight {
    /// In floating point, widened to f32.
    Float {
        /// Shape.
        shape: MatrixShape,
        /// Element type in the file: F32, F16 or BF16.
        dtype: Dtype,
        /// `(out_features, in_features)` row-major.
        data: Vec<f32>,
    },
    /// On an integer grid.
    Quant(QuantMatrix),
}

impl Weight {
    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        match self {
            Self::Float { shape, .. } => *shape,
            Self::Quant(matrix) => matrix.shape(),
        }
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder (`model.safetensors` or `model.safetensors.index.json`, `config.json`) or one `.safetensors` file.
    /// Every header is read and checked; no weight is touched.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        unimplemented!()
    }
    /// The folder.
    pub fn folder(&self) -> &Path {
        unimplemented!()
    }
    /// `config.json` as it is; empty for a folder without one.
    pub fn config(&self) -> &Map<String, Value> {
        unimplemented!()
    }
    /// All tensors, by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        let v: Vec<&TensorInfo> = unimplemented!();
        v.into_iter()
    }
    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        unimplemented!()
    }
    /// Its little-endian bytes, in row-major order and of any alignment.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        unimplemented!()
    }
    /// Its values, widened to f32; F32, F16 and BF16 tensors only.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        unimplemented!()
    }
    /// What `quantization_config` says, if there is one.
    pub fn container(&self) -> Option<&ContainerConfig> {
        unimplemented!()
    }
    /// The weight of a linear layer, such as `model.layers.0.mlp.down_proj`, float or quantized.
    pub fn weight(&self, module: &str) -> Result<Weight, CheckpointError> {
        unimplemented!()
    }
    /// The bias of a linear layer, if it has one.
    pub fn bias(&self, module: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        unimplemented!()
    }
    /// Size of all weight files, headers included.
    pub fn file_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// Paths of the tokenizer, generation and similar files that belong to the model.
    pub fn companions(&self) -> Vec<PathBuf> {
        unimplemented!()
    }
    /// Decodes every quantized module once.
    pub fn check(&self) -> Result<(), CheckpointError> {
        unimplemented!()
    }
}

impl TensorSource for Checkpoint {
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        Self::tensor(self, name)
    }
    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        Self::read(self, name)
    }
}
