//! Grids by name.

use std::num::NonZeroU32;

use fewbit::format::{
    Bits, BlockType, Codebook, CodebookScheme, Float4, Float8, Float8Scheme, Granularity,
    IntScheme, ScaleTile, ScaleType, Scheme, Symmetry,
};

/// What can be written for a grid.
pub const GRIDS: &str = "int4-g128 (2, 3, 4, 5, 6, 8 bits; -g and a group size, -channel or -tensor; -sym), a GGML block type (q4_0, q4_k, iq4_nl, ...), \
nf4, fp4, nf4-double, fp4-double, fp8 (or fp8-e5m2; -channel, -tensor, -g and a group size, -block), mxfp4, nvfp4, llm-int8";

/// A grid by its name. `mxfp4` and `nvfp4` are GGML blocks until [`for_folder`] says otherwise.
pub fn parse_grid(text: &str) -> Result<Scheme, String> {
    let name = text.to_ascii_lowercase();
    if let Some(block_type) = BlockType::from_name(&name) {
        return Ok(Scheme::Block(block_type));
    }
    let codebook = |codebook, double: bool| {
        Scheme::Codebook(CodebookScheme {
            codebook,
            block_size: NonZeroU32::new(64).expect("not zero"),
            double_quant: double.then_some(NonZeroU32::new(256).expect("not zero")),
            value_type: ScaleType::F16,
        })
    };
    match name.as_str() {
        "nf4" => return Ok(codebook(Codebook::Nf4, false)),
        "fp4" => return Ok(codebook(Codebook::Fp4, false)),
        "nf4-double" => return Ok(codebook(Codebook::Nf4, true)),
        "fp4-double" => return Ok(codebook(Codebook::Fp4, true)),
        "llm-int8" => return Ok(Scheme::LlmInt8),
        _ => {}
    }
    integers(&name).or_else(|| float8(&name)).ok_or_else(|| format!("no such grid; one of {GRIDS}"))
}

fn integers(name: &str) -> Option<Scheme> {
    let mut parts = name.strip_prefix("int")?.split('-');
    let bits = Bits::try_from(parts.next()?.parse::<u32>().ok()?).ok()?;
    let mut scheme = IntScheme {
        bits,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(128),
        scale_type: ScaleType::F16,
    };
    for part in parts {
        match part {
            "sym" => scheme.symmetry = Symmetry::Symmetric,
            "channel" => scheme.granularity = Granularity::Channel,
            "tensor" => scheme.granularity = Granularity::Tensor,
            _ => {
                let size: NonZeroU32 = part.strip_prefix('g')?.parse().ok()?;
                scheme.granularity = Granularity::Group(size);
            }
        }
    }
    Some(Scheme::Int(scheme))
}

fn float8(name: &str) -> Option<Scheme> {
    let mut parts = name.split('-');
    if parts.next()? != "fp8" {
        return None;
    }
    let (mut element, mut tile) = (Float8::E4M3, ScaleTile::Channel);
    for part in parts {
        match part {
            "e4m3" => element = Float8::E4M3,
            "e5m2" => element = Float8::E5M2,
            "channel" => tile = ScaleTile::Channel,
            "tensor" => tile = ScaleTile::Tensor,
            "block" => tile = ScaleTile::block(128, 128),
            _ => {
                let size: NonZeroU32 = part.strip_prefix('g')?.parse().ok()?;
                tile = ScaleTile::block(1, size.get());
            }
        }
    }
    Some(Scheme::Float8(Float8Scheme { element, tile, scale_type: ScaleType::F32 }))
}

/// The grid of this name in a model folder, where 4-bit floats are not GGML blocks.
pub fn for_folder(scheme: Scheme) -> Scheme {
    match scheme {
        Scheme::Block(BlockType::Mxfp4) => Scheme::Float4(Float4::Mxfp4),
        Scheme::Block(BlockType::Nvfp4) => Scheme::Float4(Float4::Nvfp4),
        other => other,
    }
}
