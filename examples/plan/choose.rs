//! Plans by policy, and their refinement by measurement.

use anyhow::{Result, bail};
use fewbit::{
    format::{MatrixShape, Plan, Scheme},
    pipeline::{
        Progress,
        sensitivity::{
            LayerSpeeds, MatrixSensitivity, PlanningProblem, Sensitivities, compare_plans,
            grid_name, grid_of_name, measure_speeds, other_bytes,
        },
        weight_dtype,
    },
    planner::{Budget, Selection, Tier, best_uniform, neighbours, solve, tiers},
};

use crate::{
    Source,
    args::{Args, BudgetArg, Importance, Policy},
    setup::Setup,
};

/// The budget in numbers of the planner.
pub struct Limits {
    pub budget: Budget,
    pub speeds: Option<LayerSpeeds>,
}

impl Limits {
    pub fn new(budget: &BudgetArg, setup: &Setup, sensitivities: &Sensitivities) -> Result<Self> {
        let weights: usize = sensitivities.matrices().map(|m| m.shape().len()).sum();
        let other = other_bytes(&setup.model, sensitivities);
        let by_width = budget.bits_per_weight.map(|bits| (bits * weights as f64 / 8.0) as u64);
        let by_total = match budget.total_bytes {
            Some(total) if total <= other => bail!(
                "a budget of {total} bytes is impossible: embedding, head and norms alone take {other}"
            ),
            total => total.map(|total| total - other),
        };
        let bytes = [by_width, by_total].into_iter().flatten().min();
        let Some(wanted) = budget.tokens_per_second else {
            return Ok(Self { budget: Budget { bytes, nanoseconds: None }, speeds: None });
        };
        let float = weight_dtype(&setup.model, &setup.config);
        let speeds = measure_speeds(&setup.shapes, &setup.grids, float);
        // The head is a layer like the others, in the type of the model.
        let head = MatrixShape::new(setup.config.vocab_size, setup.config.hidden_size);
        let head =
            measure_speeds(&[head], &[], float).nanoseconds(head, &Scheme::Float).unwrap_or(0);
        let token = (1e9 / wanted) as u64;
        if token <= head {
            bail!(
                "{wanted} tokens per second are impossible: the head alone takes {head} ns a token"
            );
        }
        let nanoseconds = Some(token - head);
        Ok(Self { budget: Budget { bytes, nanoseconds }, speeds: Some(speeds) })
    }
}

pub struct Planner<'a> {
    pub args: &'a Args,
    pub setup: &'a Setup,
    pub sensitivities: &'a Sensitivities,
    pub problem: &'a PlanningProblem,
}

impl Planner<'_> {
    pub fn choose(&self, limits: &Limits) -> Result<Selection> {
        let problem = &self.problem.problem;
        Ok(match self.args.policy {
            Policy::Best => solve(problem, &limits.budget)?.selection,
            Policy::Uniform => best_uniform(problem, &limits.budget)?,
            Policy::Tiers => self.tiers()?,
        })
    }

    /// The best uniform plan within the budget; `None` if there is none.
    pub fn uniform(&self, limits: &Limits) -> Option<Selection> {
        best_uniform(&self.problem.problem, &limits.budget).ok()
    }

    fn tiers(&self) -> Result<Selection> {
        let mut rule = Vec::new();
        for tier in &self.args.tiers {
            let parsed = tier.split_once(':').and_then(|(fraction, grid)| {
                let choice =
                    self.problem.grids.iter().position(|g| Some(*g) == grid_of_name(grid))?;
                Some(Tier { fraction: fraction.parse().ok()?, choice })
            });
            match parsed {
                Some(tier) => rule.push(tier),
                None => bail!("{tier:?} is no tier: write 0.3:int8-g128, with a grid of --grids"),
            }
        }
        let importance: Vec<f64> = self
            .problem
            .modules
            .iter()
            .map(|modules| {
                let members = self.sensitivities.matrices().filter(|m| modules.contains(&m.module));
                members.map(|m| self.importance(m)).fold(f64::NEG_INFINITY, f64::max)
            })
            .collect();
        Ok(self.problem.problem.selection(tiers(&importance, &rule)?)?)
    }

    fn importance(&self, m: &MatrixSensitivity) -> f64 {
        let worst = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, f64::max);
        match self.args.importance {
            Importance::Influence => self.sensitivities.blocks[m.block].influence,
            Importance::Error => worst(&mut m.errors.values().copied()),
            Importance::Loss => {
                worst(&mut self.problem.grids.iter().filter_map(|grid| m.loss(grid)))
            }
            Importance::Kurtosis => m.weights.kurtosis,
        }
    }

    pub fn grid(&self, selection: &Selection, module: &str) -> Scheme {
        let unit = self.problem.modules.iter().position(|m| m.iter().any(|m| m == module));
        unit.map_or(Scheme::Float, |unit| self.problem.grids[selection.choices[unit]])
    }

    pub fn weights(&self) -> usize {
        self.sensitivities.matrices().map(|m| m.shape().len()).sum()
    }

    pub fn bits_per_weight(&self, selection: &Selection) -> f64 {
        selection.bytes as f64 * 8.0 / self.weights() as f64
    }

    pub fn predicted(&self, selection: &Selection) -> f64 {
        selection.loss * self.sensitivities.interaction(selection.loss)
    }

    /// The grid of a uniform plan, or what it is.
    pub fn describe(&self, selection: &Selection) -> String {
        let first = selection.choices[0];
        match selection.choices.iter().all(|c| *c == first) {
            true => format!("uniform {}", grid_name(&self.problem.grids[first])),
            false => "plan".into(),
        }
    }

    /// Measures neighbours of the plan as wholes, on calibration text that is not held out, and moves to the best one.
    pub fn refine(
        &self,
        mut chosen: Selection,
        limits: &Limits,
        source: &Source,
        progress: &mut dyn Progress,
    ) -> Result<Selection> {
        // Behind the windows that are calibrated on.
        let used = self.args.windows * source.window;
        let mut tokens = 0;
        let unused = source.calibration.iter().skip_while(|d| {
            tokens += d.len();
            tokens <= used
        });
        let documents: Vec<Vec<u32>> = unused.take(64).cloned().collect();
        if documents.is_empty() {
            bail!("--refine needs calibration text beyond the windows that are calibrated on");
        }
        let mut tried: Vec<Vec<usize>> = vec![chosen.choices.clone()];
        let mut best = None;
        for _ in 0..self.args.refine {
            let most = self.args.refine_plans + tried.len();
            let mut candidates = neighbours(&self.problem.problem, &chosen, &limits.budget, most);
            candidates.retain(|c| !tried.contains(&c.choices));
            candidates.truncate(self.args.refine_plans);
            tried.extend(candidates.iter().map(|c| c.choices.clone()));
            if best.is_none() {
                candidates.insert(0, chosen.clone());
            }
            let plans: Vec<Plan> = candidates.iter().map(|c| self.problem.plan(c)).collect();
            let mut job =
                |plan, out: &std::path::Path| self.setup.job(self.args, source, plan, out);
            let runs = compare_plans(&source.model, &plans, &mut job, &documents, 512, progress)?;
            let before = best;
            for (candidate, run) in candidates.into_iter().zip(&runs) {
                if best.is_none_or(|least| run.kl.value < least) {
                    best = Some(run.kl.value);
                    chosen = candidate;
                }
            }
            if best == before {
                break;
            }
        }
        Ok(chosen)
    }
}

/// The names of the roles in the order of a block.
pub fn roles(sensitivities: &Sensitivities) -> Vec<String> {
    let first = sensitivities.blocks.first().map(|b| &b.matrices[..]).unwrap_or_default();
    first.iter().map(|m| m.role.clone()).collect()
}
