//! Root-mean-square norm (Zhang and Sennrich, 2019).

use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::math::sum_of_squares;

/// `y = weight · x / sqrt(mean(x²) + eps)`.
#[derive(Clone, Debug)]
pub(crate) struct RmsNorm {
    pub(crate) weight: Vec<f32>,
    pub(crate) eps: f32,
}

/// Rows that a thread takes at a time.
const ROWS: usize = 16;

impl RmsNorm {
    /// Every row of `x (n_tokens, hidden_size)`.
    pub(crate) fn forward(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        let n = self.weight.len();
        assert_eq!(x.ncols(), n, "x is (n_tokens, hidden_size)");
        let mut y = x.as_standard_layout().into_owned();
        let values = y.as_slice_mut().expect("made contiguous above");
        let level = Level::detect();
        values.par_chunks_mut((ROWS * n).max(1)).for_each(|rows| {
            vectorize(
                level,
                #[inline(always)]
                || rows.chunks_exact_mut(n).for_each(|row| self.row(row)),
            );
        });
        y
    }

    #[inline(always)]
    fn row(&self, row: &mut [f32]) {
        let mean = sum_of_squares(row) / row.len() as f32;
        let factor = 1.0 / (mean + self.eps).sqrt();
        for (x, w) in row.iter_mut().zip(&self.weight) {
            *x = w * (*x * factor);
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
