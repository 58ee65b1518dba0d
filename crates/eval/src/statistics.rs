//! Means, standard errors, percentiles, paired differences and the bootstrap.

use serde::Serialize;

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
