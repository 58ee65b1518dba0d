//! Channel scales, and the formulas that give them.

use fewbit_format::{Granularity, MatrixShape};

use crate::{AwqError, ChannelMap, checks};

/// A positive factor for each input channel of a layer: its weights are multiplied by it, its inputs divided.
#[derive(Clone, Debug, PartialEq)]
pub struct Scales(Vec<f32>);

/// Scales stay within this factor of their geometric middle, so that no channel is lost to the range of half precision.
const REACH: f64 = 1e4;

impl Scales {
    /// Ones.
    pub fn identity(n_channels: usize) -> Self {
        Self(vec![1.0; n_channels])
    }

    /// Scales as given.
    ///
    /// # Errors
    /// If one is not positive and finite.
    pub fn new(values: Vec<f32>) -> Result<Self, AwqError> {
        match values.iter().position(|v| !(v.is_finite() && *v > 0.0)) {
            None => Ok(Self(values)),
            Some(channel) => Err(AwqError::Scale { channel, value: values[channel] }),
        }
    }

    /// AWQ (Lin et al., 2023): `s_j = x̄_j^ratio`, with `x̄` the mean |x| of each channel. With `weights`, the mean relative magnitude of each
    /// column from [`weight_magnitude`], AutoAWQ's `s_j = x̄_j^ratio / w̄_j^(1 − ratio)`.
    ///
    /// Normalised so that the largest and the smallest are reciprocal. Channels that are never active keep 1.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn awq(mean_abs: &[f64], weights: Option<&[f64]>, ratio: f64) -> Self {
        let Some(weights) = weights else {
            return Self::normalised(mean_abs.iter().map(|x| x.powf(ratio)), mean_abs);
        };
        assert_eq!(weights.len(), mean_abs.len(), "a magnitude for each channel");
        let both = mean_abs.iter().zip(weights);
        let scales = both.map(|(x, w)| x.powf(ratio) / (w.powf(1.0 - ratio) + 1e-4));
        Self::normalised(scales, mean_abs)
    }

    /// SmoothQuant (Xiao et al., 2022): `s_j = max|x_j|^alpha / max|w_j|^(1 − alpha)`, which divides the difficulty of rounding between
    /// activations and weights. Not normalised; channels that are never active keep 1.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn smoothquant(max_input: &[f64], max_weight: &[f64], alpha: f64) -> Self {
        assert_eq!(max_input.len(), max_weight.len(), "a maximum for each channel");
        let both = max_input.iter().zip(max_weight);
        let scale = |(&x, &w): (&f64, &f64)| {
            let scale = x.powf(alpha) / w.max(1e-5).powf(1.0 - alpha);
            if x > 0.0 { scale.clamp(1e-5, 1e5) as f32 } else { 1.0 }
        };
        Self(both.map(scale).collect())
    }

    fn normalised(scales: impl Iterator<Item = f64>, activity: &[f64]) -> Self {
        let scales: Vec<f64> = scales.collect();
        let active = || scales.iter().zip(activity).filter(|(s, x)| **x > 0.0 && s.is_finite());
        let (low, high) = active()
            .fold((f64::INFINITY, 0.0f64), |(low, high), (&s, _)| (low.min(s), high.max(s)));
        let middle = (low * high).sqrt();
        let scale = |(&s, &x): (&f64, &f64)| {
            let scale = s / middle;
            let usable = x > 0.0 && scale.is_finite() && scale > 0.0;
            if usable { scale.clamp(1.0 / REACH, REACH) as f32 } else { 1.0 }
        };
        Self(scales.iter().zip(activity).map(scale).collect())
    }

    /// The factors.
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }

    /// Number of channels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no channels.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether nothing changes.
    pub fn is_identity(&self) -> bool {
        self.0.iter().all(|&s| s == 1.0)
    }

    /// Smallest and largest.
    pub fn extremes(&self) -> (f32, f32) {
        self.0.iter().fold((f32::INFINITY, 0.0), |(low, high), &s| (low.min(s), high.max(s)))
    }

    /// Multiplies the columns of a weight matrix, row-major with as many columns as there are channels.
    ///
    /// # Panics
    /// If the length is no whole number of rows.
    pub fn multiply_columns(&self, weight: &mut [f32]) {
        self.each_row(weight, |w, s| *w *= s);
    }

    /// Divides the columns: of a weight matrix the inverse of [`multiply_columns`](Self::multiply_columns), of activations what the layer then reads.
    ///
    /// # Panics
    /// If the length is no whole number of rows.
    pub fn divide_columns(&self, values: &mut [f32]) {
        self.each_row(values, |w, s| *w /= s);
    }

    /// Divides the rows of the layer whose outputs these channels are, through `map`. A bias is a matrix of one column.
    ///
    /// # Panics
    /// If the map has other channels, or the length is no whole number of its rows.
    pub fn divide_rows(&self, map: &ChannelMap, weight: &mut [f32]) {
        let producers = self.of_producers(map);
        assert!(weight.len().is_multiple_of(producers.len().max(1)), "whole rows");
        let in_features = weight.len() / producers.len().max(1);
        for (row, s) in weight.chunks_mut(in_features.max(1)).zip(producers) {
            row.iter_mut().for_each(|w| *w /= s);
        }
    }

    /// The factor of each output of the producing layer.
    pub(crate) fn of_producers(&self, map: &ChannelMap) -> Vec<f32> {
        assert_eq!(map.n_consumed(), self.0.len(), "a map of these channels");
        let mut producers = vec![1.0; map.n_produced()];
        for (&producer, &s) in map.producers().iter().zip(&self.0) {
            producers[producer] = s;
        }
        producers
    }

    fn each_row(&self, values: &mut [f32], f: impl Fn(&mut f32, f32)) {
        let n = self.0.len().max(1);
        assert!(values.len().is_multiple_of(n), "whole rows");
        for row in values.chunks_mut(n) {
            for (value, &s) in row.iter_mut().zip(&self.0) {
                f(value, s);
            }
        }
    }
}

/// Mean over all rows of all matrices of `|w| / max|w|` within each group: how near each column comes to the ends of the grid.
///
/// # Errors
/// If a matrix is not its shape, holds NaN or infinity, or the widths differ.
pub fn weight_magnitude(
    matrices: &[(&[f32], MatrixShape)],
    granularity: Granularity,
) -> Result<Vec<f64>, AwqError> {
    let n = matrices.first().map_or(0, |(_, shape)| shape.in_features);
    let group_size = granularity.group_size(n);
    let mut sums = vec![0.0; n];
    let mut rows = 0;
    for &(weight, shape) in matrices {
        checks::weight(weight, shape)?;
        checks::width(shape.in_features, n)?;
        for row in weight.chunks(n.max(1)) {
            for (weights, sums) in row.chunks(group_size).zip(sums.chunks_mut(group_size)) {
                let largest = weights.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                if largest > 0.0 {
                    for (sum, w) in sums.iter_mut().zip(weights) {
                        *sum += f64::from(w.abs() / largest);
                    }
                }
            }
        }
        rows += shape.out_features;
    }
    sums.iter_mut().for_each(|sum| *sum /= rows.max(1) as f64);
    Ok(sums)
}

/// Largest |w| of each column over all rows of all matrices.
///
/// # Errors
/// As [`weight_magnitude`].
pub fn weight_maxima(matrices: &[(&[f32], MatrixShape)]) -> Result<Vec<f64>, AwqError> {
    let n = matrices.first().map_or(0, |(_, shape)| shape.in_features);
    let mut maxima = vec![0.0f64; n];
    for &(weight, shape) in matrices {
        checks::weight(weight, shape)?;
        checks::width(shape.in_features, n)?;
        for row in weight.chunks(n.max(1)) {
            for (max, w) in maxima.iter_mut().zip(row) {
                *max = max.max(f64::from(w.abs()));
            }
        }
    }
    Ok(maxima)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_have_their_values() {
        let mean = [4.0, 1.0, 0.25, 0.0];
        assert_eq!(Scales::awq(&mean, None, 0.5).as_slice(), [2.0, 1.0, 0.5, 1.0]);
        assert!(Scales::awq(&mean, None, 0.0).is_identity());
        // r = 0 with weights is 1 / w̄, not the identity.
        let weights = [0.1, 0.2, 0.4, 0.3];
        let scales = Scales::awq(&mean, Some(&weights), 0.0);
        let ratio = scales.as_slice()[0] / scales.as_slice()[2];
        assert!((ratio - (0.4001 / 0.1001) as f32).abs() < 1e-5);
        let (low, high) = scales.extremes();
        assert!((low * high - 1.0).abs() < 1e-6);
        let smooth = Scales::smoothquant(&[16.0, 4.0, 0.0], &[1.0, 4.0, 2.0], 0.5);
        assert_eq!(smooth.as_slice(), [4.0, 1.0, 1.0]);
    }

    #[test]
    fn magnitudes_are_relative_to_the_group() {
        let shape = MatrixShape::new(2, 4);
        let weight = [1.0, -2.0, 10.0, 5.0, 0.0, 0.0, 3.0, -3.0];
        let got = weight_magnitude(&[(&weight, shape)], Granularity::group(2)).unwrap();
        assert_eq!(got, [0.25, 0.5, 1.0, 0.75]);
        assert_eq!(weight_maxima(&[(&weight, shape)]).unwrap(), [1.0, 2.0, 10.0, 5.0]);
        let other = weight_maxima(&[(&weight, shape), (&weight, MatrixShape::new(4, 2))]);
        assert_eq!(other.unwrap_err(), AwqError::Width { got: 2, expected: 4 });
    }

    #[test]
    fn bad_scales_are_refused() {
        for value in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let error = Scales::new(vec![1.0, value]).unwrap_err();
            assert!(matches!(error, AwqError::Scale { channel: 1, .. }), "{error}");
        }
        // Extreme statistics stay usable.
        let scales = Scales::awq(&[1e300, 1e-300, 1.0], None, 0.95);
        assert!(Scales::new(scales.as_slice().to_vec()).is_ok());
    }
}
