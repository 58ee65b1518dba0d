//! What a run keeps on disk, so that it can be killed at any moment: one safetensors file, replaced as a whole.
//!
//! Tensors `value/…`, `best/…`, `mean/…` and `square/…` hold what is learned, the best of it so far, and the optimizer's moments; the header's metadata holds
//! settings, step and losses. The state of a finished run has values alone.

use std::{collections::HashMap, fs, io::ErrorKind, path::Path};

use fewbit_checkpoint::{CheckpointError, write_atomically};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::{QatError, optimizer::Moments, param::Param};

/// Losses of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Loss on the windows of each step.
    pub steps: Vec<f32>,
    /// Loss on held-out windows, and after how many steps.
    pub checks: Vec<(u64, f64)>,
}

impl Curve {
    /// The first loss on held-out windows.
    pub fn first(&self) -> f64 {
        self.checks.first().map_or(f64::NAN, |check| check.1)
    }

    /// The least loss on held-out windows, and after how many steps.
    pub fn best(&self) -> (u64, f64) {
        let checks = self.checks.iter().copied();
        checks.reduce(|best, check| if check.1 < best.1 { check } else { best }).unwrap_or_default()
    }
}

/// A run between two steps, apart from the values themselves.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) step: u64,
    pub(crate) curve: Curve,
    /// The values with the least loss on held-out windows.
    pub(crate) best: Vec<Vec<f32>>,
    pub(crate) moments: Moments,
}

/// The metadata of the file.
#[derive(Serialize, Deserialize)]
struct Header {
    settings: String,
    step: u64,
    curve: Curve,
}

const KEY: &str = "fewbit_training";

impl State {
    /// Replaces the file.
    pub(crate) fn keep(
        &self,
        file: &Path,
        settings: &str,
        params: &[Param<'_>],
    ) -> Result<(), QatError> {
        let mut tensors: Vec<(String, &[f32])> = Vec::new();
        for (i, param) in params.iter().enumerate() {
            let mut push =
                |kind: &str, values| tensors.push((format!("{kind}/{}", param.name), values));
            push("value", &*param.values);
            if let Some(best) = self.best.get(i) {
                push("best", best);
            }
            if let Some([mean, square]) = self.moments.get(i).filter(|m| !m[0].is_empty()) {
                push("mean", mean);
                if !square.is_empty() {
                    push("square", square);
                }
            }
        }
        let views = tensors.iter().map(|(name, values)| {
            let view =
                TensorView::new(Dtype::F32, vec![values.len()], bytemuck::cast_slice(values));
            (name, view.expect("the length follows from the values"))
        });
        let header =
            Header { settings: settings.into(), step: self.step, curve: self.curve.clone() };
        let json = serde_json::to_string(&header).expect("numbers and text serialize");
        let metadata = HashMap::from([(KEY.to_owned(), json)]);
        let bytes = safetensors::serialize(views, Some(metadata))
            .map_err(|error| broken(file, error.to_string()))?;
        Ok(write_atomically(file, &bytes)?)
    }

    /// Reads the file into the parameters; `None` if there is none.
    pub(crate) fn find(
        file: &Path,
        settings: &str,
        params: &mut [Param<'_>],
    ) -> Result<Option<Self>, QatError> {
        let bytes = match fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                let path = file.to_owned();
                return Err(CheckpointError::Io { action: "read", path, source }.into());
            }
            Ok(bytes) => bytes,
        };
        let unreadable = |error: safetensors::SafeTensorError| broken(file, error.to_string());
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(unreadable)?;
        let header = metadata.metadata().as_ref().and_then(|map| map.get(KEY));
        let header: Option<Header> = header.and_then(|json| serde_json::from_str(json).ok());
        let Some(Header { settings: found, step, curve }) = header else {
            return Err(broken(file, "its header says nothing of a run".into()));
        };
        if found != settings {
            let what = difference(&found, settings);
            return Err(QatError::OtherRun { file: file.to_owned(), what });
        }
        let all = SafeTensors::deserialize(&bytes).map_err(unreadable)?;
        let read = |kind: &str, param: &Param<'_>| -> Result<Option<Vec<f32>>, QatError> {
            let name = format!("{kind}/{}", param.name);
            let Ok(view) = all.tensor(&name) else { return Ok(None) };
            let (values, rest) = view.data().as_chunks();
            if view.dtype() != Dtype::F32 || values.len() != param.values.len() || !rest.is_empty()
            {
                return Err(broken(file, format!("{name} has another size")));
            }
            Ok(Some(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
        };
        let (mut best, mut moments) = (Vec::new(), Vec::new());
        for param in &mut *params {
            let Some(values) = read("value", param)? else {
                return Err(broken(file, format!("value/{} is missing", param.name)));
            };
            best.extend(read("best", param)?);
            let mean = read("mean", param)?.unwrap_or_default();
            moments.push([mean, read("square", param)?.unwrap_or_default()]);
            param.values.copy_from_slice(&values);
        }
        Ok(Some(Self { step, curve, best, moments }))
    }
}

fn broken(file: &Path, problem: String) -> QatError {
    QatError::State { file: file.to_owned(), problem }
}

/// The first setting that differs; settings are `name value` lines.
fn difference(found: &str, wanted: &str) -> String {
    let mut lines = found.lines().zip(wanted.lines());
    match lines.find(|(found, wanted)| found != wanted) {
        Some((found, wanted)) => format!("{found}, now {wanted}"),
        None => "other settings".into(),
    }
}
