//! Inputs of layers on grids, rounded to signed bytes on the way, as engines with integer products do.
//!
//! ```text
//! x̂ = round(clamp(x/s, −127, 127)) · s
//!
//!              per token           one step for a layer's inputs (LSQ)
//! s            max|x| / 127        learned
//! ∂x̂/∂x        1                   1 inside, 0 clipped
//! ∂x̂/∂s        –                   round(x/s) − x/s inside, ±127 clipped
//! ```

use fewbit_kernels::{Level, vectorize};
use fewbit_model::Site;
use rayon::prelude::*;

/// Inputs of a block's layers, in the order of computation.
pub(crate) const SITES: [Site; 4] =
    [Site::AttentionInput, Site::AttentionMix, Site::MlpInput, Site::MlpMix];

/// The largest code.
const MOST: f32 = 127.0;

/// How the inputs of a block's layers are rounded.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Inputs {
    Float,
    PerToken,
    /// With a step for each of [`SITES`].
    Static([f32; 4]),
}

/// How the inputs of one site are rounded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum SiteInputs {
    Float,
    PerToken,
    Static(f32),
}

impl Inputs {
    pub(crate) fn of_site(&self, site: usize) -> SiteInputs {
        match self {
            Self::Float => SiteInputs::Float,
            Self::PerToken => SiteInputs::PerToken,
            Self::Static(steps) => SiteInputs::Static(steps[site]),
        }
    }
}

/// The code of a value in steps: clamped, then rounded, ties to even.
#[inline(always)]
fn code(u: f32) -> f32 {
    /// Adding it leaves no fraction bits.
    const ROUND: f32 = 12_582_912.0;
    (u.clamp(-MOST, MOST) + ROUND) - ROUND
}

impl SiteInputs {
    /// Rounds `x (n_tokens, width)` in place.
    pub(crate) fn round(self, x: &mut [f32], width: usize) {
        let level = Level::detect();
        x.par_chunks_exact_mut(width).with_min_len(16).for_each(|row| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    let step = match self {
                        Self::Float => return,
                        Self::PerToken => row.iter().fold(0.0, |m: f32, x| m.max(x.abs())) / MOST,
                        Self::Static(step) => step,
                    };
                    if step != 0.0 {
                        row.iter_mut().for_each(|x| *x = code(*x / step) * step);
                    }
                },
            );
        });
    }

    /// Turns the gradient by rounded inputs into that by the inputs `x`, and returns that by the step.
    pub(crate) fn backward(self, dx: &mut [f32], x: &[f32], width: usize) -> f32 {
        let Self::Static(step) = self else { return 0.0 };
        let level = Level::detect();
        let rows = dx.par_chunks_exact_mut(width).zip(x.par_chunks_exact(width));
        let by_step: Vec<f32> = rows
            .with_min_len(16)
            .map(|(dx, x)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || {
                        let mut sum = 0.0;
                        for (d, x) in dx.iter_mut().zip(x) {
                            let u = x / step;
                            let inside = u.abs() <= MOST + 0.5;
                            sum += *d * if inside { code(u) - u } else { code(u) };
                            *d = if inside { *d } else { 0.0 };
                        }
                        sum
                    },
                )
            })
            .collect();
        // In order: the same sum for any number of threads.
        by_step.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_signed_bytes() {
        let x = [0.5f32, -2.0, 1.2345, 0.0, 3.0, -1.0];
        let mut rounded = x;
        SiteInputs::PerToken.round(&mut rounded, 3);
        for (row, x) in rounded.chunks(3).zip(x.chunks(3)) {
            let step = x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
            for (r, x) in row.iter().zip(x) {
                assert_eq!(*r, (x / step).round_ties_even() * step);
            }
        }
        let mut rounded = x;
        SiteInputs::Static(0.01).round(&mut rounded, 3);
        assert_eq!(rounded, [0.5, -1.27, 1.23, 0.0, 1.27, -1.0]);
        let mut same = x;
        SiteInputs::Float.round(&mut same, 3);
        assert_eq!(same, x);
    }

    #[test]
    fn steps_learn_from_what_is_clipped_and_what_is_not() {
        let (x, mut d) = ([0.502f32, -2.0, 3.0, 0.0], [1.0f32, 10.0, 100.0, 1000.0]);
        let by_step = SiteInputs::Static(0.01).backward(&mut d, &x, 4);
        assert_eq!(d, [1.0, 0.0, 0.0, 1000.0]);
        assert!((by_step - (-0.2 - 1270.0 + 12700.0)).abs() < 0.01, "{by_step}");
        let mut d = [1.0f32, 2.0];
        assert_eq!(SiteInputs::PerToken.backward(&mut d, &x[..2], 2), 0.0);
        assert_eq!(d, [1.0, 2.0]);
    }
}
