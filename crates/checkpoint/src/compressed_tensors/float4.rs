//! The formats `mxfp4-pack-quantized` and `nvfp4-pack-quantized`: 4-bit floats, two a byte.

use fewbit_format::{
    Float4, Float4Matrix, MatrixShape,
    packing::{pack_nibbles, unpack_nibbles},
};

use super::NAME;
use crate::{CheckpointError, Dtype, Refusal, TensorSpec, container::refuse, parts::Parts};

pub(super) fn check(
    module: &str,
    shape: MatrixShape,
    scheme: Float4,
) -> Result<(), CheckpointError> {
    let (in_features, group_size) = (shape.in_features, scheme.group_size());
    if !in_features.is_multiple_of(group_size) {
        return refuse(NAME, module, Refusal::RaggedGroup { in_features, group_size });
    }
    Ok(())
}

pub(super) fn tensors(module: &str, shape: MatrixShape, scheme: Float4) -> Vec<TensorSpec> {
    let MatrixShape { out_features: out, in_features } = shape;
    let n_groups = scheme.n_groups(in_features);
    let spec =
        |part, dtype, shape: &[usize]| TensorSpec::new(format!("{module}.{part}"), dtype, shape);
    let scale = match scheme {
        Float4::Mxfp4 => Dtype::U8,
        Float4::Nvfp4 => Dtype::F8_E4M3,
    };
    let mut specs = vec![
        spec("weight_packed", Dtype::U8, &[out, in_features / 2]),
        spec("weight_scale", scale, &[out, n_groups]),
    ];
    if scheme == Float4::Nvfp4 {
        specs.push(spec("weight_global_scale", Dtype::F32, &[1]));
    }
    specs
}

pub(super) fn encode(matrix: &Float4Matrix) -> Vec<Vec<u8>> {
    // Rows are a whole number of groups, so that bytes do not run over their ends.
    let mut bytes = vec![pack_nibbles(matrix.codes()), matrix.scales().to_vec()];
    if matrix.scheme() == Float4::Nvfp4 {
        bytes.push(matrix.global_scale().to_le_bytes().to_vec());
    }
    bytes
}

pub(super) fn decode(parts: &Parts<'_>, scheme: Float4) -> Result<Float4Matrix, CheckpointError> {
    let [out, bytes] = parts.matrix("weight_packed")?;
    let packed = parts.typed("weight_packed", &[Dtype::U8], "U8", &[out, bytes])?;
    let shape = MatrixShape::new(out, bytes.saturating_mul(2));
    let MatrixShape { out_features, in_features } = shape;
    if out == 0 || bytes == 0 {
        return refuse(NAME, parts.module, Refusal::Empty { out_features, in_features });
    }
    check(parts.module, shape, scheme)?;
    let codes = unpack_nibbles(&packed, packed.len() * 2).map_err(|e| parts.format(e))?;
    let (dtypes, expected): (&[_], _) = match scheme {
        Float4::Mxfp4 => (&[Dtype::U8, Dtype::F8_E8M0], "U8"),
        Float4::Nvfp4 => (&[Dtype::F8_E4M3], "F8_E4M3"),
    };
    let n_groups = scheme.n_groups(in_features);
    let scales = parts.typed("weight_scale", dtypes, expected, &[out, n_groups])?;
    let global_scale = match scheme {
        Float4::Mxfp4 => 1.0,
        Float4::Nvfp4 => {
            let bytes = parts.typed("weight_global_scale", &[Dtype::F32], "F32", &[1])?;
            bytes.as_chunks().0.first().map_or(f32::NAN, |&b| f32::from_le_bytes(b))
        }
    };
    Float4Matrix::new(shape, scheme, codes, scales.into_owned(), global_scale)
        .map_err(|e| parts.format(e))
}
