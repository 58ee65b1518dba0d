//! Bringing matrices of each grid into the layout.

use alloc::{vec, vec::Vec};

use fewbit_format::{
    CodebookMatrix, Float4, Float4Matrix, Float8, Float8Matrix, MatrixShape, QuantMatrix, Symmetry,
    minifloat::{E2M1, decode_e8m0},
};

use super::{Kind, Line, PackedMatrix, columns::Layout};
use crate::{
    parallel::for_each_chunk,
    simd::{Aligned, LANES},
};

/// Integers.
pub(super) fn from_quant(matrix: &QuantMatrix) -> PackedMatrix {
    let MatrixShape { out_features, in_features } = matrix.shape();
    let scheme = matrix.scheme();
    let n_groups = matrix.n_groups();
    let mut members = vec![Vec::new(); n_groups];
    for column in 0..in_features {
        members[matrix.group(column)].push(column as u32);
    }
    let params =
        (0..out_features).flat_map(|row| (0..n_groups).map(move |group| matrix.params(row, group)));
    let (scales, zeros): (Vec<f32>, Vec<u8>) = params.map(|p| (p.scale, p.zero_point)).unzip();
    let offset = |zero: u8| i16::from(scheme.bits.middle()) - i16::from(zero);
    let offsets = match scheme.symmetry {
        Symmetry::Symmetric => Vec::new(),
        Symmetry::Affine => zeros.into_iter().map(offset).collect(),
    };
    let kind = Kind::Steps(scheme.bits.get());
    let packed = pack(matrix.shape(), kind, matrix.codes(), &members, scales);
    PackedMatrix { offsets, ..packed }
}

/// NF4 and FP4, if every row begins with a block, or lies in one.
pub(super) fn from_codebook(matrix: &CodebookMatrix) -> Option<PackedMatrix> {
    let shape = matrix.shape();
    let MatrixShape { out_features, in_features } = shape;
    let size = matrix.scheme().block_size.get() as usize;
    let magnitudes = matrix.magnitudes();
    let (group, scales) = if in_features.is_multiple_of(size) {
        (size, magnitudes.into_owned())
    } else if size.is_multiple_of(in_features) {
        (in_features, (0..out_features).map(|row| magnitudes[row * in_features / size]).collect())
    } else {
        return None;
    };
    let members = neighbours(in_features, group);
    let packed = pack(shape, Kind::Entries, matrix.codes(), &members, scales);
    Some(PackedMatrix { table: *matrix.scheme().codebook.values(), ..packed })
}

/// FP8.
pub(super) fn from_float8(matrix: &Float8Matrix) -> PackedMatrix {
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    let ([rows, columns], [_, across]) = (scheme.tile.size(shape), scheme.tile.count(shape));
    let scales = (0..shape.out_features)
        .flat_map(|row| &matrix.scales()[row / rows * across..][..across])
        .copied()
        .collect();
    let kind = match scheme.element {
        Float8::E4M3 => Kind::E4m3,
        Float8::E5M2 => Kind::E5m2,
    };
    pack(shape, kind, matrix.codes(), &neighbours(shape.in_features, columns), scales)
}

/// MXFP4 and NVFP4.
pub(super) fn from_float4(matrix: &Float4Matrix) -> PackedMatrix {
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    let scale = |&code: &u8| match scheme {
        Float4::Mxfp4 => decode_e8m0(code),
        Float4::Nvfp4 => Float8::E4M3.decode(code) / matrix.global_scale(),
    };
    let scales = matrix.scales().iter().map(scale).collect();
    let members = neighbours(shape.in_features, scheme.group_size());
    let packed = pack(shape, Kind::Entries, matrix.codes(), &members, scales);
    PackedMatrix { table: E2M1, ..packed }
}

/// Groups of columns beside each other.
fn neighbours(in_features: usize, size: usize) -> Vec<Vec<u32>> {
    let starts = (0..in_features).step_by(size.max(1));
    starts.map(|start| (start as u32..(start + size).min(in_features) as u32).collect()).collect()
}

/// A matrix of these codes, one a byte, in groups of these columns.
fn pack(
    shape: MatrixShape,
    kind: Kind,
    codes: &[u8],
    members: &[Vec<u32>],
    scales: Vec<f32>,
) -> PackedMatrix {
    let MatrixShape { out_features, in_features } = shape;
    let fields = kind.fields();
    let layout = Layout::new(members, fields);
    let lines_per_row = layout.columns.len() / (fields * LANES);
    let mut lines: Vec<Line> = vec![Aligned([0; LANES]); out_features * lines_per_row];
    for_each_chunk(&mut lines, lines_per_row.max(1), true, |row, lines| {
        let codes = &codes[row * in_features..][..in_features];
        for (step, columns) in layout.columns.chunks_exact(LANES).enumerate() {
            let words = &mut lines[step / fields].0;
            let shift = (step % fields) as u32 * kind.bits();
            for (word, &column) in words.iter_mut().zip(columns) {
                if let Some(&code) = codes.get(column as usize) {
                    *word |= u32::from(code) << shift;
                }
            }
        }
    });
    let in_order = (0..in_features as u32).eq(layout.columns[..in_features].iter().copied());
    PackedMatrix {
        shape,
        kind,
        lines,
        lines_per_row,
        scales,
        offsets: Vec::new(),
        n_groups: members.len(),
        segment: layout.segment,
        group_of_segment: layout.group_of_segment,
        gather: (!in_order).then_some(layout.columns),
        table: [0.0; LANES],
    }
}
