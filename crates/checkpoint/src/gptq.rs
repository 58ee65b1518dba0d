//! The GPTQ container (AutoGPTQ, GPTQModel, vLLM, transformers).
//!
//! ```text
//! <module>.qweight  I32  [in·bits/32, out]   codes of consecutive inputs in a word, lowest first
//! <module>.qzeros   I32  [groups, out·bits/32]   zero points of consecutive outputs; version 1: less one
//! <module>.scales   F16  [groups, out]
//! <module>.g_idx    I32  [in]   group of each input, always written
//! <module>.bias          [out]  as in the float model, if it has one
//!
//! word r of an output, 4 bits:  | q[8r+7] | … | q[8r+1] | q[8r] |
//! 3 bits: 32 codes in 3 words, one stream of bits
//! ```
//!
//! `W[out][in] = scales[g][out] · (q[in][out] − zero[g][out])` with `g = g_idx[in]`. A symmetric grid has the zero point `2^(bits − 1)`
//! everywhere. Engines disagree on what a version 1 zero point of 0 (stored as −1) means, so it is never written: see
//! [`Container::least_zero_point`]. It is read as 0, as AutoGPTQ and GPTQModel do.
//!
//! The same settings stand in `quantization_config` of `config.json` and in `quantize_config.json`. Modules that differ from them are listed
//! under `dynamic`: `-:pattern` stays float, `+:pattern` has settings of its own; patterns match from the beginning of the module name.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Scheme, Symmetry, f16,
    packing::{Words, pack_rows, transpose},
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSpec,
    config::patterns,
    container::{HEAD, int_matrix, int_scheme, le_bytes, most_frequent, refuse},
};

mod read;

pub use read::GptqConfig;

/// What a stored zero point means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum GptqVersion {
    /// `checkpoint_format` "gptq": zero points are stored less one. Read by every engine.
    #[default]
    V1,
    /// `checkpoint_format` "gptq_v2": zero points are stored as they are.
    V2,
}

impl GptqVersion {
    /// The value of `checkpoint_format`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "gptq",
            Self::V2 => "gptq_v2",
        }
    }

    /// The version that most engines read right for these schemes: version 1 for symmetric grids of one width of 2, 4 or 8 bits, else
    /// version 2.
    ///
    /// GPTQModel refuses affine files of version 1 that it did not write itself; below version 7 it reads the 3-bit zero points of version 1 with
    /// the fields in the wrong order, and in files of several widths it takes all zero points for fields of the default width.
    pub fn portable<'a>(mut schemes: impl Iterator<Item = &'a IntScheme>) -> Self {
        let mut width = None;
        let mut plain = |s: &IntScheme| {
            s.symmetry == Symmetry::Symmetric
                && s.bits != Bits::B3
                && *width.get_or_insert(s.bits) == s.bits
        };
        if schemes.all(&mut plain) { Self::V1 } else { Self::V2 }
    }

    /// What is subtracted from a zero point before it is stored.
    const fn offset(self) -> u8 {
        match self {
            Self::V1 => 1,
            Self::V2 => 0,
        }
    }
}

/// The GPTQ container, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Gptq {
    /// What stored zero points mean.
    pub version: GptqVersion,
}

/// Widths with a layout that every reader knows.
const WIDTHS: [Bits; 4] = [Bits::B2, Bits::B3, Bits::B4, Bits::B8];
const WIDTH_NAMES: &str = "2, 3, 4 and 8";

impl Container for Gptq {
    fn name(&self) -> &'static str {
        self.version.name()
    }

    fn scale_type(&self, _model: Dtype) -> ScaleType {
        ScaleType::F16
    }

    fn least_zero_point(&self, scheme: &IntScheme) -> u8 {
        match scheme.symmetry {
            Symmetry::Symmetric => 0,
            Symmetry::Affine => self.version.offset(),
        }
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let scheme = int_scheme(self.name(), module, scheme)?;
        let refuse = |refusal| refuse(self.name(), module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        let bits = scheme.bits;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if !WIDTHS.contains(&bits) {
            return refuse(Refusal::Bits { bits, supported: WIDTH_NAMES });
        }
        if scheme.scale_type != ScaleType::F16 {
            let scale_type = scheme.scale_type;
            return refuse(Refusal::ScaleType { scale_type, supported: "f16" });
        }
        match scheme.granularity {
            Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
                let group_size = size.get() as usize;
                return refuse(Refusal::RaggedGroup { in_features, group_size });
            }
            Granularity::Channel if has_group_map => return refuse(Refusal::GroupMap),
            Granularity::Group(_) | Granularity::Channel => {}
            Granularity::Tensor => {
                let remedy = "one per channel or group";
                return refuse(Refusal::Granularity { granularity: "tensor", remedy });
            }
        }
        let multiple = if bits == Bits::B3 { 32 } else { (32 / bits.get()) as usize };
        for (axis, size) in [("input", in_features), ("output", out_features)] {
            if !size.is_multiple_of(multiple) {
                return refuse(Refusal::Words { axis, size, multiple, bits });
            }
        }
        Ok(())
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
        let words = |count| Words::Dense.count(count, scheme.bits);
        let spec = |part, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{part}"), dtype, shape)
        };
        vec![
            spec("qweight", Dtype::I32, &[words(in_features), out]),
            spec("qzeros", Dtype::I32, &[n_groups, words(out)]),
            spec("scales", Dtype::F16, &[n_groups, out]),
            spec("g_idx", Dtype::I32, &[in_features]),
        ]
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let matrix = int_matrix(self.name(), module, matrix)?;
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let MatrixShape { out_features: out, in_features } = shape;
        let (bits, n_groups) = (scheme.bits, matrix.n_groups());
        let map = matrix.group_of_column();
        self.check(module, shape, &scheme.into(), map.is_some())?;
        if let Some(map) = map {
            self.check_group_sizes(module, map, n_groups)?;
        }

        let width = Words::Dense.count(in_features, bits);
        let packed = pack_rows(matrix.codes(), out, in_features, bits, Words::Dense);
        let qweight = transpose(&packed, out, width);
        let offset = self.version.offset();
        let zeros = match scheme.symmetry {
            Symmetry::Symmetric => vec![bits.middle() - offset; n_groups * out],
            Symmetry::Affine => {
                if let Some(i) = matrix.zero_points().iter().position(|&zero| zero < offset) {
                    let (row, group) = (i / n_groups, i % n_groups);
                    let refusal = Refusal::ZeroPoint { row, group, zero_point: 0 };
                    return refuse(self.name(), module, refusal);
                }
                let mut zeros = transpose(matrix.zero_points(), out, n_groups);
                zeros.iter_mut().for_each(|zero| *zero -= offset);
                zeros
            }
        };
        let qzeros = pack_rows(&zeros, n_groups, out, bits, Words::Dense);
        let scales = transpose(matrix.scales(), out, n_groups);
        let g_idx = (0..in_features).map(|column| matrix.group(column) as u32);
        let bytes = [
            le_bytes(qweight, u32::to_le_bytes),
            le_bytes(qzeros, u32::to_le_bytes),
            le_bytes(scales, |scale| f16::from_f32(scale).to_le_bytes()),
            le_bytes(g_idx, u32::to_le_bytes),
        ];
        let specs = self.tensors(module, shape, &scheme.into(), map.is_some());
        Ok(specs.into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let quantized = || {
            plan.modules.iter().filter_map(|m| match m.scheme {
                Scheme::Int(scheme) => Some((m, Settings::of(&scheme))),
                _ => None,
            })
        };
        let default = most_frequent(quantized().map(|(_, settings)| settings))?;
        // The head has a key of its own; left in float it needs no exclusion.
        let head = |module: &str| module == HEAD;
        let excluded = plan.modules.iter().filter(|m| m.scheme == Scheme::Float);
        let excluded = excluded.filter(|m| !head(&m.module)).map(|m| (m, ()));
        let different = quantized().filter(|(_, settings)| *settings != default);
        let mut dynamic = Map::new();
        for (pattern, ()) in patterns(excluded) {
            dynamic.insert(format!("-:{pattern}"), json!({}));
        }
        for (pattern, settings) in patterns(different) {
            dynamic.insert(format!("+:{pattern}"), Value::Object(settings.config()));
        }

        let mut config = Map::new();
        config.insert("quant_method".to_owned(), json!("gptq"));
        config.extend(default.config());
        let rest = json!({
            "desc_act": plan.modules.iter().any(|m| m.group_map),
            "lm_head": quantized().any(|(m, _)| head(&m.module)),
            "checkpoint_format": self.version.name(),
            "format": self.version.name(),
            "pack_dtype": "int32",
            "true_sequential": true,
            "damp_percent": plan.damping.unwrap_or(DAMPING),
            "meta": { "quantizer": [concat!("fewbit:", env!("CARGO_PKG_VERSION"))] },
        });
        let Value::Object(rest) = rest else { unreachable!("an object literal") };
        config.extend(rest);
        if !dynamic.is_empty() {
            config.insert("dynamic".to_owned(), Value::Object(dynamic));
        }
        Some(config)
    }

    fn config_files(&self, config: &Map<String, Value>) -> Vec<(&'static str, Value)> {
        vec![("quantize_config.json", Value::Object(config.clone()))]
    }
}

/// What readers assume where no damping is stated.
const DAMPING: f64 = 0.01;

impl Gptq {
    /// Refuses groups of unequal size: kernels sort the columns by group and then cut them evenly.
    fn check_group_sizes(
        &self,
        module: &str,
        map: &[u32],
        n_groups: usize,
    ) -> Result<(), CheckpointError> {
        let expected = map.len() / n_groups;
        let mut sizes = vec![0; n_groups];
        map.iter().for_each(|&group| sizes[group as usize] += 1);
        match sizes.iter().position(|&size| size != expected) {
            None => Ok(()),
            Some(group) => {
                let refusal = Refusal::UnequalGroups { group, got: sizes[group], expected };
                refuse(self.name(), module, refusal)
            }
        }
    }
}

/// What the configuration says of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    bits: Bits,
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
        Self { bits: scheme.bits, group_size, symmetry: scheme.symmetry }
    }

    fn config(self) -> Map<String, Value> {
        let group_size = self.group_size.map_or(-1, |size| i64::from(size.get()));
        let mut config = Map::new();
        config.insert("bits".to_owned(), json!(self.bits.get()));
        config.insert("group_size".to_owned(), json!(group_size));
        config.insert("sym".to_owned(), json!(self.symmetry == Symmetry::Symmetric));
        config
    }
}
