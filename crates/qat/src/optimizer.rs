//! Optimizers: AdamW, Muon and signed descent, with warm-up, cosine and clipping.

use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    QatError, muon,
    param::{Kind, Param},
    pool::Pool,
};

/// The rule by which a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter, arXiv 1711.05101).
    Adam {
        /// Share of the past in the mean gradient, in 0..1.
        beta1: f32,
        /// Share of the past in the mean square of the gradient, in 0..1.
        beta2: f32,
        /// Share of the weights that goes each step, per learning rate. Only of weights.
        weight_decay: f32,
    },
    /// Muon (Jordan et al., 2024) for float weights of linear layers: momentum whose update is made orthogonal. All else by AdamW without decay.
    Muon {
        /// Share of the past in the mean gradient of those weights, in 0..1.
        momentum: f32,
        /// As in AdamW, for all else.
        beta1: f32,
        /// As in AdamW, for all else.
        beta2: f32,
        /// Share of those weights that goes each step, per learning rate.
        weight_decay: f32,
    },
    /// The sign of the gradient alone (SignSGD), as AutoRound has it.
    Sign,
}

/// Learning rates at their height, by what is learned. Of weights on a grid and of step sizes they count in mean steps of the matrix (0.01 moves a weight in
/// a hundred equal steps to the next code, a step size in one by a hundredth), of rounding offsets and zero points in codes, of all else in units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Of weights.
    pub weights: f32,
    /// Of rounding offsets.
    pub rounding: f32,
    /// Of step sizes.
    pub scales: f32,
    /// Of zero points.
    pub zero_points: f32,
    /// Of norms and biases.
    pub norms: f32,
    /// Of embedding and head.
    pub ends: f32,
    /// Of low-rank adapters.
    pub adapters: f32,
}

impl Rates {
    /// Nothing moves.
    pub const ZERO: Self = Self {
        weights: 0.0,
        rounding: 0.0,
        scales: 0.0,
        zero_points: 0.0,
        norms: 0.0,
        ends: 0.0,
        adapters: 0.0,
    };

    fn of(&self, kind: Kind) -> f32 {
        match kind {
            Kind::Weight => self.weights,
            Kind::Rounding => self.rounding,
            Kind::Scale => self.scales,
            Kind::ZeroPoint => self.zero_points,
            Kind::Norm => self.norms,
            Kind::End => self.ends,
            Kind::Adapter => self.adapters,
        }
    }

    /// All rates times a factor.
    #[must_use]
    pub fn scaled(self, by: f32) -> Self {
        let Self { weights, rounding, scales, zero_points, norms, ends, adapters } = self;
        Self {
            weights: weights * by,
            rounding: rounding * by,
            scales: scales * by,
            zero_points: zero_points * by,
            norms: norms * by,
            ends: ends * by,
            adapters: adapters * by,
        }
    }
}

/// How learning rates change over the steps: a straight warm-up, then half a cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Number of steps.
    pub steps: u64,
    /// Steps of the warm-up.
    pub warm_up: u64,
    /// What is left of the rates at the end, in 0..=1.
    pub last: f32,
}

impl Schedule {
    /// Share of the rates at step `step`, counted from 0.
    pub fn share(&self, step: u64) -> f32 {
        if step < self.warm_up {
            return (step + 1) as f32 / (self.warm_up + 1) as f32;
        }
        let length = self.steps.saturating_sub(self.warm_up).max(1) as f64;
        let done = (step - self.warm_up) as f64 / length;
        let cosine = 0.5 + 0.5 * (std::f64::consts::PI * done.min(1.0)).cos();
        self.last + (1.0 - self.last) * cosine as f32
    }
}

/// How steps are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimization {
    /// From gradient to step.
    pub rule: Rule,
    /// Learning rates.
    pub rates: Rates,
    /// Number of steps and the course of the rates.
    pub schedule: Schedule,
    /// Length to which longer gradients are cut; `None` to leave them. Without meaning for [`Rule::Sign`].
    pub clip: Option<f32>,
}

impl Optimization {
    pub(crate) fn check(&self) -> Result<(), QatError> {
        let wrong = |setting, value: f32, expected| {
            Err(QatError::Setting { setting, value: value.into(), expected })
        };
        let Rates { weights, rounding, scales, zero_points, norms, ends, adapters } = self.rates;
        for rate in [weights, rounding, scales, zero_points, norms, ends, adapters] {
            if !(rate.is_finite() && rate >= 0.0) {
                return wrong("a learning rate", rate, "finite and not negative");
            }
        }
        let (shares, weight_decay) = match self.rule {
            Rule::Adam { beta1, beta2, weight_decay } => (vec![beta1, beta2], weight_decay),
            Rule::Muon { momentum, beta1, beta2, weight_decay } => {
                (vec![momentum, beta1, beta2], weight_decay)
            }
            Rule::Sign => (Vec::new(), 0.0),
        };
        if let Some(share) = shares.into_iter().find(|share| !(0.0..1.0).contains(share)) {
            return wrong("a share of the past", share, "at least 0 and less than 1");
        }
        if !(weight_decay.is_finite() && weight_decay >= 0.0) {
            return wrong("weight decay", weight_decay, "finite and not negative");
        }
        if !(0.0..=1.0).contains(&self.schedule.last) {
            return wrong("the last share of the rates", self.schedule.last, "in 0..=1");
        }
        match self.clip {
            Some(clip) if !(clip.is_finite() && clip > 0.0) => {
                wrong("gradient clipping", clip, "finite and positive")
            }
            _ => Ok(()),
        }
    }
}

/// Running means of gradients and of their squares, for each parameter.
pub(crate) type Moments = Vec<[Vec<f32>; 2]>;

/// Moments of parameters that were not moved yet.
pub(crate) fn moments(params: &[Param<'_>], rule: Rule) -> Moments {
    let zeros = |param: &Param<'_>| match rule {
        Rule::Muon { .. } if param.matrix.is_some() => [vec![0.0; param.values.len()], Vec::new()],
        Rule::Adam { .. } | Rule::Muon { .. } => {
            [vec![0.0; param.values.len()], vec![0.0; param.values.len()]]
        }
        Rule::Sign => [Vec::new(), Vec::new()],
    };
    params.iter().map(zeros).collect()
}

/// Values that a thread takes at a time.
const PIECE: usize = 1 << 14;
/// Added to the root of the mean square, relative to gradients that are means over many tokens.
const EPSILON: f32 = 1e-10;

/// Length of all gradients together.
pub(crate) fn length(grads: &[Vec<f32>]) -> f64 {
    let sum: f64 = grads
        .iter()
        .map(|grad| {
            let pieces = grad.par_chunks(PIECE);
            let sums: Vec<f64> = pieces
                .map(|piece| piece.iter().map(|&x| f64::from(x) * f64::from(x)).sum())
                .collect();
            sums.iter().sum::<f64>()
        })
        .sum();
    sum.sqrt()
}

/// Step `step`, counted from 0. `factor` multiplies every gradient.
pub(crate) fn apply(
    optimization: &Optimization,
    params: Vec<Param<'_>>,
    grads: &[Vec<f32>],
    factor: f32,
    moments: &mut Moments,
    step: u64,
    pool: &mut Pool,
) {
    assert_eq!(params.len(), grads.len(), "one gradient for each parameter");
    let share = optimization.schedule.share(step);
    for ((param, grad), moments) in params.into_iter().zip(grads).zip(moments) {
        assert_eq!(param.values.len(), grad.len(), "{}: a value for each", param.name);
        let rate = optimization.rates.of(param.kind) * share * param.unit;
        match (optimization.rule, param.matrix) {
            (Rule::Muon { momentum, weight_decay, .. }, Some(shape)) => {
                let numbers = [momentum, factor, rate, 1.0 - rate * weight_decay];
                muon::step(param.values, shape, grad, &mut moments[0], numbers, pool);
            }
            (rule @ (Rule::Adam { beta1, beta2, .. } | Rule::Muon { beta1, beta2, .. }), _) => {
                let decay = match rule {
                    Rule::Adam { weight_decay, .. } if param.kind == Kind::Weight => {
                        1.0 - rate * weight_decay
                    }
                    _ => 1.0,
                };
                let correct = |beta: f32| 1.0 - f64::from(beta).powf(step as f64 + 1.0);
                let adam = Adam {
                    beta1,
                    beta2,
                    decay,
                    factor,
                    rate: (f64::from(rate) / correct(beta1)) as f32,
                    correction2: (1.0 / correct(beta2)) as f32,
                };
                adam.step(param.values, grad, moments);
            }
            (Rule::Sign, _) => {
                let pieces = param.values.par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
                pieces.for_each(|(values, grad)| {
                    for (value, grad) in values.iter_mut().zip(grad) {
                        if *grad != 0.0 {
                            *value -= rate * grad.signum();
                        }
                    }
                });
            }
        }
        let [low, high] = param.range;
        if low.is_finite() {
            param.values.iter_mut().for_each(|value| *value = value.clamp(low, high));
        }
    }
}

struct Adam {
    beta1: f32,
    beta2: f32,
    decay: f32,
    factor: f32,
    rate: f32,
    correction2: f32,
}

impl Adam {
    fn step(&self, values: &mut [f32], grad: &[f32], [mean, square]: &mut [Vec<f32>; 2]) {
        let level = Level::detect();
        let pieces = values.par_chunks_mut(PIECE).zip(grad.par_chunks(PIECE));
        let pieces = pieces.zip(mean.par_chunks_mut(PIECE)).zip(square.par_chunks_mut(PIECE));
        pieces.for_each(|(((values, grad), mean), square)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let all = values.iter_mut().zip(grad).zip(mean).zip(square);
                    for (((value, grad), mean), square) in all {
                        let grad = grad * self.factor;
                        *mean = self.beta1 * *mean + (1.0 - self.beta1) * grad;
                        *square = self.beta2 * *square + (1.0 - self.beta2) * (grad * grad);
                        let root = (*square * self.correction2).sqrt() + EPSILON;
                        *value = *value * self.decay - self.rate * *mean / root;
                    }
                },
            );
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::param::ANY;

    #[test]
    fn rates_rise_and_fall() {
        let schedule = Schedule { steps: 110, warm_up: 10, last: 0.1 };
        assert!(schedule.share(0) > 0.0 && schedule.share(0) < schedule.share(5));
        assert_eq!(schedule.share(10), 1.0);
        assert!((schedule.share(60) - 0.55).abs() < 1e-6);
        assert!((schedule.share(110) - 0.1).abs() < 1e-6);
        assert_eq!(Schedule { steps: 0, warm_up: 0, last: 0.0 }.share(0), 1.0);
    }

    /// Two steps of AdamW by hand.
    #[test]
    fn adam_follows_its_paper() {
        let rule = Rule::Adam { beta1: 0.9, beta2: 0.99, weight_decay: 0.1 };
        let rates = Rates { weights: 0.5, ..Rates::ZERO };
        let schedule = Schedule { steps: 2, warm_up: 0, last: 1.0 };
        let optimization = Optimization { rule, rates, schedule, clip: None };
        let mut x = vec![1.0f32];
        let mut state = vec![[vec![0.0], vec![0.0]]];
        let (mut m, mut v, mut by_hand) = (0.0f64, 0.0f64, 1.0f64);
        for (step, gradient) in [3.0f64, -1.0].into_iter().enumerate() {
            let param = Param {
                name: "x".into(),
                kind: Kind::Weight,
                unit: 1.0,
                range: ANY,
                matrix: None,
                values: &mut x,
            };
            apply(
                &optimization,
                vec![param],
                &[vec![gradient as f32]],
                1.0,
                &mut state,
                step as u64,
                &mut Pool::default(),
            );
            m = 0.9 * m + 0.1 * gradient;
            v = 0.99 * v + 0.01 * gradient * gradient;
            let n = step as i32 + 1;
            let (m_hat, v_hat) = (m / (1.0 - 0.9f64.powi(n)), v / (1.0 - 0.99f64.powi(n)));
            by_hand -= 0.5 * 0.1 * by_hand + 0.5 * m_hat / v_hat.sqrt();
        }
        assert!((f64::from(x[0]) - by_hand).abs() < 1e-6, "{} against {by_hand}", x[0]);
    }
}
