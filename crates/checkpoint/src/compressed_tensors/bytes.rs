//! The formats `int-quantized`, `float-quantized` and `naive-quantized`: a byte for each code.

use fewbit_format::{
    Bits, Float8, Float8Matrix, Float8Scheme, Granularity, IntScheme, MatrixShape, QuantMatrix,
    ScaleTile, Symmetry,
    packing::{from_signed, to_signed},
};

use super::{NAME, pack::group_map, scale_bytes, scale_dtype};
use crate::{CheckpointError, Dtype, Refusal, TensorSpec, container::refuse, parts::Parts};

pub(super) fn check_int(
    module: &str,
    shape: MatrixShape,
    scheme: &IntScheme,
) -> Result<(), CheckpointError> {
    let in_features = shape.in_features;
    match scheme.granularity {
        Granularity::Group(size) if !in_features.is_multiple_of(size.get() as usize) => {
            let group_size = size.get() as usize;
            refuse(NAME, module, Refusal::RaggedGroup { in_features, group_size })
        }
        _ => Ok(()),
    }
}

pub(super) fn check_float8(
    module: &str,
    shape: MatrixShape,
    scheme: &Float8Scheme,
) -> Result<(), CheckpointError> {
    if scheme.element != Float8::E4M3 {
        let (scheme, supported) = (scheme.element.name(), Float8::E4M3.name());
        return refuse(NAME, module, Refusal::Scheme { scheme, supported });
    }
    let MatrixShape { out_features, in_features } = shape;
    let [rows, columns] = scheme.tile.size(shape);
    for (axis, size, multiple) in [("output", out_features, rows), ("input", in_features, columns)]
    {
        if !size.is_multiple_of(multiple) {
            return refuse(NAME, module, Refusal::RaggedBlock { axis, size, multiple });
        }
    }
    Ok(())
}

/// The shape of the scales of an integer grid.
fn int_scale_shape(shape: MatrixShape, granularity: Granularity) -> Vec<usize> {
    match granularity {
        Granularity::Tensor => vec![1],
        _ => vec![shape.out_features, granularity.n_groups(shape.in_features)],
    }
}

/// The shape of the scales of 8-bit floats.
fn float8_scale_shape(shape: MatrixShape, tile: ScaleTile) -> Vec<usize> {
    match tile {
        ScaleTile::Tensor => vec![1],
        _ => tile.count(shape).to_vec(),
    }
}

pub(super) fn int_tensors(module: &str, shape: MatrixShape, scheme: &IntScheme) -> Vec<TensorSpec> {
    let MatrixShape { out_features, in_features } = shape;
    let spec = |part, dtype, shape| TensorSpec::new(format!("{module}.{part}"), dtype, shape);
    let scales = int_scale_shape(shape, scheme.granularity);
    let mut specs = vec![
        spec("weight", Dtype::I8, vec![out_features, in_features]),
        spec("weight_scale", scale_dtype(scheme.scale_type), scales.clone()),
    ];
    if scheme.symmetry == Symmetry::Affine {
        specs.push(spec("weight_zero_point", Dtype::I8, scales));
    }
    specs
}

pub(super) fn float8_tensors(
    module: &str,
    shape: MatrixShape,
    scheme: &Float8Scheme,
) -> Vec<TensorSpec> {
    let MatrixShape { out_features, in_features } = shape;
    let spec = |part, dtype, shape| TensorSpec::new(format!("{module}.{part}"), dtype, shape);
    let scales = float8_scale_shape(shape, scheme.tile);
    vec![
        spec("weight", Dtype::F8_E4M3, vec![out_features, in_features]),
        spec("weight_scale", scale_dtype(scheme.scale_type), scales),
    ]
}

pub(super) fn encode_int(matrix: &QuantMatrix) -> Vec<Vec<u8>> {
    let scheme = matrix.scheme();
    let signed = |codes| {
        to_signed(codes, scheme.bits).into_iter().map(i8::cast_unsigned).collect::<Vec<u8>>()
    };
    let mut bytes = vec![signed(matrix.codes()), scale_bytes(matrix.scales(), scheme.scale_type)];
    if scheme.symmetry == Symmetry::Affine {
        bytes.push(signed(matrix.zero_points()));
    }
    bytes
}

pub(super) fn encode_float8(matrix: &Float8Matrix) -> Vec<Vec<u8>> {
    vec![matrix.codes().to_vec(), scale_bytes(matrix.scales(), matrix.scheme().scale_type)]
}

/// The shape of `weight`, which is not empty.
fn shape(parts: &Parts<'_>) -> Result<MatrixShape, CheckpointError> {
    let [out_features, in_features] = parts.matrix("weight")?;
    if out_features == 0 || in_features == 0 {
        return refuse(NAME, parts.module, Refusal::Empty { out_features, in_features });
    }
    Ok(MatrixShape { out_features, in_features })
}

/// Refuses another shape than `expected`, but takes `[]` for `[1]` and `[n]` for `[n, 1]`.
fn check_shape(parts: &Parts<'_>, part: &str, expected: &[usize]) -> Result<(), CheckpointError> {
    let squeezed = expected.strip_suffix(&[1]);
    match parts.info(part)?.shape.as_slice() {
        got if Some(got) == squeezed => Ok(()),
        _ => parts.check_shape(part, expected),
    }
}

pub(super) fn decode_int(
    parts: &Parts<'_>,
    bits: Bits,
    symmetry: Symmetry,
    granularity: Granularity,
) -> Result<QuantMatrix, CheckpointError> {
    let shape = shape(parts)?;
    let MatrixShape { out_features, in_features } = shape;
    let n_groups = granularity.n_groups(in_features);
    let scale_shape = int_scale_shape(shape, granularity);
    let unsigned =
        |signed: Vec<i8>| from_signed(&signed, bits).map_err(|error| parts.format(error));
    let codes = unsigned(parts.bytes("weight", &[out_features, in_features])?)?;
    check_shape(parts, "weight_scale", &scale_shape)?;
    let (scales, scale_type) = parts.scales("weight_scale")?;
    let zeros = match (parts.find("weight_zero_point"), symmetry) {
        (None, Symmetry::Symmetric) => Vec::new(),
        _ => {
            check_shape(parts, "weight_zero_point", &scale_shape)?;
            let stored = &parts.info("weight_zero_point")?.shape;
            unsigned(parts.bytes("weight_zero_point", stored)?)?
        }
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

pub(super) fn decode_float8(
    parts: &Parts<'_>,
    tile: ScaleTile,
) -> Result<Float8Matrix, CheckpointError> {
    let shape = shape(parts)?;
    let (element, codes) = parts.float8("weight", shape)?;
    check_shape(parts, "weight_scale", &float8_scale_shape(shape, tile))?;
    let (scales, scale_type) = parts.scales("weight_scale")?;
    let scheme = Float8Scheme { element, tile, scale_type };
    Float8Matrix::new(shape, scheme, codes, scales).map_err(|e| parts.format(e))
}
