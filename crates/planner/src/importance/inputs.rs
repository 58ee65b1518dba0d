//! The pattern of the inputs of a layer.

/// Times the median root mean square beyond which a channel is an outlier.
const OUTLIER: f64 = 6.0;

/// How the inputs of a layer spread over its channels.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct InputStatistics {
    /// Root mean square of the largest channel over that of the median one; 0 without channels or if the median is 0.
    pub dynamic_range: f64,
    /// Channels whose root mean square is more than six times the median.
    pub outlier_channels: usize,
    /// Share of the mean square that the largest hundredth of the channels (at least one) carries, 0..=1.
    pub top_share: f64,
}

impl InputStatistics {
    /// From the mean square of each channel: finite, not negative.
    pub fn of_mean_squares(squares: &[f64]) -> Self {
        let mut sorted = squares.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (Some(&largest), Some(&median)) = (sorted.last(), sorted.get(sorted.len() / 2)) else {
            return Self::default();
        };
        let top = sorted.len().div_ceil(100);
        let (total, most): (f64, f64) =
            (sorted.iter().sum(), sorted[sorted.len() - top..].iter().sum());
        let limit = OUTLIER * OUTLIER * median;
        Self {
            dynamic_range: if median > 0.0 { (largest / median).sqrt() } else { 0.0 },
            outlier_channels: sorted.iter().filter(|s| **s > limit).count(),
            top_share: if total > 0.0 { most / total } else { 0.0 },
        }
    }
}
