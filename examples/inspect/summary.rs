//! What the values of a matrix look like.

/// Range, spread and shape of the values of a tensor, gathered piece by piece.
pub struct Summary {
    values: Vec<f32>,
    /// Every how many values one is kept.
    stride: usize,
    seen: usize,
    pub min: f32,
    pub max: f32,
    sum: f64,
    square: f64,
}

impl Summary {
    /// Values that are kept for quantiles and the histogram: enough for three digits.
    const KEPT: usize = 1 << 18;

    /// For a tensor of `len` values.
    pub fn new(len: usize) -> Self {
        Self {
            values: Vec::new(),
            // Odd, so that no power of two of columns hides behind it.
            stride: (len / Self::KEPT) | 1,
            seen: 0,
            min: f32::INFINITY,
            max: f32::NEG_INFINITY,
            sum: 0.0,
            square: 0.0,
        }
    }

    pub fn of(values: &[f32]) -> Self {
        let mut summary = Self::new(values.len());
        summary.add(values);
        summary
    }

    pub fn add(&mut self, values: &[f32]) {
        for &value in values {
            if self.seen.is_multiple_of(self.stride) {
                self.values.push(value);
            }
            self.seen += 1;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            self.sum += f64::from(value);
            self.square += f64::from(value).powi(2);
        }
    }

    pub fn std(&self) -> f64 {
        let n = self.seen.max(1) as f64;
        (self.square / n - (self.sum / n).powi(2)).max(0.0).sqrt()
    }

    /// Values below which these shares of the weights lie.
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [f64; N] {
        let mut sorted = self.values.clone();
        sorted.sort_by(f32::total_cmp);
        let last = sorted.len().saturating_sub(1) as f64;
        shares.map(|share| sorted.get((share * last).round() as usize).map_or(0.0, |&v| v.into()))
    }

    /// Share of the weights over 16 equal bins from −3 to 3 standard deviations, the tails in the outer ones.
    pub fn histogram(&self) -> String {
        let mean = self.sum / self.seen.max(1) as f64;
        let mut bins = [0usize; 16];
        for &v in &self.values {
            let position = (f64::from(v) - mean) / self.std().max(f64::MIN_POSITIVE);
            bins[((position + 3.0) / 6.0 * 16.0).clamp(0.0, 15.0) as usize] += 1;
        }
        let highest = bins.iter().copied().max().unwrap_or(1).max(1);
        bins.iter().map(|&b| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][b * 7 / highest]).collect()
    }
}
