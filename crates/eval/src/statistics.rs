//! Means, standard errors, percentiles, paired differences and the bootstrap.
//!
//! Tokens of one document are correlated, so the standard errors of this crate treat documents as the independent
//! samples ([`clustered`]; E. Miller, "Adding Error Bars to Evals", arXiv 2411.00640). Two models on the same documents
//! are compared by their differences ([`paired`]), whose error is far smaller than that of either mean.

use serde::Serialize;

use crate::EvalError;

/// A mean with its standard error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Its standard error; `None` if fewer than two independent samples stand behind it.
    pub standard_error: Option<f64>,
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// The 95 % interval of the normal approximation, value ± 1.96 standard errors.
    pub fn interval(&self) -> Option<Interval> {
        const Z: f64 = 1.959_963_984_540_054;
        let half = Z * self.standard_error?;
        Some(Interval { low: self.value - half, high: self.value + half })
    }
}

impl Interval {
    /// Whether `value` lies in the interval, ends included.
    pub fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }
}

/// Arithmetic mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Sample standard deviation, with n − 1; `None` of fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// Mean of independent values with its standard error s/√n; `None` of nothing.
pub fn estimate(values: &[f64]) -> Option<Estimate> {
    let standard_error = standard_deviation(values).map(|s| s / (values.len() as f64).sqrt());
    Some(Estimate { value: mean(values)?, standard_error })
}

/// Mean of the differences `values[i] − baseline[i]` with its standard error.
///
/// # Errors
/// [`EvalError::NotPaired`] if the lengths differ, [`EvalError::NoDocuments`] if both are empty.
pub fn paired(values: &[f64], baseline: &[f64]) -> Result<Estimate, EvalError> {
    if values.len() != baseline.len() {
        let document = values.len().min(baseline.len());
        let present = |n: usize| usize::from(document < n);
        let (left, right) = (present(values.len()), present(baseline.len()));
        return Err(EvalError::NotPaired { document, left, right });
    }
    let differences: Vec<f64> = values.iter().zip(baseline).map(|(x, y)| x - y).collect();
    estimate(&differences).ok_or(EvalError::NoDocuments)
}

/// Mean over all items of clusters, each given as (sum, number of items), with the clusters as independent samples:
/// the standard error is √(Σ_c (sum_c − n_c · mean)²) / n. `None` without items.
pub fn clustered(clusters: &[(f64, usize)]) -> Option<Estimate> {
    let n: usize = clusters.iter().map(|c| c.1).sum();
    if n == 0 {
        return None;
    }
    let value = clusters.iter().map(|c| c.0).sum::<f64>() / n as f64;
    let squares: f64 = clusters.iter().map(|&(sum, n)| (sum - n as f64 * value).powi(2)).sum();
    let standard_error = (clusters.len() > 1).then(|| squares.sqrt() / n as f64);
    Some(Estimate { value, standard_error })
}

/// The value at `fraction` · (n − 1) of the sorted values, linear between neighbours; `None` of nothing.
///
/// # Panics
/// If `fraction` is outside 0..=1.
pub fn percentile(values: &[f64], fraction: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    percentile_of_sorted(&sorted, fraction)
}

/// The middle value, or the mean of the two middle ones; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    percentile(values, 0.5)
}

/// [`percentile`] of values that are sorted already.
///
/// # Panics
/// If `fraction` is outside 0..=1.
pub fn percentile_of_sorted(sorted: &[f64], fraction: f64) -> Option<f64> {
    assert!((0.0..=1.0).contains(&fraction), "fraction {fraction} is outside 0..=1");
    let last = sorted.len().checked_sub(1)?;
    let at = fraction * last as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(last);
    let share = at - below as f64;
    // Not a + share (b − a): the ends must come out exactly, and equal neighbours too.
    Some(if share == 0.0 {
        sorted[below]
    } else {
        sorted[below] * (1.0 - share) + sorted[above] * share
    })
}

/// The 95 % percentile-bootstrap interval of any statistic of `items`, resampled with replacement.
///
/// Items may be pairs, so that both members of a pair are drawn together. The same seed gives the same interval on
/// every machine. `None` without items or replicates.
///
/// ```
/// use fewbit_eval::statistics::{bootstrap_interval, mean};
///
/// let right = [1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 1.0];
/// let interval = bootstrap_interval(&right, |sample| mean(sample).unwrap(), 1000, 7).unwrap();
/// assert!(interval.contains(0.75) && interval.low > 0.3);
/// ```
pub fn bootstrap_interval<T: Copy>(
    items: &[T],
    mut statistic: impl FnMut(&[T]) -> f64,
    replicates: usize,
    seed: u64,
) -> Option<Interval> {
    if items.is_empty() {
        return None;
    }
    let mut state = seed;
    let mut sample = items.to_vec();
    let mut statistics: Vec<f64> = (0..replicates)
        .map(|_| {
            sample.fill_with(|| items[below(&mut state, items.len())]);
            statistic(&sample)
        })
        .collect();
    statistics.sort_unstable_by(f64::total_cmp);
    let at = |fraction| percentile_of_sorted(&statistics, fraction);
    Some(Interval { low: at(0.025)?, high: at(0.975)? })
}

/// Uniform in 0..n, by SplitMix64 (Steele, Lea and Flood, 2014).
fn below(state: &mut u64, n: usize) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    ((u128::from(z) * n as u128) >> 64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::Random;

    #[test]
    fn nothing_has_no_statistics() {
        assert_eq!(mean(&[]), None);
        assert_eq!(estimate(&[]), None);
        assert_eq!(median(&[]), None);
        assert_eq!(clustered(&[]), None);
        assert_eq!(clustered(&[(0.0, 0)]), None);
        assert_eq!(bootstrap_interval(&[], |s: &[f64]| s[0], 10, 0), None);
        assert_eq!(bootstrap_interval(&[1.0], |s| s[0], 0, 0), None);
    }

    #[test]
    fn one_sample_has_no_standard_error() {
        assert_eq!(estimate(&[3.0]), Some(Estimate { value: 3.0, standard_error: None }));
        assert_eq!(clustered(&[(6.0, 3)]), Some(Estimate { value: 2.0, standard_error: None }));
        assert_eq!(Estimate { value: 3.0, standard_error: None }.interval(), None);
    }

    #[test]
    fn mean_deviation_and_interval() {
        let e = estimate(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!(e.value, 5.0);
        let want = (32.0f64 / 7.0).sqrt() / 8f64.sqrt();
        assert!((e.standard_error.unwrap() - want).abs() < 1e-15);
        let interval = e.interval().unwrap();
        assert!((interval.high - 5.0 - 1.96 * want).abs() < 1e-4 * want);
        assert!(interval.contains(5.0) && !interval.contains(interval.high + 1e-9));
    }

    #[test]
    fn percentiles_by_definition() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        for (fraction, want) in [(0.0, 1.0), (0.25, 2.0), (0.5, 3.0), (1.0, 5.0)] {
            assert_eq!(percentile(&values, fraction), Some(want), "{fraction}");
        }
        assert!((percentile(&values, 0.99).unwrap() - 4.96).abs() < 1e-12);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(percentile(&[7.0], 0.3), Some(7.0));
    }

    #[test]
    #[should_panic(expected = "fraction 50 is outside 0..=1")]
    fn a_percentage_is_no_fraction() {
        percentile(&[1.0, 2.0], 50.0);
    }

    #[test]
    fn clusters_of_one_item_are_independent_samples() {
        let values = Random::new(4).normals(50);
        let values: Vec<f64> = values.into_iter().map(f64::from).collect();
        let singles: Vec<(f64, usize)> = values.iter().map(|&x| (x, 1)).collect();
        let (c, e) = (clustered(&singles).unwrap(), estimate(&values).unwrap());
        assert!((c.value - e.value).abs() < 1e-15);
        let corrected = c.standard_error.unwrap() * (50.0f64 / 49.0).sqrt();
        assert!((corrected - e.standard_error.unwrap()).abs() < 1e-14);
    }

    #[test]
    fn repeated_items_do_not_shrink_a_clustered_error() {
        let clusters = [(1.0, 1), (2.0, 1), (6.0, 2)];
        let fourfold = clusters.map(|(sum, n)| (4.0 * sum, 4 * n));
        assert_eq!(clustered(&clusters), clustered(&fourfold));
    }

    #[test]
    fn pairing_removes_what_both_share() {
        let x = [1.0, 10.0, 100.0];
        let y = x.map(|v| v - 0.5);
        let d = paired(&x, &y).unwrap();
        assert_eq!(d, Estimate { value: 0.5, standard_error: Some(0.0) });
        assert!(matches!(
            paired(&x, &y[..2]).unwrap_err(),
            EvalError::NotPaired { document: 2, left: 1, right: 0 }
        ));
        assert!(matches!(paired(&[], &[]).unwrap_err(), EvalError::NoDocuments));
    }

    #[test]
    fn bootstrap_is_seeded_and_near_the_normal_interval() {
        let values: Vec<f64> = Random::new(5).normals(400).into_iter().map(f64::from).collect();
        let run = |seed| bootstrap_interval(&values, |s| mean(s).unwrap(), 2000, seed).unwrap();
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        let normal = estimate(&values).unwrap().interval().unwrap();
        let width = normal.high - normal.low;
        assert!((run(1).low - normal.low).abs() < 0.1 * width);
        assert!((run(1).high - normal.high).abs() < 0.1 * width);
    }
}
