//! The AWQ container (AutoAWQ, GPTQModel, vLLM, transformers). The layout "gemm" is written; "gemv" and "gemv_fast" are read as well.
//!
//! ```text
//! gemm       <module>.qweight  I32  [in, out/8]       codes of 8 consecutive outputs in a word, interleaved
//!            <module>.qzeros   I32  [groups, out/8]   zero points, interleaved alike
//!            <module>.scales   F16  [groups, out]
//!
//!            word c of an input:  | q[8c+7] | q[8c+5] | q[8c+3] | q[8c+1] | q[8c+6] | q[8c+4] | q[8c+2] | q[8c] |
//!
//! gemv       <module>.qweight  I32  [out, in/8]       codes of 8 consecutive inputs, lowest first
//!            <module>.qzeros   I32  [out, z]          z: words of the groups, ⌈groups/8⌉, up to a multiple of 2 for groups of 64, of 4 for 32
//!            <module>.scales   F16  [out, 8z]         0 past the last group
//!
//! gemv_fast  <module>.qweight  I16  [out/4, in]       4 outputs interleaved: see `read`; llm-awq writes the same
//!            <module>.qzeros   F16  [8z, out]         −scale · zero_point
//!            <module>.scales   F16  [8z, out]
//!
//! all        <module>.bias          [out]             as in the float model, if it has one
//! ```
//!
//! `W[out][in] = (q − zero) · scale`, with `groups` runs of `group_size` inputs. A symmetric grid has the zero point 8 everywhere, stored all the same; the
//! configuration then says `zero_point: false`.
//!
//! The configuration has one group size for all modules. Those that stay float are listed in `modules_to_not_convert`, of which readers look for any
//! as a part of a module's name.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Scheme, Symmetry, f16,
    packing::{Words, pack_rows, transpose},
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSpec,
    container::{HEAD, check_names, check_same, int_matrix, int_scheme, le_bytes, refuse},
};

mod read;

pub use read::{AwqConfig, AwqLayout};

/// The AWQ container in its layout "gemm", for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Awq;

const NAME: &str = "awq";
/// Codes in a word.
const CODES: usize = 8;
/// The output, of eight, that lies in each field of a word, lowest field first.
const ORDER: [usize; CODES] = [0, 2, 4, 6, 1, 3, 5, 7];

impl Container for Awq {
    fn name(&self) -> &'static str {
        NAME
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
        let scheme = int_scheme(NAME, module, scheme)?;
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        let IntScheme { bits, granularity, scale_type, .. } = *scheme;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if bits != Bits::B4 {
            return refuse(Refusal::Bits { bits, supported: "4" });
        }
        if scale_type != ScaleType::F16 {
            return refuse(Refusal::ScaleType { scale_type, supported: "f16" });
        }
        if has_group_map {
            return refuse(Refusal::GroupMap);
        }
        match granularity {
            Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
                let group_size = size.get() as usize;
                return refuse(Refusal::RaggedGroup { in_features, group_size });
            }
            Granularity::Group(_) | Granularity::Channel => {}
            Granularity::Tensor => {
                let remedy = "one per channel or group";
                return refuse(Refusal::Granularity { granularity: "tensor", remedy });
            }
        }
        if !out_features.is_multiple_of(CODES) {
            let (axis, size, multiple) = ("output", out_features, CODES);
            return refuse(Refusal::Words { axis, size, multiple, bits });
        }
        Ok(())
    }

    fn check_plan(&self, plan: &PlanInfo<'_>) -> Result<(), CheckpointError> {
        check_same(NAME, plan, |m| {
            self.check(&m.module, m.shape, &m.scheme, m.group_map)?;
            int_scheme(NAME, &m.module, &m.scheme).map(Settings::of)
        })?;
        check_names(NAME, plan, |float, quantized| quantized.contains(float))
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let Scheme::Int(scheme) = scheme else { return Vec::new() };
        let MatrixShape { out_features: out, in_features } = shape;
        let n_groups = scheme.granularity.n_groups(in_features);
        let spec = |part, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{part}"), dtype, shape)
        };
        vec![
            spec("qweight", Dtype::I32, &[in_features, out.div_ceil(CODES)]),
            spec("qzeros", Dtype::I32, &[n_groups, out.div_ceil(CODES)]),
            spec("scales", Dtype::F16, &[n_groups, out]),
        ]
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let matrix = int_matrix(NAME, module, matrix)?;
        let (shape, scheme) = (matrix.shape(), Scheme::Int(matrix.scheme()));
        let MatrixShape { out_features: out, in_features } = shape;
        let n_groups = matrix.n_groups();
        self.check(module, shape, &scheme, matrix.group_of_column().is_some())?;
        let pack = |mut codes: Vec<u8>, rows| {
            for word in codes.as_chunks_mut::<CODES>().0 {
                *word = ORDER.map(|output| word[output]);
            }
            le_bytes(pack_rows(&codes, rows, out, Bits::B4, Words::Dense), u32::to_le_bytes)
        };
        let zeros = match matrix.scheme().symmetry {
            Symmetry::Symmetric => vec![Bits::B4.middle(); n_groups * out],
            Symmetry::Affine => transpose(matrix.zero_points(), out, n_groups),
        };
        let scales = transpose(matrix.scales(), out, n_groups);
        let bytes = [
            pack(transpose(matrix.codes(), out, in_features), in_features),
            pack(zeros, n_groups),
            le_bytes(scales, |scale| f16::from_f32(scale).to_le_bytes()),
        ];
        Ok(self.tensors(module, shape, &scheme, false).into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let first = plan.quantized().find_map(|m| match &m.scheme {
            Scheme::Int(scheme) => Some(Settings::of(scheme)),
            _ => None,
        })?;
        let mut float: Vec<&str> = plan.float().map(|m| m.module.as_str()).collect();
        if !float.is_empty() && !float.contains(&HEAD) {
            float.push(HEAD);
        }
        let config = json!({
            "quant_method": NAME,
            "bits": Bits::B4.get(),
            "group_size": first.group_size.map_or(-1, |size| i64::from(size.get())),
            "zero_point": first.symmetry == Symmetry::Affine,
            "version": AwqLayout::Gemm.name(),
            "modules_to_not_convert": if float.is_empty() { Value::Null } else { json!(float) },
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Some(config)
    }
}

/// What the configuration says of all modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    /// `None`: one group per row, −1 in files.
    group_size: Option<NonZeroU32>,
    symmetry: Symmetry,
}

impl Settings {
    fn of(scheme: &IntScheme) -> Self {
        let group_size = match scheme.granularity {
            Granularity::Group(size) => Some(size),
            _ => None,
        };
        Self { group_size, symmetry: scheme.symmetry }
    }

    fn granularity(self) -> Granularity {
        self.group_size.map_or(Granularity::Channel, Granularity::Group)
    }
}
