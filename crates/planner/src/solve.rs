//! The best plan for a budget.

use crate::{Budget, Choice, PlannerError, Problem, Selection, pareto::Pareto};

/// A plan and how sure it is the best.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The plan.
    pub selection: Selection,
    /// 0 if no plan within the budget has less loss. Else no plan within a budget smaller by this many bytes (nanoseconds, if only the time is
    /// limited) has less. `None` under two limits at once, where the answer is good, not proved.
    pub slack: Option<u64>,
}

/// Plans kept per unit of the problem.
const MAX_PLANS: usize = 1 << 15;
/// Halvings of the price of time.
const ROUNDS: usize = 50;

/// The plan of least loss within the budget. Of plans with the same loss, the smallest.
///
/// # Errors
/// If there is none; the error says what the smallest plan takes.
pub fn solve(problem: &Problem, budget: &Budget) -> Result<Solution, PlannerError> {
    problem.check(budget)?;
    match *budget {
        Budget { bytes, nanoseconds: None } => one_limit(problem, bytes, |c| c.bytes),
        Budget { bytes: None, nanoseconds } => one_limit(problem, nanoseconds, |c| c.nanoseconds),
        Budget { bytes: Some(bytes), nanoseconds: Some(nanoseconds) } => {
            let by_size = one_limit(problem, Some(bytes), |c| c.bytes)?;
            if by_size.selection.nanoseconds <= nanoseconds {
                return Ok(by_size);
            }
            let by_time = one_limit(problem, Some(nanoseconds), |c| c.nanoseconds)?;
            if by_time.selection.bytes <= bytes {
                return Ok(Solution { slack: by_time.slack.filter(|s| *s == 0), ..by_time });
            }
            two_limits(problem, bytes, nanoseconds)
        }
    }
}

fn one_limit(
    problem: &Problem,
    most: Option<u64>,
    cost: fn(&Choice) -> u64,
) -> Result<Solution, PlannerError> {
    let pareto = Pareto::new(problem, most.unwrap_or(u64::MAX), cost, |c| c.loss, MAX_PLANS);
    // The smallest plan is never thinned out, and it fits.
    let selection = pareto.best(problem).expect("the smallest plan fits");
    Ok(Solution { selection, slack: Some(pareto.slack()) })
}

/// A price on time is raised until the best plan within the size keeps the limit of time.
fn two_limits(problem: &Problem, bytes: u64, nanoseconds: u64) -> Result<Solution, PlannerError> {
    let at_price = |price: f64| {
        let loss = |c: &Choice| c.loss + price * c.nanoseconds as f64;
        let pareto = Pareto::new(problem, bytes, |c| c.bytes, loss, MAX_PLANS);
        pareto.best(problem).expect("the smallest plan fits")
    };
    let fastest = {
        let time = |c: &Choice| c.nanoseconds as f64;
        let pareto = Pareto::new(problem, bytes, |c| c.bytes, time, MAX_PLANS);
        pareto.best(problem).expect("the smallest plan fits")
    };
    if fastest.nanoseconds > nanoseconds {
        let fastest = fastest.nanoseconds;
        return Err(PlannerError::Conflict { bytes, nanoseconds, fastest });
    }
    let mut best = fastest;
    // A price at which the largest difference in loss of all units together is worth a nanosecond decides by time alone.
    let spread: f64 =
        problem.units().iter().map(|u| spread(u.allowed().map(|(_, c)| c.loss))).sum();
    let (mut low, mut high) = (0.0, spread.max(f64::MIN_POSITIVE));
    for _ in 0..ROUNDS {
        let price = match low {
            0.0 => high * 0.125,
            low => (low * high).sqrt(),
        };
        let selection = at_price(price);
        if selection.nanoseconds <= nanoseconds {
            high = price;
            if selection.loss < best.loss {
                best = selection;
            }
        } else {
            low = price;
        }
    }
    Ok(Solution { selection: best, slack: None })
}

fn spread(values: impl Iterator<Item = f64>) -> f64 {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    high - low
}
