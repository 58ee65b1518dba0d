//! A plan as a file that a person reads and edits.
//!
//! ```json
//! {
//!   "model": { "name": "TinyStories-656K", "fingerprint": "…" },
//!   "container": "gptq",
//!   "method": "gptq",
//!   "bytes": 158720,
//!   "bits_per_weight": 4.2,
//!   "modules": { "model.layers.0.self_attn.q_proj": "int4-g64", … }
//! }
//! ```
//!
//! Only `modules` decides; modules that it does not name stay as they are. The other numbers say how the plan came about and are not read back
//! into anything.

use std::{fmt, fs, path::Path};

use fewbit_checkpoint::{Checkpoint, write_atomically};
use fewbit_format::Plan;
use fewbit_format::Scheme;
use fewbit_planner::Selection;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use super::{PlanningProblem, Sensitivities, SensitivityError, grid_name, grid_of_name};
use crate::PipelineError;

/// A plan for one model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanFile {
    /// What it was made for.
    pub model: ModelId,
    /// Container that it was made for, by name.
    pub container: String,
    /// How codes were chosen when it was measured: `rtn` or `gptq`.
    pub method: String,
    /// The budget, as it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    /// Bytes of the matrices in the container.
    #[serde(default)]
    pub bytes: u64,
    /// The same per weight, in bits.
    #[serde(default)]
    pub bits_per_weight: f64,
    /// KL divergence that the measurements predict, nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_kl: Option<f64>,
    /// What the plan as a whole was measured to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// Grid of each module, by name, in the order of the file.
    #[serde(serialize_with = "as_map", deserialize_with = "from_map")]
    pub modules: Vec<(String, String)>,
}

/// Which model a plan is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// Name of its folder.
    pub name: String,
    /// See [`model_fingerprint`](super::model_fingerprint).
    pub fingerprint: String,
}

/// A plan as a whole against the best uniform plan of no more bytes, on held-out text. Nats per token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Held-out documents.
    pub documents: usize,
    /// KL divergence of the plan.
    pub kl: f64,
    /// The uniform plan.
    pub uniform: String,
    /// Its bits per weight.
    pub uniform_bits_per_weight: f64,
    /// Its KL divergence.
    pub uniform_kl: f64,
    /// 1 − the plan's KL divergence over the uniform plan's, with the ends of its 95 % interval.
    pub reduction: [f64; 3],
}

impl PlanFile {
    /// A selection as a file.
    pub fn new(
        sensitivities: &Sensitivities,
        problem: &PlanningProblem,
        selection: &Selection,
        name: impl Into<String>,
        container: &str,
        method: &str,
    ) -> Self {
        let grid = |module: &str| {
            let unit = problem.modules.iter().position(|m| m.iter().any(|m| m == module));
            let choice = selection.choices[unit.expect("every matrix is in a unit")];
            grid_name(&problem.grids[choice])
        };
        let modules: Vec<(String, String)> =
            sensitivities.matrices().map(|m| (m.module.clone(), grid(&m.module))).collect();
        let weights: usize = sensitivities.matrices().map(|m| m.shape().len()).sum();
        let loss = selection.loss;
        Self {
            model: ModelId { name: name.into(), fingerprint: sensitivities.model.clone() },
            container: container.into(),
            method: method.into(),
            budget: None,
            bytes: selection.bytes,
            bits_per_weight: selection.bytes as f64 * 8.0 / weights as f64,
            predicted_kl: Some(loss * sensitivities.interaction(loss)),
            measured: None,
            modules,
        }
    }

    /// Reads a plan.
    ///
    /// # Errors
    /// If the file cannot be read or is no plan.
    pub fn read(path: &Path) -> Result<Self, SensitivityError> {
        let bytes = fs::read(path).map_err(|e| PipelineError::io(path, e))?;
        let plan = serde_json::from_slice(&bytes);
        plan.map_err(|e| SensitivityError::NotAPlan { path: path.into(), problem: e.to_string() })
    }

    /// Writes it.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, path: &Path) -> Result<(), SensitivityError> {
        let mut json = serde_json::to_vec_pretty(self).expect("names and numbers serialize");
        json.push(b'\n');
        write_atomically(path, &json).map_err(PipelineError::from)?;
        Ok(())
    }

    /// The plan as a job takes it. `path` is for messages.
    ///
    /// # Errors
    /// If a grid has no such name.
    pub fn plan(&self, path: &Path) -> Result<Plan, SensitivityError> {
        let mut plan = Plan::uniform(Scheme::Float);
        for (module, grid) in &self.modules {
            let scheme = grid_of_name(grid).ok_or_else(|| SensitivityError::UnknownGrid {
                path: path.into(),
                module: module.clone(),
                grid: grid.clone(),
            })?;
            plan = plan.with(module.clone(), scheme);
        }
        Ok(plan)
    }

    /// Whether it is a plan for this model: every module exists, and the fingerprint is the same unless `any_model`. Shapes and what the container
    /// carries are checked by [`Job::prepare`](crate::Job::prepare).
    ///
    /// # Errors
    /// Names the module, or the model that the plan is for.
    pub fn check_model(
        &self,
        path: &Path,
        model: &Checkpoint,
        fingerprint: &str,
        any_model: bool,
    ) -> Result<(), SensitivityError> {
        let missing =
            |(module, _): &&(String, String)| model.tensor(&format!("{module}.weight")).is_none();
        if !any_model && self.model.fingerprint != fingerprint {
            let (path, name) = (path.into(), self.model.name.clone());
            return Err(SensitivityError::OtherModel { path, name });
        }
        match self.modules.iter().find(missing) {
            Some((module, _)) => {
                Err(SensitivityError::UnknownModule { path: path.into(), module: module.clone() })
            }
            None => Ok(()),
        }
    }
}

fn as_map<S: Serializer>(modules: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(modules.iter().map(|(module, grid)| (module, grid)))
}

fn from_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct InOrder;
    impl<'de> Visitor<'de> for InOrder {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object from module names to grid names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut modules: Self::Value = Vec::new();
            while let Some((module, grid)) = map.next_entry::<String, String>()? {
                if modules.iter().any(|(other, _)| *other == module) {
                    return Err(serde::de::Error::custom(format!("{module} is named twice")));
                }
                modules.push((module, grid));
            }
            Ok(modules)
        }
    }
    deserializer.deserialize_map(InOrder)
}
