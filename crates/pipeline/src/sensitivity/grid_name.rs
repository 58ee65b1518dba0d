//! Grids by short names, as plans and command lines have them.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, BlockType, Codebook, CodebookScheme, Float4, Float8, Float8Scheme, Granularity,
    IntScheme, OffsetScheme, ScaleTile, ScaleType, Scheme, Symmetry,
};

/// The name of a grid: `int4-g128`, `int3-g64-sym`, `int4-g64-offset`, `int8-channel`, `q4_k`, `nf4`, `fp8-block128x128`, `float`. Scale types other than the usual ones
/// (f16 for integers and codebooks, f32 for 8-bit floats) follow as in `int4-g128-bf16`.
pub fn grid_name(scheme: &Scheme) -> String {
    match scheme {
        Scheme::Float => "float".into(),
        Scheme::Int(IntScheme { bits, symmetry, granularity, scale_type }) => {
            let mut name = format!("int{}", bits.get());
            name += &match granularity {
                Granularity::Group(size) => format!("-g{size}"),
                other => format!("-{}", other.name()),
            };
            if *symmetry == Symmetry::Symmetric {
                name += "-sym";
            }
            with_scale(name, *scale_type, ScaleType::F16)
        }
        Scheme::Offset(OffsetScheme { bits, group_size, value_type }) => {
            let name = format!("int{}-g{group_size}-offset", bits.get());
            with_scale(name, *value_type, ScaleType::F16)
        }
        Scheme::Codebook(CodebookScheme { codebook, block_size, double_quant, value_type }) => {
            let mut name = codebook.name().to_owned();
            if block_size.get() != 64 {
                name += &format!("-b{block_size}");
            }
            match double_quant {
                Some(size) if size.get() == 256 => name += "-double",
                Some(size) => name += &format!("-double{size}"),
                None => {}
            }
            with_scale(name, *value_type, ScaleType::F16)
        }
        Scheme::Float8(Float8Scheme { element, tile, scale_type }) => {
            let mut name = match element {
                Float8::E4M3 => "fp8".to_owned(),
                _ => "fp8-e5m2".to_owned(),
            };
            name += &match tile {
                ScaleTile::Block { out_features, in_features } => {
                    format!("-block{out_features}x{in_features}")
                }
                other => format!("-{}", other.name()),
            };
            with_scale(name, *scale_type, ScaleType::F32)
        }
        Scheme::Float4(Float4::Mxfp4) => "mxfp4-floats".into(),
        Scheme::Float4(_) => "nvfp4-floats".into(),
        Scheme::LlmInt8 => "llm-int8".into(),
        Scheme::Block(block_type) => block_type.name().into(),
        other => other.name().into(),
    }
}

fn with_scale(name: String, scale_type: ScaleType, usual: ScaleType) -> String {
    if scale_type == usual { name } else { format!("{name}-{}", scale_type.name()) }
}

/// The grid of a name; `None` if there is none. Understands all that [`grid_name`] writes; an integer grid without group size has groups of 128, `fp8-block` has
/// blocks of 128 × 128, and `fp8-g64` is `fp8-block1x64`.
pub fn grid_of_name(name: &str) -> Option<Scheme> {
    let name = name.to_ascii_lowercase();
    if let Some(block_type) = BlockType::from_name(&name) {
        return Some(Scheme::Block(block_type));
    }
    match name.as_str() {
        "float" => return Some(Scheme::Float),
        "llm-int8" => return Some(Scheme::LlmInt8),
        "mxfp4-floats" => return Some(Scheme::Float4(Float4::Mxfp4)),
        "nvfp4-floats" => return Some(Scheme::Float4(Float4::Nvfp4)),
        _ => {}
    }
    let mut parts: Vec<&str> = name.split('-').collect();
    let scale = parts.last().and_then(|last| {
        [ScaleType::F16, ScaleType::BF16, ScaleType::F32].into_iter().find(|t| t.name() == *last)
    });
    if scale.is_some() {
        parts.pop();
    }
    let (first, rest) = parts.split_first()?;
    match *first {
        "nf4" => codebook(Codebook::Nf4, rest, scale),
        "fp4" => codebook(Codebook::Fp4, rest, scale),
        "fp8" => float8(rest, scale),
        other => integers(other.strip_prefix("int")?, rest, scale),
    }
}

fn integers(bits: &str, rest: &[&str], scale: Option<ScaleType>) -> Option<Scheme> {
    let mut scheme = IntScheme {
        bits: Bits::try_from(bits.parse::<u32>().ok()?).ok()?,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(128),
        scale_type: scale.unwrap_or(ScaleType::F16),
    };
    let mut offset = false;
    for part in rest {
        match *part {
            "sym" => scheme.symmetry = Symmetry::Symmetric,
            "channel" => scheme.granularity = Granularity::Channel,
            "tensor" => scheme.granularity = Granularity::Tensor,
            "offset" => offset = true,
            group => scheme.granularity = Granularity::Group(number(group, "g")?),
        }
    }
    let IntScheme { bits, symmetry, granularity, scale_type } = scheme;
    match (offset, symmetry, granularity) {
        (false, ..) => Some(Scheme::Int(scheme)),
        (true, Symmetry::Affine, Granularity::Group(group_size)) => {
            Some(Scheme::Offset(OffsetScheme { bits, group_size, value_type: scale_type }))
        }
        (true, ..) => None,
    }
}

fn codebook(codebook: Codebook, rest: &[&str], scale: Option<ScaleType>) -> Option<Scheme> {
    let mut scheme = CodebookScheme {
        codebook,
        block_size: NonZeroU32::new(64)?,
        double_quant: None,
        value_type: scale.unwrap_or(ScaleType::F16),
    };
    for part in rest {
        match *part {
            "double" => scheme.double_quant = NonZeroU32::new(256),
            other => match number(other, "double") {
                Some(size) => scheme.double_quant = Some(size),
                None => scheme.block_size = number(other, "b")?,
            },
        }
    }
    Some(Scheme::Codebook(scheme))
}

fn float8(rest: &[&str], scale: Option<ScaleType>) -> Option<Scheme> {
    let scale_type = scale.unwrap_or(ScaleType::F32);
    let (mut element, mut tile) = (Float8::E4M3, ScaleTile::Channel);
    for part in rest {
        match *part {
            "e4m3" => element = Float8::E4M3,
            "e5m2" => element = Float8::E5M2,
            "channel" => tile = ScaleTile::Channel,
            "tensor" => tile = ScaleTile::Tensor,
            "block" => tile = ScaleTile::block(128, 128),
            group if group.starts_with('g') => {
                tile = ScaleTile::block(1, number(group, "g")?.get())
            }
            block => {
                let (out_features, in_features) = block.strip_prefix("block")?.split_once('x')?;
                let size = |text: &str| text.parse::<NonZeroU32>().ok().map(NonZeroU32::get);
                tile = ScaleTile::block(size(out_features)?, size(in_features)?);
            }
        }
    }
    Some(Scheme::Float8(Float8Scheme { element, tile, scale_type }))
}

fn number(text: &str, prefix: &str) -> Option<NonZeroU32> {
    text.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_stand_for_whole_names() {
        for (short, name) in [
            ("int4", "int4-g128"),
            ("NF4", "nf4"),
            ("fp8", "fp8-channel"),
            ("fp8-block", "fp8-block128x128"),
            ("fp8-g64", "fp8-block1x64"),
        ] {
            assert_eq!(grid_name(&grid_of_name(short).unwrap()), name);
        }
        for wrong in ["fp8-g0", "fp8-group", "int4-g", "int9", "nf"] {
            assert_eq!(grid_of_name(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn names_lead_back() {
        let names = [
            "int4-g128",
            "int3-g64-sym",
            "int8-channel",
            "int2-tensor-sym-bf16",
            "int5-g32-f32",
            "int4-g64-offset",
            "int3-g32-offset-bf16",
            "q4_k",
            "iq4_nl",
            "mxfp4",
            "nf4",
            "fp4-b128-double",
            "nf4-double64-f32",
            "fp8-channel",
            "fp8-e5m2-tensor",
            "fp8-block128x128-f16",
            "mxfp4-floats",
            "nvfp4-floats",
            "llm-int8",
            "float",
        ];
        for name in names {
            let scheme = grid_of_name(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(grid_name(&scheme), name);
        }
        assert_eq!(grid_of_name("INT4"), grid_of_name("int4-g128"));
        for block_type in BlockType::ALL {
            assert_eq!(grid_of_name(block_type.name()), Some(Scheme::Block(block_type)));
        }
        let bad = [
            "",
            "int",
            "int7",
            "int4-g0",
            "int4-x",
            "int4-g",
            "q9_k",
            "nf4-b",
            "fp8-block0x1",
            "-",
            "int4-g128-f64",
            "int4-channel-offset",
            "int4-sym-offset",
        ];
        assert!(bad.iter().all(|name| grid_of_name(name).is_none()));
    }
}
