//! The compressed-tensors container in its `pack-quantized` format (llm-compressor, vLLM, transformers).
//!
//! ```text
//! <module>.weight_packed      I32  [out, ⌈in·bits/32⌉]      codes of consecutive inputs in a word, lowest first
//! <module>.weight_scale       F16, BF16 or F32  [out, groups], one group per channel
//! <module>.weight_shape       I64  [2] = out, in
//! <module>.weight_zero_point  I32  [⌈out·bits/32⌉, groups]  affine only: zero points of consecutive outputs in a word
//! <module>.weight_g_idx       I32  [in]                     group of each input; read, no longer written by anyone
//! <module>.bias                    [out]                    as in the float model, if it has one
//! ```
//!
//! The format thinks of codes and zero points as signed, `q − 2^(bits − 1)`, and packs them as unsigned, which is what a [`QuantMatrix`] holds.
//! Words are one stream of bits. Until 2025, widths that do not divide 32 were packed in whole codes with unused bits on top (3 bits: ten a
//! word): such files are recognised by the number of words and read.
//!
//! Settings are in `config_groups` of `quantization_config`: each names its modules in `targets` (a class name, a module name, or a regular
//! expression after `re:`); `ignore` names those that stay float.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Scheme, Symmetry, bf16, f16,
    packing::{Words, from_signed, pack_rows, transpose, unpack_rows},
};
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, ConfigProblem, Container, Dtype, PlanInfo, Refusal, TensorSource, TensorSpec,
    config::{Keys, patterns},
    container::{le_bytes, most_frequent, refuse},
    parts::Parts,
};

/// The compressed-tensors container in its `pack-quantized` format, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct CompressedTensors;

const NAME: &str = "compressed-tensors";
const FORMAT: &str = "pack-quantized";
/// Class name by which `targets` mean every linear layer.
const CLASS: &str = "Linear";
/// The output layer, which is ignored by name where it stays float.
const HEAD: &str = "lm_head";

impl Container for CompressedTensors {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Scales have the type of the model's weights.
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
        scheme: &IntScheme,
        has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        if has_group_map {
            return refuse(Refusal::GroupMap);
        }
        let bits = scheme.bits;
        let words = |layout: Words| layout.count(in_features, bits);
        if 32 % bits.get() > 0 && words(Words::Dense) == words(Words::Padded) {
            return refuse(Refusal::AmbiguousWords { in_features, bits });
        }
        match scheme.granularity {
            Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
                let group_size = size.get() as usize;
                refuse(Refusal::RaggedGroup { in_features, group_size })
            }
            Granularity::Group(_) | Granularity::Channel => Ok(()),
            Granularity::Tensor => {
                let remedy = "one per channel or group";
                refuse(Refusal::Granularity { granularity: "tensor", remedy })
            }
        }
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &IntScheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let MatrixShape { out_features: out, in_features } = shape;
        let n_groups = scheme.granularity.n_groups(in_features);
        let words = |count| Words::Dense.count(count, scheme.bits);
        let spec = |part, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}.{part}"), dtype, shape)
        };
        let scale = match scheme.scale_type {
            ScaleType::F16 => Dtype::F16,
            ScaleType::BF16 => Dtype::BF16,
            ScaleType::F32 => Dtype::F32,
        };
        let mut specs = vec![
            spec("weight_packed", Dtype::I32, &[out, words(in_features)]),
            spec("weight_scale", scale, &[out, n_groups]),
            spec("weight_shape", Dtype::I64, &[2]),
        ];
        if scheme.symmetry == Symmetry::Affine {
            specs.push(spec("weight_zero_point", Dtype::I32, &[words(out), n_groups]));
        }
        specs
    }

    fn encode(
        &self,
        module: &str,
        matrix: &QuantMatrix,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let MatrixShape { out_features: out, in_features } = shape;
        let has_map = matrix.group_of_column().is_some();
        self.check(module, shape, &scheme, has_map)?;
        let pack = |codes: &[u8], rows, columns| {
            pack_rows(codes, rows, columns, scheme.bits, Words::Dense)
        };

        let scales = matrix.scales().iter().copied();
        let mut bytes = vec![
            le_bytes(pack(matrix.codes(), out, in_features), u32::to_le_bytes),
            match scheme.scale_type {
                ScaleType::F16 => le_bytes(scales, |s| f16::from_f32(s).to_le_bytes()),
                ScaleType::BF16 => le_bytes(scales, |s| bf16::from_f32(s).to_le_bytes()),
                ScaleType::F32 => le_bytes(scales, f32::to_le_bytes),
            },
            le_bytes([out as u64, in_features as u64], u64::to_le_bytes),
        ];
        if scheme.symmetry == Symmetry::Affine {
            let n_groups = matrix.n_groups();
            let words = pack(&transpose(matrix.zero_points(), out, n_groups), n_groups, out);
            let words = transpose(&words, n_groups, Words::Dense.count(out, scheme.bits));
            bytes.push(le_bytes(words, u32::to_le_bytes));
        }
        let specs = self.tensors(module, shape, &scheme, has_map);
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
        let mut groups: Vec<(Settings, Vec<String>)> = vec![(default, Vec::new())];
        for (pattern, settings) in patterns(quantized()) {
            let target = format!("re:{pattern}");
            match groups.iter_mut().find(|(other, _)| *other == settings) {
                Some((_, targets)) => targets.push(target),
                None => groups.push((settings, vec![target])),
            }
        }
        // One scheme for all: by class, which every reader knows. Several: by name, so that no module has two.
        if let [(_, targets)] = &mut groups[..] {
            *targets = vec![CLASS.to_owned()];
        }
        let groups = groups.into_iter().enumerate().map(|(i, (settings, targets))| {
            let group = json!({
                "targets": targets,
                "weights": settings.config(),
                "input_activations": null,
                "output_activations": null,
            });
            (format!("group_{i}"), group)
        });
        let float = plan.modules.iter().filter(|m| m.scheme == Scheme::Float);
        let mut ignore: Vec<&str> = float.map(|m| m.module.as_str()).collect();
        if !plan.modules.iter().any(|m| m.module == HEAD) {
            ignore.push(HEAD);
        }
        let config = json!({
            "quant_method": NAME,
            "format": FORMAT,
            "quantization_status": "compressed",
            "global_compression_ratio": null,
            "kv_cache_scheme": null,
            "ignore": ignore,
            "config_groups": groups.collect::<Map<_, _>>(),
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Some(config)
    }
}

/// What the configuration says of one module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Settings {
    bits: Bits,
    symmetry: Symmetry,
    granularity: Granularity,
}

impl Settings {
    fn of(scheme: &IntScheme) -> Self {
        let IntScheme { bits, symmetry, granularity, .. } = *scheme;
        Self { bits, symmetry, granularity }
    }

    fn config(self) -> Value {
        let group_size = match self.granularity {
            Granularity::Group(size) => Some(size.get()),
            _ => None,
        };
        json!({
            "num_bits": self.bits.get(),
            "type": "int",
            "symmetric": self.symmetry == Symmetry::Symmetric,
            "strategy": self.granularity.name(),
            "group_size": group_size,
            "dynamic": false,
        })
    }

    fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        match keys.text("type")? {
            None | Some("int") => {}
            Some(other) => return Err(keys.unsupported("type", other, "int")),
        }
        let bits = keys.integer("num_bits")?.unwrap_or(8);
        let known = u32::try_from(bits).ok().and_then(|bits| Bits::try_from(bits).ok());
        let bits = known.ok_or_else(|| {
            keys.unsupported("num_bits", &bits.to_string(), "2, 3, 4, 5, 6 and 8")
        })?;
        let symmetry = match keys.boolean("symmetric")? {
            None | Some(true) => Symmetry::Symmetric,
            Some(false) => Symmetry::Affine,
        };
        let group_size = keys.integer("group_size")?;
        let group = || {
            let size = group_size.and_then(|size| u32::try_from(size).ok());
            let size = keys.need("group_size", size.and_then(NonZeroU32::new))?;
            Ok(Granularity::Group(size))
        };
        let granularity = match (keys.text("strategy")?, group_size) {
            (Some("group"), _) | (None, Some(1..)) => group()?,
            (Some("channel"), _) | (None, Some(_)) => Granularity::Channel,
            (Some("tensor"), _) | (None, None) => Granularity::Tensor,
            (Some(other), _) => {
                return Err(keys.unsupported("strategy", other, "group, channel and tensor"));
            }
        };
        Ok(Self { bits, symmetry, granularity })
    }
}

/// What a compressed-tensors configuration says, for reading.
#[derive(Clone, Debug)]
pub struct CompressedTensorsConfig {
    groups: Vec<(Vec<Target>, Settings)>,
}

/// Which modules a group is for.
#[derive(Clone, Debug)]
enum Target {
    /// A module or class by name.
    Name(String),
    /// After `re:`; matches from the beginning of the module name.
    Pattern(Regex),
}

impl CompressedTensorsConfig {
    pub(crate) fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        let format = keys.need("format", keys.text("format")?)?;
        if !matches!(format, FORMAT | "mixed-precision") {
            return Err(keys.unsupported("format", format, FORMAT));
        }
        let config_groups = keys.need("config_groups", keys.object("config_groups")?)?;
        let mut groups = Vec::new();
        for name in config_groups.object.keys() {
            let group = config_groups.need(name, config_groups.object(name)?)?;
            match group.text("format")? {
                None | Some(FORMAT) => {}
                Some(other) => return Err(group.unsupported("format", other, FORMAT)),
            }
            // A group without weights quantizes activations or caches only.
            let Some(weights) = group.object("weights")? else { continue };
            let mut targets = Vec::new();
            for target in group.list("targets")? {
                let Some(target) = target.as_str() else {
                    let problem = ConfigProblem::expected(target, "a text");
                    return Err(group.error("targets", problem));
                };
                targets.push(match target.strip_prefix("re:") {
                    Some(pattern) => Target::Pattern(group.pattern("targets", pattern)?),
                    None => Target::Name(target.to_owned()),
                });
            }
            groups.push((targets, Settings::parse(&weights)?));
        }
        if groups.is_empty() {
            return Err(keys.error("config_groups", ConfigProblem::Missing));
        }
        Ok(Self { groups })
    }

    /// The group that names the module, else the one that names its class.
    fn settings(&self, module: &str) -> Option<Settings> {
        let by_name = |target: &Target| match target {
            Target::Name(name) => name == module,
            Target::Pattern(pattern) => pattern.is_match(module),
        };
        let by_class = |target: &Target| matches!(target, Target::Name(name) if name == CLASS);
        let find = |matches: &dyn Fn(&Target) -> bool| {
            self.groups.iter().find(|(targets, _)| targets.iter().any(matches))
        };
        find(&by_name).or_else(|| find(&by_class)).map(|(_, settings)| *settings)
    }

    pub(crate) fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<QuantMatrix, CheckpointError> {
        let parts = Parts { source, module };
        let [out, width] = parts.matrix("weight_packed")?;
        let Some(Settings { bits, symmetry, granularity }) = self.settings(module) else {
            let (module, tensor) = (module.to_owned(), format!("{module}.weight_packed"));
            let problem = "no config group has it as a target";
            return Err(CheckpointError::Ambiguous { module, tensor, problem });
        };
        let in_features = self.in_features(&parts, out)?;
        let shape = MatrixShape::new(out, in_features);
        if out == 0 || in_features == 0 {
            let refusal = Refusal::Empty { out_features: out, in_features };
            return refuse(NAME, module, refusal);
        }

        let packed = parts.words("weight_packed", [out, width])?;
        let Some(layout) = layout(&packed, width, in_features, bits) else {
            let words = Words::Dense.count(in_features, bits);
            parts.check_shape("weight_packed", &[out, words])?;
            unreachable!("the dense width is a layout");
        };
        let codes = unpack_rows(&packed, out, in_features, bits, layout)
            .map_err(|error| parts.format(error))?;

        let n_groups = granularity.n_groups(in_features);
        let (scales, scale_type) = parts.scales("weight_scale")?;
        if granularity != Granularity::Tensor {
            parts.check_shape("weight_scale", &[out, n_groups])?;
        }
        let zeros = match parts.find("weight_zero_point") {
            None if symmetry == Symmetry::Symmetric => Vec::new(),
            _ => zero_points(&parts, [out, n_groups], bits, layout)?,
        };
        let zeros = match symmetry {
            Symmetry::Affine => zeros,
            Symmetry::Symmetric => {
                parts.check_symmetric(&zeros, n_groups, bits.middle())?;
                Vec::new()
            }
        };
        let map = match parts.find("weight_g_idx") {
            None => None,
            Some(_) => {
                let map = parts.integers("weight_g_idx")?;
                parts.check_shape("weight_g_idx", &[in_features])?;
                // All −1 stands for no map.
                if map.iter().all(|&group| group == -1) {
                    None
                } else {
                    parts.group_map(map, granularity.group_size(in_features), n_groups)?
                }
            }
        };
        let scheme = IntScheme { bits, symmetry, granularity, scale_type };
        QuantMatrix::new(shape, scheme, codes, scales, zeros, map)
            .map_err(|error| parts.format(error))
    }

    /// The number of inputs, from `weight_shape`.
    fn in_features(&self, parts: &Parts<'_>, out: usize) -> Result<usize, CheckpointError> {
        let shape = parts.integers("weight_shape")?;
        match shape[..] {
            [rows, columns] if rows == out as i64 && usize::try_from(columns).is_ok() => {
                Ok(columns as usize)
            }
            _ => {
                let tensor = format!("{}.weight_shape", parts.module);
                Err(CheckpointError::WeightShape { tensor, got: shape, out_features: out })
            }
        }
    }
}

/// How `width` words hold a row of `in_features` codes, if they can at all.
///
/// Where both layouts take as many words (never for multiples of 32, and never in files of ours), the earlier one is recognised by the top bits that it never uses.
fn layout(packed: &[u32], width: usize, in_features: usize, bits: Bits) -> Option<Words> {
    let dense = Words::Dense.count(in_features, bits) == width;
    let padded = Words::Padded.count(in_features, bits) == width;
    let unused = 32 % bits.get();
    match (dense, padded) {
        (true, true) if unused > 0 => {
            let empty = packed.iter().all(|word| word >> (32 - unused) == 0);
            Some(if empty { Words::Padded } else { Words::Dense })
        }
        (true, _) => Some(Words::Dense),
        (false, true) => Some(Words::Padded),
        (false, false) => None,
    }
}

/// Zero points as `(out_features, n_groups)`: packed along the outputs, or (earlier) as signed bytes.
fn zero_points(
    parts: &Parts<'_>,
    [out, n_groups]: [usize; 2],
    bits: Bits,
    layout: Words,
) -> Result<Vec<u8>, CheckpointError> {
    let failed = |error| parts.format(error);
    if parts.info("weight_zero_point")?.dtype == Dtype::I8 {
        let signed = parts.bytes("weight_zero_point", [out, n_groups])?;
        return from_signed(&signed, bits).map_err(failed);
    }
    let height = layout.count(out, bits);
    let words = parts.words("weight_zero_point", [height, n_groups])?;
    let words = transpose(&words, height, n_groups);
    let zeros = unpack_rows(&words, n_groups, out, bits, layout).map_err(failed)?;
    Ok(transpose(&zeros, n_groups, out))
}
