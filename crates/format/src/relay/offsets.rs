//! Integers with float offsets from and to integer grids, q4_1 and q5_1.

use alloc::{vec, vec::Vec};

use super::{Misfit, integers};
use crate::{
    BlockMatrix, BlockType, Granularity, IntScheme, OffsetMatrix, OffsetScheme, QuantMatrix,
    Symmetry, block::Codes,
};

/// Products of a code and a scale of these bits, and their sums, are exact in f32: eight bits of the mantissa are free for the code.
fn exact(scale: f32) -> bool {
    scale.to_bits() & 0xff == 0
}

/// From an integer grid.
pub(super) fn from_integers(
    matrix: &QuantMatrix,
    target: OffsetScheme,
) -> Result<OffsetMatrix, Misfit> {
    if matrix.group_of_column().is_some() {
        return Err(Misfit::GroupMap);
    }
    let scheme = IntScheme {
        bits: target.bits,
        symmetry: Symmetry::Affine,
        granularity: Granularity::Group(target.group_size),
        scale_type: target.value_type,
    };
    let matrix = integers(matrix, scheme)?;
    let mut offsets = Vec::with_capacity(matrix.scales().len());
    for (block, (&scale, &zero)) in matrix.scales().iter().zip(matrix.zero_points()).enumerate() {
        let minimum = 0.0 - f32::from(zero) * scale;
        if !exact(scale) || target.value_type.round(minimum) != minimum {
            return Err(Misfit::Minimum { block, minimum, scale });
        }
        offsets.push(minimum);
    }
    let (codes, scales) = (matrix.codes().to_vec(), matrix.scales().to_vec());
    Ok(OffsetMatrix::new(matrix.shape(), target, codes, scales, offsets)?)
}

/// To an integer grid: offsets have to be whole numbers of steps below zero.
pub(super) fn to_integers(matrix: &OffsetMatrix, target: IntScheme) -> Result<QuantMatrix, Misfit> {
    let (shape, OffsetScheme { bits, group_size, value_type }) = (matrix.shape(), matrix.scheme());
    let source = IntScheme {
        bits,
        symmetry: Symmetry::Affine,
        granularity: Granularity::Group(group_size),
        scale_type: value_type,
    };
    let max = bits.max_code();
    let mut codes = matrix.codes().to_vec();
    let (mut scales, mut zeros) = (Vec::new(), Vec::new());
    let rows = codes.chunks_mut(shape.in_features.max(1));
    let groups = rows.flat_map(|row| row.chunks_mut(group_size.get() as usize));
    let params = matrix.scales().iter().zip(matrix.offsets());
    for (block, (codes, (&scale, &minimum))) in groups.zip(params).enumerate() {
        let zero = -minimum / scale;
        let whole = (0.0..=f32::from(max)).contains(&zero) && zero as u8 as f32 == zero;
        if !whole || !exact(scale) || zero * scale != -minimum {
            return Err(Misfit::Minimum { block, minimum, scale });
        }
        let zero = zero as u8;
        if scale > 0.0 {
            scales.push(scale);
            zeros.push(zero);
        } else {
            // Integer grids count upwards.
            codes.iter_mut().for_each(|code| *code = max - *code);
            scales.push(-scale);
            zeros.push(max - zero);
        }
    }
    integers(&QuantMatrix::new(shape, source, codes, scales, zeros, None)?, target)
}

/// From q4_1 or q5_1.
pub(super) fn from_blocks(
    matrix: &BlockMatrix,
    target: OffsetScheme,
) -> Result<OffsetMatrix, Misfit> {
    let block_type = matrix.block_type();
    let (from, to) = (block_type.name(), "integers with float offsets");
    let minimum =
        Codes::kind(block_type).filter(|(bits, minimum)| *minimum && *bits == target.bits);
    if minimum.is_none() {
        return Err(Misfit::Grids { from, to });
    }
    let size = target.group_size.get() as usize;
    if 32 % size != 0 {
        return Err(Misfit::Groups { from: 32, to: size });
    }
    let shape = matrix.shape();
    let n_groups = target.n_groups(shape.in_features);
    let mut codes = Vec::with_capacity(shape.len());
    let (mut scales, mut offsets) = (Vec::new(), Vec::new());
    for (i, block) in matrix.data().chunks_exact(block_type.bytes()).enumerate() {
        let block = Codes::read(block_type, block);
        let offset = block.minimum.unwrap_or_default();
        if target.value_type.round(block.scale) != block.scale {
            let (row, group) = (i * 32 / shape.in_features, i * (32 / size) % n_groups.max(1));
            let (scale, scale_type) = (block.scale, target.value_type.name());
            return Err(Misfit::Scale { row, group, scale, scale_type });
        }
        if target.value_type.round(offset) != offset {
            return Err(Misfit::Minimum { block: i, minimum: offset, scale: block.scale });
        }
        codes.extend(block.codes);
        for _ in 0..32 / size {
            scales.push(block.scale);
            offsets.push(offset);
        }
    }
    Ok(OffsetMatrix::new(shape, target, codes, scales, offsets)?)
}

/// To q4_1 or q5_1.
pub(super) fn to_blocks(matrix: &OffsetMatrix, target: BlockType) -> Result<BlockMatrix, Misfit> {
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    let size = scheme.group_size.get() as usize;
    if Codes::kind(target) != Some((scheme.bits, true)) {
        let (from, to) = ("integers with float offsets", target.name());
        return Err(Misfit::Grids { from, to });
    }
    let row_bytes = target.row_bytes(shape.in_features)?;
    if !size.is_multiple_of(32) && size < shape.in_features {
        return Err(Misfit::Groups { from: size, to: 32 });
    }
    let half = crate::ScaleType::F16;
    let n_groups = scheme.n_groups(shape.in_features);
    let mut data = vec![0; row_bytes * shape.out_features];
    let blocks = data.chunks_exact_mut(target.bytes()).zip(matrix.codes().as_chunks().0);
    for (i, (block, &codes)) in blocks.enumerate() {
        let (row, column) = (i * 32 / shape.in_features, i * 32 % shape.in_features);
        let group = column / size;
        let scale = matrix.scales()[row * n_groups + group];
        let minimum = matrix.offsets()[row * n_groups + group];
        if half.round(scale) != scale {
            return Err(Misfit::Scale { row, group, scale, scale_type: half.name() });
        }
        if half.round(minimum) != minimum {
            return Err(Misfit::Minimum { block: i, minimum, scale });
        }
        Codes { scale, minimum: Some(minimum), codes }.write(target, block);
    }
    Ok(BlockMatrix::new(shape, target, data)?)
}

/// On another grid of the kind: groups of the target within groups of the source, values of the target's type, enough bits.
pub(super) fn to_offsets(
    matrix: &OffsetMatrix,
    target: OffsetScheme,
) -> Result<OffsetMatrix, Misfit> {
    let (shape, source) = (matrix.shape(), matrix.scheme());
    let n = shape.in_features;
    let [from, to] = [source, target].map(|scheme| scheme.group_size.get() as usize);
    if from < n && from % to != 0 {
        return Err(Misfit::Groups { from, to });
    }
    if target.bits < source.bits {
        let (low, high) = (0, i16::from(source.bits.max_code()));
        return Err(Misfit::Range { row: 0, group: 0, low, high, bits: target.bits.get() });
    }
    let (before, after) = (source.n_groups(n), target.n_groups(n));
    let (mut scales, mut offsets) = (Vec::new(), Vec::new());
    for row in 0..shape.out_features {
        for group in 0..after {
            let i = row * before + group * to / from;
            let (scale, minimum) = (matrix.scales()[i], matrix.offsets()[i]);
            if target.value_type.round(scale) != scale {
                let scale_type = target.value_type.name();
                return Err(Misfit::Scale { row, group, scale, scale_type });
            }
            if target.value_type.round(minimum) != minimum {
                return Err(Misfit::Minimum { block: i, minimum, scale });
            }
            scales.push(scale);
            offsets.push(minimum);
        }
    }
    Ok(OffsetMatrix::new(shape, target, matrix.codes().to_vec(), scales, offsets)?)
}
