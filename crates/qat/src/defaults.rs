//! Settings to begin with.

use crate::{Optimization, Rates, Rule, Run, Schedule};

const ADAM: Rule = Rule::Adam { beta1: 0.9, beta2: 0.98, weight_decay: 0.0 };

fn run(steps: u64, rule: Rule, rates: Rates, last: f32, clip: Option<f32>) -> Run {
    Run {
        optimization: Optimization {
            rule,
            rates,
            schedule: Schedule { steps, warm_up: steps / 20, last },
            clip,
        },
        batch: 8,
        accumulate: 1,
        seed: 0,
        check_every: (steps / 10).max(1),
        check_windows: 16,
        keep_every: 50,
    }
}

/// Block by block, weights with their grids: [`Learn::WEIGHTS`](crate::Learn::WEIGHTS).
pub fn blocks(steps: u64) -> Run {
    let rates = Rates { weights: 0.01, scales: 0.003, zero_points: 0.003, ..Rates::ZERO };
    run(steps, ADAM, rates, 0.05, None)
}

/// Block by block, rounding and ranges alone, as AutoRound does: [`Learn::ROUNDING`](crate::Learn::ROUNDING). Rates are `1 / steps` and fall to nothing.
pub fn rounding(steps: u64) -> Run {
    let rate = 1.0 / steps.max(1) as f32;
    let rates = Rates { rounding: rate, scales: rate, zero_points: rate, ..Rates::ZERO };
    let mut run = run(steps, Rule::Sign, rates, 0.0, None);
    run.optimization.schedule.warm_up = 0;
    run
}

/// A whole model with all weights on grids, from a teacher: [`Learn::WEIGHTS`](crate::Learn::WEIGHTS), and the norms if they are learned too. With
/// [`Run::with_ends`], embedding and head as well.
pub fn full(steps: u64) -> Run {
    let rates =
        Rates { weights: 0.005, scales: 0.001, zero_points: 0.003, norms: 0.001, ..Rates::ZERO };
    run(steps, ADAM, rates, 0.0, Some(1.0))
}

/// Step sizes of a whole model, from a teacher: [`Learn::SCALES`](crate::Learn::SCALES), and the norms if they are learned too.
pub fn scales(steps: u64) -> Run {
    let rates = Rates { scales: 0.003, norms: 0.003, ..Rates::ZERO };
    run(steps, ADAM, rates, 0.05, Some(1.0))
}

/// Norms and biases of a whole model, from a teacher: [`Learn::NORMS`](crate::Learn::NORMS).
pub fn norms(steps: u64) -> Run {
    let rates = Rates { norms: 0.003, ..Rates::ZERO };
    run(steps, ADAM, rates, 0.05, Some(1.0))
}

/// Low-rank adapters of a whole model, towards a teacher or the next token: [`Learn::ADAPTERS`](crate::Learn::ADAPTERS).
pub fn adapters(steps: u64) -> Run {
    let rates = Rates { adapters: 1e-3, ..Rates::ZERO };
    run(steps, ADAM, rates, 0.05, Some(1.0))
}

/// A float model from nothing: [`Learn::FLOAT`](crate::Learn::FLOAT). Muon for the weights of linear layers.
pub fn fresh(steps: u64) -> Run {
    let rates = Rates { weights: 0.02, norms: 0.004, ends: 0.004, ..Rates::ZERO };
    let rule = Rule::Muon { momentum: 0.95, beta1: 0.9, beta2: 0.98, weight_decay: 0.05 };
    run(steps, rule, rates, 0.02, Some(1.0))
}

/// The same with AdamW for all.
pub fn fresh_adamw(steps: u64) -> Run {
    let rates = Rates { weights: 0.003, norms: 0.003, ends: 0.003, ..Rates::ZERO };
    let rule = Rule::Adam { beta1: 0.9, beta2: 0.98, weight_decay: 0.05 };
    run(steps, rule, rates, 0.02, Some(1.0))
}
