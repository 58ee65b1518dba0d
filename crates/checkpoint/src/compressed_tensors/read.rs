//! Reading the configuration, and with it the formats that the parent module draws.

use fewbit_format::Quantized;
use regex::Regex;

use super::{CLASS, MIXED, bytes, float4, pack, settings::Settings};
use crate::{CheckpointError, ConfigProblem, TensorSource, config::Keys, parts::Parts};

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
        let common = keys.need("format", keys.text("format")?)?;
        let config_groups = keys.need("config_groups", keys.object("config_groups")?)?;
        let mut groups = Vec::new();
        for name in config_groups.object.keys() {
            let group = config_groups.need(name, config_groups.object(name)?)?;
            // A group without weights quantizes activations or caches only.
            let Some(weights) = group.object("weights")? else { continue };
            let settings = match group.text("format")? {
                Some(format) => Settings::parse(format, &weights, &group)?,
                None if common == MIXED => {
                    return Err(group.error("format", ConfigProblem::Missing));
                }
                None => Settings::parse(common, &weights, keys)?,
            };
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
            groups.push((targets, settings));
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
    ) -> Result<Quantized, CheckpointError> {
        let parts = Parts { source, module };
        let Some(settings) = self.settings(module) else {
            let (module, tensor) = (module.to_owned(), format!("{module}.weight_scale"));
            let problem = "no config group has it as a target";
            return Err(CheckpointError::Ambiguous { module, tensor, problem });
        };
        Ok(match settings {
            Settings::Int { packed: true, bits, symmetry, granularity } => {
                pack::decode(&parts, bits, symmetry, granularity)?.into()
            }
            Settings::Int { packed: false, bits, symmetry, granularity } => {
                bytes::decode_int(&parts, bits, symmetry, granularity)?.into()
            }
            Settings::Float8(tile) => bytes::decode_float8(&parts, tile)?.into(),
            Settings::Float4(scheme) => float4::decode(&parts, scheme)?.into(),
        })
    }
}
