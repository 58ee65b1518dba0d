//! Accumulation of the Hessian.

use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    GptqError,
    strips::{Column, LANES, Lower, QUAD, first_non_finite, multiply_quad},
};

/// Tokens that are packed at once, into 4 KiB per input feature.
const PANEL: usize = 1024;
/// Tokens whose products are summed in f32 before they join the f64 sums. Short enough that the f32 rounding stays near 1e-6 whatever the number of
/// tokens, long enough that the f64 additions cost nothing.
const RUN: usize = 128;
/// Strips of a parallel task.
const TASK: usize = 4;

/// The mean of `x·xᵀ` over calibration tokens, `x` the input of a layer. (GPTQ writes `2·XXᵀ`; a constant factor changes nothing.)
///
/// The sums are kept in f64, of one triangle only: 4 bytes per square of `in_features`.
#[derive(Clone, Debug)]
pub struct Hessian {
    in_features: usize,
    n_tokens: usize,
    sum: Lower<f64>,
}

impl Hessian {
    /// No tokens yet.
    pub fn new(in_features: usize) -> Self {
        Self { in_features, n_tokens: 0, sum: Lower::new(in_features) }
    }

    /// Adds tokens: `x` is `(n_tokens, in_features)` row-major. Batches of a thousand tokens and more are fastest.
    ///
    /// # Errors
    /// If `x` is not whole tokens, or an activation is NaN or infinite; nothing is added then.
    pub fn add(&mut self, x: &[f32]) -> Result<(), GptqError> {
        let n = self.in_features;
        if x.is_empty() {
            return Ok(());
        }
        if n == 0 || !x.len().is_multiple_of(n) {
            return Err(GptqError::ActivationLength { got: x.len(), in_features: n });
        }
        if let Some(i) = first_non_finite(x) {
            return Err(GptqError::NonFiniteActivation {
                token: i / n,
                column: i % n,
                value: x[i],
            });
        }
        let level = Level::detect();
        for x in x.chunks(PANEL * n) {
            let tokens = x.len() / n;
            let packed = pack(x, n, tokens);
            let mut strips = self.sum.strips_mut();
            let tasks = strips.par_chunks_mut(TASK).enumerate();
            // Largest first, so that threads finish together.
            tasks.rev().for_each(|(task, strips)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || add_products(&packed, tokens, task * TASK, strips),
                );
            });
        }
        self.n_tokens += x.len() / n;
        Ok(())
    }

    /// Adds the tokens of another Hessian.
    ///
    /// # Errors
    /// If the widths differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), GptqError> {
        if self.in_features != other.in_features {
            let (hessian, in_features) = (other.in_features, self.in_features);
            return Err(GptqError::Width { hessian, in_features });
        }
        let ours = self.sum.columns_mut().as_flattened_mut();
        for (a, b) in ours.iter_mut().zip(other.sum.columns().as_flattened()) {
            *a += b;
        }
        self.n_tokens += other.n_tokens;
        Ok(())
    }

    /// Width.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Tokens added so far.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Mean of `x²` of each input feature; zeros before any token.
    pub fn diagonal(&self) -> Vec<f64> {
        self.sum.diagonal().map(|sum| sum * self.per_token()).collect()
    }

    /// Mean of `x_i · x_j`.
    ///
    /// # Panics
    /// If an index is not below `in_features`.
    pub fn get(&self, i: usize, j: usize) -> f64 {
        assert!(i.max(j) < self.in_features, "indices are below in_features");
        self.sum.symmetric(i, j) * self.per_token()
    }

    /// Bytes that a Hessian of this width holds.
    pub const fn bytes(in_features: usize) -> usize {
        Lower::<f64>::bytes(in_features)
    }

    /// Bytes that [`add`](Self::add) uses besides, however many tokens it is given.
    pub const fn add_bytes(in_features: usize) -> usize {
        PANEL * in_features.next_multiple_of(LANES) * size_of::<f32>()
    }

    /// The sums, not divided by the number of tokens.
    pub(crate) fn sum(&self) -> &Lower<f64> {
        &self.sum
    }

    /// What the sums are multiplied by for a mean.
    pub(crate) fn per_token(&self) -> f64 {
        1.0 / self.n_tokens.max(1) as f64
    }

    /// The first entry that overflowed.
    pub(crate) fn check(&self) -> Result<(), GptqError> {
        for strip in 0..self.sum.n_strips() {
            for (j, lanes) in self.sum.strip(strip).iter().enumerate() {
                if let Some(lane) = lanes.iter().position(|v| !v.is_finite()) {
                    // The larger diagonal entry is the culprit; an overflow shows there first.
                    let row = strip * LANES + lane;
                    let column = if self.sum.symmetric(j, j).is_finite() { row } else { j };
                    return Err(GptqError::NonFiniteHessian { column, value: lanes[lane] });
                }
            }
        }
        Ok(())
    }
}

/// Activations in strips of 16 features: strip `s` is `packed[s·tokens..][..tokens]`; features beyond the last are zero.
fn pack(x: &[f32], n: usize, tokens: usize) -> Vec<Column<f32>> {
    let mut packed = vec![[0.0; LANES]; n.div_ceil(LANES) * tokens];
    packed.par_chunks_mut(TASK * tokens).enumerate().for_each(|(task, strips)| {
        for (token, x) in x.chunks_exact(n).enumerate() {
            let x = &x[task * TASK * LANES..];
            for (strip, x) in strips.chunks_exact_mut(tokens).zip(x.chunks(LANES)) {
                strip[token][..x.len()].copy_from_slice(x);
            }
        }
    });
    packed
}

/// Adds the products of the features of `strips` (the first is number `first`) with all features up to their own.
#[inline(always)]
fn add_products(
    packed: &[Column<f32>],
    tokens: usize,
    first: usize,
    strips: &mut [&mut [Column<f64>]],
) {
    let x = |strip: usize| &packed[strip * tokens..][..tokens];
    for column in 0..first + strips.len() {
        for from in (0..tokens).step_by(RUN) {
            let to = (from + RUN).min(tokens);
            let a = &x(column)[from..to];
            for (row, strip) in (first..).zip(&mut *strips).skip(column.saturating_sub(first)) {
                let b = &x(row)[from..to];
                let sums = &mut strip[column * LANES..][..LANES];
                for (quad, sums) in sums.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
                    let mut products = [[0.0; LANES]; QUAD];
                    multiply_quad(a, quad, b, &mut products);
                    for i in 0..QUAD {
                        for lane in 0..LANES {
                            sums[i][lane] += f64::from(products[i][lane]);
                        }
                    }
                }
            }
        }
    }
}
