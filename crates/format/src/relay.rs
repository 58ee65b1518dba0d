//! Lossless changes of grid: codes and parameters are laid anew, never passed through floats.
//!
//! | from | to | if |
//! |---|---|---|
//! | integers | integers | groups of the target lie within groups of the source, scales are values of the target's type, and `code − zero_point` fits |
//! | q4_0, q5_0, q8_0 | integers | as above, from symmetric groups of 32 with f16 scales |
//! | q4_1, q5_1 | integers | the minimum is a multiple of the scale |
//! | integers | q4_0, q4_1, q5_0, q5_1, q8_0 | as above; for q4_1 and q5_1 `scale · zero_point` is an f16 |
//! | integers | integers with float offsets, and back | the offset is a whole number of steps and a value of its type |
//! | q4_1, q5_1 | integers with float offsets, and back | groups and types of values allow it |
//! | 8-bit floats | 8-bit floats | tiles of the target lie within tiles of the source, scales are values of the target's type |
//! | nf4, fp4 | the same codebook | blocks of the target lie within blocks of the source; double quantization is kept or given up |
//! | mxfp4, nvfp4 | the GGML blocks of that name, and back | the scale of the whole matrix is 1 |

mod floats;
mod offsets;

use alloc::{vec, vec::Vec};

use thiserror::Error;

use crate::{
    Bits, BlockMatrix, BlockType, FormatError, Granularity, IntScheme, QuantMatrix, Quantized,
    ScaleType, Scheme, Symmetry, block::Codes,
};

/// Why the values of a matrix do not lie on another grid.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum Misfit {
    /// The grids have no values in common by construction.
    #[error(
        "{from} and {to} are different grids: only quantizing anew leads from one to the other"
    )]
    Grids {
        /// The present grid.
        from: &'static str,
        /// The grid asked for.
        to: &'static str,
    },
    /// A group map, where groups of the target have other columns.
    #[error("its groups follow a group map (act-order), which the target cannot express")]
    GroupMap,
    /// Groups of the target reach over groups of the source.
    #[error(
        "groups of {from} columns do not fit into groups of {to}: the target needs a group size that divides {from}"
    )]
    Groups {
        /// Columns that share parameters now.
        from: usize,
        /// Columns that would have to.
        to: usize,
    },
    /// A scale that the target's type cannot hold.
    #[error("row {row}, group {group}: scale {scale} is not a value of {scale_type}")]
    Scale {
        /// Row.
        row: usize,
        /// Group of the target.
        group: usize,
        /// The scale.
        scale: f32,
        /// Storage type of the target.
        scale_type: &'static str,
    },
    /// Codes that are too many for the target.
    #[error("row {row}, group {group}: values of {low} to {high} steps exceed {bits} bits")]
    Range {
        /// Row.
        row: usize,
        /// Group of the target.
        group: usize,
        /// The least `code − zero_point`.
        low: i16,
        /// The greatest.
        high: i16,
        /// Width of the target.
        bits: u32,
    },
    /// A minimum that is no whole number of steps below zero, or steps below zero that make no stored minimum.
    #[error(
        "block {block}: a minimum of {minimum} with scale {scale} has no counterpart on the target grid"
    )]
    Minimum {
        /// Block, counted over all rows.
        block: usize,
        /// Value of code 0.
        minimum: f32,
        /// Its scale.
        scale: f32,
    },
    /// The parts do not make a matrix.
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl Quantized {
    /// The same values on another grid, to the bit.
    ///
    /// # Errors
    /// If a value or a parameter has no place there.
    pub fn relay(&self, scheme: &Scheme) -> Result<Self, Misfit> {
        let (from, to) = (self.scheme().name(), scheme.name());
        let different = || Err(Misfit::Grids { from, to });
        match (self, scheme) {
            _ if self.scheme() == *scheme => Ok(self.clone()),
            (Self::Int(matrix), Scheme::Int(scheme)) => Ok(integers(matrix, *scheme)?.into()),
            (Self::Int(matrix), Scheme::Block(block_type)) => match Codes::kind(*block_type) {
                Some(kind) => Ok(to_blocks(matrix, *block_type, kind)?.into()),
                None => different(),
            },
            (Self::Block(matrix), Scheme::Int(scheme)) => match Codes::kind(matrix.block_type()) {
                Some(kind) => Ok(integers(&from_blocks(matrix, kind)?, *scheme)?.into()),
                None => different(),
            },
            (Self::Int(matrix), Scheme::Offset(scheme)) => {
                Ok(offsets::from_integers(matrix, *scheme)?.into())
            }
            (Self::Offset(matrix), Scheme::Int(scheme)) => {
                Ok(offsets::to_integers(matrix, *scheme)?.into())
            }
            (Self::Offset(matrix), Scheme::Offset(scheme)) => {
                Ok(offsets::to_offsets(matrix, *scheme)?.into())
            }
            (Self::Block(matrix), Scheme::Offset(scheme)) => {
                Ok(offsets::from_blocks(matrix, *scheme)?.into())
            }
            (Self::Offset(matrix), Scheme::Block(block_type)) => {
                Ok(offsets::to_blocks(matrix, *block_type)?.into())
            }
            (Self::Block(matrix), Scheme::Float4(scheme)) => {
                Ok(floats::from_blocks(matrix, *scheme)?.into())
            }
            (Self::Float4(matrix), Scheme::Block(block_type)) => {
                Ok(floats::to_blocks(matrix, *block_type)?.into())
            }
            (Self::Float8(matrix), Scheme::Float8(scheme)) => {
                Ok(floats::float8(matrix, *scheme)?.into())
            }
            (Self::Codebook(matrix), Scheme::Codebook(scheme)) => {
                Ok(floats::codebook(matrix, *scheme)?.into())
            }
            _ => different(),
        }
    }
}

/// Integers on another integer grid.
fn integers(matrix: &QuantMatrix, target: IntScheme) -> Result<QuantMatrix, Misfit> {
    let (shape, source) = (matrix.shape(), matrix.scheme());
    if source == target {
        return Ok(matrix.clone());
    }
    let n = shape.in_features;
    let map = matrix.group_of_column();
    let (from, to) = (source.granularity.group_size(n), target.granularity.group_size(n));
    let per_tensor = |g: Granularity| g == Granularity::Tensor;
    if map.is_some() && from != to {
        return Err(Misfit::GroupMap);
    }
    let whole = per_tensor(target.granularity) && !per_tensor(source.granularity);
    if whole || (from % to != 0 && from < n) || (from < n && to > from) {
        let to = if whole { shape.len() } else { to };
        return Err(Misfit::Groups { from, to });
    }
    let group_of = |column: usize| map.map_or(column / to, |map| map[column] as usize);
    let n_groups = target.granularity.n_groups(n);
    let index = |row: usize, group: usize| {
        if per_tensor(target.granularity) { 0 } else { row * n_groups + group }
    };

    // Scale, zero point, least and greatest step of each group.
    let mut groups = vec![(0.0, 0i16, 0i16, 0i16); target.granularity.n_scales(shape)];
    for row in 0..shape.out_features {
        for (column, &code) in matrix.codes()[row * n..][..n].iter().enumerate() {
            let params = matrix.params(row, matrix.group(column));
            let zero_point = i16::from(params.zero_point);
            let step = i16::from(code) - zero_point;
            let group = &mut groups[index(row, group_of(column))];
            *group = (params.scale, zero_point, group.2.min(step), group.3.max(step));
        }
    }
    let (max, middle) = (i16::from(target.bits.max_code()), i16::from(target.bits.middle()));
    let mut scales = Vec::with_capacity(groups.len());
    let mut zeros = Vec::with_capacity(groups.len());
    for (i, &(scale, zero_point, low, high)) in groups.iter().enumerate() {
        let (row, group) = (i / n_groups.max(1), i % n_groups.max(1));
        if target.scale_type.round(scale) != scale {
            let scale_type = target.scale_type.name();
            return Err(Misfit::Scale { row, group, scale, scale_type });
        }
        let zero = match target.symmetry {
            Symmetry::Symmetric => middle,
            // Where both fit, the zero point stays.
            Symmetry::Affine => zero_point.min(max - high).max(-low),
        };
        if zero + low < 0 || zero + high > max {
            return Err(Misfit::Range { row, group, low, high, bits: target.bits.get() });
        }
        scales.push(scale);
        zeros.push(zero as u8);
    }
    let mut codes = Vec::with_capacity(shape.len());
    for row in 0..shape.out_features {
        for (column, &code) in matrix.codes()[row * n..][..n].iter().enumerate() {
            let before = matrix.params(row, matrix.group(column)).zero_point;
            let after = zeros[index(row, group_of(column))];
            // In range, as checked above.
            codes.push(code.wrapping_sub(before).wrapping_add(after));
        }
    }
    let zeros = if target.symmetry == Symmetry::Affine { zeros } else { Vec::new() };
    Ok(QuantMatrix::new(shape, target, codes, scales, zeros, map.map(<[u32]>::to_vec))?)
}

/// The integer grid of a simple block type.
fn scheme_of((bits, minimum): (Bits, bool)) -> IntScheme {
    let symmetry = if minimum { Symmetry::Affine } else { Symmetry::Symmetric };
    IntScheme { bits, symmetry, granularity: Granularity::group(32), scale_type: ScaleType::F16 }
}

fn from_blocks(matrix: &BlockMatrix, kind: (Bits, bool)) -> Result<QuantMatrix, Misfit> {
    let block_type = matrix.block_type();
    let blocks = matrix.data().chunks_exact(block_type.bytes());
    let mut codes = Vec::with_capacity(matrix.shape().len());
    let (mut scales, mut zeros) = (Vec::new(), Vec::new());
    for (i, block) in blocks.enumerate() {
        let block = Codes::read(block_type, block);
        codes.extend(block.codes);
        scales.push(block.scale);
        if let Some(minimum) = block.minimum {
            let zero = zero_point(block.scale, minimum, kind.0);
            zeros.push(zero.ok_or(Misfit::Minimum { block: i, minimum, scale: block.scale })?);
        }
    }
    Ok(QuantMatrix::new(matrix.shape(), scheme_of(kind), codes, scales, zeros, None)?)
}

/// The code whose value is zero.
fn zero_point(scale: f32, minimum: f32, bits: Bits) -> Option<u8> {
    (0..=bits.max_code()).find(|&zero| f32::from(zero) * scale == -minimum)
}

fn to_blocks(
    matrix: &QuantMatrix,
    block_type: BlockType,
    kind: (Bits, bool),
) -> Result<BlockMatrix, Misfit> {
    let shape = matrix.shape();
    let row_bytes = block_type.row_bytes(shape.in_features)?;
    let matrix = integers(matrix, scheme_of(kind))?;
    if matrix.group_of_column().is_some() {
        return Err(Misfit::GroupMap);
    }
    let mut data = vec![0; row_bytes * shape.out_features];
    let codes = matrix.codes().as_chunks().0;
    let blocks = data.chunks_exact_mut(block_type.bytes()).zip(codes).zip(matrix.scales());
    for (i, ((block, &codes), &scale)) in blocks.enumerate() {
        let minimum = match matrix.zero_points().get(i) {
            None => None,
            Some(&zero) => {
                let minimum = -(f32::from(zero) * scale);
                if ScaleType::F16.round(minimum) != minimum {
                    return Err(Misfit::Minimum { block: i, minimum, scale });
                }
                Some(minimum)
            }
        };
        Codes { scale, minimum, codes }.write(block_type, block);
    }
    Ok(BlockMatrix::new(shape, block_type, data)?)
}
