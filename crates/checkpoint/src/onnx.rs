//! Weights in an ONNX file: matrices as initialisers of `MatMulNBits` (operators of Microsoft, onnxruntime), everything else as plain initialisers.
//!
//! ```text
//! MatMulNBits(A, B, scales, zero_points)   K = in, N = out, bits, block_size; Y = A · Wᵀ
//!
//! B            U8   [out, blocks, block_size · bits / 8]   codes of a block along the inputs, lowest bits first; zeros past the last input
//! scales       F32 or F16  [out · blocks]
//! zero_points  U8   [out · ⌈blocks · bits / 8⌉]            packed alike, each output from a new byte; 2^(bits−1) if left out
//! ```
//!
//! `W[out][in] = (q − zero) · scale`, with `blocks = ⌈in / block_size⌉` and a block size that is a power of two from 16 on.
//!
//! A file that is written has a node for each quantized module, with input `<module>.input` and output `<module>.output`, and its initialisers
//! `<module>.weight_Q4` (`_Q2`, `_Q8`), `<module>.weight_scales` and `<module>.weight_zp`; other tensors keep their names, and `config.json` is the
//! property `config.json` of the model. It is no graph of the model, but a place for its weights, and holds less than 2 GiB as all of Protocol Buffers.
//! Files of others are read as far as they consist of such nodes, with initialisers in the file or beside it (`external_data`).

mod file;
mod writer;

use std::{collections::BTreeMap, ffi::OsStr, num::NonZeroU32};

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Quantized, ScaleType, Scheme, Symmetry,
    bf16, f16,
};
use serde_json::{Map, Value};

use crate::{
    CheckpointError, ConfigProblem, Container, Dtype, ModelOutput, ModelWriter, PlanInfo, Refusal,
    TensorSource, TensorSpec,
    container::{int_matrix, int_scheme, le_bytes, refuse},
    gguf_model::Caveat,
};

pub(crate) use file::OnnxFile;

/// An ONNX file of `MatMulNBits` initialisers, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Onnx;

const NAME: &str = "onnx";

/// A node of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MatMulNBits {
    shape: MatrixShape,
    bits: Bits,
    block_size: NonZeroU32,
    codes: String,
    scales: String,
    zero_points: Option<String>,
}

/// The `MatMulNBits` nodes of an ONNX file, for reading.
#[derive(Clone, Debug, Default)]
pub struct OnnxConfig {
    nodes: BTreeMap<String, MatMulNBits>,
}

/// Bytes of so many codes.
fn packed_bytes(codes: usize, bits: Bits) -> usize {
    (codes * bits.get() as usize).div_ceil(8)
}

/// Codes into bytes, lowest bits first.
fn pack(codes: &[u8], bits: Bits, out: &mut [u8]) {
    let (width, per_byte) = (bits.get() as usize, 8 / bits.get() as usize);
    for (codes, byte) in codes.chunks(per_byte).zip(out) {
        *byte = codes.iter().enumerate().fold(0, |byte, (i, code)| byte | code << (i * width));
    }
}

/// Code `i` of packed bytes.
fn code(bytes: &[u8], i: usize, bits: Bits) -> u8 {
    let (width, per_byte) = (bits.get() as usize, 8 / bits.get() as usize);
    bytes[i / per_byte] >> (i % per_byte * width) & bits.max_code()
}

impl Container for Onnx {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scale_type(&self, model: Dtype) -> ScaleType {
        // The type of the activations, for which a CPU has no bf16.
        if model == Dtype::F16 { ScaleType::F16 } else { ScaleType::F32 }
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let IntScheme { bits, granularity, scale_type, .. } = *int_scheme(NAME, module, scheme)?;
        let refuse = |refusal| refuse(NAME, module, refusal);
        if shape.is_empty() {
            let MatrixShape { out_features, in_features } = shape;
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if !matches!(bits, Bits::B2 | Bits::B4 | Bits::B8) {
            return refuse(Refusal::Bits { bits, supported: "2, 4 and 8" });
        }
        if scale_type == ScaleType::BF16 {
            return refuse(Refusal::ScaleType { scale_type, supported: "f32 or f16" });
        }
        if has_group_map {
            return refuse(Refusal::GroupMap);
        }
        let remedy = "a power of two from 16 on";
        match granularity {
            Granularity::Group(size) if size.is_power_of_two() && size.get() >= 16 => Ok(()),
            Granularity::Group(size) => {
                refuse(Refusal::GroupSize { group_size: size.get() as usize, remedy })
            }
            other => refuse(Refusal::Granularity {
                granularity: other.name(),
                remedy: "groups of a power of two from 16 on",
            }),
        }
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let Scheme::Int(scheme) = scheme else { return Vec::new() };
        let MatrixShape { out_features, in_features } = shape;
        let (bits, size) = (scheme.bits, scheme.granularity.group_size(in_features));
        let size = match scheme.granularity {
            // A group that is longer than a row is stored at its full length.
            Granularity::Group(size) => size.get() as usize,
            _ => size,
        };
        let blocks = in_features.div_ceil(size);
        let spec = |part: &str, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.weight_{part}"), dtype, shape)
        };
        let dtype = if scheme.scale_type == ScaleType::F16 { Dtype::F16 } else { Dtype::F32 };
        let codes = format!("Q{}", bits.get());
        let mut specs = vec![
            spec(&codes, Dtype::U8, &[out_features, blocks, packed_bytes(size, bits)]),
            spec("scales", dtype, &[out_features * blocks]),
        ];
        if scheme.symmetry == Symmetry::Affine {
            specs.push(spec("zp", Dtype::U8, &[out_features * packed_bytes(blocks, bits)]));
        }
        specs
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let matrix = int_matrix(NAME, module, matrix)?;
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let has_group_map = matrix.group_of_column().is_some();
        self.check(module, shape, &Scheme::Int(scheme), has_group_map)?;
        let specs = self.tensors(module, shape, &Scheme::Int(scheme), false);
        let (bits, blocks, blob) = (scheme.bits, specs[0].shape[1], specs[0].shape[2]);
        let size = blob * 8 / bits.get() as usize;
        let mut codes = vec![0; shape.out_features * blocks * blob];
        let rows = matrix.codes().chunks(shape.in_features);
        for (row, out) in rows.zip(codes.chunks_mut(blocks * blob)) {
            for (block, out) in row.chunks(size).zip(out.chunks_mut(blob)) {
                pack(block, bits, out);
            }
        }
        let scales = match scheme.scale_type {
            ScaleType::F16 => {
                le_bytes(matrix.scales(), |scale| f16::from_f32(*scale).to_le_bytes())
            }
            _ => le_bytes(matrix.scales(), |scale| scale.to_le_bytes()),
        };
        let mut parts = vec![codes, scales];
        if scheme.symmetry == Symmetry::Affine {
            let row_bytes = packed_bytes(blocks, bits);
            let mut zeros = vec![0; shape.out_features * row_bytes];
            let rows = matrix.zero_points().chunks(blocks).zip(zeros.chunks_mut(row_bytes));
            rows.for_each(|(row, out)| pack(row, bits, out));
            parts.push(zeros);
        }
        Ok(specs.into_iter().zip(parts).collect())
    }

    fn config(&self, _plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        // The nodes say of each module what it is.
        None
    }

    fn check_model(&self, output: &ModelOutput<'_>) -> Result<Vec<Caveat>, CheckpointError> {
        // By which readers, this crate among them, know the file.
        if output.out.extension() != Some(OsStr::new("onnx")) {
            return Err(CheckpointError::OnnxName { path: output.out.to_owned() });
        }
        writer::lay_out(self, output).map(|_| Vec::new())
    }

    fn writer(&self, output: &ModelOutput<'_>) -> Result<Box<dyn ModelWriter>, CheckpointError> {
        Ok(Box::new(writer::OnnxWriter::create(output.out, writer::lay_out(self, output)?)?))
    }
}

impl OnnxConfig {
    /// The modules that have a node.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// Whether a module has a node.
    pub fn holds(&self, module: &str) -> bool {
        self.nodes.contains_key(module)
    }

    /// Reads the weight of a module.
    ///
    /// # Errors
    /// If there is no such node, or an initialiser is missing or does not fit it.
    pub fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<QuantMatrix, CheckpointError> {
        let Some(node) = self.nodes.get(module) else {
            let problem = "is the weight of no MatMulNBits node";
            return Err(CheckpointError::Unexpected { tensor: module.to_owned(), problem });
        };
        let MatMulNBits { shape, bits, block_size, codes, scales, zero_points } = node;
        let (bits, size) = (*bits, block_size.get() as usize);
        let blocks = shape.in_features.div_ceil(size);
        let blob = packed_bytes(size, bits);
        let read = |name: &str, dtype: Option<Dtype>, elements: Option<usize>| {
            let bytes = source.read(name)?;
            let found = source.tensor(name).map_or(Dtype::U8, |info| info.dtype);
            if dtype.is_some_and(|dtype| dtype != found) {
                let (tensor, expected) = (name.to_owned(), "U8");
                return Err(CheckpointError::Dtype { tensor, got: found, expected });
            }
            let expected = elements.map_or(u64::MAX, |n| n as u64 * found.bitsize() as u64 / 8);
            if bytes.len() as u64 != expected {
                let (tensor, got) = (name.to_owned(), bytes.len() as u64);
                return Err(CheckpointError::TensorLength { tensor, got, expected });
            }
            Ok((found, bytes))
        };
        let product = |n: usize| shape.out_features.checked_mul(n);
        let n_codes = blocks.checked_mul(blob).and_then(product);
        let (_, packed) = read(codes, Some(Dtype::U8), n_codes)?;
        let (dtype, scale_bytes) = read(scales, None, product(blocks))?;
        let halves = || scale_bytes.as_chunks().0.iter();
        let (scale_type, scales) = match dtype {
            Dtype::F16 => {
                (ScaleType::F16, halves().map(|&b| f16::from_le_bytes(b).to_f32()).collect())
            }
            Dtype::BF16 => {
                (ScaleType::BF16, halves().map(|&b| bf16::from_le_bytes(b).to_f32()).collect())
            }
            Dtype::F32 => {
                let values = scale_bytes.as_chunks().0.iter();
                (ScaleType::F32, values.map(|&b| f32::from_le_bytes(b)).collect())
            }
            got => {
                let (tensor, expected) = (scales.clone(), "F32, F16 or BF16");
                return Err(CheckpointError::Dtype { tensor, got, expected });
            }
        };
        let zeros = match zero_points {
            None => Vec::new(),
            Some(name) => {
                let row_bytes = packed_bytes(blocks, bits);
                let (_, bytes) = read(name, Some(Dtype::U8), product(row_bytes))?;
                let rows = bytes.chunks_exact(row_bytes.max(1));
                rows.flat_map(|row| (0..blocks).map(move |i| code(row, i, bits))).collect()
            }
        };
        let mut unpacked = Vec::with_capacity(shape.len());
        for row in packed.chunks_exact((blocks * blob).max(1)) {
            // Blocks are whole bytes, so that the codes of a row lie one after another.
            unpacked.extend((0..shape.in_features).map(|i| code(row, i, bits)));
        }
        let scheme = IntScheme {
            bits,
            symmetry: if zero_points.is_some() { Symmetry::Affine } else { Symmetry::Symmetric },
            granularity: Granularity::Group(*block_size),
            scale_type,
        };
        QuantMatrix::new(*shape, scheme, unpacked, scales, zeros, None)
            .map_err(|source| CheckpointError::Format { module: module.to_owned(), source })
    }
}

impl MatMulNBits {
    /// A node from its inputs and attributes; `None` if it lacks one.
    fn new(
        inputs: &[String],
        attributes: &BTreeMap<String, i64>,
        at: &str,
    ) -> Result<Self, CheckpointError> {
        let refuse = |found: String, expected| CheckpointError::TensorValue {
            tensor: at.to_owned(),
            problem: ConfigProblem::Expected { found, expected },
        };
        let attribute = |name: &'static str| attributes.get(name).copied();
        let dimension = |name| attribute(name).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
        let (out_features, in_features) = (dimension("N"), dimension("K"));
        if out_features == 0 || in_features == 0 || out_features.checked_mul(in_features).is_none()
        {
            let found = format!("K {in_features} and N {out_features}");
            return Err(refuse(found, "the features of a matrix"));
        }
        let bits = match attribute("bits").unwrap_or(4) {
            2 => Bits::B2,
            4 => Bits::B4,
            8 => Bits::B8,
            other => return Err(refuse(format!("{other} bits"), "2, 4 or 8 bits")),
        };
        let block_size = attribute("block_size").and_then(|n| u32::try_from(n).ok());
        let Some(block_size) = block_size
            .and_then(NonZeroU32::new)
            .filter(|n| n.is_power_of_two() && (16..=1 << 20).contains(&n.get()))
        else {
            let found = format!("block_size {block_size:?}");
            return Err(refuse(found, "a power of two from 16 on"));
        };
        let input = |i: usize| inputs.get(i).filter(|name| !name.is_empty()).cloned();
        let (Some(codes), Some(scales)) = (input(1), input(2)) else {
            return Err(refuse(format!("{} inputs", inputs.len()), "codes and scales"));
        };
        if input(4).is_some() {
            return Err(refuse("an input g_idx".into(), "groups in the order of the columns"));
        }
        let shape = MatrixShape { out_features, in_features };
        Ok(Self { shape, bits, block_size, codes, scales, zero_points: input(3) })
    }

    /// The module whose codes have this name.
    fn module(&self) -> &str {
        let codes = self.codes.as_str();
        let endings = ["_Q2", "_Q4", "_Q8", "_quant", "_quantized"];
        let name = endings.iter().find_map(|ending| codes.strip_suffix(ending)).unwrap_or(codes);
        name.strip_suffix(".weight").unwrap_or(name)
    }
}
