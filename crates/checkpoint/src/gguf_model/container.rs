//! GGUF as a container: blocks, and integer grids that are blocks by another name.

use std::{borrow::Cow, ffi::OsStr, path::Path};

use fewbit_format::{
    Bits, BlockType, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Scheme, Symmetry,
};
use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::{
    CheckpointError, Container, ModelOutput, ModelWriter, PlanInfo, Refusal, TensorSpec,
    container::refuse, gguf::GgmlType,
};

use super::{
    Caveat, FileType, GgufLayout, GgufModel, GgufModelWriter, GgufPlan, Hparams, PlannedTensor,
    Relay, TokenizerFiles,
};

/// One GGUF file, as llama.cpp reads it.
///
/// Carries every [`BlockType`], and symmetric integer grids of 4, 5 and 8 bits with f16 scales and a group size that is a multiple of 32: their
/// codes and scales become q4_0, q5_0 and q8_0 without change. Everything else stays in its float type, vectors and norms in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GgufContainer {
    /// What `general.file_type` says; that of the most frequent block type if `None`.
    pub file_type: Option<FileType>,
    /// Bytes of data after which a new part `-00001-of-00003.gguf` begins; one file if `None`.
    pub split_bytes: Option<u64>,
}

impl GgufContainer {
    /// The blocks that such a matrix becomes.
    fn block_type(
        self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<BlockType, CheckpointError> {
        let no = |refusal| refuse(self.name(), module, refusal);
        let block_type = match scheme {
            Scheme::Block(block_type) => *block_type,
            Scheme::Int(_) if has_group_map => return no(Refusal::BlockGroupMap),
            Scheme::Int(scheme) => match simple(scheme) {
                Some(block_type) => block_type,
                None => return no(Refusal::NoBlocks { grid: Scheme::Int(*scheme).to_string() }),
            },
            other => return no(Refusal::NoBlocks { grid: other.to_string() }),
        };
        match block_type.row_bytes(shape.in_features) {
            Ok(_) => Ok(block_type),
            Err(source) => no(Refusal::Format(source)),
        }
    }
}

/// The block type that an integer grid is, if it is one.
fn simple(scheme: &IntScheme) -> Option<BlockType> {
    let whole_blocks = match scheme.granularity {
        Granularity::Group(size) => size.get() % 32 == 0,
        Granularity::Channel | Granularity::Tensor => true,
    };
    let simple = whole_blocks
        && scheme.symmetry == Symmetry::Symmetric
        && scheme.scale_type == ScaleType::F16;
    match scheme.bits {
        Bits::B4 if simple => Some(BlockType::Q4_0),
        Bits::B5 if simple => Some(BlockType::Q5_0),
        Bits::B8 if simple => Some(BlockType::Q8_0),
        _ => None,
    }
}

impl Container for GgufContainer {
    fn name(&self) -> &'static str {
        "gguf"
    }

    fn scale_type(&self, _model: Dtype) -> ScaleType {
        ScaleType::F16
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        self.block_type(module, shape, scheme, has_group_map).map(drop)
    }

    fn carries_embeddings(&self) -> bool {
        true
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let Ok(block_type) = self.block_type(module, shape, scheme, has_group_map) else {
            return Vec::new();
        };
        let row = shape.in_features / block_type.weights() * block_type.bytes();
        let name = format!("{module}{}", GgufModel::BLOCKS);
        vec![TensorSpec::new(name, Dtype::U8, [shape.out_features, row])]
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let has_group_map = matrix.group_of_column().is_some();
        let block_type = self.block_type(module, shape, &scheme, has_group_map)?;
        let blocks = match matrix.relay(&Scheme::Block(block_type)) {
            Ok(Quantized::Block(blocks)) => blocks,
            Ok(_) => unreachable!("relaid to blocks"),
            Err(misfit) => return refuse(self.name(), module, Refusal::Misfit(misfit)),
        };
        let specs = self.tensors(module, shape, &scheme, has_group_map);
        Ok(specs.into_iter().zip([blocks.into_data()]).collect())
    }

    fn config(&self, _plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        // A GGUF file says of each tensor what it is.
        None
    }

    fn check_model(&self, output: &ModelOutput<'_>) -> Result<Vec<Caveat>, CheckpointError> {
        Ok(self.layout(output)?.caveats().to_vec())
    }

    fn writer(&self, output: &ModelOutput<'_>) -> Result<Box<dyn ModelWriter>, CheckpointError> {
        let layout = self.layout(output)?;
        let writer = GgufModelWriter::create(output.out, layout, self.split_bytes)?;
        Ok(Box::new(writer))
    }
}

impl GgufContainer {
    fn layout(self, output: &ModelOutput<'_>) -> Result<GgufLayout, CheckpointError> {
        // By which readers, this crate among them, know the file.
        if output.out.extension() != Some(OsStr::new("gguf")) {
            return Err(CheckpointError::GgufName { path: output.out.to_owned() });
        }
        let names = Hparams::of_config(output.original.config())?.names();
        let mut tensors = Vec::new();
        for spec in output.specs {
            let blocks = spec.name.strip_suffix(GgufModel::BLOCKS);
            let planned = blocks.and_then(|module| output.plan.module(module));
            tensors.push(match planned {
                Some(m) => {
                    let block = self.block_type(&m.module, m.shape, &m.scheme, m.group_map)?;
                    let name = format!("{}.weight", m.module);
                    let mut shape = vec![m.shape.out_features, m.shape.in_features];
                    if names.to_gguf(&name).is_some_and(|there| there.relay == Relay::Transpose) {
                        // Blocks lie as everywhere, but the model's own matrix the other way round.
                        shape.reverse();
                    }
                    PlannedTensor { name, shape, dtype: Dtype::U8, kind: block.into() }
                }
                None => PlannedTensor {
                    name: spec.name.clone(),
                    shape: spec.shape.clone(),
                    dtype: spec.dtype,
                    kind: match spec.dtype {
                        Dtype::F16 => GgmlType::F16,
                        Dtype::BF16 => GgmlType::BF16,
                        _ => GgmlType::F32,
                    },
                },
            });
        }
        let name = output.original.folder().file_name();
        let tokenizer = match output.original.gguf().map(GgufModel::tokenizer).transpose()? {
            Some(Some((files, _))) => files,
            _ => TokenizerFiles::read(output.original.folder())?,
        };
        let matrices = tensors.iter().filter(|t| t.shape.len() > 1).map(|t| t.kind);
        GgufLayout::new(&GgufPlan {
            config: output.original.config(),
            tokenizer: &tokenizer,
            name: &name.unwrap_or_default().to_string_lossy(),
            file_type: self.file_type.unwrap_or_else(|| FileType::of_kinds(matrices)),
            tensors: &tensors,
        })
    }
}

impl ModelWriter for GgufModelWriter {
    fn write(&mut self, tensor: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        match name_in(self.layout(), tensor) {
            Some(name) => Self::write(self, &name, bytes),
            None => Ok(()),
        }
    }

    fn row_unit(&self, tensor: &str) -> Option<usize> {
        name_in(self.layout(), tensor).and_then(|name| self.layout().row_unit(&name))
    }

    fn write_part(
        &mut self,
        tensor: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        match name_in(self.layout(), tensor) {
            Some(name) => Self::write_part(self, &name, offset, bytes),
            None => Ok(()),
        }
    }

    fn complete(&mut self) -> Result<&Path, CheckpointError> {
        Self::complete(self)
    }

    fn finish(self: Box<Self>) -> Result<(), CheckpointError> {
        Self::finish(*self)?;
        Ok(())
    }
}

/// The name under which the layout knows a tensor. `None` if it left it out: the head of a tied model, or a buffer.
fn name_in<'a>(layout: &GgufLayout, tensor: &'a str) -> Option<Cow<'a, str>> {
    if layout.gguf_name(tensor).is_some() {
        return Some(tensor.into());
    }
    let name = format!("{}.weight", tensor.strip_suffix(GgufModel::BLOCKS)?);
    layout.gguf_name(&name).is_some().then(|| name.into())
}
