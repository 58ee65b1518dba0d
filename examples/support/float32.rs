//! Models as 32-bit floats.

use std::path::{Path, PathBuf};

use anyhow::Result;
use fewbit::checkpoint::{
    Access, Checkpoint, Dtype, FolderWriter, ModelOutput, PlanInfo, TensorSpec, float_folder,
};

/// The folder of a model in 32-bit floats: itself if it is, else a copy in `copy`.
pub fn float32(model: &Path, copy: &Path) -> Result<PathBuf> {
    let original = Checkpoint::open_with(model, Access::Positioned)?;
    let narrow = |dtype| matches!(dtype, Dtype::F16 | Dtype::BF16);
    if !original.tensors().any(|tensor| narrow(tensor.dtype)) {
        return Ok(model.to_path_buf());
    }
    if copy.is_dir() {
        // Of a run before; the folder got its name when it was whole.
        return Ok(copy.to_path_buf());
    }
    let wide = |info| {
        let mut spec = TensorSpec::from(info);
        if narrow(spec.dtype) {
            spec.dtype = Dtype::F32;
        }
        spec
    };
    let specs: Vec<TensorSpec> = original.tensors().map(wide).collect();
    let output = ModelOutput {
        out: copy,
        original: &original,
        specs: &specs,
        plan: &PlanInfo { modules: &[], damping: None },
        part_bytes: FolderWriter::SHARD_BYTES,
    };
    let mut writer = float_folder(&output, serde_json::Map::new())?;
    for info in original.tensors() {
        match narrow(info.dtype) {
            true => {
                let values = original.read_f32(&info.name)?;
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                writer.write(&info.name, &bytes)?;
            }
            false => writer.write(&info.name, &original.read(&info.name)?)?,
        }
    }
    writer.finish()?;
    Ok(copy.to_path_buf())
}
