//! Simpler rules than the best plan.

use crate::{Budget, PlannerError, Problem, Selection};

/// The same choice for every unit: the one of least loss within the budget.
///
/// # Errors
/// If no choice is allowed for all units and small enough.
pub fn best_uniform(problem: &Problem, budget: &Budget) -> Result<Selection, PlannerError> {
    let n_choices = problem.units().iter().map(|u| u.choices.len()).max().unwrap_or(0);
    let uniform: Vec<Selection> = (0..n_choices)
        .filter_map(|choice| problem.selection(vec![choice; problem.units().len()]).ok())
        .collect();
    let fits = |s: &&Selection| budget.allows(s.bytes, s.nanoseconds);
    let best = uniform.iter().filter(fits).min_by(|a, b| a.loss.total_cmp(&b.loss));
    best.cloned().ok_or_else(|| {
        let least =
            |cost: fn(&Selection) -> u64| uniform.iter().map(cost).min().unwrap_or(u64::MAX);
        match (budget.bytes, budget.nanoseconds) {
            (Some(budget), _) if budget < least(|s| s.bytes) => {
                PlannerError::Impossible { what: "bytes", budget, least: least(|s| s.bytes) }
            }
            (_, Some(budget)) => {
                PlannerError::Impossible { what: "ns", budget, least: least(|s| s.nanoseconds) }
            }
            (bytes, None) => {
                let budget = bytes.unwrap_or(u64::MAX);
                PlannerError::Impossible { what: "bytes", budget, least: least(|s| s.bytes) }
            }
        }
    })
}

/// A share of the units and what they take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    /// Share of the units, 0..=1.
    pub fraction: f64,
    /// Index of their choice.
    pub choice: usize,
}

/// Choices by importance: the first tier goes to the most important units, the last one to the rest. The rule "30 % in 32 bits, 30 % in 8 bits, 40 % in
/// 4 bits" is tiers of 0.3, 0.3 and 0.4.
///
/// Boundaries are rounded to whole units, halves up. Units of the same importance keep their order.
///
/// # Errors
/// If `fractions` are negative or do not add up to 1 (within 1e-6), or an importance is NaN.
///
/// # Panics
/// If there are no tiers.
pub fn tiers(importance: &[f64], tiers: &[Tier]) -> Result<Vec<usize>, PlannerError> {
    let total: f64 = tiers.iter().map(|t| t.fraction).sum();
    let sound = tiers.iter().all(|t| t.fraction >= 0.0) && (total - 1.0).abs() <= 1e-6;
    if !sound {
        return Err(PlannerError::Tiers { total });
    }
    if let Some(i) = importance.iter().position(|v| v.is_nan()) {
        let (unit, loss) = (format!("{i}"), importance[i]);
        return Err(PlannerError::Loss { unit, choice: 0, loss });
    }
    let mut order: Vec<usize> = (0..importance.len()).collect();
    order.sort_by(|&a, &b| importance[b].total_cmp(&importance[a]));
    let mut choices = vec![tiers.last().expect("at least one tier").choice; importance.len()];
    let (mut from, mut sum) = (0, 0.0);
    for tier in tiers {
        sum += tier.fraction;
        let to = ((sum * importance.len() as f64 + 1e-9).round() as usize).min(importance.len());
        for &unit in &order[from..to.max(from)] {
            choices[unit] = tier.choice;
        }
        from = to.max(from);
    }
    Ok(choices)
}
