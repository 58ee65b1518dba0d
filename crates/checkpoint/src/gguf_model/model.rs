//! A GGUF file, opened as the Hugging Face model that it stands for.

use std::{borrow::Cow, collections::BTreeMap, ops::Range, path::Path};

use fewbit_format::{BlockMatrix, MatrixShape};
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::{
    Access, CheckpointError, TensorInfo,
    gguf::{GgmlType, Gguf, GgufTensor},
    tensor::row_bytes,
};

use super::{
    Caveat, Hparams, ROPE_FREQS, Relay, Renamed, TokenizerFiles, Towards, Vocabulary,
    floats::is_float, vocabulary::ends,
};

/// A GGUF file under the names, orientation and configuration of the Hugging Face model that it stands for.
///
/// A float tensor has the model's name and shape. A matrix of blocks is listed as the bytes of its rows, `(out_features, bytes of a row)`,
/// under the name of its module with [`BLOCKS`](Self::BLOCKS); [`blocks`](Self::blocks) reads it as a matrix. The two views differ for GPT-2 alone, whose float matrices
/// are `(in_features, out_features)` in Hugging Face models; blocks always are `(out_features, in_features)`.
#[derive(Debug)]
pub struct GgufModel {
    gguf: Gguf,
    hparams: Hparams,
    config: Map<String, Value>,
    /// By the name under which a tensor is presented.
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    /// Name in the file.
    gguf: String,
    relay: Relay,
    info: TensorInfo,
}

impl GgufModel {
    /// What follows the name of a module whose weight consists of blocks.
    pub const BLOCKS: &str = ".weight_blocks";

    /// Opens a file, or all files of a split model by its first. Headers and configuration are read and checked; no weight is touched.
    ///
    /// # Errors
    /// If a file is damaged, or the model is of an architecture or has settings, shapes or tensors for which there is no Hugging Face
    /// model here.
    pub fn open(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let gguf = Gguf::open_with(path, access)?;
        let freqs = match gguf.tensor(ROPE_FREQS) {
            Some(_) => Some(gguf.read_f32(ROPE_FREQS)?),
            None => None,
        };
        let dims = |name: &str| gguf.tensor(name).map(|tensor| tensor.dims.clone());
        let hparams = Hparams::of_metadata(gguf.metadata(), dims, freqs.as_deref())?;
        let names = hparams.names();
        let mut tensors = BTreeMap::new();
        for tensor in gguf.tensors().filter(|tensor| tensor.name != ROPE_FREQS) {
            let Some(renamed) = names.to_hugging_face(&tensor.name) else {
                return Err(CheckpointError::GgufTensor {
                    tensor: tensor.name.clone(),
                    problem: "has no counterpart in a Hugging Face model of this architecture",
                });
            };
            let place = Place::new(tensor, renamed, &hparams)?;
            tensors.insert(place.info.name.clone(), place);
        }
        let (bos, ends) = ends(gguf.metadata())?;
        let config = hparams.config(float_type(&gguf), bos, &ends);
        Ok(Self { gguf, hparams, config, tensors })
    }

    /// The file itself.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Sizes and settings.
    pub fn hparams(&self) -> &Hparams {
        &self.hparams
    }

    /// `config.json` of the model.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The vocabulary; `None` if the file has none.
    ///
    /// # Errors
    /// As [`Vocabulary::of_metadata`].
    pub fn vocabulary(&self) -> Result<Option<Vocabulary>, CheckpointError> {
        Vocabulary::of_metadata(self.gguf.metadata())
    }

    /// The tokenizer files of the model, and what they do otherwise than llama.cpp; `None` if the file has no vocabulary.
    ///
    /// # Errors
    /// As [`Vocabulary::of_metadata`].
    pub fn tokenizer(&self) -> Result<Option<(TokenizerFiles, Vec<Caveat>)>, CheckpointError> {
        Ok(self.vocabulary()?.map(|vocabulary| vocabulary.files()))
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.values().map(|place| &place.info)
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|place| &place.info)
    }

    /// The tensor in the file that is presented under this name.
    pub fn source(&self, name: &str) -> Option<&GgufTensor> {
        self.gguf.tensor(&self.tensors.get(name)?.gguf)
    }

    /// The file that holds this tensor, if there is such a tensor.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        self.gguf.paths().nth(self.source(name)?.part)
    }

    /// The bytes of a tensor as the model has it: numbers, or the encoded rows of a matrix. Mapped bytes that lie alike are not copied.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        let place = self.place(name)?;
        if place.relay == Relay::AddOne {
            let values = self.read_f32(name)?;
            return Ok(crate::container::le_bytes(values, f32::to_le_bytes).into());
        }
        let bytes = self.gguf.read(&place.gguf)?;
        let TensorInfo { shape, dtype, .. } = &place.info;
        Ok(match (dtype, place.relay) {
            // Encoded rows: transposing them is neither possible nor needed.
            (Dtype::U8, Relay::Transpose) => bytes,
            (Dtype::U8, relay) => relay.rows(Towards::HuggingFace, bytes, shape[0]),
            (_, relay) => relay.numbers(Towards::HuggingFace, bytes, shape, dtype.bitsize() / 8),
        })
    }

    /// Reads some rows of a tensor, with its first dimension counted as its rows, as [`read`](Self::read) gives them. What `out` held before is dropped.
    ///
    /// Rows that the file has in another order are read with their neighbours: those of an attention head, or the whole of a transposed matrix.
    ///
    /// # Errors
    /// If there is no such tensor, it has fewer rows, or its file cannot be read.
    pub fn read_rows_into(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        let Place { gguf, relay, info } = self.place(name)?;
        let row = row_bytes(info, &rows)?;
        let n_rows = info.shape.first().copied().unwrap_or(1);
        let unit = match (info.dtype, relay) {
            (Dtype::U8, Relay::Transpose) => 1,
            // Its floats may be of another type in the file.
            (_, Relay::AddOne) => n_rows,
            (_, relay) => relay.row_unit(n_rows),
        };
        out.clear();
        if rows.is_empty() {
            return Ok(());
        }
        if unit == n_rows {
            out.extend_from_slice(&self.read(name)?[rows.start * row..rows.end * row]);
            return Ok(());
        }
        let begin = rows.start / unit * unit;
        let end = rows.end.next_multiple_of(unit).min(n_rows);
        out.resize((end - begin) * row, 0);
        self.gguf.read_into(gguf, (begin * row) as u64, out)?;
        if let Relay::Interleave { .. } = relay {
            let part = relay.of_part(end - begin, n_rows);
            let relaid = part.rows(Towards::HuggingFace, Cow::Borrowed(&*out), end - begin);
            let asked = relaid[(rows.start - begin) * row..][..rows.len() * row].to_vec();
            *out = asked;
        }
        Ok(())
    }

    /// The values of a float tensor, widened to f32.
    ///
    /// # Errors
    /// If there is no such tensor, it consists of blocks, or its file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        let Place { gguf, relay, info } = self.place(name)?;
        if info.dtype == Dtype::U8 {
            let (tensor, got, expected) = (name.to_owned(), info.dtype, "F32, F16 or BF16");
            return Err(CheckpointError::Dtype { tensor, got, expected });
        }
        let mut values = self.gguf.read_f32(gguf)?;
        relay.f32(Towards::HuggingFace, &mut values);
        if matches!(relay, Relay::AsIs | Relay::AddOne) {
            return Ok(values);
        }
        let bytes = bytemuck::cast_slice(&values).into();
        let relaid = relay.numbers(Towards::HuggingFace, bytes, &info.shape, size_of::<f32>());
        let mut out = vec![0f32; values.len()];
        bytemuck::cast_slice_mut(&mut out).copy_from_slice(&relaid);
        Ok(out)
    }

    /// The weight of a module as blocks; `None` if it is no matrix of blocks.
    ///
    /// # Errors
    /// If the blocks are of a type that is not decoded here, or the file cannot be read.
    pub fn blocks(&self, module: &str) -> Result<Option<BlockMatrix>, CheckpointError> {
        let name = format!("{module}{}", Self::BLOCKS);
        let Some(source) = self.source(&name) else { return Ok(None) };
        let Some(block) = source.kind.block() else {
            let (tensor, kind) = (source.name.clone(), source.kind);
            return Err(CheckpointError::CannotDecode { tensor, kind });
        };
        let rows = self.read(&name)?.into_owned();
        let matrix = BlockMatrix::new(source.matrix_shape(), block, rows);
        let format = |source| CheckpointError::Format { module: module.to_owned(), source };
        matrix.map(Some).map_err(format)
    }

    /// The shape of a module's weight, be it numbers or blocks.
    pub fn matrix_shape(&self, module: &str) -> Option<MatrixShape> {
        if let Some(blocks) = self.source(&format!("{module}{}", Self::BLOCKS)) {
            return Some(blocks.matrix_shape());
        }
        match self.tensor(&format!("{module}.weight"))?.shape[..] {
            [out_features, in_features] => Some(MatrixShape { out_features, in_features }),
            _ => None,
        }
    }

    /// The modules whose weights consist of blocks, sorted by name.
    pub fn quantized_modules(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().filter_map(|name| name.strip_suffix(Self::BLOCKS))
    }

    fn place(&self, name: &str) -> Result<&Place, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::MissingTensor {
            tensor: name.to_owned(),
            folder: self.gguf.path().to_owned(),
        })
    }
}

impl Place {
    fn new(
        tensor: &GgufTensor,
        Renamed { name, relay }: Renamed,
        hparams: &Hparams,
    ) -> Result<Self, CheckpointError> {
        let mut shape: Vec<usize> = tensor.dims.iter().rev().map(|&dim| dim as usize).collect();
        if let Some(expected) = hparams.shape(&tensor.name)
            && expected != shape
        {
            let (tensor, got) = (tensor.name.clone(), shape);
            return Err(CheckpointError::Shape { tensor, got, expected });
        }
        if let Relay::Interleave { heads } = relay
            && shape.first().is_none_or(|rows| rows % (2 * heads) != 0)
        {
            let (tensor, problem) = (tensor.name.clone(), "has heads of an odd number of rows");
            return Err(CheckpointError::GgufTensor { tensor, problem });
        }
        let (name, dtype) = match tensor.kind {
            GgmlType::F32 => (name, Dtype::F32),
            GgmlType::F16 => (name, Dtype::F16),
            GgmlType::BF16 => (name, Dtype::BF16),
            _ => {
                let (Some(module), true) = (name.strip_suffix(".weight"), shape.len() == 2) else {
                    let (tensor, problem) =
                        (tensor.name.clone(), "is no matrix, and yet not in floating point");
                    return Err(CheckpointError::GgufTensor { tensor, problem });
                };
                let row_bytes = tensor.bytes as usize / shape[0].max(1);
                shape = vec![shape[0], row_bytes];
                (format!("{module}{}", GgufModel::BLOCKS), Dtype::U8)
            }
        };
        if relay == Relay::Transpose && dtype != Dtype::U8 {
            shape.reverse();
        }
        let (dtype, bytes) = match relay {
            // Computed, whatever the file holds.
            Relay::AddOne => (Dtype::F32, 4 * tensor.len()),
            _ => (dtype, tensor.bytes),
        };
        let info = TensorInfo { name, dtype, shape, bytes };
        Ok(Self { gguf: tensor.name.clone(), relay, info })
    }
}

/// What the float matrices are made of, in the words of a configuration.
fn float_type(gguf: &Gguf) -> &'static str {
    let matrices = gguf.tensors().filter(|tensor| tensor.dims.len() > 1 && is_float(tensor.kind));
    let mut kinds: Vec<GgmlType> = matrices.map(|tensor| tensor.kind).collect();
    kinds.sort();
    match kinds.get(kinds.len() / 2) {
        Some(GgmlType::F16) => "float16",
        Some(GgmlType::BF16) => "bfloat16",
        _ => "float32",
    }
}
