//! The output folder: assembled from the input's tensors and the work folder's, then opened again and compared.

use std::{fs, path::Path};

use fewbit_checkpoint::{
    Access, Checkpoint, CheckpointError, FolderWriter, ModelOutput, ModuleScheme, TensorSpec,
    Weight,
};

use fewbit_model::NormKind;

use crate::{
    BlockReport, PipelineError, Prepared, fingerprint::hash_values, run::Encoded,
    transform::plus_one, work::WorkFolder,
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

/// Writes the output and verifies it before it gets its final name.
pub(crate) fn write(
    job: &Prepared,
    work: &WorkFolder,
    reports: &BlockReport,
) -> Result<(), PipelineError> {
    let schemes: Vec<ModuleScheme> = job.modules.iter().map(|m| m.scheme.clone()).collect();
    let mut writer = job.job.container.writer(&ModelOutput {
        out: &job.job.out,
        original: &job.model,
        specs: &job.specs,
        plan: &job.job.plan_info(&schemes),
        part_bytes: job.job.shard_bytes,
    })?;
    for spec in job.specs.iter().filter(|s| job.keeps(&s.name)) {
        writer.write(&spec.name, &job.model.read(&spec.name)?)?;
    }
    for block in 0..job.n_steps() {
        let tensors = Checkpoint::open_with(&work.tensors_path(block), Access::Positioned)?;
        for info in tensors.tensors() {
            writer.write(&info.name, &tensors.read(&info.name)?)?;
        }
    }
    verify(job, writer.complete()?, reports)?;
    writer.finish()?;
    Ok(())
}

/// Every matrix decodes to the values that were computed, folded gains and biases are those computed, every other tensor is the input's, and the size is as
/// planned.
fn verify(job: &Prepared, folder: &Path, reports: &BlockReport) -> Result<(), PipelineError> {
    let written = Checkpoint::open_with(folder, Access::Positioned)?;
    for report in &reports.matrices {
        let values = match written.weight(&report.module)? {
            Weight::Quant(matrix) => matrix.dequantize(),
            Weight::Float { data, .. } => data,
        };
        if hash_values(&values) != report.values_hash {
            return Err(PipelineError::Verify { module: report.module.clone() });
        }
    }
    for tensor in reports.sites.iter().flat_map(|site| &site.tensors) {
        let mut values = written.read_f32(&tensor.name)?;
        if tensor.one_plus {
            values = plus_one(values);
        }
        if hash_values(&values) != tensor.values_hash {
            return Err(PipelineError::Verify { module: tensor.name.clone() });
        }
    }
    let mut expected = 0;
    for spec in &job.specs {
        let Some(info) = written.tensor(&spec.name) else {
            // What a container leaves out was refused or reported before the start.
            continue;
        };
        expected += TensorSpec { dtype: info.dtype, ..spec.clone() }.bytes();
        let original = job.model.tensor(&spec.name).filter(|_| job.keeps(&spec.name));
        let Some(original) = original else { continue };
        let same_bytes = || -> Result<bool, CheckpointError> {
            Ok(job.model.read(&spec.name)? == written.read(&spec.name)?)
        };
        // The container may have widened it.
        let same_values = || -> Result<bool, CheckpointError> {
            let (old, new) = (job.model.read_f32(&spec.name)?, written.read_f32(&spec.name)?);
            // GGUF files hold one more than Gemma's norms, rounded to f32: small ones lose their last bits, which no norm sees.
            let gain = job.config.architecture.norm() == NormKind::RmsOnePlus;
            let gain = gain && written.gguf().is_some() && original.shape.len() == 1;
            Ok(old == new || gain && plus_one(old) == plus_one(new))
        };
        if !(info.dtype == original.dtype && same_bytes()? || same_values()?) {
            return Err(PipelineError::Verify { module: spec.name.clone() });
        }
    }
    let got = written.tensors().map(|info| info.bytes).sum();
    if got != expected {
        return Err(PipelineError::VerifySize { folder: folder.into(), got, expected });
    }
    Ok(())
}
