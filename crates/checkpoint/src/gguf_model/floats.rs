//! Floats of one type as floats of another.

use std::borrow::Cow;

use fewbit_format::{bf16, f16};
use half::slice::HalfFloatSliceExt;
use safetensors::Dtype;

use crate::{CheckpointError, ConfigProblem, container::le_bytes, gguf::GgmlType};

use super::{Relay, Towards};

/// Whether a tensor of this type holds floats, one beside the other.
pub(super) const fn is_float(kind: GgmlType) -> bool {
    matches!(kind, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16)
}

/// Floats of one type as floats of another, with what the relay does to values.
pub(super) fn convert<'a>(
    name: &str,
    bytes: Cow<'a, [u8]>,
    relay: Relay,
    dtype: Dtype,
    kind: GgmlType,
) -> Result<Cow<'a, [u8]>, CheckpointError> {
    let same = matches!(
        (dtype, kind),
        (Dtype::F32, GgmlType::F32) | (Dtype::F16, GgmlType::F16) | (Dtype::BF16, GgmlType::BF16)
    );
    if same && relay != Relay::AddOne {
        return Ok(bytes);
    }
    let mut values = widen(&bytes, dtype);
    relay.f32(Towards::Gguf, &mut values);
    let narrow = |narrowed: &dyn Fn(f32) -> f32| {
        let lost = |value: &&f32| value.is_finite() && !narrowed(**value).is_finite();
        match values.iter().find(lost) {
            Some(&value) => {
                let problem = ConfigProblem::Expected {
                    found: value.to_string(),
                    expected: "within the range of the type in the file: keep it in F32 or BF16",
                };
                Err(CheckpointError::TensorValue { tensor: name.to_owned(), problem })
            }
            None => Ok(()),
        }
    };
    match kind {
        GgmlType::F16 => {
            narrow(&|value| f16::from_f32(value).to_f32())?;
            let mut out = vec![f16::ZERO; values.len()];
            out.convert_from_f32_slice(&values);
            Ok(le_bytes(out, f16::to_le_bytes).into())
        }
        GgmlType::BF16 => {
            narrow(&|value| bf16::from_f32(value).to_f32())?;
            Ok(le_bytes(values, |value| bf16::from_f32(value).to_le_bytes()).into())
        }
        _ => Ok(le_bytes(values, f32::to_le_bytes).into()),
    }
}

/// Little-endian floats as f32.
fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    let halves = || bytes.chunks_exact(2).map(|pair| [pair[0], pair[1]]);
    match dtype {
        Dtype::F16 => halves().map(|pair| f16::from_le_bytes(pair).to_f32()).collect(),
        Dtype::BF16 => halves().map(|pair| bf16::from_le_bytes(pair).to_f32()).collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}
