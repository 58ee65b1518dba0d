//! Reading what is drawn in the parent module.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Symmetry,
    packing::{Words, from_signed, transpose, unpack_rows},
};
use regex::Regex;

use super::{CLASS, FORMAT, NAME, Settings};
use crate::{
    CheckpointError, ConfigProblem, Dtype, Refusal, TensorSource, config::Keys, container::refuse,
    parts::Parts,
};

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

impl Settings {
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
