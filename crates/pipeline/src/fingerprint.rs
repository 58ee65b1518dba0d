//! Reading every tensor once before any work: non-finite weights are refused, and the model gets a fingerprint.

use fewbit_checkpoint::{Checkpoint, Dtype, TensorInfo};
use fewbit_format::{bf16, f16};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::{Event, Phase, PipelineError, Progress};

/// Checks that all float tensors are finite and returns a hash over the configuration and all names, types, shapes and bytes.
pub(crate) fn check_and_hash(
    model: &Checkpoint,
    progress: &mut dyn Progress,
    mut cancelled: impl FnMut(&dyn Progress) -> Result<(), PipelineError>,
) -> Result<String, PipelineError> {
    progress.event(Event::Phase(Phase::Check));
    let mut hash = Xxh3::new();
    let config = serde_json::to_string(model.config()).expect("JSON values serialize");
    hash.update(config.as_bytes());
    for info in model.tensors() {
        cancelled(progress)?;
        let bytes = model.read(&info.name)?;
        check_finite(info, &bytes)?;
        hash.update(format!("{} {:?} {:?}", info.name, info.dtype, info.shape).as_bytes());
        hash.update(&bytes);
    }
    Ok(format!("{:032x}", hash.digest128()))
}

/// The hash by which dequantized values are compared: of their bits, so −0 and +0 differ.
pub(crate) fn hash_values(values: &[f32]) -> String {
    format!("{:032x}", xxh3_128(bytemuck::cast_slice(values)))
}

/// Hash of tokens or of a description.
pub(crate) fn hash_bytes(bytes: &[u8]) -> String {
    format!("{:032x}", xxh3_128(bytes))
}

fn check_finite(info: &TensorInfo, bytes: &[u8]) -> Result<(), PipelineError> {
    let bad = match info.dtype {
        Dtype::F32 => find(bytes, f32::from_le_bytes),
        Dtype::F16 => find(bytes, |b| f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => find(bytes, |b| bf16::from_le_bytes(b).to_f32()),
        _ => None,
    };
    match bad {
        None => Ok(()),
        Some((index, value)) => {
            Err(PipelineError::NonFiniteWeight { tensor: info.name.clone(), index, value })
        }
    }
}

/// The first element that is not finite.
fn find<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Option<(usize, f32)> {
    let (elements, _) = bytes.as_chunks::<N>();
    elements.iter().map(|&b| value(b)).enumerate().find(|(_, v)| !v.is_finite())
}
