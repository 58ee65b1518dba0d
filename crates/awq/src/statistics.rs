//! How large each input channel of a layer is.

use rayon::prelude::*;

use crate::{AwqError, checks};

/// Columns of a task, whose sums run over the tokens in order.
const COLUMNS: usize = 64;

/// Mean magnitude, mean square and maximum of each input channel over calibration tokens. Sums are kept in f64.
#[derive(Clone, Debug)]
pub struct ChannelStatistics {
    n_tokens: usize,
    channels: Vec<Channel>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Channel {
    sum: f64,
    squares: f64,
    max: f32,
}

impl ChannelStatistics {
    /// No tokens yet.
    pub fn new(in_features: usize) -> Self {
        Self { n_tokens: 0, channels: vec![Channel::default(); in_features] }
    }

    /// Adds tokens: `x` is `(n_tokens, in_features)` row-major.
    ///
    /// # Errors
    /// If `x` is not whole tokens, or an activation is NaN or infinite; nothing is added then.
    pub fn add(&mut self, x: &[f32]) -> Result<(), AwqError> {
        let n = self.channels.len();
        self.n_tokens += checks::activations(x, n)?;
        self.channels.par_chunks_mut(COLUMNS).enumerate().for_each(|(task, channels)| {
            for x in x.chunks_exact(n) {
                for (channel, x) in channels.iter_mut().zip(&x[task * COLUMNS..]) {
                    let magnitude = x.abs();
                    channel.sum += f64::from(magnitude);
                    channel.squares += f64::from(*x) * f64::from(*x);
                    channel.max = channel.max.max(magnitude);
                }
            }
        });
        Ok(())
    }

    /// Tokens added so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Width.
    pub fn in_features(&self) -> usize {
        self.channels.len()
    }

    /// Mean of |x| of each channel; zeros before any token.
    pub fn mean_abs(&self) -> Vec<f64> {
        self.channels.iter().map(|c| c.sum / self.n_tokens.max(1) as f64).collect()
    }

    /// Mean of x² of each channel; zeros before any token.
    pub fn mean_square(&self) -> Vec<f64> {
        self.channels.iter().map(|c| c.squares / self.n_tokens.max(1) as f64).collect()
    }

    /// Largest |x| of each channel.
    pub fn max_abs(&self) -> Vec<f64> {
        self.channels.iter().map(|c| f64::from(c.max)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_they_say() {
        let mut statistics = ChannelStatistics::new(3);
        statistics.add(&[1.0, -2.0, 0.0, -3.0, 4.0, 0.0]).unwrap();
        statistics.add(&[2.0, 0.0, 0.0]).unwrap();
        statistics.add(&[]).unwrap();
        assert_eq!(statistics.n_tokens(), 3);
        assert_eq!(statistics.mean_abs(), [2.0, 2.0, 0.0]);
        assert_eq!(statistics.mean_square(), [14.0 / 3.0, 20.0 / 3.0, 0.0]);
        assert_eq!(statistics.max_abs(), [3.0, 4.0, 0.0]);
        let error = statistics.add(&[1.0, 2.0]).unwrap_err();
        assert_eq!(error, AwqError::ActivationLength { got: 2, in_features: 3 });
        let error = statistics.add(&[0.0, 0.0, 0.0, 1.0, f32::INFINITY, 0.0]).unwrap_err();
        assert!(matches!(error, AwqError::NonFiniteActivation { token: 1, column: 1, .. }));
        assert_eq!(statistics.n_tokens(), 3);
    }
}
