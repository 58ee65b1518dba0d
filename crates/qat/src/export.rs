//! From a trained model to files.

use std::path::Path;

use fewbit_checkpoint::{
    Access, Checkpoint, Container, Dtype, FolderWriter, ModelOutput, ModuleScheme, PlanInfo,
    TensorInfo, TensorSpec, Weight, float_folder,
};
use fewbit_format::{Quantized, Scheme, bf16, f16};
use serde_json::Map;

use crate::{QatError, Student, fake::FakeMatrix, tensors::as_stored};

/// Writes a model: matrices on grids as `container` stores them, and all else as `original` has it, in its types; tensors that were learned are rounded to
/// them. Without a container every matrix has to be in floats. The output is opened again and compared with what was trained before it gets its name.
///
/// # Errors
/// If the output exists, the container cannot carry a matrix, the disk refuses, or what was written reads back differently.
pub fn export(
    student: &Student,
    original: &Checkpoint,
    container: Option<&dyn Container>,
    out: &Path,
) -> Result<(), QatError> {
    let trained: Vec<(&FakeMatrix, Quantized)> = student
        .matrices()
        .map(|matrix| Ok((matrix, matrix.quantized()?)))
        .collect::<Result<_, QatError>>()?;
    let modules = modules(student, &trained);
    let plan = PlanInfo { modules: &modules, damping: None };
    let mut specs = Vec::new();
    // What goes over from the original, changed or not. A quantized matrix may have the name of its floats.
    let mut kept = Vec::new();
    for info in original.tensors() {
        let quantized = info.name.strip_suffix(".weight").and_then(|name| plan.module(name));
        match (quantized, container) {
            (Some(module), Some(container)) => {
                let ModuleScheme { module, shape, scheme, group_map } = module;
                specs.extend(container.tensors(module, *shape, scheme, *group_map));
            }
            (Some(module), None) => {
                let (module, grid) = (module.module.clone(), module.scheme.to_string());
                return Err(QatError::Grid { module, grid });
            }
            (None, _) => {
                kept.push(info);
                specs.push(TensorSpec::from(info));
            }
        }
    }
    let input_scales = input_scales(student, container)?;
    specs.extend(input_scales.iter().map(|(spec, _)| spec.clone()));
    let output = ModelOutput {
        out,
        original,
        specs: &specs,
        plan: &plan,
        part_bytes: FolderWriter::SHARD_BYTES,
    };
    let mut writer = match container {
        None => float_folder(&output, Map::new())?,
        Some(container) => {
            container.check_plan(&plan)?;
            container.check_model(&output)?;
            container.writer(&output)?
        }
    };
    for info in &kept {
        match learned(student, original, info)? {
            Some(values) => writer.write(&info.name, &stored(&values, info.dtype))?,
            None => writer.write(&info.name, &original.read(&info.name)?)?,
        }
    }
    for (matrix, stored) in &trained {
        let Some(container) = container else { break };
        for (spec, bytes) in container.encode(matrix.module(), stored)? {
            writer.write(&spec.name, &bytes)?;
        }
    }
    for (spec, step) in &input_scales {
        writer.write(&spec.name, &step.to_le_bytes())?;
    }
    verify(student, &trained, original, &kept, writer.complete()?)?;
    Ok(writer.finish()?)
}

/// The fixed steps of inputs, as the container stores them.
fn input_scales(
    student: &Student,
    container: Option<&dyn Container>,
) -> Result<Vec<(TensorSpec, f32)>, QatError> {
    let place = |module: &str| container.and_then(|container| container.input_scale(module));
    let steps = student.input_steps().map(|(module, step)| match place(module) {
        Some(spec) => Ok((spec, step)),
        None => Err(QatError::InputScales {
            container: container.map_or("a float model", |container| container.name()),
        }),
    });
    steps.collect()
}

/// Every linear layer with what it takes.
fn modules(student: &Student, trained: &[(&FakeMatrix, Quantized)]) -> Vec<ModuleScheme> {
    let config = student.config();
    let layers = (0..config.n_layers).flat_map(|layer| config.roles().map(move |r| (layer, r)));
    layers
        .map(|(layer, role)| {
            let (module, shape) = (config.module(layer, role), config.shape(role));
            let found = trained.iter().find(|(matrix, _)| matrix.module() == module);
            let scheme = found.map_or(Scheme::Float, |(_, stored)| stored.scheme());
            ModuleScheme { module, shape, scheme, group_map: false }
        })
        .collect()
}

/// The values of a float tensor as they lie in the file, if they are not those of the original.
fn learned(
    student: &Student,
    original: &Checkpoint,
    info: &TensorInfo,
) -> Result<Option<Vec<f32>>, QatError> {
    // A tied matrix may be stored as the head alone.
    let [embedding, head] = student.config().end_modules().map(|module| format!("{module}.weight"));
    let only_head = info.name == head && original.tensor(&embedding).is_none();
    let name = if only_head { &embedding } else { &info.name };
    let Some(tensor) = student.floats().find(|tensor| tensor.name == *name) else {
        return Ok(None);
    };
    let values = tensor.in_file();
    let before = original.read_f32(&info.name)?;
    let same = before.iter().map(|x| x.to_bits()).eq(values.iter().map(|x| x.to_bits()));
    Ok((!same).then(|| values.into_owned()))
}

/// Values rounded to a type, as bytes.
fn stored(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

fn verify(
    student: &Student,
    trained: &[(&FakeMatrix, Quantized)],
    original: &Checkpoint,
    kept: &[&TensorInfo],
    path: &Path,
) -> Result<(), QatError> {
    let written = Checkpoint::open_with(path, Access::Positioned)?;
    let differs = |module: &str| Err(QatError::Verify { module: module.to_owned() });
    let same =
        |a: &[f32], b: &[f32]| a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
    for (matrix, stored) in trained {
        let values = match written.weight(matrix.module())? {
            Weight::Quant(read) => read.dequantize(),
            Weight::Float { data, .. } => data,
        };
        if !same(&values, &stored.dequantize()) {
            return differs(matrix.module());
        }
    }
    for info in kept {
        if written.tensor(&info.name).is_none() {
            // What a container leaves out, it has reported before.
            continue;
        }
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            // Such as masks, which old files of GPT-2 hold.
            if written.read(&info.name)? != original.read(&info.name)? {
                return differs(&info.name);
            }
            continue;
        }
        let expected = match learned(student, original, info)? {
            None => original.read_f32(&info.name)?,
            Some(values) => as_stored(&values, info.dtype).into_owned(),
        };
        if !same(&written.read_f32(&info.name)?, &expected) {
            return differs(&info.name);
        }
    }
    Ok(())
}
