//! Accumulation of the Hessian.

use fewbit_format::bf16;
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    GptqError, InputPrecision,
    strips::{Column, LANES, Lower, first_non_finite},
};

/// Tokens that are packed at once, into 4 KiB per input feature.
const PANEL: usize = 1024;
/// Tokens whose products are summed in f32 before they join the f64 sums. Short enough that the f32 rounding stays near 1e-6 whatever the number of
/// tokens, long enough that the f64 additions cost nothing.
const RUN: usize = 128;
/// Strips of a parallel task, at most: what they share of the other factor stays in cache.
const TASK: usize = 8;

/// 16 features of one token, in one cache line.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([f32; LANES]);

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
        let level = Level::detect();
        let wide = level.f32_lanes() == LANES;
        // Fewer where there are many threads, so that all have work.
        let task = (self.sum.n_strips() / (4 * rayon::current_num_threads())).clamp(1, TASK);
        let mut packed = Vec::new();
        for x in x.chunks(PANEL * n) {
            let tokens = x.len() / n;
            pack(x, n, tokens, self.inputs, &mut packed);
            let mut strips = self.sum.strips_mut();
            let tasks = strips.par_chunks_mut(task).enumerate();
            // Largest first, so that threads finish together.
            tasks.rev().for_each(|(i, strips)| {
                vectorize(
                    level,
                    #[inline(always)]
                    || add_products(&packed, tokens, i * task, strips, wide),
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
fn pack(x: &[f32], n: usize, tokens: usize, inputs: InputPrecision, packed: &mut Vec<Line>) {
    packed.resize(n.div_ceil(LANES) * tokens, Line([0.0; LANES]));
    packed.par_chunks_mut(TASK * tokens).enumerate().for_each(|(task, strips)| {
        for (token, x) in x.chunks_exact(n).enumerate() {
            let x = &x[task * TASK * LANES..];
            for (strip, x) in strips.chunks_exact_mut(tokens).zip(x.chunks(LANES)) {
                let (packed, beyond) = strip[token].0.split_at_mut(x.len());
                beyond.fill(0.0);
                match inputs {
                    InputPrecision::F32 => packed.copy_from_slice(x),
                    InputPrecision::BF16 => {
                        for (packed, x) in packed.iter_mut().zip(x) {
                            *packed = bf16::from_f32(*x).to_f32();
                        }
                    }
                }
            }
        }
    });
}

/// Adds the products of the features of `strips` (the first is number `first`) with all features up to their own.
#[inline(always)]
fn add_products(
    packed: &[Line],
    tokens: usize,
    first: usize,
    strips: &mut [&mut [Column<f64>]],
    wide: bool,
) {
    let x = |strip: usize| &packed[strip * tokens..][..tokens];
    let mut products = [[0.0; LANES]; LANES];
    for column in 0..first + strips.len() {
        for (row, strip) in (first..).zip(&mut *strips).skip(column.saturating_sub(first)) {
            let sums = &mut strip[column * LANES..][..LANES];
            for (a, b) in x(column).chunks(RUN).zip(x(row).chunks(RUN)) {
                // As many sums as registers hold, so that their chains hide the latency: AVX2 has 16 of 8 lanes, AVX-512 32 of 16. Of other sizes the compiler
                // makes shuffles instead (seen in its output for 7, 8, 12 and 16 with AVX-512).
                if wide {
                    multiply_tile::<0, 10>(a, b, &mut products);
                    multiply_tile::<10, 6>(a, b, &mut products);
                } else {
                    multiply_tile::<0, 6>(a, b, &mut products);
                    multiply_tile::<6, 6>(a, b, &mut products);
                    multiply_tile::<12, 4>(a, b, &mut products);
                }
                for (sums, products) in sums.iter_mut().zip(&products) {
                    for lane in 0..LANES {
                        sums[lane] += f64::from(products[lane]);
                    }
                }
            }
        }
    }
}

/// `products[i][lane] = Σ_token a[token][i] · b[token][lane]` for `N` numbers `i` from `FIRST` on, whose sums stay in registers.
#[inline(always)]
fn multiply_tile<const FIRST: usize, const N: usize>(
    a: &[Line],
    b: &[Line],
    products: &mut [Column<f32>; LANES],
) {
    let mut sums = [[0.0f32; LANES]; N];
    for (Line(a), Line(b)) in a.iter().zip(b) {
        for i in 0..N {
            for lane in 0..LANES {
                sums[i][lane] = a[FIRST + i].mul_add(b[lane], sums[i][lane]);
            }
        }
    }
    products[FIRST..FIRST + N].copy_from_slice(&sums);
}
