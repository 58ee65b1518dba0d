//! What the configuration says of one module.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Float4, Float8Scheme, Granularity, IntScheme, ScaleTile, Scheme, Symmetry,
};
use serde_json::{Value, json};

use super::IntLayout;
use crate::{
    CheckpointError,
    config::{Keys, block_size},
};

/// Format and grid of a module; only the type of the scales is left to the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settings {
    /// An integer grid, in words or bytes.
    Int { packed: bool, bits: Bits, symmetry: Symmetry, granularity: Granularity },
    /// 8-bit floats.
    Float8(ScaleTile),
    /// 4-bit floats.
    Float4(Float4),
}

const FORMATS: &str = "pack-quantized, int-quantized, float-quantized, naive-quantized, mxfp4-pack-quantized and nvfp4-pack-quantized";

impl Settings {
    /// The settings that write a scheme; `None` for float and for what the container refuses.
    pub(super) fn of(scheme: &Scheme, integers: IntLayout) -> Option<Self> {
        match *scheme {
            Scheme::Int(IntScheme { bits, symmetry, granularity, .. }) => {
                let packed = integers == IntLayout::Packed;
                Some(Self::Int { packed, bits, symmetry, granularity })
            }
            Scheme::Float8(Float8Scheme { tile, .. }) => Some(Self::Float8(tile)),
            Scheme::Float4(scheme) => Some(Self::Float4(scheme)),
            _ => None,
        }
    }

    /// The value of `format`.
    pub(super) fn format(self, naive: bool) -> &'static str {
        match self {
            Self::Int { packed: true, .. } => "pack-quantized",
            Self::Float4(Float4::Mxfp4) => "mxfp4-pack-quantized",
            Self::Float4(Float4::Nvfp4) => "nvfp4-pack-quantized",
            _ if naive => "naive-quantized",
            Self::Int { .. } => "int-quantized",
            Self::Float8(_) => "float-quantized",
        }
    }

    /// The value of `weights` in a config group.
    pub(super) fn config(self) -> Value {
        let (num_bits, kind, symmetric, strategy, group_size) = match self {
            Self::Int { bits, symmetry, granularity, .. } => {
                let group_size = match granularity {
                    Granularity::Group(size) => Some(size.get()),
                    _ => None,
                };
                let symmetric = symmetry == Symmetry::Symmetric;
                (bits.get(), "int", symmetric, granularity.name(), group_size)
            }
            Self::Float8(tile) => {
                let group_size = match tile {
                    ScaleTile::Block { in_features, .. } if tile.name() == "group" => {
                        Some(in_features.get())
                    }
                    _ => None,
                };
                (8, "float", true, tile.name(), group_size)
            }
            Self::Float4(scheme) => {
                let strategy = match scheme {
                    Float4::Mxfp4 => "group",
                    Float4::Nvfp4 => "tensor_group",
                };
                (4, "float", true, strategy, Some(scheme.group_size() as u32))
            }
        };
        let mut config = json!({
            "num_bits": num_bits,
            "type": kind,
            "symmetric": symmetric,
            "strategy": strategy,
            "group_size": group_size,
            "dynamic": false,
        });
        match self {
            Self::Float8(ScaleTile::Block { out_features, in_features })
                if group_size.is_none() =>
            {
                config["block_structure"] = json!([out_features, in_features]);
            }
            Self::Float4(Float4::Mxfp4) => config["scale_dtype"] = json!("torch.uint8"),
            Self::Float4(Float4::Nvfp4) => config["scale_dtype"] = json!("torch.float8_e4m3fn"),
            _ => {}
        }
        config
    }

    /// Reads the `weights` of a config group of this format; `group` is the whole group, for messages.
    pub(super) fn parse(
        format: &str,
        weights: &Keys<'_>,
        group: &Keys<'_>,
    ) -> Result<Self, CheckpointError> {
        let kind = weights.text("type")?.unwrap_or("int");
        match format {
            "pack-quantized" | "int-quantized" => match kind {
                "int" => Self::parse_int(weights, format == "pack-quantized"),
                other => Err(weights.unsupported("type", other, "int, by the format")),
            },
            "float-quantized" => match kind {
                "float" => Self::parse_float8(weights),
                other => Err(weights.unsupported("type", other, "float, by the format")),
            },
            "naive-quantized" => match kind {
                "int" => Self::parse_int(weights, false),
                "float" => Self::parse_float8(weights),
                other => Err(weights.unsupported("type", other, "int and float")),
            },
            "mxfp4-pack-quantized" => Self::parse_float4(weights, Float4::Mxfp4),
            "nvfp4-pack-quantized" => Self::parse_float4(weights, Float4::Nvfp4),
            other => Err(group.unsupported("format", other, FORMATS)),
        }
    }

    fn parse_int(keys: &Keys<'_>, packed: bool) -> Result<Self, CheckpointError> {
        let bits = keys.integer("num_bits")?.unwrap_or(8);
        let known = u32::try_from(bits).ok().and_then(|bits| Bits::try_from(bits).ok());
        let bits = known.ok_or_else(|| {
            keys.unsupported("num_bits", &bits.to_string(), "2, 3, 4, 5, 6 and 8")
        })?;
        let symmetry = match keys.boolean("symmetric")? {
            None | Some(true) => Symmetry::Symmetric,
            Some(false) => Symmetry::Affine,
        };
        let granularity = match Strategy::parse(keys)? {
            Strategy::Tensor => Granularity::Tensor,
            Strategy::Channel => Granularity::Channel,
            Strategy::Group(size) => Granularity::Group(size),
            Strategy::Other(other) => {
                return Err(keys.unsupported("strategy", other, "group, channel and tensor"));
            }
        };
        Ok(Self::Int { packed, bits, symmetry, granularity })
    }

    fn parse_float8(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        width(keys, 8)?;
        let tile = match Strategy::parse(keys)? {
            Strategy::Tensor => ScaleTile::Tensor,
            Strategy::Channel => ScaleTile::Channel,
            Strategy::Group(size) => {
                ScaleTile::Block { out_features: NonZeroU32::MIN, in_features: size }
            }
            Strategy::Other("block") => {
                let [out_features, in_features] = block_size(keys, "block_structure")?;
                ScaleTile::Block { out_features, in_features }
            }
            Strategy::Other(other) => {
                let supported = "group, channel, tensor and block";
                return Err(keys.unsupported("strategy", other, supported));
            }
        };
        Ok(Self::Float8(tile))
    }

    fn parse_float4(keys: &Keys<'_>, scheme: Float4) -> Result<Self, CheckpointError> {
        width(keys, 4)?;
        match keys.integer("group_size")? {
            Some(size) if size == scheme.group_size() as i64 => Ok(Self::Float4(scheme)),
            size => {
                let found = size.map_or("null".to_owned(), |size| size.to_string());
                let supported = match scheme {
                    Float4::Mxfp4 => "32",
                    Float4::Nvfp4 => "16",
                };
                Err(keys.unsupported("group_size", &found, supported))
            }
        }
    }
}

/// Refuses other widths than `bits`.
fn width(keys: &Keys<'_>, bits: i64) -> Result<(), CheckpointError> {
    match keys.integer("num_bits")?.unwrap_or(8) {
        found if found == bits => Ok(()),
        found => {
            let supported = if bits == 8 { "8" } else { "4" };
            Err(keys.unsupported("num_bits", &found.to_string(), supported))
        }
    }
}

/// How many weights share a scale; inferred from the group size if it is not given.
enum Strategy<'a> {
    Tensor,
    Channel,
    Group(NonZeroU32),
    Other(&'a str),
}

impl<'a> Strategy<'a> {
    fn parse(keys: &Keys<'a>) -> Result<Self, CheckpointError> {
        let group_size = keys.integer("group_size")?;
        let group = || {
            let size = group_size.and_then(|size| u32::try_from(size).ok());
            keys.need("group_size", size.and_then(NonZeroU32::new)).map(Self::Group)
        };
        match (keys.text("strategy")?, group_size) {
            (Some("group"), _) | (None, Some(1..)) => group(),
            (Some("channel"), _) | (None, Some(_)) => Ok(Self::Channel),
            (Some("tensor"), _) | (None, None) => Ok(Self::Tensor),
            (Some(other), _) => Ok(Self::Other(other)),
        }
    }
}
