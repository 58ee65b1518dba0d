//! Bringing weights into the layout, and back to floats.

use alloc::{vec, vec::Vec};

use fewbit_format::{
    BlockView, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Symmetry, bf16, f16,
};

use super::{
    blocks::{self, Block},
    codes::CodeKind,
    layout::{BLOCK, Form, Layout, Offset, Param, SUPER_BLOCKS, ScaleKind, TILE_ROWS},
    line::Line,
    matrix::IntMatrix,
    strips::Strip,
};

/// A stored column that belongs to no column of the matrix.
const PADDING: u32 = u32::MAX;

/// Whether padding groups to whole blocks takes at most a quarter more memory.
pub(super) fn supports(scheme: &IntScheme) -> bool {
    match scheme.granularity {
        Granularity::Tensor | Granularity::Channel => true,
        Granularity::Group(size) => {
            let size = size.get() as usize;
            4 * size.next_multiple_of(BLOCK) <= 5 * size
        }
    }
}

/// Prepares a matrix on an integer grid.
pub(super) fn from_quant(matrix: &QuantMatrix) -> Option<IntMatrix> {
    let scheme = matrix.scheme();
    let shape = matrix.shape();
    if !supports(&scheme) && matrix.n_groups() > 1 {
        return None;
    }
    let codes = match scheme.bits.get() {
        2 => CodeKind::Two,
        3 => CodeKind::Three,
        4 => CodeKind::Four,
        5 => CodeKind::Five,
        6 => CodeKind::Six,
        _ => CodeKind::Eight,
    };
    let scale = match scheme.scale_type {
        ScaleType::F16 => ScaleKind::F16,
        ScaleType::BF16 => ScaleKind::BF16,
        ScaleType::F32 => ScaleKind::F32,
    };
    let offset = match scheme.symmetry {
        Symmetry::Symmetric => Offset::Centre(scheme.bits.middle()),
        Symmetry::Affine => Offset::ZeroPoint,
    };
    let Columns { columns, group_blocks, act_blocks } = Columns::new(matrix)?;
    let n_blocks = columns.len() / BLOCK;
    let layout = Layout::flat(codes, scale, offset, n_blocks, group_blocks, act_blocks);
    let in_order = (0..shape.in_features as u32).eq(columns[..shape.in_features].iter().copied());

    let fill = |strip: &Strip, tile: usize, lines: &mut [Line]| {
        let (layout, columns) = (&strip.layout, &columns[strip.columns()]);
        let mut stored = vec![0; columns.len()];
        for (lane, row) in rows(tile, shape) {
            let codes = &matrix.codes()[row * shape.in_features..][..shape.in_features];
            for (stored, &column) in stored.iter_mut().zip(columns) {
                *stored = codes.get(column as usize).copied().unwrap_or(0);
            }
            for (block, codes) in stored.as_chunks().0.iter().enumerate() {
                layout.codes.put(&mut lines[layout.block_lines(block)], lane, codes);
            }
            for group in 0..layout.n_blocks.div_ceil(layout.group_blocks) {
                let of_row = (strip.first_block + group * layout.group_blocks) / group_blocks;
                let params = matrix.params(row, of_row);
                let put = |param, bytes: &[u8]| {
                    put(lines, layout.param_bytes(param, group, lane), bytes);
                };
                let mut put = put;
                match scale {
                    ScaleKind::F16 => put(Param::Scale, &f16::from_f32(params.scale).to_le_bytes()),
                    ScaleKind::BF16 => {
                        put(Param::Scale, &bf16::from_f32(params.scale).to_le_bytes());
                    }
                    _ => put(Param::Scale, &params.scale.to_le_bytes()),
                }
                if offset == Offset::ZeroPoint {
                    put(Param::Offset, &[params.zero_point]);
                }
            }
        }
    };
    let gather = (!in_order).then(|| columns.clone());
    Some(IntMatrix::build(shape, layout, gather, fill))
}

/// Prepares a matrix of GGML blocks.
pub(super) fn from_blocks(matrix: BlockView<'_>) -> Option<IntMatrix> {
    let (shape, block_type) = (matrix.shape(), matrix.block_type());
    let (codes, form) = blocks::kind(block_type)?;
    let n_blocks = shape.in_features / BLOCK;
    let (per_block, bytes) = (block_type.weights() / BLOCK, block_type.bytes());
    let layout = match form {
        Form::Super(kind) => Layout::super_blocks(codes, kind, n_blocks),
        Form::Flat { scale, offset } => {
            Layout::flat(codes, scale, offset, n_blocks, per_block, per_block.min(MOST_ACT_BLOCKS))
        }
    };
    let fill = |strip: &Strip, tile: usize, lines: &mut [Line]| {
        let layout = &strip.layout;
        let (first, n) = (strip.first_block / per_block, layout.n_blocks / per_block);
        for (lane, row) in rows(tile, shape) {
            let blocks = &matrix.row(row)[first * bytes..][..n * bytes];
            for (index, bytes) in blocks.chunks_exact(bytes).enumerate() {
                let block = Block::read(block_type, bytes);
                for (i, codes) in block.codes.as_chunks().0[..per_block].iter().enumerate() {
                    let range = layout.block_lines(index * per_block + i);
                    layout.codes.put(&mut lines[range], lane, codes);
                }
                let mut put = |param, index, bytes: &[u8]| {
                    put(lines, layout.param_bytes(param, index, lane), bytes);
                };
                match form {
                    Form::Flat { scale, offset } => {
                        put(Param::Scale, index, &block.scale[..scale.bytes()]);
                        if offset == Offset::Minimum {
                            put(Param::Offset, index, &block.offset);
                        }
                    }
                    Form::Super(kind) => {
                        put(Param::Scale, index, &block.scale);
                        put(Param::Offset, index, &block.offset);
                        let parts = kind.parts();
                        for part in 0..parts {
                            let scale = block.part_scales[part];
                            put(Param::PartScale, index * parts + part, &[scale]);
                            if kind.has_minimum_bytes() {
                                let minimum = block.part_minima[part];
                                put(Param::PartMinimum, index * parts + part, &[minimum]);
                            }
                        }
                    }
                }
            }
        }
    };
    Some(IntMatrix::build(shape, layout, None, fill))
}

/// Lanes of a tile with their rows.
fn rows(tile: usize, shape: MatrixShape) -> impl Iterator<Item = (usize, usize)> {
    (tile * TILE_ROWS..shape.out_features).take(TILE_ROWS).enumerate()
}

fn put(lines: &mut [Line], range: core::ops::Range<usize>, bytes: &[u8]) {
    let line = &mut lines[range.start / Line::BYTES].0;
    line[range.start % Line::BYTES..][..range.len()].copy_from_slice(bytes);
}

/// The most blocks of an activation block on a flat grid.
const MOST_ACT_BLOCKS: usize = 4;

/// Where the columns of a matrix are stored.
struct Columns {
    /// Column of each stored column, or [`PADDING`].
    columns: Vec<u32>,
    group_blocks: usize,
    act_blocks: usize,
}

impl Columns {
    /// Groups after one another, each padded to whole blocks, and to whole activation blocks.
    fn new(matrix: &QuantMatrix) -> Option<Self> {
        let in_features = matrix.shape().in_features;
        let mut members = vec![Vec::new(); matrix.n_groups()];
        for column in 0..in_features {
            members[matrix.group(column)].push(column as u32);
        }
        let longest = members.iter().map(Vec::len).max().unwrap_or(0);
        let blocks = longest.div_ceil(BLOCK).max(1);
        // Long activation blocks cost less, as long as they need no more padding than one block in 32.
        let padded = |act: &usize| blocks.next_multiple_of(*act);
        let act_blocks = (1..=MOST_ACT_BLOCKS).rev().find(|act| 32 * padded(act) <= 33 * blocks);
        let act_blocks = act_blocks.unwrap_or(1);
        let group_blocks = padded(&act_blocks);

        let mut columns = Vec::new();
        let last = members.len().saturating_sub(1);
        for (group, members) in members.iter().enumerate() {
            columns.extend_from_slice(members);
            let end = match group == last {
                true => columns.len().next_multiple_of(act_blocks * BLOCK),
                false => (group + 1) * group_blocks * BLOCK,
            };
            columns.resize(end, PADDING);
        }
        // Groups of very different sizes, which only a strange map has.
        if 4 * columns.len() > 5 * in_features + 8 * MOST_ACT_BLOCKS * BLOCK {
            return None;
        }
        Some(Self { columns, group_blocks, act_blocks })
    }
}

/// Writes the values of a strip of row `lane` of a tile, of all columns of which `out` is.
pub(super) fn decode_row(
    strip: &Strip,
    tile: &[Line],
    lane: usize,
    gather: Option<&[u32]>,
    out: &mut [f32],
) {
    let layout = &strip.layout;
    let param = |param, index| {
        let range = layout.param_bytes(param, index, lane);
        &tile[range.start / Line::BYTES].0[range.start % Line::BYTES..][..range.len()]
    };
    let byte = |kind, index| param(kind, index)[0];
    let half = |kind, index| {
        let bytes = param(kind, index);
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    };
    let part_columns = match layout.form {
        Form::Flat { .. } => BLOCK,
        Form::Super(kind) => kind.part(),
    };
    for part in 0..layout.n_blocks * BLOCK / part_columns {
        let super_block = part * part_columns / (SUPER_BLOCKS * BLOCK);
        let group = part / layout.group_blocks;
        // Value of a number: scale · (number − centre) + minimum.
        let (scale, centre, minimum) = match layout.form {
            Form::Flat { scale, offset } => {
                let bytes = param(Param::Scale, group);
                let scale = match scale {
                    ScaleKind::F16 => half(Param::Scale, group),
                    ScaleKind::BF16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                    ScaleKind::F32 => f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                    ScaleKind::HalfE8m0 => 0.5 * power_of_two(bytes[0]),
                };
                match offset {
                    Offset::Centre(centre) => (scale, centre, None),
                    Offset::ZeroPoint => (scale, byte(Param::Offset, group), None),
                    Offset::Minimum => (scale, 0, Some(half(Param::Offset, group))),
                }
            }
            Form::Super(kind) => {
                let d = half(Param::Scale, super_block);
                let scale = byte(Param::PartScale, part);
                let minimum = |code: u8| -(half(Param::Offset, super_block) * f32::from(code));
                match kind.centre() {
                    Some(centre) => (d * f32::from(scale as i8), centre, None),
                    None if kind.has_minimum_bytes() => {
                        let code = byte(Param::PartMinimum, part);
                        (d * f32::from(scale), 0, Some(minimum(code)))
                    }
                    None => (d * f32::from(scale & 15), 0, Some(minimum(scale >> 4))),
                }
            }
        };
        let first = part * part_columns;
        let block = &tile[layout.block_lines(first / BLOCK)];
        for column in first..first + part_columns {
            let stored = strip.columns().start + column;
            let place = gather.map_or(stored, |gather| gather[stored] as usize);
            if let Some(out) = out.get_mut(place) {
                let code = layout.codes.value(layout.codes.get(block, lane, column % BLOCK));
                let value = scale * (f32::from(code) - f32::from(centre));
                *out = minimum.map_or(value, |minimum| value + minimum);
            }
        }
    }
}

/// `2^(x − 127)`, of which the least is subnormal.
pub(crate) fn power_of_two(x: u8) -> f32 {
    f32::from_bits((u32::from(x) << 23).max(1 << 22))
}
