//! The format `pack-quantized`: integers in words.

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Symmetry,
    packing::{Words, from_signed, pack_rows, transpose, unpack_rows},
};

use super::{NAME, scale_bytes, scale_dtype};
use crate::{
    CheckpointError, Dtype, Refusal, TensorSpec,
    container::{le_bytes, refuse},
    parts::Parts,
};

pub(super) fn check(
    module: &str,
    shape: MatrixShape,
    scheme: &IntScheme,
) -> Result<(), CheckpointError> {
    let refuse = |refusal| refuse(NAME, module, refusal);
    let in_features = shape.in_features;
    let bits = scheme.bits;
    let words = |layout: Words| layout.count(in_features, bits);
    if 32 % bits.get() > 0 && words(Words::Dense) == words(Words::Padded) {
        return refuse(Refusal::AmbiguousWords { in_features, bits });
    }
    match scheme.granularity {
        Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
            let group_size = size.get() as usize;
            refuse(Refusal::RaggedGroup { in_features, group_size })
        }
        Granularity::Group(_) | Granularity::Channel => Ok(()),
        Granularity::Tensor => {
            let remedy = "one per channel or group, or a byte for each code";
            refuse(Refusal::Granularity { granularity: "tensor", remedy })
        }
    }
}

pub(super) fn tensors(module: &str, shape: MatrixShape, scheme: &IntScheme) -> Vec<TensorSpec> {
    let MatrixShape { out_features: out, in_features } = shape;
    let n_groups = scheme.granularity.n_groups(in_features);
    let words = |count| Words::Dense.count(count, scheme.bits);
    let spec =
        |part, dtype, shape: &[usize]| TensorSpec::new(format!("{module}.{part}"), dtype, shape);
    let mut specs = vec![
        spec("weight_packed", Dtype::I32, &[out, words(in_features)]),
        spec("weight_scale", scale_dtype(scheme.scale_type), &[out, n_groups]),
        spec("weight_shape", Dtype::I64, &[2]),
    ];
    if scheme.symmetry == Symmetry::Affine {
        specs.push(spec("weight_zero_point", Dtype::I32, &[words(out), n_groups]));
    }
    specs
}

pub(super) fn encode(matrix: &QuantMatrix) -> Vec<Vec<u8>> {
    let scheme = matrix.scheme();
    let MatrixShape { out_features: out, in_features } = matrix.shape();
    let pack =
        |codes: &[u8], rows, columns| pack_rows(codes, rows, columns, scheme.bits, Words::Dense);
    let mut bytes = vec![
        le_bytes(pack(matrix.codes(), out, in_features), u32::to_le_bytes),
        scale_bytes(matrix.scales(), scheme.scale_type),
        le_bytes([out as u64, in_features as u64], u64::to_le_bytes),
    ];
    if scheme.symmetry == Symmetry::Affine {
        let n_groups = matrix.n_groups();
        let words = pack(&transpose(matrix.zero_points(), out, n_groups), n_groups, out);
        let words = transpose(&words, n_groups, Words::Dense.count(out, scheme.bits));
        bytes.push(le_bytes(words, u32::to_le_bytes));
    }
    bytes
}

pub(super) fn decode(
    parts: &Parts<'_>,
    bits: Bits,
    symmetry: Symmetry,
    granularity: Granularity,
) -> Result<QuantMatrix, CheckpointError> {
    let [out, width] = parts.matrix("weight_packed")?;
    let in_features = in_features(parts, out)?;
    let shape = MatrixShape::new(out, in_features);
    if out == 0 || in_features == 0 {
        let refusal = Refusal::Empty { out_features: out, in_features };
        return refuse(NAME, parts.module, refusal);
    }

    let packed = parts.words("weight_packed", [out, width])?;
    let Some(layout) = layout(&packed, width, in_features, bits) else {
        let words = Words::Dense.count(in_features, bits);
        parts.check_shape("weight_packed", &[out, words])?;
        unreachable!("the dense width is a layout");
    };
    let codes =
        unpack_rows(&packed, out, in_features, bits, layout).map_err(|e| parts.format(e))?;

    let n_groups = granularity.n_groups(in_features);
    let (scales, scale_type) = parts.scales("weight_scale")?;
    if granularity != Granularity::Tensor {
        parts.check_shape("weight_scale", &[out, n_groups])?;
    }
    let zeros = match parts.find("weight_zero_point") {
        None if symmetry == Symmetry::Symmetric => Vec::new(),
        _ => zero_points(parts, [out, n_groups], bits, layout)?,
    };
    let zeros = match symmetry {
        Symmetry::Affine => zeros,
        Symmetry::Symmetric => {
            parts.check_symmetric(&zeros, n_groups, bits.middle())?;
            Vec::new()
        }
    };
    let map = group_map(parts, granularity, in_features)?;
    let scheme = IntScheme { bits, symmetry, granularity, scale_type };
    QuantMatrix::new(shape, scheme, codes, scales, zeros, map).map_err(|e| parts.format(e))
}

/// The number of inputs, from `weight_shape`.
fn in_features(parts: &Parts<'_>, out: usize) -> Result<usize, CheckpointError> {
    let shape = parts.integers("weight_shape")?;
    match shape[..] {
        [rows, columns] if rows == out as i64 && usize::try_from(columns).is_ok() => {
            Ok(columns as usize)
        }
        _ => {
            let tensor = format!("{}.weight_shape", parts.module);
            Err(CheckpointError::WeightShape { tensor, got: shape, out_features: out })
        }
    }
}

/// How `width` words hold a row of `in_features` codes, if they can at all.
///
/// Where both layouts take as many words (never for multiples of 32, and never in files of ours), the earlier one is recognised by the top bits that it never uses.
fn layout(packed: &[u32], width: usize, in_features: usize, bits: Bits) -> Option<Words> {
    let dense = Words::Dense.count(in_features, bits) == width;
    let padded = Words::Padded.count(in_features, bits) == width;
    let unused = 32 % bits.get();
    match (dense, padded) {
        (true, true) if unused > 0 => {
            let empty = packed.iter().all(|word| word >> (32 - unused) == 0);
            Some(if empty { Words::Padded } else { Words::Dense })
        }
        (true, _) => Some(Words::Dense),
        (false, true) => Some(Words::Padded),
        (false, false) => None,
    }
}

/// Zero points as `(out_features, n_groups)`: packed along the outputs, or (earlier) as signed bytes.
fn zero_points(
    parts: &Parts<'_>,
    [out, n_groups]: [usize; 2],
    bits: Bits,
    layout: Words,
) -> Result<Vec<u8>, CheckpointError> {
    let failed = |error| parts.format(error);
    if parts.info("weight_zero_point")?.dtype == Dtype::I8 {
        let signed = parts.bytes("weight_zero_point", &[out, n_groups])?;
        return from_signed(&signed, bits).map_err(failed);
    }
    let height = layout.count(out, bits);
    let words = parts.words("weight_zero_point", [height, n_groups])?;
    let words = transpose(&words, height, n_groups);
    let zeros = unpack_rows(&words, n_groups, out, bits, layout).map_err(failed)?;
    Ok(transpose(&zeros, n_groups, out))
}

/// The group map, where there is one: act-order of files before 2026-08.
pub(super) fn group_map(
    parts: &Parts<'_>,
    granularity: Granularity,
    in_features: usize,
) -> Result<Option<Vec<u32>>, CheckpointError> {
    if parts.find("weight_g_idx").is_none() {
        return Ok(None);
    }
    let map = parts.integers("weight_g_idx")?;
    parts.check_shape("weight_g_idx", &[in_features])?;
    // All −1 stands for no map.
    if map.iter().all(|&group| group == -1) {
        return Ok(None);
    }
    parts.group_map(map, granularity.group_size(in_features), granularity.n_groups(in_features))
}
