//! Changes between grids of floats.

use alloc::{vec, vec::Vec};

use super::Misfit;
use crate::{
    Absmax, BlockMatrix, BlockType, CodebookMatrix, CodebookScheme, Float4, Float4Matrix,
    Float8Matrix, Float8Scheme, Scheme,
};

fn different<T>(from: &Scheme, to: &Scheme) -> Result<T, Misfit> {
    Err(Misfit::Grids { from: from.name(), to: to.name() })
}

/// 8-bit floats under tiles that lie within those of the source.
pub(super) fn float8(matrix: &Float8Matrix, target: Float8Scheme) -> Result<Float8Matrix, Misfit> {
    let (shape, source) = (matrix.shape(), matrix.scheme());
    if source.element != target.element {
        return different(&Scheme::Float8(source), &Scheme::Float8(target));
    }
    let ([rows, columns], [down, across]) = (target.tile.size(shape), target.tile.count(shape));
    let ([source_rows, source_columns], [_, source_across]) =
        (source.tile.size(shape), source.tile.count(shape));
    let mut scales = Vec::with_capacity(down * across);
    for row in (0..shape.out_features).step_by(rows) {
        for column in (0..shape.in_features).step_by(columns) {
            let last_row = (row + rows).min(shape.out_features) - 1;
            let last_column = (column + columns).min(shape.in_features) - 1;
            if row / source_rows != last_row / source_rows {
                return Err(Misfit::Groups { from: source_rows, to: rows });
            }
            if column / source_columns != last_column / source_columns {
                return Err(Misfit::Groups { from: source_columns, to: columns });
            }
            let at = row / source_rows * source_across + column / source_columns;
            let scale = matrix.scales()[at];
            if target.scale_type.round(scale) != scale {
                let (group, scale_type) = (column / columns, target.scale_type.name());
                return Err(Misfit::Scale { row, group, scale, scale_type });
            }
            scales.push(scale);
        }
    }
    Ok(Float8Matrix::new(shape, target, matrix.codes().to_vec(), scales)?)
}

/// Codes of a codebook under smaller blocks, or under magnitudes that are no longer quantized.
pub(super) fn codebook(
    matrix: &CodebookMatrix,
    target: CodebookScheme,
) -> Result<CodebookMatrix, Misfit> {
    let (shape, source) = (matrix.shape(), matrix.scheme());
    let same = source.codebook == target.codebook;
    if !same || target.double_quant.is_some() && target.double_quant != source.double_quant {
        return different(&Scheme::Codebook(source), &Scheme::Codebook(target));
    }
    let [from, to] = [source, target].map(|scheme| scheme.block_size.get() as usize);
    let absmax = match target.double_quant {
        Some(_) if from == to => matrix.absmax().clone(),
        Some(_) => return Err(Misfit::Groups { from, to }),
        None => {
            let magnitudes = matrix.magnitudes();
            let starts = (0..shape.len()).step_by(to);
            let within = |&at: &usize| at / from == ((at + to).min(shape.len()) - 1) / from;
            if !starts.clone().all(|at| within(&at)) {
                return Err(Misfit::Groups { from, to });
            }
            Absmax::Plain(starts.map(|at| magnitudes[at / from]).collect())
        }
    };
    Ok(CodebookMatrix::new(shape, target, matrix.codes().to_vec(), absmax)?)
}

/// How a block type holds 4-bit floats: the scheme of its elements and scales, groups in a block.
///
/// Both have the scales of the groups first, then for each group its codes, the first half of them in the low nibbles.
fn block_layout(block_type: BlockType) -> Option<(Float4, usize)> {
    match block_type {
        BlockType::Mxfp4 => Some((Float4::Mxfp4, 1)),
        BlockType::Nvfp4 => Some((Float4::Nvfp4, 4)),
        _ => None,
    }
}

/// GGML blocks of 4-bit floats. Their scales have no sign and nothing that divides them all.
pub(super) fn to_blocks(
    matrix: &Float4Matrix,
    block_type: BlockType,
) -> Result<BlockMatrix, Misfit> {
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    let refused = || different(&Scheme::Float4(scheme), &Scheme::Block(block_type));
    let Some((_, groups)) = block_layout(block_type).filter(|(inner, _)| *inner == scheme) else {
        return refused();
    };
    let signed = scheme == Float4::Nvfp4 && matrix.scales().iter().any(|scale| scale & 0x80 != 0);
    if signed || matrix.global_scale() != 1.0 {
        return refused();
    }
    let row_bytes = block_type.row_bytes(shape.in_features)?;
    let size = scheme.group_size();
    let mut data = Vec::with_capacity(row_bytes * shape.out_features);
    for (codes, scales) in matrix.codes().chunks(size * groups).zip(matrix.scales().chunks(groups))
    {
        data.extend(scales);
        for codes in codes.chunks(size) {
            let (low, high) = codes.split_at(size / 2);
            data.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        }
    }
    Ok(BlockMatrix::new(shape, block_type, data)?)
}

/// Groups of 4-bit floats from GGML blocks.
pub(super) fn from_blocks(matrix: &BlockMatrix, target: Float4) -> Result<Float4Matrix, Misfit> {
    let (shape, block_type) = (matrix.shape(), matrix.block_type());
    let Some((_, groups)) = block_layout(block_type).filter(|(inner, _)| *inner == target) else {
        return different(&Scheme::Block(block_type), &Scheme::Float4(target));
    };
    let size = target.group_size();
    let mut codes = vec![0; shape.len()];
    let mut scales = Vec::with_capacity(shape.len() / size);
    let blocks = matrix.data().chunks(block_type.bytes());
    for (block, codes) in blocks.zip(codes.chunks_mut(size * groups)) {
        let (block_scales, packed) = block.split_at(groups);
        // Bit 7 of an NVFP4 scale does not count, and all ones below it are zero.
        scales.extend(block_scales.iter().map(|&scale| match (target, scale & 0x7f) {
            (Float4::Mxfp4, _) => scale,
            (Float4::Nvfp4, 0x7f) => 0,
            (Float4::Nvfp4, scale) => scale,
        }));
        for (codes, packed) in codes.chunks_mut(size).zip(packed.chunks(size / 2)) {
            let (low, high) = codes.split_at_mut(size / 2);
            for ((low, high), byte) in low.iter_mut().zip(high).zip(packed) {
                (*low, *high) = (byte & 15, byte >> 4);
            }
        }
    }
    Ok(Float4Matrix::new(shape, target, codes, scales, 1.0)?)
}
