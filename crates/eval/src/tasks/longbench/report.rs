//! Scores by data set, length and category.

use serde::Serialize;

use super::{LongBenchAnswer, LongBenchCategory, LongBenchTask};
use crate::Estimate;
use crate::statistics::estimate;
use crate::tasks::mmlu::mean_of;

/// Names of the buckets of length, in words: below 4000, below 8000, the others.
pub const BUCKETS: [&str; 3] = ["0-4k", "4-8k", "8k+"];

/// The bucket of a length.
pub(super) fn bucket(length: usize) -> usize {
    usize::from(length >= 4000) + usize::from(length >= 8000)
}

/// Scores of a data set, in 0..=1; published tables have them times 100.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DatasetScore {
    /// Name of its file.
    pub name: String,
    /// Its category.
    pub category: LongBenchCategory,
    /// Items.
    pub n_items: usize,
    /// Mean score.
    pub score: Estimate,
    /// Items and mean score in each of [`BUCKETS`], if there are any.
    pub buckets: [Option<(usize, Estimate)>; 3],
    /// Items whose prompt lost its middle.
    pub n_cut: usize,
    /// Items whose prediction the end of the context cut short.
    pub n_stopped: usize,
}

/// Scores by data set, category and length.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LongBenchReport {
    /// Data sets in the order given.
    pub datasets: Vec<DatasetScore>,
    /// Plain means of the data sets of each category.
    pub categories: Vec<(LongBenchCategory, Estimate)>,
    /// Plain mean of the categories.
    pub overall: Estimate,
    /// Plain means of the data sets that have items of a length.
    pub buckets: [Option<Estimate>; 3],
}

impl LongBenchReport {
    /// Of the answers to each task; `None` without any. Tasks without answers are left out.
    pub fn of<'a>(
        answers: impl IntoIterator<Item = (&'a LongBenchTask, &'a [LongBenchAnswer])>,
    ) -> Option<Self> {
        let datasets: Vec<DatasetScore> =
            answers.into_iter().filter_map(|(task, answers)| of_dataset(task, answers)).collect();
        let of_category = |category| {
            let of = datasets.iter().filter(|d| d.category == category).map(|d| d.score);
            Some((category, mean_of(&of.collect::<Vec<_>>())?))
        };
        let categories: Vec<_> =
            LongBenchCategory::ALL.into_iter().filter_map(of_category).collect();
        let buckets = [0, 1, 2].map(|b| {
            let of = datasets.iter().filter_map(|d| Some(d.buckets[b]?.1));
            mean_of(&of.collect::<Vec<_>>())
        });
        let overall = mean_of(&categories.iter().map(|c| c.1).collect::<Vec<_>>())?;
        Some(Self { datasets, categories, overall, buckets })
    }
}

fn of_dataset(task: &LongBenchTask, answers: &[LongBenchAnswer]) -> Option<DatasetScore> {
    let scores = |which: &dyn Fn(&LongBenchAnswer) -> bool| -> Vec<f64> {
        answers.iter().filter(|a| which(a)).map(|a| a.score).collect()
    };
    let buckets = [0, 1, 2].map(|b| {
        let scores = scores(&|answer| bucket(answer.length) == b);
        Some((scores.len(), estimate(&scores)?))
    });
    Some(DatasetScore {
        name: task.name(),
        category: task.dataset.category,
        n_items: answers.len(),
        score: estimate(&scores(&|_| true))?,
        buckets,
        n_cut: answers.iter().filter(|a| a.tokens_cut > 0).count(),
        n_stopped: answers.iter().filter(|a| a.stopped_by_context).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_begin_at_their_bound() {
        assert_eq!([0, 3999, 4000, 7999, 8000].map(bucket), [0, 0, 1, 1, 2]);
    }
}
