//! Norms and their gradients.

use fewbit_kernels::{Level, vectorize};
use fewbit_model::{
    NormKind,
    math::{dot, sum, sum_of_deviations, sum_of_squares},
};
use rayon::prelude::*;

use crate::{product::add, tensors::NormValues};

/// Rows that a thread takes at a time; gradients of gain and bias are summed per piece, then piece after piece.
const ROWS: usize = 64;

/// `y = gain · (x − shift) · factor + bias`, with [`NormKind`] saying what shift and factor of a row are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm<'a> {
    pub(crate) kind: NormKind,
    /// As it is stored: of Gemma's norms, one less than what is multiplied by.
    pub(crate) gain: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
    pub(crate) eps: f32,
}

impl Norm<'_> {
    /// What is added to the stored gain.
    fn more(&self) -> f32 {
        match self.kind {
            NormKind::RmsOnePlus => 1.0,
            NormKind::Rms | NormKind::Layer => 0.0,
        }
    }

    /// Shift and factor of a row.
    #[inline(always)]
    fn moments(&self, x: &[f32]) -> [f32; 2] {
        let n = x.len() as f32;
        match self.kind {
            NormKind::Rms | NormKind::RmsOnePlus => {
                [0.0, 1.0 / (sum_of_squares(x) / n + self.eps).sqrt()]
            }
            NormKind::Layer => {
                let mean = sum(x) / n;
                [mean, 1.0 / (sum_of_deviations(x, mean) / n + self.eps).sqrt()]
            }
        }
    }

    /// Every row of `x`. Shift and factor of each go to `moments (n, 2)`.
    pub(crate) fn forward(&self, y: &mut [f32], moments: &mut [f32], x: &[f32]) {
        let (width, more) = (self.gain.len(), self.more());
        let level = Level::detect();
        let pieces = y.par_chunks_mut(ROWS * width).zip(x.par_chunks(ROWS * width));
        pieces.zip(moments.par_chunks_mut(2 * ROWS)).for_each(|((y, x), moments)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let rows = y.chunks_exact_mut(width).zip(x.chunks_exact(width));
                    for ((y, x), moments) in rows.zip(moments.as_chunks_mut().0) {
                        *moments = self.moments(x);
                        let [shift, factor] = *moments;
                        for ((y, x), gain) in y.iter_mut().zip(x).zip(self.gain) {
                            *y = (gain + more) * ((x - shift) * factor);
                        }
                        if let Some(bias) = self.bias {
                            for (y, bias) in y.iter_mut().zip(bias) {
                                *y += bias;
                            }
                        }
                    }
                },
            );
        });
    }

    /// Sets the gradient by `x`, and returns those by gain and bias.
    ///
    /// With `c = x − shift`, `f` the factor and `g = dy · gain`: `dx = f · (g − c · f² · mean(g·c) − mean(g))`, the last only where the mean is subtracted;
    /// `dgain = Σ dy · c · f`, `dbias = Σ dy`.
    pub(crate) fn backward(
        &self,
        dx: &mut [f32],
        dy: &[f32],
        moments: &[f32],
        x: &[f32],
    ) -> NormValues {
        let (width, more) = (self.gain.len(), self.more());
        let level = Level::detect();
        let pieces = dx.par_chunks_mut(ROWS * width).zip(dy.par_chunks(ROWS * width));
        let pieces = pieces.zip(x.par_chunks(ROWS * width)).zip(moments.par_chunks(2 * ROWS));
        let partial: Vec<NormValues> = pieces
            .map(|(((dx, dy), x), moments)| {
                let mut sums = self.zeros();
                let (mut g, mut c) = (vec![0.0f32; width], vec![0.0f32; width]);
                vectorize(
                    level,
                    #[inline(always)]
                    || {
                        let rows = dx.chunks_exact_mut(width).zip(dy.chunks_exact(width));
                        let rows = rows.zip(x.chunks_exact(width)).zip(moments.as_chunks().0);
                        for (((dx, dy), x), &[shift, f]) in rows {
                            for (((g, c), dgain), ((dy, x), gain)) in g
                                .iter_mut()
                                .zip(&mut c)
                                .zip(&mut sums.gain)
                                .zip(dy.iter().zip(x).zip(self.gain))
                            {
                                *g = dy * (gain + more);
                                *c = x - shift;
                                *dgain += dy * (*c * f);
                            }
                            let share = dot(&g, &c) / width as f32 * f * f;
                            let mean = match self.kind {
                                NormKind::Rms | NormKind::RmsOnePlus => 0.0,
                                NormKind::Layer => sum(&g) / width as f32,
                            };
                            for ((dx, g), c) in dx.iter_mut().zip(&g).zip(&c) {
                                *dx = f * (g - c * share - mean);
                            }
                            if let Some(bias) = &mut sums.bias {
                                for (bias, dy) in bias.iter_mut().zip(dy) {
                                    *bias += dy;
                                }
                            }
                        }
                    },
                );
                sums
            })
            .collect();
        let mut sums = self.zeros();
        for partial in partial {
            add(&mut sums.gain, &partial.gain);
            if let (Some(sum), Some(partial)) = (&mut sums.bias, &partial.bias) {
                add(sum, partial);
            }
        }
        sums
    }

    fn zeros(&self) -> NormValues {
        let zeros = |values: &[f32]| vec![0.0; values.len()];
        NormValues { gain: zeros(self.gain), bias: self.bias.map(zeros) }
    }
}
