//! The container of MLX (mlx-lm, LM Studio; Apple's array framework).
//!
//! ```text
//! affine   <module>.weight  U32               [out, in · bits / 32]   one stream of bits a row, lowest first; 2, 3, 4, 5, 6, 8 bits
//!          <module>.scales  F16, BF16, F32    [out, in / group_size]
//!          <module>.biases  like scales       [out, in / group_size]  value of code 0
//!
//! mxfp4    <module>.weight  U32               [out, in / 8]
//!          <module>.scales  U8                [out, in / 32]          E8M0
//! nvfp4    <module>.scales  U8                [out, in / 16]          E4M3
//!
//! all      <module>.bias                      [out]                   as in the float model, if it has one
//! ```
//!
//! `W[out][in] = q · scale + bias` with groups of 32, 64 or 128 that divide the inputs. Settings are in `quantization` of `config.json` (and once more in
//! `quantization_config`): those of the model, and by module name those that differ. A module is quantized if it has scales; embedding and head may be.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use fewbit_format::{
    Bits, Float4, Float4Matrix, MatrixShape, OffsetMatrix, OffsetScheme, Quantized, ScaleType,
    Scheme, bf16, f16,
    packing::{Words, pack_rows, unpack_rows},
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, ConfigProblem, Container, Dtype, PlanInfo, Refusal, TensorSource, TensorSpec,
    config::Keys,
    container::{le_bytes, most_frequent, refuse},
    parts::Parts,
};

/// The container of MLX, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Mlx;

const NAME: &str = "mlx";
/// Groups that its kernels are compiled for.
const GROUPS: [u32; 3] = [32, 64, 128];
/// Where settings stand in `config.json`.
pub(crate) const KEY: &str = "quantization";

/// What the settings of a module name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Affine { bits: Bits, group_size: NonZeroU32 },
    Float4(Float4),
}

impl Mode {
    fn of(scheme: &Scheme) -> Option<Self> {
        match *scheme {
            Scheme::Offset(OffsetScheme { bits, group_size, .. }) => {
                Some(Self::Affine { bits, group_size })
            }
            Scheme::Float4(float) => Some(Self::Float4(float)),
            _ => None,
        }
    }

    const fn bits(self) -> Bits {
        match self {
            Self::Affine { bits, .. } => bits,
            Self::Float4(_) => Bits::B4,
        }
    }

    const fn group_size(self) -> usize {
        match self {
            Self::Affine { group_size, .. } => group_size.get() as usize,
            Self::Float4(float) => float.group_size(),
        }
    }

    fn settings(self) -> Map<String, Value> {
        let name = match self {
            Self::Affine { .. } => "affine",
            Self::Float4(float) => float.name(),
        };
        let (group_size, bits) = (self.group_size(), self.bits().get());
        let settings = json!({ "group_size": group_size, "bits": bits, "mode": name });
        let Value::Object(settings) = settings else { unreachable!("an object literal") };
        settings
    }

    fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        let float = match keys.text("mode")? {
            None | Some("affine") => None,
            Some("mxfp4") => Some(Float4::Mxfp4),
            Some("nvfp4") => Some(Float4::Nvfp4),
            Some(other) => {
                return Err(keys.unsupported("mode", other, "affine, mxfp4 and nvfp4"));
            }
        };
        if let Some(float) = float {
            return Ok(Self::Float4(float));
        }
        let number = |key| keys.need(key, keys.integer(key)?);
        let wrong =
            |key, value: i64, supported| keys.unsupported(key, &value.to_string(), supported);
        let (bits, group) = (number("bits")?, number("group_size")?);
        let width = u32::try_from(bits).ok().and_then(|bits| Bits::try_from(bits).ok());
        let bits = width.ok_or_else(|| wrong("bits", bits, "2, 3, 4, 5, 6 and 8"))?;
        let size = u32::try_from(group).ok().filter(|group| GROUPS.contains(group));
        let group_size = size.and_then(NonZeroU32::new);
        let group_size = group_size.ok_or_else(|| wrong("group_size", group, "32, 64 and 128"))?;
        Ok(Self::Affine { bits, group_size })
    }
}

impl Container for Mlx {
    fn name(&self) -> &'static str {
        NAME
    }

    fn scale_type(&self, model: Dtype) -> ScaleType {
        match model {
            Dtype::F16 => ScaleType::F16,
            Dtype::BF16 => ScaleType::BF16,
            _ => ScaleType::F32,
        }
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        let Some(mode) = Mode::of(scheme) else {
            let supported = "integers with float offsets, mxfp4 and nvfp4";
            return refuse(Refusal::Scheme { scheme: scheme.name(), supported });
        };
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if has_group_map {
            return refuse(Refusal::GroupMap);
        }
        let group_size = mode.group_size();
        if let Mode::Affine { group_size: size, .. } = mode
            && !GROUPS.contains(&size.get())
        {
            return refuse(Refusal::GroupSize { group_size, remedy: "32, 64 or 128" });
        }
        // mxfp4 and nvfp4 fill whole words and groups alike.
        let unit = group_size.max(32);
        if !in_features.is_multiple_of(unit) {
            return refuse(Refusal::RaggedGroup { in_features, group_size: unit });
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
        let Some(mode) = Mode::of(scheme) else { return Vec::new() };
        let MatrixShape { out_features: out, in_features } = shape;
        let spec = |part, dtype, columns| {
            TensorSpec::new(format!("{module}.{part}"), dtype, [out, columns])
        };
        let groups = in_features.div_ceil(mode.group_size());
        let words = Words::Dense.count(in_features, mode.bits());
        let weight = spec("weight", Dtype::U32, words);
        match scheme {
            Scheme::Offset(OffsetScheme { value_type, .. }) => {
                let dtype = match value_type {
                    ScaleType::F16 => Dtype::F16,
                    ScaleType::BF16 => Dtype::BF16,
                    ScaleType::F32 => Dtype::F32,
                };
                vec![weight, spec("scales", dtype, groups), spec("biases", dtype, groups)]
            }
            _ => vec![weight, spec("scales", Dtype::U8, groups)],
        }
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        self.check(module, shape, &scheme, false)?;
        let MatrixShape { out_features, in_features } = shape;
        let words = |codes, bits| {
            let words = pack_rows(codes, out_features, in_features, bits, Words::Dense);
            le_bytes(words, u32::to_le_bytes)
        };
        let bytes = match matrix {
            Quantized::Offset(matrix) => {
                let OffsetScheme { bits, value_type, .. } = matrix.scheme();
                let floats = |values| floats(values, value_type);
                vec![words(matrix.codes(), bits), floats(matrix.scales()), floats(matrix.offsets())]
            }
            Quantized::Float4(matrix) => {
                if matrix.global_scale() != 1.0 {
                    let global_scale = matrix.global_scale();
                    return refuse(NAME, module, Refusal::GlobalScale { global_scale });
                }
                vec![words(matrix.codes(), Bits::B4), matrix.scales().to_vec()]
            }
            _ => unreachable!("refused above"),
        };
        Ok(self.tensors(module, shape, &scheme, false).into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let usual = most_frequent(plan.quantized().filter_map(|m| Mode::of(&m.scheme)))?;
        let mut config = usual.settings();
        for m in plan.quantized() {
            if let Some(own) = Mode::of(&m.scheme).filter(|own| *own != usual) {
                config.insert(m.module.clone(), Value::Object(own.settings()));
            }
        }
        Some(config)
    }

    fn config_keys(&self) -> &'static [&'static str] {
        &[KEY, "quantization_config"]
    }

    fn carries_embeddings(&self) -> bool {
        true
    }
}

/// Values as a file stores them.
fn floats(values: &[f32], value_type: ScaleType) -> Vec<u8> {
    let values = values.iter().copied();
    match value_type {
        ScaleType::F16 => le_bytes(values, |v| f16::from_f32(v).to_le_bytes()),
        ScaleType::BF16 => le_bytes(values, |v| bf16::from_f32(v).to_le_bytes()),
        ScaleType::F32 => le_bytes(values, f32::to_le_bytes),
    }
}

/// What a configuration of MLX says, for reading.
#[derive(Clone, Debug)]
pub struct MlxConfig {
    usual: Mode,
    /// Of the modules that differ.
    own: BTreeMap<String, Mode>,
    file: PathBuf,
}

impl MlxConfig {
    /// Whether an object is one of MLX's, which names a mode but no method.
    pub(crate) fn is_one(object: &Map<String, Value>) -> bool {
        object.contains_key("mode") && !object.contains_key("quant_method")
    }

    /// `file` is for messages.
    pub(crate) fn parse(object: &Map<String, Value>, file: &Path) -> Result<Self, CheckpointError> {
        let keys = Keys::new(object, file);
        let usual = Mode::parse(&keys)?;
        let mut own = BTreeMap::new();
        // Modules with `false` are float, and have no scales either.
        for module in object.iter().filter(|(_, value)| value.is_object()).map(|(name, _)| name) {
            if let Some(keys) = keys.object(module)? {
                own.insert(module.clone(), Mode::parse(&keys)?);
            }
        }
        Ok(Self { usual, own, file: file.to_owned() })
    }

    pub(crate) fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<Quantized, CheckpointError> {
        let mode = *self.own.get(module).unwrap_or(&self.usual);
        let parts = Parts { source, module };
        let ([out_features, groups], [_, n_words]) =
            (parts.matrix("scales")?, parts.matrix("weight")?);
        let Some(in_features) = groups.checked_mul(mode.group_size()) else {
            let group_size = mode.group_size();
            return refuse(
                NAME,
                module,
                Refusal::GroupSize { group_size, remedy: "a smaller one" },
            );
        };
        if out_features == 0 || in_features == 0 {
            return refuse(NAME, module, Refusal::Empty { out_features, in_features });
        }
        let (shape, bits) = (MatrixShape { out_features, in_features }, mode.bits());
        if Words::Dense.count(in_features, bits) != n_words {
            let expected = vec![out_features, Words::Dense.count(in_features, bits)];
            let tensor = format!("{module}.weight");
            return Err(CheckpointError::Shape {
                tensor,
                got: vec![out_features, n_words],
                expected,
            });
        }
        let words = parts.words("weight", [out_features, n_words])?;
        let codes = unpack_rows(&words, out_features, in_features, bits, Words::Dense);
        let codes = codes.map_err(|error| parts.format(error))?;
        let matrix = match mode {
            Mode::Affine { bits, group_size } => {
                let (scales, value_type) = parts.scales("scales")?;
                parts.check_shape("biases", &[out_features, groups])?;
                let (offsets, other) = parts.scales("biases")?;
                if other != value_type {
                    let problem = ConfigProblem::unsupported(other.name(), value_type.name());
                    let (file, key) = (self.file.clone(), format!("{module}.biases"));
                    return Err(CheckpointError::Config { file, key, problem });
                }
                let scheme = OffsetScheme { bits, group_size, value_type };
                OffsetMatrix::new(shape, scheme, codes, scales, offsets).map(Quantized::Offset)
            }
            Mode::Float4(float) => {
                if parts.find("global_scale").is_some() {
                    let key = format!("{module}.global_scale");
                    let problem = ConfigProblem::unsupported("a scale of the matrix", "none");
                    return Err(CheckpointError::Config { file: self.file.clone(), key, problem });
                }
                let scales = parts.typed("scales", &[Dtype::U8], "U8", &[out_features, groups])?;
                Float4Matrix::new(shape, float, codes, scales.into_owned(), 1.0)
                    .map(Quantized::Float4)
            }
        };
        matrix.map_err(|error| parts.format(error))
    }
}
