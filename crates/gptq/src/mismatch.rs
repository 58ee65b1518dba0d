//! Correction for inputs that already carry errors.
//!
//! Behind the first block a layer reads `x̃`, which earlier rounding has changed from the float model's `x`. What matters is not
//! `(ŵ − w)·x̃` but `ŵ·x̃ − w·x`. With `H` the mean of `x̃·x̃ᵀ` and `C` the mean of `(x − x̃)·x̃ᵀ`, the float weights that come closest are
//!
//! > w* = w + w·C·(H + λI)⁻¹
//!
//! and rounding them by GPTQ on `H` corrects the layer's own errors and those before it at once (Qronos, arXiv 2505.11695). Going the whole way
//! fits the calibration text too closely, so only a *share* of the step is taken, as in QEP (arXiv 2504.09629).

use fewbit_format::MatrixShape;
use fewbit_kernels::{Level, linear_f32, vectorize};
use rayon::prelude::*;

use crate::{
    GptqError, Prepared,
    prepared::Factor,
    strips::{LANES, first_non_finite},
};

/// Features of one side whose products are formed at a time: bounds the extra memory.
const PANEL: usize = 512;
/// Rows that share one pass over the factor.
const ROWS: usize = 8;

/// The mean of `(x − x̃)·x̃ᵀ` over calibration tokens: `x` the inputs of a layer in the float model, `x̃` those in the quantized one.
#[derive(Clone, Debug)]
pub struct Mismatch {
    in_features: usize,
    n_tokens: usize,
    /// (x̃ feature, x − x̃ feature), row-major.
    sum: Vec<f32>,
}

impl Mismatch {
    /// No tokens yet.
    pub fn new(in_features: usize) -> Self {
        Self { in_features, n_tokens: 0, sum: vec![0.0; in_features * in_features] }
    }

    /// Adds tokens: both slices are `(n_tokens, in_features)` row-major.
    ///
    /// # Errors
    /// If they are not whole tokens, differ in length, or hold NaN or infinity; nothing is added then.
    pub fn add(&mut self, float: &[f32], quantized: &[f32]) -> Result<(), GptqError> {
        let n = self.in_features;
        for values in [float, quantized] {
            if values.len() != float.len() || n == 0 || values.len() % n != 0 {
                return Err(GptqError::ActivationLength { got: values.len(), in_features: n });
            }
            if let Some(i) = first_non_finite(values) {
                let (token, column) = (i / n, i % n);
                return Err(GptqError::NonFiniteActivation { token, column, value: values[i] });
            }
        }
        let n_tokens = float.len() / n;
        let difference: Vec<f32> = float.iter().zip(quantized).map(|(x, q)| x - q).collect();
        let difference = transpose(&difference, n);
        let quantized = transpose(quantized, n);
        let mut products = vec![0.0; PANEL.min(n) * n];
        for (sum, rows) in self.sum.chunks_mut(PANEL * n).zip(quantized.chunks(PANEL * n_tokens)) {
            let products = &mut products[..sum.len()];
            let shape = MatrixShape::new(n, n_tokens);
            linear_f32(Level::detect(), products, rows, sum.len() / n, &difference, shape);
            sum.par_iter_mut().zip(&*products).for_each(|(sum, product)| *sum += product);
        }
        self.n_tokens += n_tokens;
        Ok(())
    }

    /// Tokens added so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Bytes of a mismatch of this width, and of adding `n_tokens` at a time.
    pub const fn bytes(in_features: usize, n_tokens: usize) -> usize {
        let panel = if in_features < PANEL { in_features } else { PANEL };
        4 * in_features * (in_features + panel + 3 * n_tokens)
    }
}

impl Prepared<'_> {
    /// The weights to round instead of `weight`, so that the quantized layer on its own inputs comes close to the float layer on the float
    /// model's: `share` of the way to the least-squares solution, 0 for none and 1 for all of it.
    ///
    /// Where only the diagonal of the Hessian is used, the weights stay as they are.
    ///
    /// # Errors
    /// If `weight` is not `shape`, or its width is not that of the Hessian or the mismatch.
    pub fn retarget(
        &self,
        weight: &[f32],
        shape: MatrixShape,
        mismatch: &Mismatch,
        share: f32,
    ) -> Result<Vec<f32>, GptqError> {
        let MatrixShape { out_features, in_features: n } = shape;
        if weight.len() != shape.len() {
            return Err(GptqError::WeightLength {
                got: weight.len(),
                out_features,
                in_features: n,
            });
        }
        for hessian in [self.hessian().in_features(), mismatch.in_features] {
            if hessian != n {
                return Err(GptqError::Width { hessian, in_features: n });
            }
        }
        let Some(factor) = self.factor().filter(|_| mismatch.n_tokens > 0) else {
            return Ok(weight.to_vec());
        };
        // w·C, then solved in place; the sum is taken for the mean here, where it is small.
        let mut step = vec![0.0; weight.len()];
        let level = Level::detect();
        linear_f32(level, &mut step, weight, out_features, &mismatch.sum, MatrixShape::new(n, n));
        let scale = share / mismatch.n_tokens as f32;
        let rows = step.par_chunks_mut(ROWS * n).zip(weight.par_chunks(ROWS * n));
        rows.for_each(|(step, weight)| {
            let mut ordered = vec![[0.0; ROWS]; factor.feedback.n_strips() * LANES];
            for (row, step) in step.chunks(n).enumerate() {
                for (x, &column) in ordered.iter_mut().zip(self.order()) {
                    x[row] = step[column] * scale;
                }
            }
            vectorize(
                level,
                #[inline(always)]
                || solve(factor, &mut ordered),
            );
            for (row, (step, weight)) in step.chunks_mut(n).zip(weight.chunks(n)).enumerate() {
                for (x, &column) in ordered.iter().zip(self.order()) {
                    step[column] = weight[column] + x[row];
                }
            }
        });
        Ok(step)
    }
}

/// Replaces each row `b` (columns in order of rounding, rows side by side) by `x` with `x·M·D·Mᵀ = b`.
#[inline(always)]
fn solve(factor: &Factor, rows: &mut [[f32; ROWS]]) {
    let feedback = &factor.feedback;
    // z·Mᵀ = b, from the last column to the first: z_j = b_j − Σ_{k>j} z_k·M_jk.
    for s in (0..feedback.n_strips()).rev() {
        let strip = feedback.strip(s);
        let (before, own) = rows.split_at_mut(s * LANES);
        for j in (0..LANES).rev() {
            for k in j + 1..LANES {
                let m = strip[s * LANES + j][k];
                for r in 0..ROWS {
                    own[j][r] -= own[k][r] * m;
                }
            }
        }
        for (b, m) in before.iter_mut().zip(strip) {
            for k in 0..LANES {
                for r in 0..ROWS {
                    b[r] -= own[k][r] * m[k];
                }
            }
        }
    }
    for (x, &pivot) in rows.iter_mut().zip(&factor.pivots) {
        for x in x {
            *x /= pivot as f32;
        }
    }
    // x·M = z / D, from the first column to the last: x_k = t_k − Σ_{j<k} x_j·M_jk.
    for s in 0..feedback.n_strips() {
        let strip = feedback.strip(s);
        let (before, own) = rows.split_at_mut(s * LANES);
        for (x, m) in before.iter().zip(strip) {
            for k in 0..LANES {
                for r in 0..ROWS {
                    own[k][r] -= x[r] * m[k];
                }
            }
        }
        for k in 0..LANES {
            for j in 0..k {
                let m = strip[s * LANES + j][k];
                for r in 0..ROWS {
                    own[k][r] -= own[j][r] * m;
                }
            }
        }
    }
}

/// `(rows, n)` to `(n, rows)`.
fn transpose(values: &[f32], n: usize) -> Vec<f32> {
    let rows = values.len() / n;
    let mut out = vec![0.0; values.len()];
    out.par_chunks_mut(rows.max(1) * LANES).enumerate().for_each(|(block, out)| {
        for (row, values) in values.chunks(n).enumerate() {
            for (lane, value) in values[block * LANES..].iter().take(LANES).enumerate() {
                out[lane * rows + row] = *value;
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GptqSpec, Hessian};
    use fewbit_testkit::Random;

    /// Inputs of both models: the quantized one sees a mixture of the float one's and noise.
    fn inputs(n_tokens: usize, n: usize, random: &mut Random) -> (Vec<f32>, Vec<f32>) {
        let float = random.normals(n_tokens * n);
        let quantized = (0..float.len())
            .map(|i| {
                0.8 * float[i] + 0.3 * float[i / n * n + (i + 1) % n] + 0.2 * random.normal() as f32
            })
            .collect();
        (float, quantized)
    }

    fn squared_error(w: &[f32], x: &[f32], v: &[f32], y: &[f32], n: usize) -> f64 {
        let dot = |w: &[f32], x: &[f32]| -> f64 {
            w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum()
        };
        let rows = w.chunks(n).zip(v.chunks(n));
        rows.map(|(w, v)| -> f64 {
            x.chunks(n).zip(y.chunks(n)).map(|(x, y)| (dot(w, x) - dot(v, y)).powi(2)).sum()
        })
        .sum()
    }

    #[test]
    fn the_whole_step_is_the_least_squares_solution() {
        for n in [1, 5, 16, 33] {
            let mut random = Random::new(n as u64);
            let (float, quantized) = inputs(400, n, &mut random);
            let weight = random.normals(11 * n);
            let shape = MatrixShape::new(11, n);
            let mut hessian = Hessian::new(n);
            let mut mismatch = Mismatch::new(n);
            for (x, q) in float.chunks(150 * n).zip(quantized.chunks(150 * n)) {
                hessian.add(q).unwrap();
                mismatch.add(x, q).unwrap();
            }
            let spec = GptqSpec { damping: 1e-6, ..GptqSpec::default() };
            let prepared = Prepared::new(&hessian, &spec).unwrap();
            let target = prepared.retarget(&weight, shape, &mismatch, 1.0).unwrap();
            let best = squared_error(&weight, &float, &target, &quantized, n);
            assert!(best < squared_error(&weight, &float, &weight, &quantized, n));
            // At a minimum no small change of any weight lowers the error by more than rounding errors.
            for i in 0..target.len() {
                for step in [-1e-2, 1e-2] {
                    let mut other = target.clone();
                    other[i] += step;
                    let error = squared_error(&weight, &float, &other, &quantized, n);
                    assert!(error > best, "n = {n}, weight {i}: {error} against {best}");
                }
            }
            let half = prepared.retarget(&weight, shape, &mismatch, 0.5).unwrap();
            for ((w, t), h) in weight.iter().zip(&target).zip(&half) {
                assert!((h - 0.5 * (w + t)).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn equal_inputs_change_nothing() {
        let mut random = Random::new(7);
        let x = random.normals(64 * 20);
        let weight = random.normals(3 * 20);
        let mut hessian = Hessian::new(20);
        hessian.add(&x).unwrap();
        let mut mismatch = Mismatch::new(20);
        mismatch.add(&x, &x).unwrap();
        let prepared = Prepared::new(&hessian, &GptqSpec::default()).unwrap();
        let shape = MatrixShape::new(3, 20);
        assert_eq!(prepared.retarget(&weight, shape, &mismatch, 1.0).unwrap(), weight);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut mismatch = Mismatch::new(4);
        assert!(matches!(
            mismatch.add(&[0.0; 8], &[0.0; 4]),
            Err(GptqError::ActivationLength { .. })
        ));
        assert!(matches!(
            mismatch.add(&[0.0; 6], &[0.0; 6]),
            Err(GptqError::ActivationLength { .. })
        ));
        let bad = [0.0, 0.0, 0.0, 0.0, 0.0, f32::NAN, 0.0, 0.0];
        assert!(matches!(
            mismatch.add(&[0.0; 8], &bad),
            Err(GptqError::NonFiniteActivation { token: 1, column: 1, .. })
        ));
        assert_eq!(mismatch.n_tokens(), 0);
    }
}
