//! The lower convex hull of all plans: the answer for every budget at once.
//!
//! Under a price λ per byte each unit decides alone: the choice of least `loss + λ·bytes`, a corner of its own lower convex hull. As λ falls, units
//! step from corner to corner, those first that gain most per byte. All steps in that order are the frontier (Lagrangian relaxation).

use crate::{Choice, PlannerError, Problem, Selection};

/// One step of one unit along its hull.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Index of the unit.
    pub unit: usize,
    /// Its choice before.
    pub from: usize,
    /// Its choice after: larger and better.
    pub to: usize,
    /// Loss saved per byte.
    pub gain: f64,
}

/// Size and loss of a plan on the frontier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrontierPoint {
    /// Size of all units.
    pub bytes: u64,
    /// Loss of all units.
    pub loss: f64,
}

/// Plans from the smallest to the best, each one step of a unit after the one before.
#[derive(Clone, Debug)]
pub struct Frontier {
    first: Vec<usize>,
    steps: Vec<Step>,
    points: Vec<FrontierPoint>,
}

impl Frontier {
    /// The frontier of size and loss.
    pub fn new(problem: &Problem) -> Self {
        let mut first = Vec::new();
        let mut steps = Vec::new();
        for (unit, u) in problem.units().iter().enumerate() {
            let hull = hull(u.allowed());
            first.push(hull[0].0);
            steps.extend(hull.windows(2).map(|pair| {
                let ((from, a), (to, b)) = (pair[0], pair[1]);
                Step { unit, from, to, gain: (a.loss - b.loss) / (b.bytes - a.bytes) as f64 }
            }));
        }
        // Stable: the steps of a unit stay in their order.
        steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
        let mut choices = first.clone();
        let mut points = Vec::with_capacity(steps.len() + 1);
        let mut point = |choices: &[usize]| {
            let Selection { bytes, loss, .. } = problem.sum(choices.to_vec());
            points.push(FrontierPoint { bytes, loss });
        };
        point(&choices);
        for step in &steps {
            choices[step.unit] = step.to;
            point(&choices);
        }
        Self { first, steps, points }
    }

    /// Size and loss of each plan, sizes ascending, losses descending.
    pub fn points(&self) -> &[FrontierPoint] {
        &self.points
    }

    /// The steps between them.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The plan after this many steps.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn selection(&self, problem: &Problem, steps: usize) -> Selection {
        let mut choices = self.first.clone();
        for step in &self.steps[..steps] {
            choices[step.unit] = step.to;
        }
        problem.sum(choices)
    }

    /// The largest plan of the frontier within a budget, and then whatever single choices still fit into what is left, those first that gain most per
    /// byte. At most one step of one unit from the best.
    ///
    /// # Errors
    /// If the smallest plan does not fit.
    pub fn within(&self, problem: &Problem, bytes: u64) -> Result<Selection, PlannerError> {
        problem.check(&crate::Budget::bytes(bytes))?;
        let steps = self.points.iter().take_while(|p| p.bytes <= bytes).count() - 1;
        let mut selection = self.selection(problem, steps);
        while let Some((unit, choice)) = best_upgrade(problem, &selection, bytes) {
            selection.choices[unit] = choice;
            selection = problem.sum(selection.choices);
        }
        Ok(selection)
    }
}

/// The change of one unit that saves most per byte within the budget.
fn best_upgrade(problem: &Problem, selection: &Selection, bytes: u64) -> Option<(usize, usize)> {
    let mut best: Option<(f64, usize, usize)> = None;
    for (unit, (u, &now)) in problem.units().iter().zip(&selection.choices).enumerate() {
        let now = &u.choices[now];
        for (choice, c) in u.allowed() {
            if c.loss < now.loss && selection.bytes - now.bytes + c.bytes <= bytes {
                let gain = (now.loss - c.loss) / c.bytes.saturating_sub(now.bytes).max(1) as f64;
                if best.is_none_or(|(most, ..)| gain > most) {
                    best = Some((gain, unit, choice));
                }
            }
        }
    }
    best.map(|(_, unit, choice)| (unit, choice))
}

/// Corners of the lower convex hull, bytes ascending, losses descending.
fn hull<'a>(choices: impl Iterator<Item = (usize, &'a Choice)>) -> Vec<(usize, &'a Choice)> {
    let mut sorted: Vec<_> = choices.collect();
    sorted.sort_by(|(_, a), (_, b)| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut hull: Vec<(usize, &Choice)> = Vec::new();
    for (i, c) in sorted {
        if hull.last().is_some_and(|(_, last)| c.loss >= last.loss) {
            continue;
        }
        // A corner goes if the way past it is at least as steep as the way to it.
        while let [.., (_, a), (_, b)] = hull[..] {
            let to = (a.loss - b.loss) * (c.bytes - b.bytes) as f64;
            let past = (b.loss - c.loss) * (b.bytes - a.bytes) as f64;
            if past < to {
                break;
            }
            hull.pop();
        }
        hull.push((i, c));
    }
    hull
}
