//! From scores of items to accuracies.

use serde::Serialize;

use super::ChoiceScore;
use crate::Estimate;
use crate::statistics::estimate;

/// Shares of items whose right choice was predicted, with standard errors s/√n.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Accuracy {
    /// Items.
    pub n_items: usize,
    /// By likelihood.
    pub acc: Estimate,
    /// By likelihood for each Unicode character of the choice: the harness's `acc_norm`.
    pub acc_norm: Estimate,
    /// By likelihood for each byte of the choice: the harness's `acc_bytes`; the same for ASCII.
    pub acc_bytes: Estimate,
    /// Items whose beginning was cut off because they were longer than the model reads.
    pub n_cut: usize,
}

impl Accuracy {
    /// Of some items; `None` of none.
    pub fn of(scores: &[ChoiceScore]) -> Option<Self> {
        let share = |predicted: fn(&ChoiceScore) -> usize| estimate(&hits(scores, predicted));
        Some(Self {
            n_items: scores.len(),
            acc: share(ChoiceScore::predicted)?,
            acc_norm: share(ChoiceScore::predicted_by_chars)?,
            acc_bytes: share(ChoiceScore::predicted_by_bytes)?,
            n_cut: scores.iter().filter(|score| score.tokens_cut > 0).count(),
        })
    }
}

/// 1 for each item predicted right, else 0.
pub(super) fn hits(scores: &[ChoiceScore], predicted: fn(&ChoiceScore) -> usize) -> Vec<f64> {
    scores.iter().map(|score| f64::from(predicted(score) == score.gold)).collect()
}
