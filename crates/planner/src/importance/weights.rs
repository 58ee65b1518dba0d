//! The distribution of weights.

/// Standard deviations beyond which a weight is an outlier.
const OUTLIER: f64 = 6.0;

/// What the distribution of some values looks like. All zeros for no values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct WeightStatistics {
    /// Least value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Standard deviation.
    pub deviation: f64,
    /// Excess kurtosis: 0 for normal values, positive for heavy tails, −1.2 for uniform ones. 0 if all values are equal.
    pub kurtosis: f64,
    /// Share of values more than six standard deviations from the mean, 0..=1.
    pub outliers: f64,
}

impl WeightStatistics {
    /// Of finite values.
    pub fn of(values: &[f32]) -> Self {
        let (Some(&first), n) = (values.first(), values.len() as f64) else {
            return Self::default();
        };
        let (min, max) =
            values.iter().fold((first, first), |(low, high), &v| (low.min(v), high.max(v)));
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let (mut squares, mut fourths) = (0.0, 0.0);
        for &v in values {
            let square = (f64::from(v) - mean).powi(2);
            squares += square;
            fourths += square * square;
        }
        let variance = squares / n;
        let kurtosis = if variance > 0.0 { fourths / n / variance.powi(2) - 3.0 } else { 0.0 };
        let deviation = variance.sqrt();
        let far = |v: &&f32| (f64::from(**v) - mean).abs() > OUTLIER * deviation;
        let outliers = values.iter().filter(far).count() as f64 / n;
        Self { min, max, deviation, kurtosis, outliers }
    }

    /// Largest magnitude in standard deviations; 0 if all values are equal.
    pub fn range(&self) -> f64 {
        let magnitude = f64::from(self.max.abs().max(self.min.abs()));
        if self.deviation > 0.0 { magnitude / self.deviation } else { 0.0 }
    }
}
