//! Accumulation of the Hessian.

use core::ops::Range;

use fewbit_format::bf16;
use fewbit_kernels::{Aligned, Lanes, Level, add_outer_products};
use rayon::prelude::*;

use crate::{
    GptqError, InputPrecision,
    strips::{Column, LANES, Lower, first_non_finite},
};

/// Tokens that are packed at once, into 4 KiB per input feature (strips and panels).
const PIECE: usize = 512;
/// Tokens whose products are summed in f32 before they join the f64 sums. Short enough that the f32 rounding stays near 1e-6 whatever the number of
/// tokens, long enough that the f64 additions cost little.
const RUN: usize = 256;
/// Strips of a parallel task, at most: their sums stay in the second-level cache while a block of columns passes.
const TASK: usize = 16;
/// Columns of a block, about: a run of them stays in the second-level cache while all strips of a task pass.
const BLOCK: usize = 72;

/// The mean of `x·xᵀ` over calibration tokens, `x` the input of a layer. (GPTQ writes `2·XXᵀ`; a constant factor changes nothing.)
///
/// The sums are kept in f64, of one triangle only: 4 bytes per square of `in_features`.
#[derive(Clone, Debug)]
pub struct Hessian {
    in_features: usize,
    inputs: InputPrecision,
    n_tokens: usize,
    sum: Lower<f64>,
}

impl Hessian {
    /// No tokens yet.
    pub fn new(in_features: usize) -> Self {
        Self::with_inputs(in_features, InputPrecision::F32)
    }

    /// No tokens yet; those that are added are rounded to this precision.
    pub fn with_inputs(in_features: usize, inputs: InputPrecision) -> Self {
        Self { in_features, inputs, n_tokens: 0, sum: Lower::new(in_features) }
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
        // As many sums as registers hold, so that their chains hide the latency: AVX2 has 16 of 8 lanes, AVX-512 32 of 16.
        let level = Level::detect();
        if level.f32_lanes() == LANES {
            self.add_panels::<12>(level, x);
        } else {
            self.add_panels::<6>(level, x);
        }
        self.n_tokens += x.len() / n;
        Ok(())
    }

    /// Adds tokens, the products of 16 features and panels of `N` at a time.
    fn add_panels<const N: usize>(&mut self, level: Level, x: &[f32]) {
        let n = self.in_features;
        // Fewer where there are many threads, so that all have work.
        let task = (self.sum.n_strips() / (8 * rayon::current_num_threads())).clamp(1, TASK);
        let mut runs: [_; PIECE / RUN] = core::array::from_fn(|_| Packed::<N>::default());
        let mut rounded = Vec::new();
        for x in x.chunks(PIECE * n) {
            let x = match self.inputs {
                InputPrecision::F32 => x,
                InputPrecision::BF16 => {
                    let round = |x: &f32| bf16::from_f32(*x).to_f32();
                    x.par_iter().map(round).collect_into_vec(&mut rounded);
                    &rounded
                }
            };
            let n_runs = x.len().div_ceil(RUN * n);
            for (packed, x) in runs.iter_mut().zip(x.chunks(RUN * n)) {
                packed.fill(x, n);
            }
            let mut strips = self.sum.strips_mut();
            let tasks = strips.par_chunks_mut(task).enumerate();
            // Largest first, so that threads finish together.
            tasks.rev().for_each(|(i, strips)| {
                add_products(level, &runs[..n_runs], i * task, strips);
            });
        }
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

    /// Bytes that [`add`](Self::add) uses besides, at most, however many tokens it is given.
    pub const fn add_bytes(in_features: usize) -> usize {
        // Strips, panels, and inputs that are rounded first.
        3 * PIECE * in_features.next_multiple_of(LANES) * size_of::<f32>()
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

/// A run of tokens, as either factor of the product reads them: one after the other of 16 features, and of `N`. Features beyond the last are zero.
#[derive(Default)]
struct Packed<const N: usize> {
    tokens: usize,
    strips: Vec<Lanes>,
    panels: Vec<[f32; N]>,
}

impl<const N: usize> Packed<N> {
    /// Tasks take as many features as are whole strips and whole panels, a few tokens at a time so that both are written in whole cache lines.
    fn fill(&mut self, x: &[f32], n: usize) {
        const TOKENS: usize = 32;
        let tokens = x.len() / n;
        self.tokens = tokens;
        self.strips.resize(n.div_ceil(LANES) * tokens, Lanes::ZERO);
        self.panels.resize(n.div_ceil(N) * tokens, [0.0; N]);
        let strips = self.strips.par_chunks_mut(N * tokens);
        let panels = self.panels.par_chunks_mut(LANES * tokens);
        strips.zip(panels).enumerate().for_each(|(task, (strips, panels))| {
            let features = (task * LANES * N)..n.min((task + 1) * LANES * N);
            for (i, x) in x.chunks(TOKENS * n).enumerate() {
                for (strip, packed) in strips.chunks_mut(tokens).enumerate() {
                    let packed = packed[i * TOKENS..].iter_mut().map(|Aligned(features)| features);
                    gather(x, n, features.start + strip * LANES..features.end, packed);
                }
                for (panel, packed) in panels.chunks_mut(tokens).enumerate() {
                    let packed = packed[i * TOKENS..].iter_mut();
                    gather(x, n, features.start + panel * N..features.end, packed);
                }
            }
        });
    }

    fn strip(&self, i: usize) -> &[Lanes] {
        &self.strips[i * self.tokens..][..self.tokens]
    }

    fn panels(&self, panels: Range<usize>) -> impl Iterator<Item = &[[f32; N]]> {
        self.panels.chunks(self.tokens).skip(panels.start).take(panels.len())
    }
}

/// The first `W` of these features of each token; zeros where there are fewer.
#[inline(always)]
fn gather<'a, const W: usize>(
    x: &[f32],
    n: usize,
    features: Range<usize>,
    packed: impl Iterator<Item = &'a mut [f32; W]>,
) {
    for (x, packed) in x.chunks_exact(n).zip(packed) {
        let x = &x[features.clone()];
        if let Some(x) = x.first_chunk() {
            *packed = *x;
        } else {
            packed.fill(0.0);
            packed[..x.len()].copy_from_slice(x);
        }
    }
}

/// Adds the products of the features of `strips` (the first is number `first`) with all features up to their own.
fn add_products<const N: usize>(
    level: Level,
    runs: &[Packed<N>],
    first: usize,
    strips: &mut [&mut [Column<f64>]],
) {
    let features = (first + strips.len()) * LANES;
    for block in (0..features.div_ceil(N)).step_by(BLOCK / N) {
        for run in runs {
            for (strip, sums) in (first..).zip(&mut *strips) {
                // The last strip may have columns beyond the last panel; they stay zero.
                let sums = sums.chunks_mut(N).skip(block);
                for (panel, sums) in run.panels(block..block + BLOCK / N).zip(sums) {
                    add_outer_products(level, panel, run.strip(strip), sums);
                }
            }
        }
    }
}
