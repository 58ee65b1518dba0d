//! Root-mean-square norm (Zhang and Sennrich, 2019).

use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{ModelConfig, math::sum_of_squares};

/// `y = weight · x / sqrt(mean(x²) + eps)`.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) eps: f32,
}

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

impl RmsNorm {
    /// # Panics
    /// If the gain is not `hidden_size` long.
    pub(crate) fn new(config: &ModelConfig, weight: Vec<f32>) -> Self {
        assert_eq!(weight.len(), config.hidden_size, "a norm has hidden_size gains");
        Self { weight, eps: config.rms_norm_eps }
    }

    /// Every row of `x (n_tokens, hidden_size)`.
    pub(crate) fn forward(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        assert_eq!(x.ncols(), self.weight.len(), "x is (n_tokens, hidden_size)");
        let mut y = Array2::zeros(x.raw_dim());
        let x = x.as_standard_layout();
        let out = y.as_slice_mut().expect("a new array is contiguous");
        self.forward_into(x.as_slice().expect("made contiguous above"), out);
        y
    }

    /// As [`forward`](Self::forward), on slices.
    pub(crate) fn forward_into(&self, x: &[f32], out: &mut [f32]) {
        let n = self.weight.len();
        let level = Level::detect();
        let piece = (ROWS * n).max(1);
        out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                        self.row(x, out);
                    }
                },
            );
        });
    }

    #[inline(always)]
    fn row(&self, x: &[f32], out: &mut [f32]) {
        let mean = sum_of_squares(x) / x.len() as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(&self.weight) {
            *out = w * (x * factor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn divides_by_the_root_mean_square() {
        let norm = RmsNorm { weight: vec![1.0, 2.0, 0.5], eps: 1e-6 };
        let y = norm.forward(array![[1.0f32, 2.0, 2.0], [0.0, 0.0, 0.0]].view());
        let root = 3f32.sqrt();
        for (got, expected) in y.row(0).iter().zip([1.0 / root, 4.0 / root, 1.0 / root]) {
            assert!((got - expected).abs() < 1e-6);
        }
        assert_eq!(y.row(1).to_vec(), [0.0; 3]);
    }
}
