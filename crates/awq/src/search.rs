//! Which scales: a caller's loss decides.

use crate::Scales;

/// Where a candidate comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// No scaling.
    Identity,
    /// Activations to this power.
    Activations {
        /// The power.
        ratio: f64,
    },
    /// Activations to this power over weights to one less it.
    ActivationsAndWeights {
        /// The power of the activations.
        ratio: f64,
    },
    /// SmoothQuant: the largest activation to this power over the largest weight to one less it.
    Maxima {
        /// The power of the activations.
        strength: f64,
    },
}

/// Scales to be tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Where they come from.
    pub rule: Rule,
    /// The scales.
    pub scales: Scales,
}

/// The identity, then [`Scales::awq`] for the ratios `1/n, 2/n, … 1`; with `weights` as many again that use them, from ratio 0 on.
///
/// # Panics
/// If the lengths differ.
pub fn candidates(mean_abs: &[f64], weights: Option<&[f64]>, n_ratios: u32) -> Vec<Candidate> {
    let ratio = |i: u32| f64::from(i) / f64::from(n_ratios);
    let identity = Candidate { rule: Rule::Identity, scales: Scales::identity(mean_abs.len()) };
    let activations = (1..=n_ratios).map(|i| Candidate {
        rule: Rule::Activations { ratio: ratio(i) },
        scales: Scales::awq(mean_abs, None, ratio(i)),
    });
    let both = (0..n_ratios).take_while(|_| weights.is_some()).map(|i| Candidate {
        rule: Rule::ActivationsAndWeights { ratio: ratio(i) },
        scales: Scales::awq(mean_abs, weights, ratio(i)),
    });
    [identity].into_iter().chain(activations).chain(both).collect()
}

/// The identity, then [`Scales::smoothquant`] for each strength.
///
/// # Panics
/// If the lengths differ.
pub fn smoothing(max_input: &[f64], max_weight: &[f64], strengths: &[f64]) -> Vec<Candidate> {
    let identity = Candidate { rule: Rule::Identity, scales: Scales::identity(max_input.len()) };
    let smoothed = strengths.iter().map(|&strength| Candidate {
        rule: Rule::Maxima { strength },
        scales: Scales::smoothquant(max_input, max_weight, strength),
    });
    [identity].into_iter().chain(smoothed).collect()
}

/// What a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The candidate with the least loss.
    pub candidate: Candidate,
    /// Loss of the first candidate, which is the identity.
    pub loss_before: f64,
    /// Loss of the one chosen; never more, unless `loss_before` is NaN.
    pub loss_after: f64,
}

/// The candidate with the least loss; of equal ones the first. A loss that is NaN never wins over the first candidate.
///
/// # Errors
/// Whatever `loss` fails with.
///
/// # Panics
/// If there is no candidate.
pub fn choose<E>(
    candidates: Vec<Candidate>,
    mut loss: impl FnMut(&Scales) -> Result<f64, E>,
) -> Result<Choice, E> {
    let mut candidates = candidates.into_iter();
    let first = candidates.next().expect("a candidate");
    let loss_before = loss(&first.scales)?;
    let mut choice = Choice { candidate: first, loss_before, loss_after: loss_before };
    for candidate in candidates {
        let loss_after = loss(&candidate.scales)?;
        if loss_after < choice.loss_after {
            choice = Choice { candidate, loss_before, loss_after };
        }
    }
    Ok(choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_identity_is_always_there_and_wins_ties() {
        let mean = [1.0, 4.0];
        for (weights, n) in [(None, 21), (Some(&[0.5, 0.25][..]), 41)] {
            let all = candidates(&mean, weights, 20);
            assert_eq!(all.len(), n);
            assert!(all[0].scales.is_identity() && all[0].rule == Rule::Identity);
            let choice = choose::<()>(all, |_| Ok(1.0)).unwrap();
            assert_eq!(choice.candidate.rule, Rule::Identity);
        }
    }

    #[test]
    fn the_least_loss_wins_and_nan_does_not() {
        let target = 2.0f32;
        let loss = |s: &Scales| {
            let s = s.as_slice()[1] / s.as_slice()[0];
            Ok::<_, ()>(if s > 3.0 { f64::NAN } else { f64::from((s - target).abs()) })
        };
        let choice = choose(candidates(&[1.0, 4.0], None, 20), loss).unwrap();
        assert_eq!(choice.candidate.rule, Rule::Activations { ratio: 0.5 });
        assert_eq!((choice.loss_before, choice.loss_after), (1.0, 0.0));
    }
}
