//! How much the model loses by each grid for each matrix, and the plans that follow.
//!
//! [`measure`] needs one pass through the blocks:
//!
//! ```text
//! for each block:
//!     for each sequential group:   statistics of its input on calibration text
//!         for each matrix and grid:    round a sample of its rows; relative error of the outputs
//!     disturbed copies of the probe text ← one per matrix: the probe text through the block with that matrix rounded
//!     probe text, and the copies from earlier blocks, through the block
//! KL divergence of each copy from the probe text
//! ```
//!
//! An output error says how grids compare for one matrix; the KL divergence of its copy says what an error of that matrix costs the model.
//! Together they are a loss for each matrix under each grid, of which few were measured as a whole. Errors are stored after each block, so
//! that a measurement that was stopped goes on, and a further grid costs only itself.
//!
//! [`Sensitivities::problem`] is what `fewbit-planner` solves; [`PlanFile`] is the answer as a person reads and edits it; [`compare_plans`] quantizes
//! plans and compares them on held-out text, pair by pair.

use std::collections::BTreeMap;

use fewbit_checkpoint::{Checkpoint, Container};
use fewbit_format::{MatrixShape, Plan, Scheme};
use fewbit_planner::{
    Choice, PlannerError, Problem, Selection, Unit,
    importance::{InputStatistics, WeightStatistics},
};
use serde::{Deserialize, Serialize};

mod error;
mod grid_name;
mod loss;
mod measure;
mod plan_file;
mod probes;
mod rounding;
mod speed;
mod verify;

pub use error::SensitivityError;
pub use grid_name::{grid_name, grid_of_name};
pub use loss::Probe;
pub use measure::{SensitivitySpec, measure, model_fingerprint};
pub use plan_file::{Measured, ModelId, PlanFile};
pub use speed::{LayerSpeeds, measure_speeds};
pub use verify::{PairedDivergence, PlanRun, compare_plans};

/// What [`measure`] finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sensitivities {
    /// Version of this program.
    pub version: String,
    /// Fingerprint of the model.
    pub model: String,
    /// Fingerprint of method and texts.
    pub settings: String,
    /// The blocks, in order; those measured so far if the measurement was stopped.
    pub blocks: Vec<BlockSensitivity>,
    /// KL divergence in nats with all matrices on one grid, by grid, rounded on the statistics of the float model.
    pub together: BTreeMap<String, f64>,
    /// Whether the probes are measured.
    pub complete: bool,
}

/// A block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockSensitivity {
    /// 1 − mean cosine of the states before and after.
    pub influence: f64,
    /// Its matrices, in the order of computation.
    pub matrices: Vec<MatrixSensitivity>,
}

/// A matrix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixSensitivity {
    /// Module name.
    pub module: String,
    /// Block it belongs to.
    pub block: usize,
    /// Last part of its name, such as `down_proj`.
    pub role: String,
    /// Which of the four inputs of a block it reads, 0 to 3: matrices of one block with the same input can be tied.
    pub site: usize,
    /// Rows.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
    /// Bytes in the model.
    pub float_bytes: u64,
    /// Distribution of its weights.
    pub weights: WeightStatistics,
    /// Pattern of its inputs.
    pub inputs: InputStatistics,
    /// Mean squared change of the outputs over their mean square, by grid. Grids that do not fit the shape are absent.
    pub errors: BTreeMap<String, f64>,
    /// What errors of this matrix alone cost the model, errors ascending.
    pub probes: Vec<Probe>,
}

/// Which matrices take the same grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Tie {
    /// Each matrix for itself.
    #[default]
    None,
    /// Query, key and value of a block share a grid, and so do gate and up, as engines want that multiply them at once.
    SharedInput,
}

/// A knapsack problem over matrices and grids, and what its numbers mean.
#[derive(Clone, Debug)]
pub struct PlanningProblem {
    /// The problem; choice `i` of each unit is grid `i`.
    pub problem: Problem,
    /// Module names of each unit.
    pub modules: Vec<Vec<String>>,
    /// The grids.
    pub grids: Vec<Scheme>,
}

impl MatrixSensitivity {
    /// Shape of the weight.
    pub fn shape(&self) -> MatrixShape {
        MatrixShape::new(self.out_features, self.in_features)
    }

    /// KL divergence in nats that this matrix alone causes under a grid, as estimated from its output error; `None` if the grid was not measured.
    pub fn loss(&self, grid: &Scheme) -> Option<f64> {
        match grid {
            Scheme::Float => Some(0.0),
            other => Some(loss::of_error(&self.probes, *self.errors.get(&grid_name(other))?)),
        }
    }
}

impl PlanningProblem {
    /// What a selection says of each matrix.
    ///
    /// # Panics
    /// If it is no selection of this problem.
    pub fn plan(&self, selection: &Selection) -> Plan {
        let mut plan = Plan::uniform(Scheme::Float);
        for (modules, &choice) in self.modules.iter().zip(&selection.choices) {
            for module in modules {
                plan = plan.with(module.clone(), self.grids[choice]);
            }
        }
        plan
    }
}

impl Sensitivities {
    /// All matrices, in the order of the model.
    pub fn matrices(&self) -> impl Iterator<Item = &MatrixSensitivity> {
        self.blocks.iter().flat_map(|block| &block.matrices)
    }

    /// Losses, and sizes as the container stores them, as a problem. A grid that does not fit a matrix or that the container refuses is forbidden
    /// there. `speeds` gives choices their times.
    ///
    /// # Errors
    /// If no grid is possible for some matrix.
    pub fn problem(
        &self,
        grids: &[Scheme],
        container: &dyn Container,
        tie: Tie,
        speeds: Option<&LayerSpeeds>,
    ) -> Result<PlanningProblem, PlannerError> {
        let mut units: Vec<Unit> = Vec::new();
        let mut modules: Vec<Vec<String>> = Vec::new();
        let tied = |a: &MatrixSensitivity, b: &MatrixSensitivity| {
            tie == Tie::SharedInput && (a.block, a.site) == (b.block, b.site)
        };
        let mut last: Option<&MatrixSensitivity> = None;
        for m in self.matrices() {
            let choices: Vec<Choice> =
                grids.iter().map(|grid| m.choice(grid, container, speeds)).collect();
            let unit = Unit::new(m.module.clone(), choices);
            match (units.last_mut(), modules.last_mut(), last) {
                (Some(before), Some(names), Some(other)) if tied(other, m) => {
                    let name = format!("{}+{}", before.name, m.role);
                    *before = Unit::fuse(name, &[before.clone(), unit])?;
                    names.push(m.module.clone());
                }
                _ => {
                    units.push(unit);
                    modules.push(vec![m.module.clone()]);
                }
            }
            last = Some(m);
        }
        Ok(PlanningProblem { problem: Problem::new(units)?, modules, grids: grids.to_vec() })
    }

    /// How much more (or less) a plan costs as a whole than the sum over its matrices, by the uniform plans that were measured so; 1 if none was.
    ///
    /// The geometric mean over them, each weighted by how near its sum is to `sum`.
    pub fn interaction(&self, sum: f64) -> f64 {
        let (mut logs, mut weights) = (0.0, 0.0);
        for (grid, &kl) in &self.together {
            let Some(scheme) = grid_of_name(grid) else { continue };
            let single: Option<f64> = self.matrices().map(|m| m.loss(&scheme)).sum();
            let Some(single) = single.filter(|s| *s > 0.0 && kl > 0.0 && sum > 0.0) else {
                continue;
            };
            let weight = 1.0 / (0.05 + (single / sum).ln().powi(2));
            logs += weight * (kl / single).ln();
            weights += weight;
        }
        if weights > 0.0 { (logs / weights).exp() } else { 1.0 }
    }
}

impl MatrixSensitivity {
    fn choice(
        &self,
        grid: &Scheme,
        container: &dyn Container,
        speeds: Option<&LayerSpeeds>,
    ) -> Choice {
        let nanoseconds = speeds.map_or(Some(0), |speeds| speeds.nanoseconds(self.shape(), grid));
        let (Some(loss), Some(nanoseconds)) = (self.loss(grid), nanoseconds) else {
            return Choice::forbidden();
        };
        let bytes = match grid {
            Scheme::Float => self.float_bytes,
            _ if container.check(&self.module, self.shape(), grid, false).is_err() => {
                return Choice::forbidden();
            }
            _ => fewbit_checkpoint::total_bytes(&container.tensors(
                &self.module,
                self.shape(),
                grid,
                false,
            )),
        };
        Choice::new(bytes, loss).with_nanoseconds(nanoseconds)
    }
}

/// Bytes of everything that no plan changes: all tensors but the weights of the linear layers.
pub fn other_bytes(model: &Checkpoint, sensitivities: &Sensitivities) -> u64 {
    let all: u64 = model.tensors().map(|t| t.bytes).sum();
    all - sensitivities.matrices().map(|m| m.float_bytes).sum::<u64>()
}
