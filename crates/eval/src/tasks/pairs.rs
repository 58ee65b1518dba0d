//! Two models on the same items.

use serde::Serialize;

use super::{ChoiceScore, accuracy::hits};
use crate::statistics::paired;
use crate::{Estimate, EvalError};

/// How the answers of a model differ from those of a baseline, item by item.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PairedAccuracy {
    /// Items.
    pub n_items: usize,
    /// Accuracy of the model less that of the baseline, with the standard error of the paired difference.
    pub difference: Estimate,
    /// Items that the model alone got right.
    pub n_gained: usize,
    /// Items that the baseline alone got right.
    pub n_lost: usize,
    /// Items with another predicted choice, right or wrong. A model may keep its accuracy and yet answer otherwise.
    pub n_changed: usize,
    /// Probability that chance alone shares gains and losses so unevenly: McNemar's test, exact ([`sign_test`]).
    pub p_value: f64,
}

impl PairedAccuracy {
    /// Compares what `predicted` says of both, such as [`ChoiceScore::predicted_by_chars`].
    ///
    /// # Errors
    /// [`EvalError::NotPaired`] unless both have the same items in the same order, as far as the right choices tell;
    /// [`EvalError::NoDocuments`] without items.
    pub fn of(
        model: &[ChoiceScore],
        baseline: &[ChoiceScore],
        predicted: fn(&ChoiceScore) -> usize,
    ) -> Result<Self, EvalError> {
        let pairs = || model.iter().zip(baseline);
        let same = |(a, b): (&ChoiceScore, &ChoiceScore)| (a.gold, &a.chars) == (b.gold, &b.chars);
        if let Some(document) = pairs().position(|pair| !same(pair)) {
            let choices = |scores: &[ChoiceScore]| scores[document].chars.len();
            let (left, right) = (choices(model), choices(baseline));
            return Err(EvalError::NotPaired { document, left, right });
        }
        let difference = paired(&hits(model, predicted), &hits(baseline, predicted))?;
        let count = |which: fn(bool, bool) -> bool| {
            pairs().filter(|(a, b)| which(predicted(a) == a.gold, predicted(b) == b.gold)).count()
        };
        let (n_gained, n_lost) = (count(|a, b| a && !b), count(|a, b| !a && b));
        Ok(Self {
            n_items: model.len(),
            difference,
            n_gained,
            n_lost,
            n_changed: pairs().filter(|(a, b)| predicted(a) != predicted(b)).count(),
            p_value: sign_test(n_gained, n_lost),
        })
    }
}

/// The two-sided sign test: the probability that fair coins fall at least as unevenly as `a` to `b`.
///
/// ```
/// use fewbit_eval::tasks::sign_test;
///
/// assert_eq!(sign_test(0, 0), 1.0);
/// assert_eq!(sign_test(0, 5), 2.0 / 32.0);
/// assert_eq!(sign_test(3, 3), 1.0);
/// ```
pub fn sign_test(a: usize, b: usize) -> f64 {
    let n = a + b;
    // ln of n over k, from k to k + 1.
    let mut ln_ways = 0.0;
    let mut tail = 0.0;
    for k in 0..=a.min(b) {
        tail += (ln_ways - n as f64 * std::f64::consts::LN_2).exp();
        ln_ways += ((n - k) as f64 / (k + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(likeliest: usize, gold: usize) -> ChoiceScore {
        let log_likelihoods = (0..4).map(|i| if i == likeliest { -1.0 } else { -2.0 }).collect();
        ChoiceScore { log_likelihoods, chars: vec![1; 4], bytes: vec![1; 4], gold, tokens_cut: 0 }
    }

    #[test]
    fn gains_losses_and_changes() {
        let model: Vec<_> = [(0, 0), (1, 1), (2, 3), (2, 0)].map(|(p, g)| score(p, g)).into();
        let other: Vec<_> = [(0, 0), (2, 1), (3, 3), (1, 0)].map(|(p, g)| score(p, g)).into();
        let pairs = PairedAccuracy::of(&model, &other, ChoiceScore::predicted).unwrap();
        assert_eq!((pairs.n_gained, pairs.n_lost, pairs.n_changed), (1, 1, 3));
        assert_eq!((pairs.difference.value, pairs.p_value), (0.0, 1.0));
        // Differences 0, 1, −1, 0: s² = 2/3.
        let error = pairs.difference.standard_error.unwrap();
        assert!((error - (2.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn other_items_are_refused() {
        let (a, b) = ([score(0, 1)], [score(0, 2)]);
        assert!(PairedAccuracy::of(&a, &b, ChoiceScore::predicted).is_err());
        assert!(PairedAccuracy::of(&a, &[], ChoiceScore::predicted).is_err());
    }

    #[test]
    fn the_sign_test_of_many_items() {
        // scipy.stats.binomtest(40, 100).pvalue, binomtest(490, 1000).pvalue
        assert!((sign_test(40, 60) - 0.056_887_933_640_980_89).abs() < 1e-12);
        assert!((sign_test(510, 490) - 0.547_972_745_923_476_4).abs() < 1e-11);
    }
}
