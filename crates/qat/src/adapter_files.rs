//! Adapters as PEFT writes and reads them: `adapter_config.json` and `adapter_model.safetensors`.

use std::{fs, path::Path};

use fewbit_checkpoint::{CheckpointError, write_atomically};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::json;

use crate::{QatError, Student};

/// Writes the adapters of a model into a folder. `base` is the name of the model that they stand on, for whoever loads them.
///
/// # Errors
/// [`QatError::NoAdapters`] if there are none, and if the folder exists already or cannot be written.
pub fn export_adapters(student: &Student, base: &str, out: &Path) -> Result<(), QatError> {
    let Some(first) = student.adapters().next() else { return Err(QatError::NoAdapters) };
    if out.exists() {
        return Err(CheckpointError::OutputExists { path: out.to_owned() }.into());
    }
    let mut tensors = Vec::new();
    for adapter in student.adapters() {
        let shape = adapter.base().shape();
        let [a, b] = adapter.factors();
        let rank = a.len() / shape.in_features;
        let mut push = |name: &str, dims: [usize; 2], values| {
            let name = format!("base_model.model.{}.{name}.weight", adapter.module());
            let view = TensorView::new(Dtype::F32, dims.to_vec(), bytemuck::cast_slice(values));
            tensors.push((name, view.expect("the length follows from the shape")));
        };
        push("lora_A", [rank, shape.in_features], a);
        push("lora_B", [shape.out_features, rank], b);
    }
    let rank = first.factors()[0].len() / first.base().shape().in_features;
    let modules: Vec<&str> = student.adapters().map(|adapter| adapter.module()).collect();
    let config = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": first.factor() * rank as f32,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": student.config().architecture.lies_transposed(),
        "inference_mode": true,
        "target_modules": modules,
    });
    let bytes = safetensors::serialize(tensors, None)
        .map_err(|error| QatError::State { file: out.to_owned(), problem: error.to_string() })?;
    fs::create_dir_all(out).map_err(|source| CheckpointError::Io {
        action: "create",
        path: out.to_owned(),
        source,
    })?;
    write_atomically(&out.join("adapter_model.safetensors"), &bytes)?;
    let json = serde_json::to_vec_pretty(&config).expect("an object of plain values");
    Ok(write_atomically(&out.join("adapter_config.json"), &json)?)
}
