//! Rotary position embedding (Su et al., 2021), in the half-split convention of Hugging Face: dimension `i` pairs with `i + head_dim / 2`.

use std::{
    f64::consts::TAU,
    sync::{Arc, Mutex, PoisonError},
};

use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::ModelConfig;

/// How queries and keys are rotated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeSettings {
    /// Base of the frequencies.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// How the rotary frequencies of a model are stretched for longer texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: long wavelengths divided, short ones kept, a blend between.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_positions / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_positions / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Length of the texts that the model was first trained on.
        original_max_positions: f64,
    },
}

impl RopeScaling {
    fn scale(self, frequency: f64) -> f64 {
        match self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
                // Full turns within the original length decide.
                let turns = original_max_positions * frequency / TAU;
                if turns > high_freq_factor {
                    frequency
                } else if turns < low_freq_factor {
                    frequency / factor
                } else {
                    let kept = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - kept) * frequency / factor + kept * frequency
                }
            }
        }
    }
}

/// Angle of each pair of dimensions per position, `head_dim / 2` of them.
pub fn inverse_frequencies(head_dim: usize, theta: f64, scaling: RopeScaling) -> Vec<f32> {
    (0..head_dim / 2)
        .map(|i| scaling.scale(theta.powf(-((2 * i) as f64) / head_dim as f64)) as f32)
        .collect()
}

/// Rotates queries and keys. Shared by the blocks of a model that rotate alike.
#[derive(Debug)]
pub(crate) struct Rope {
    inverse_frequencies: Vec<f32>,
    /// As many positions as were ever asked for.
    table: Mutex<Arc<Vec<f32>>>,
}

impl Rope {
    pub(crate) fn new(head_dim: usize, RopeSettings { theta, scaling }: RopeSettings) -> Self {
        let inverse_frequencies = inverse_frequencies(head_dim, theta, scaling);
        Self { inverse_frequencies, table: Mutex::default() }
    }

    /// Cosines, then sines, of every position below `n`: rows of `head_dim`, at least `n` of them.
    fn table(&self, n: usize) -> Arc<Vec<f32>> {
        let row = 2 * self.inverse_frequencies.len();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < n * row {
            let mut longer = vec![0.0; n.next_power_of_two() * row];
            longer.par_chunks_mut(row).enumerate().for_each(|(position, row)| {
                let (cosines, sines) = row.split_at_mut(row.len() / 2);
                for ((cos, sin), f) in cosines.iter_mut().zip(sines).zip(&self.inverse_frequencies)
                {
                    (*sin, *cos) = (position as f32 * f).sin_cos();
                }
            });
            *table = Arc::new(longer);
        }
        table.clone()
    }

    /// Rotates every head of each row by the row's position. `x` is `(n_tokens, width)`, `width` a multiple of `head_dim`.
    pub(crate) fn rotate(&self, x: &mut [f32], width: usize, positions: &[usize]) {
        let Some(last) = positions.iter().max() else { return };
        let head_dim = 2 * self.inverse_frequencies.len();
        let table = self.table(last + 1);
        let level = Level::detect();
        x.par_chunks_mut(width).zip(positions).with_min_len(16).for_each(|(row, &position)| {
            let (cos, sin) = table[position * head_dim..][..head_dim].split_at(head_dim / 2);
            vectorize(
                level,
                #[inline(always)]
                || {
                    for head in row.chunks_exact_mut(head_dim) {
                        rotate_head(head, cos, sin);
                    }
                },
            );
        });
    }
}

/// The rotations of a model: one for each way in which its layers rotate.
#[derive(Debug, Default)]
pub(crate) struct Ropes(Vec<(RopeSettings, Arc<Rope>)>);

impl Ropes {
    pub(crate) fn of(&mut self, config: &ModelConfig, layer: usize) -> Option<Arc<Rope>> {
        let settings = config.rope(layer)?;
        if let Some((_, rope)) = self.0.iter().find(|(known, _)| *known == settings) {
            return Some(rope.clone());
        }
        let rope = Arc::new(Rope::new(config.head_dim, settings));
        self.0.push((settings, rope.clone()));
        Some(rope)
    }
}

#[inline(always)]
fn rotate_head(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(cos.len());
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama3(factor: f64) -> RopeScaling {
        RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192.0,
        }
    }

    /// Frequencies of published models, computed independently in f64: blended and divided ones by value, the ones before by the formula
    /// without scaling.
    #[test]
    fn llama3_scaling_has_its_published_values() {
        type Case = (&'static str, f64, usize, f64, usize, &'static [f64], f64);
        let cases: [Case; 4] = [
            (
                "Llama-3.2-1B",
                5e5,
                64,
                32.0,
                15,
                &[1.290547928e-3, 4.295567966e-4, 9.708287803e-5],
                9.418306725e-8,
            ),
            (
                "Llama-3.2-3B",
                5e5,
                128,
                32.0,
                29,
                &[
                    2.118406997e-3,
                    1.290547928e-3,
                    7.625412034e-4,
                    4.295567966e-4,
                    2.227635015e-4,
                    9.708287803e-5,
                ],
                7.672314972e-8,
            ),
            (
                "Llama-3.1-8B",
                5e5,
                128,
                8.0,
                29,
                &[
                    2.166570764e-3,
                    1.371893568e-3,
                    8.567514129e-4,
                    5.248461610e-4,
                    3.126937504e-4,
                    1.785078128e-4,
                ],
                3.068925989e-7,
            ),
            (
                "EXAONE-3.5-2.4B",
                1e6,
                80,
                8.0,
                17,
                &[2.550894936e-3, 1.181355181e-3, 5.233238778e-4, 2.136075440e-4],
                1.765671931e-7,
            ),
        ];
        for (model, theta, head_dim, factor, first_blended, blended, last) in cases {
            let got = inverse_frequencies(head_dim, theta, llama3(factor));
            let plain = inverse_frequencies(head_dim, theta, RopeScaling::Default);
            assert_eq!(got[..first_blended], plain[..first_blended], "{model}");
            let close = |got: f32, expected: f64| {
                let error = (f64::from(got) / expected - 1.0).abs();
                assert!(error < 1e-6, "{model}: {got} should be {expected}");
            };
            for (i, &expected) in blended.iter().enumerate() {
                close(got[first_blended + i], expected);
            }
            let divided = first_blended + blended.len();
            for i in divided..head_dim / 2 {
                close(got[i], f64::from(plain[i]) / factor);
            }
            close(got[head_dim / 2 - 1], last);
        }
    }

    #[test]
    fn rotates_pairs_half_a_head_apart() {
        let rope = Rope::new(
            4,
            RopeSettings { theta: 100.0, scaling: RopeScaling::Linear { factor: 2.0 } },
        );
        // Frequencies 1/2 and 1/20; two heads at position 3, after a first row at position 0.
        let mut x =
            vec![1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 2.0, 3.0, 4.0];
        rope.rotate(&mut x, 8, &[0, 3]);
        assert_eq!(x[..4], [1.0, 2.0, 3.0, 4.0]);
        let (s, c) = 1.5f32.sin_cos();
        let (s2, c2) = 0.15f32.sin_cos();
        let expected =
            [c, -s2, s, c2, c - 3.0 * s, 2.0 * c2 - 4.0 * s2, 3.0 * c + s, 4.0 * c2 + 2.0 * s2];
        for (got, expected) in x[8..].iter().zip(expected) {
            assert!((got - expected).abs() < 1e-5, "{got} should be {expected}");
        }
    }
}
