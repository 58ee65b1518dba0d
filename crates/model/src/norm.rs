//! Norms: root mean square (Zhang and Sennrich, 2019) and LayerNorm (Ba et al., 2016).

use fewbit_kernels::{Level, vectorize};
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use crate::{
    NormKind,
    math::{sum, sum_of_deviations, sum_of_squares},
};

/// `y = gain · (x − shift) / deviation + bias`, with [`NormKind`] saying what shift and deviation are.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    kind: NormKind,
    /// What it multiplies by: of Gemma's norms, one more than what is stored.
    gain: Vec<f32>,
    bias: Option<Vec<f32>>,
    eps: f32,
}

/// Values that a thread takes at a time, in whole rows.
const VALUES: usize = 1 << 14;

impl Norm {
    /// From what a file stores.
    pub(crate) fn new(
        kind: NormKind,
        mut gain: Vec<f32>,
        bias: Option<Vec<f32>>,
        eps: f32,
    ) -> Self {
        if kind == NormKind::RmsOnePlus {
            gain.iter_mut().for_each(|gain| *gain += 1.0);
        }
        Self { kind, gain, bias, eps }
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        self.gain.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.gain) + self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias))
    }

    /// Replaces what a file stores.
    ///
    /// # Panics
    /// If a length differs, or one has a bias and the other not.
    pub(crate) fn replace(&mut self, gain: Vec<f32>, bias: Option<Vec<f32>>) {
        assert_eq!(gain.len(), self.width(), "a norm keeps its width");
        let lens = [&bias, &self.bias].map(|bias| bias.as_ref().map(Vec::len));
        assert_eq!(lens[0], lens[1], "a norm keeps its bias");
        *self = Self::new(self.kind, gain, bias, self.eps);
    }

    /// Every row of `x (n_tokens, width)`.
    pub(crate) fn forward(&self, x: ArrayView2<'_, f32>) -> Array2<f32> {
        assert_eq!(x.ncols(), self.width(), "x is (n_tokens, width)");
        let mut y = Array2::zeros(x.raw_dim());
        let x = x.as_standard_layout();
        let out = y.as_slice_mut().expect("a new array is contiguous");
        self.forward_into(x.as_slice().expect("made contiguous above"), out);
        y
    }

    /// As [`forward`](Self::forward), on slices.
    pub(crate) fn forward_into(&self, x: &[f32], out: &mut [f32]) {
        let (n, level) = (self.width(), Level::detect());
        let piece = self.piece();
        out.par_chunks_mut(piece).zip(x.par_chunks(piece)).for_each(|(out, x)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (out, x) in out.chunks_exact_mut(n).zip(x.chunks_exact(n)) {
                        let (shift, factor) = self.moments(x);
                        for ((out, x), gain) in out.iter_mut().zip(x).zip(&self.gain) {
                            *out = gain * ((x - shift) * factor);
                        }
                        self.add_bias(out);
                    }
                },
            );
        });
    }

    /// As [`forward_into`](Self::forward_into), in place.
    pub(crate) fn apply(&self, x: &mut [f32]) {
        let (n, level) = (self.width(), Level::detect());
        x.par_chunks_mut(self.piece()).for_each(|x| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for x in x.chunks_exact_mut(n) {
                        let (shift, factor) = self.moments(x);
                        for (x, gain) in x.iter_mut().zip(&self.gain) {
                            *x = gain * ((*x - shift) * factor);
                        }
                        self.add_bias(x);
                    }
                },
            );
        });
    }

    fn piece(&self) -> usize {
        let n = self.width().max(1);
        (VALUES / n).max(1) * n
    }

    /// What to subtract from a row, and what then to multiply by.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        match self.kind {
            NormKind::Rms | NormKind::RmsOnePlus => {
                (0.0, 1.0 / (sum_of_squares(x) / n + self.eps).sqrt())
            }
            NormKind::Layer => {
                let mean = sum(x) / n;
                (mean, 1.0 / (sum_of_deviations(x, mean) / n + self.eps).sqrt())
            }
        }
    }

    #[inline(always)]
    fn add_bias(&self, row: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for (y, bias) in row.iter_mut().zip(bias) {
                *y += bias;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn divides_by_the_root_mean_square() {
        let x = array![[1.0f32, 2.0, 2.0], [0.0, 0.0, 0.0]];
        for (kind, stored) in
            [(NormKind::Rms, vec![1.0, 2.0, 0.5]), (NormKind::RmsOnePlus, vec![0.0, 1.0, -0.5])]
        {
            let norm = Norm::new(kind, stored, None, 1e-6);
            let y = norm.forward(x.view());
            let root = 3f32.sqrt();
            for (got, expected) in y.row(0).iter().zip([1.0 / root, 4.0 / root, 1.0 / root]) {
                assert!((got - expected).abs() < 1e-6);
            }
            assert_eq!(y.row(1).to_vec(), [0.0; 3]);
        }
    }

    #[test]
    fn subtracts_the_mean_and_adds_the_bias() {
        let norm =
            Norm::new(NormKind::Layer, vec![1.0, 2.0, 1.0], Some(vec![0.0, 0.5, -1.0]), 1e-5);
        let mut x = [101.0, 103.0, 102.0];
        norm.apply(&mut x);
        let root = (2.0f32 / 3.0 + 1e-5).sqrt();
        for (got, expected) in x.into_iter().zip([-1.0 / root, 2.0 / root + 0.5, -1.0]) {
            assert!((got - expected).abs() < 1e-5, "{got} should be {expected}");
        }
    }
}
