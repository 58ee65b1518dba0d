//! What all matrices with the same input share.
//!
//! The LDLQ form of GPTQ factors the damped Hessian as `H = M·D·Mᵀ` with `M` unit upper triangular and `D` diagonal, in the order of rounding.
//! The target of column `k` is then `w_k + Σ_{j<k} (w_j − q_j)·M_jk`, and the loss `Σ_k D_k·(q_k − target_k)²`. A Cholesky factorization in reversed
//! order gives both: with `r(k) = n − 1 − k`, `M_jk = L_{r(j) r(k)} / L_{r(k) r(k)}` and `D_k = L_{r(k) r(k)}²`. No inverse is formed.

use fewbit_kernels::Level;
use rayon::prelude::*;

use crate::{
    GptqError, GptqSpec, Hessian, cholesky,
    order::sorted,
    strips::{LANES, Lower},
};

/// Order of the columns and factor of the damped Hessian, for all matrices that read the same input (query, key and value; gate and up).
#[derive(Debug)]
pub struct Prepared<'h> {
    hessian: &'h Hessian,
    spec: GptqSpec,
    order: Vec<usize>,
    position: Vec<usize>,
    importance: Vec<f32>,
    damping: f64,
    factor: Option<Factor>,
}

/// `M` and `D` in order of rounding.
#[derive(Debug)]
pub(crate) struct Factor {
    /// `Mᵀ` without its diagonal of ones: element `(k, j)` is `M_jk`, zero unless `j < k`.
    pub(crate) feedback: Lower<f32>,
    pub(crate) pivots: Vec<f64>,
}

impl<'h> Prepared<'h> {
    /// Sorts and factors. Where the damped Hessian is singular, the damping is raised by factors of ten up to 1; if it is singular still, only its
    /// diagonal is used: rounding with parameters weighted by it.
    ///
    /// # Errors
    /// If the damping is not in 0..=1, or an entry of the Hessian is not finite.
    pub fn new(hessian: &'h Hessian, spec: &GptqSpec) -> Result<Self, GptqError> {
        if !(0.0..=1.0).contains(&spec.damping) {
            return Err(GptqError::Damping { damping: spec.damping });
        }
        hessian.check()?;
        let diagonal = hessian.diagonal();
        let order = sorted(&diagonal, spec.order);
        let (damping, factor) = factor_damped(hessian, &order, &diagonal, spec.damping);
        let importance = diagonal.iter().map(|&d| d as f32).collect();
        let mut position = vec![0; order.len()];
        for (k, &column) in order.iter().enumerate() {
            position[column] = k;
        }
        Ok(Self { hessian, spec: *spec, order, position, importance, damping, factor })
    }

    /// The Hessian that was factored.
    pub fn hessian(&self) -> &'h Hessian {
        self.hessian
    }

    /// The spec it was prepared for.
    pub fn spec(&self) -> &GptqSpec {
        &self.spec
    }

    /// The damping used, as a fraction of the mean diagonal.
    pub fn damping(&self) -> f64 {
        self.damping
    }

    /// Columns in order of rounding.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// `D` in order of rounding: what a squared rounding error of each column costs once later columns compensate it. `None` if only the diagonal of
    /// the Hessian is used. With the squared steps of a grid it predicts the loss before anything is rounded.
    pub fn pivots(&self) -> Option<&[f64]> {
        self.factor.as_ref().map(|f| f.pivots.as_slice())
    }

    /// Most bytes in use at once while preparing, the Hessian not counted.
    pub const fn peak_bytes(in_features: usize) -> usize {
        Lower::<f64>::bytes(in_features) + Self::bytes(in_features)
    }

    /// Bytes held afterwards, the Hessian not counted.
    pub const fn bytes(in_features: usize) -> usize {
        Lower::<f32>::bytes(in_features)
            + in_features * (2 * size_of::<usize>() + size_of::<f32>() + size_of::<f64>())
    }

    /// Place of a column in [`order`](Self::order).
    pub(crate) fn position(&self, column: usize) -> usize {
        self.position[column]
    }

    /// Weights of the squared errors of columns in a fit: the diagonal.
    pub(crate) fn importance(&self) -> &[f32] {
        &self.importance
    }

    pub(crate) fn factor(&self) -> Option<&Factor> {
        self.factor.as_ref()
    }

    /// What is added to each entry of the diagonal.
    pub(crate) fn lambda(&self) -> f64 {
        if self.factor.is_some() { self.damping * mean(&self.hessian.diagonal()) } else { 0.0 }
    }
}

/// The damping ladder.
fn factor_damped(
    hessian: &Hessian,
    order: &[usize],
    diagonal: &[f64],
    first: f64,
) -> (f64, Option<Factor>) {
    let mean = mean(diagonal);
    if mean == 0.0 {
        return (first, None);
    }
    let level = Level::detect();
    let mut matrix = Lower::new(order.len());
    let mut damping = first;
    loop {
        fill(&mut matrix, hessian, order, damping * mean);
        if cholesky::factor(&mut matrix, level) {
            return (damping, Some(Factor::new(&matrix, order.len())));
        }
        if damping >= 1.0 {
            return (damping, None);
        }
        damping = (10.0 * damping).clamp(1e-3, 1.0);
    }
}

/// The damped Hessian in reversed order of rounding, continued by the identity to whole strips.
fn fill(matrix: &mut Lower<f64>, hessian: &Hessian, order: &[usize], lambda: f64) {
    let n = order.len();
    let (sum, per_token) = (hessian.sum(), hessian.per_token());
    matrix.strips_mut().into_par_iter().enumerate().for_each(|(s, strip)| {
        strip.fill([0.0; LANES]);
        let mut row = vec![0.0; n];
        for (lane, i) in (s * LANES..(s + 1) * LANES).enumerate() {
            if i >= n {
                strip[i][lane] = 1.0;
                continue;
            }
            // A whole row lies mostly in sequence; its elements in order do not.
            sum.symmetric_row(order[n - 1 - i], &mut row);
            for (lanes, &column) in strip.iter_mut().zip(order.iter().rev()) {
                lanes[lane] = row[column] * per_token;
            }
            strip[i][lane] += lambda;
        }
    });
}

impl Factor {
    fn new(l: &Lower<f64>, n: usize) -> Self {
        let mut feedback = Lower::new(n);
        feedback.strips_mut().into_par_iter().enumerate().for_each(|(s, strip)| {
            for (k, lane) in (s * LANES..n).zip(0..LANES) {
                let inverse = 1.0 / l.get(n - 1 - k, n - 1 - k);
                for (j, lanes) in strip[..k].iter_mut().enumerate() {
                    lanes[lane] = (l.get(n - 1 - j, n - 1 - k) * inverse) as f32;
                }
            }
        });
        let pivots = (0..n).map(|k| l.get(n - 1 - k, n - 1 - k).powi(2)).collect();
        Self { feedback, pivots }
    }
}

fn mean(diagonal: &[f64]) -> f64 {
    diagonal.iter().sum::<f64>() / diagonal.len().max(1) as f64
}
