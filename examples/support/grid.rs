//! Grids by name.

use fewbit::{
    format::{BlockType, Float4, Scheme},
    pipeline::sensitivity::grid_of_name,
};

/// What can be written for a grid.
pub const GRIDS: &str = "int4-g128 (2, 3, 4, 5, 6, 8 bits; -g and a group size, -channel or -tensor; -sym or -offset), a GGML block type (q4_0, q4_k, iq4_nl, ...), \
nf4, fp4, nf4-double, fp4-double, fp8 (or fp8-e5m2; -channel, -tensor, -g and a group size, -block), mxfp4, nvfp4, llm-int8";

/// A grid by its name. `mxfp4` and `nvfp4` are GGML blocks until [`for_folder`] says otherwise.
pub fn parse_grid(text: &str) -> Result<Scheme, String> {
    let grid = grid_of_name(text).filter(|grid| *grid != Scheme::Float);
    grid.ok_or_else(|| format!("no such grid; one of {GRIDS}"))
}

/// The grid of this name in a model folder, where 4-bit floats are not GGML blocks.
pub fn for_folder(scheme: Scheme) -> Scheme {
    match scheme {
        Scheme::Block(BlockType::Mxfp4) => Scheme::Float4(Float4::Mxfp4),
        Scheme::Block(BlockType::Nvfp4) => Scheme::Float4(Float4::Nvfp4),
        other => other,
    }
}
