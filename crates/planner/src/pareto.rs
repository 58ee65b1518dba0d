//! Every plan that no other beats, by dynamic programming with dominance (Nemhauser and Ullmann, 1969).
//!
//! ```text
//! plans ← {nothing}
//! for each unit:   plans ← plans × choices, without those that another one equals or beats in both cost and loss
//! ```
//!
//! Costs are whole numbers and never rounded. Matrices of a model come in a few shapes, so that few sums differ and the lists stay short; where
//! they do not, costs are cut into intervals of which each keeps its best plan.

use crate::{Choice, Problem, Selection};

/// Most plans that are kept after a unit.
const MAX_PLANS: usize = 1 << 15;

/// The plans that no other equals or beats in both cost and loss, in ascending order of cost.
#[derive(Clone, Debug)]
pub struct Pareto {
    plans: Vec<Plan>,
    /// For each unit and each plan up to it: the plan before, and the choice.
    steps: Vec<Vec<(u32, u32)>>,
    slack: u64,
}

/// A plan for the units so far.
#[derive(Clone, Copy, Debug)]
struct Plan {
    cost: u64,
    loss: f64,
    /// Index of the plan before the last unit, and choice of that.
    step: (u32, u32),
}

/// The Pareto frontier of size and loss, up to `most` bytes.
pub fn pareto(problem: &Problem, most: u64) -> Pareto {
    Pareto::new(problem, most, |c| c.bytes, |c| c.loss, MAX_PLANS)
}

impl Pareto {
    pub(crate) fn new(
        problem: &Problem,
        most: u64,
        cost: impl Fn(&Choice) -> u64,
        loss: impl Fn(&Choice) -> f64,
        max_plans: usize,
    ) -> Self {
        // What the units from each on take at least.
        let mut least = vec![0; problem.units().len() + 1];
        for (i, unit) in problem.units().iter().enumerate().rev() {
            least[i] = least[i + 1] + unit.allowed().map(|(_, c)| cost(c)).min().unwrap_or(0);
        }
        let mut plans = vec![Plan { cost: 0, loss: 0.0, step: (0, 0) }];
        let (mut steps, mut slack) = (Vec::new(), 0);
        for (unit, &rest) in problem.units().iter().zip(&least[1..]) {
            let room = most.saturating_sub(rest);
            let mut next = Vec::new();
            for (i, c) in unit.allowed() {
                let (cost, loss) = (cost(c), loss(c));
                let extended = plans.iter().enumerate().map(|(before, plan)| Plan {
                    cost: plan.cost + cost,
                    loss: plan.loss + loss,
                    step: (before as u32, i as u32),
                });
                next.extend(extended.take_while(|plan| plan.cost <= room));
            }
            keep_undominated(&mut next);
            slack += thin(&mut next, max_plans);
            steps.push(next.iter().map(|plan| plan.step).collect());
            plans = next;
        }
        Self { plans, steps, slack }
    }

    /// Number of plans.
    pub fn len(&self) -> usize {
        self.plans.len()
    }

    /// Whether no plan is cheap enough.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// (cost, loss) of each plan.
    pub fn points(&self) -> impl ExactSizeIterator<Item = (u64, f64)> {
        self.plans.iter().map(|plan| (plan.cost, plan.loss))
    }

    /// How much cheaper a plan may have to be to be found: 0 if all plans were looked at. The best plan found for a budget is at least as
    /// good as the best one for a budget smaller by this.
    pub fn slack(&self) -> u64 {
        self.slack
    }

    /// A plan by its position.
    ///
    /// # Panics
    /// If `problem` is another one, or `index` is not below [`len`](Self::len).
    pub fn selection(&self, problem: &Problem, index: usize) -> Selection {
        let mut choices = vec![0; self.steps.len()];
        let mut at = index;
        for (choice, steps) in choices.iter_mut().zip(&self.steps).rev() {
            let (before, chosen) = steps[at];
            (at, *choice) = (before as usize, chosen as usize);
        }
        problem.sum(choices)
    }

    /// The plan of least loss; `None` if there is none.
    pub(crate) fn best(&self, problem: &Problem) -> Option<Selection> {
        Some(self.selection(problem, self.len().checked_sub(1)?))
    }
}

/// Sorts by cost and drops what costs and loses no less than another plan.
fn keep_undominated(plans: &mut Vec<Plan>) {
    // Stable, so that the first of equals stays.
    plans.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.loss.total_cmp(&b.loss)));
    let mut best = f64::INFINITY;
    plans.retain(|plan| {
        let better = plan.loss < best;
        best = best.min(plan.loss);
        better
    });
}

/// Keeps the best plan of each of `max_plans` intervals of cost, and the cheapest of all. Returns the length of an interval; 0 if nothing had to go.
fn thin(plans: &mut Vec<Plan>, max_plans: usize) -> u64 {
    let (Some(first), Some(last)) = (plans.first(), plans.last()) else { return 0 };
    if plans.len() <= max_plans {
        return 0;
    }
    let (low, width) = (first.cost, (last.cost - first.cost) / max_plans as u64 + 1);
    let interval = |plan: &Plan| (plan.cost - low) / width;
    let kept: Vec<Plan> = (0..plans.len())
        .filter(|&i| {
            i == 0 || plans.get(i + 1).is_none_or(|next| interval(next) != interval(&plans[i]))
        })
        .map(|i| plans[i])
        .collect();
    *plans = kept;
    width
}
