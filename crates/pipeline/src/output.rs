//! The output folder: assembled from the input's tensors and the work folder's, then opened again and compared.

use std::{fs, path::Path};

use fewbit_checkpoint::{
    Access, Checkpoint, FolderWriter, ModuleScheme, TensorSpec, Weight, total_bytes,
};
use serde_json::Value;

use crate::{
    MatrixReport, PipelineError, Prepared, fingerprint::hash_values, run::Encoded, work::WorkFolder,
};

/// Stores the tensors of a block in the work folder.
pub(crate) fn write_block(folder: &Path, encoded: &Encoded) -> Result<(), PipelineError> {
    if folder.exists() {
        // Of a run that was killed after this and before the block was marked as finished.
        fs::remove_dir_all(folder).map_err(|e| PipelineError::io(folder, e))?;
    }
    let specs: Vec<TensorSpec> = encoded.iter().map(|(spec, _)| spec.clone()).collect();
    let mut writer = FolderWriter::create(folder, specs, u64::MAX)?;
    for (spec, bytes) in encoded {
        writer.write(&spec.name, bytes)?;
    }
    writer.finish()?;
    Ok(())
}

/// Writes the output folder and verifies it before it gets its final name.
pub(crate) fn write(
    job: &Prepared,
    work: &WorkFolder,
    reports: &[MatrixReport],
) -> Result<(), PipelineError> {
    let out = &job.job.out;
    let mut writer = FolderWriter::create(out, job.specs.clone(), job.job.shard_bytes)?;
    for spec in job.specs.iter().filter(|s| job.keeps(&s.name)) {
        writer.write(&spec.name, &job.model.read(&spec.name)?)?;
    }
    for block in 0..job.config.n_layers {
        let tensors = Checkpoint::open_with(&work.tensors_path(block), Access::Positioned)?;
        for info in tensors.tensors() {
            writer.write(&info.name, &tensors.read(&info.name)?)?;
        }
    }
    let mut config = job.model.config().clone();
    let schemes: Vec<ModuleScheme> = job.modules.iter().map(|m| m.scheme.clone()).collect();
    if let Some(quantization) = job.job.container.config(&job.job.plan_info(&schemes)) {
        for (name, value) in job.job.container.config_files(&quantization) {
            writer.write_json(name, &value)?;
        }
        config.insert("quantization_config".into(), Value::Object(quantization));
    }
    writer.write_json("config.json", &Value::Object(config))?;
    writer.copy_companions(job.model.folder())?;
    verify(job, writer.complete()?, reports)?;
    writer.finish()?;
    Ok(())
}

/// Every matrix decodes to the values that were computed, every other tensor is the input's, and the size is as planned.
fn verify(job: &Prepared, folder: &Path, reports: &[MatrixReport]) -> Result<(), PipelineError> {
    let written = Checkpoint::open_with(folder, Access::Positioned)?;
    for report in reports {
        let values = match written.weight(&report.module)? {
            Weight::Quant(matrix) => matrix.dequantize(),
            Weight::Float { data, .. } => data,
        };
        if hash_values(&values) != report.values_hash {
            return Err(PipelineError::Verify { module: report.module.clone() });
        }
    }
    for info in written.tensors().filter(|info| job.keeps(&info.name)) {
        if job.model.read(&info.name)? != written.read(&info.name)? {
            return Err(PipelineError::Verify { module: info.name.clone() });
        }
    }
    let got = written.tensors().map(|info| info.bytes).sum();
    let expected = total_bytes(&job.specs);
    if got != expected {
        return Err(PipelineError::VerifySize { folder: folder.into(), got, expected });
    }
    Ok(())
}
