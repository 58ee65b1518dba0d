//! The matrix product for many tokens.
//!
//! `out (m, n) = x (m, k) · Wᵀ`, `W (n, k)`: m tokens, n out_features, k in_features. The lanes of a vector are tokens and weights are
//! broadcast one by one, so rows of weights need no transposition, whatever they are decoded from.
//!
//! 1. The activations of up to [`TOKENS`] tokens are packed into panels of sixteen tokens.
//! 2. A task owns [`ROWS`] rows of W. For each [`depth`](Rows::depth) of columns it decodes its rows into scratch memory and multiplies
//!    them with every panel, `HIGH` rows × `WIDE` panels of sums in registers at a time.
//! 3. It transposes its sums into its columns of `out`.
//!
//! A sum runs over the columns of one depth in order, then over the depths in order: the same for every number of threads, and on every
//! level with fused multiply-add.

use alloc::vec;

use crate::{
    activations::panels,
    level::{Kernel, Level},
    output::Columns,
    parallel::{PARALLEL_WORK, for_each_index},
    rows::{DEPTH, Rows},
    simd::{LANES, Lanes, Simd},
};

/// Rows that a task owns: enough to use a panel several times while it is near, few enough that every thread gets tasks. A multiple of
/// every level's `HIGH`.
const ROWS: usize = 48;
/// Tokens that are packed at a time: the sums of a task then stay in the second-level cache.
const TOKENS: usize = 512;

/// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ` for at least one token, row and column.
pub(crate) fn gemm<R: Rows>(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    rows: &R,
    out_features: usize,
) {
    let in_features = x.len() / n_tokens;
    for (out, x) in out.chunks_mut(TOKENS * out_features).zip(x.chunks(TOKENS * in_features)) {
        let n_tokens = x.len() / in_features;
        let parallel = x.len() * out_features >= PARALLEL_WORK;
        let panels = panels(x, in_features, rows, parallel);
        let out = Columns::new(out, out_features);
        for_each_index(out_features.div_ceil(ROWS), parallel, |task| {
            let first = task * ROWS;
            let last = (first + ROWS).min(out_features);
            level.dispatch(Task { out: &out, n_tokens, panels: &panels, rows, first, last });
        });
    }
}

struct Task<'a, R> {
    out: &'a Columns<'a>,
    n_tokens: usize,
    /// (n_panels, width).
    panels: &'a [Lanes],
    rows: &'a R,
    first: usize,
    last: usize,
}

impl<R: Rows> Kernel for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // Sums and operands fill the registers: 24 + 3 of 32, or with two registers a vector 12 + 3 of 16.
        if S::TILE_WIDE {
            self.multiply::<S, 12, 2>(simd);
        } else {
            self.multiply::<S, 6, 1>(simd);
        }
    }
}

impl<R: Rows> Task<'_, R> {
    #[inline(always)]
    fn multiply<S: Simd, const HIGH: usize, const WIDE: usize>(self, simd: S) {
        const { assert!(ROWS.is_multiple_of(HIGH)) };
        let width = self.rows.width();
        let n_panels = self.n_tokens.div_ceil(LANES);
        let n_rows = (self.last - self.first).next_multiple_of(HIGH);
        // Rows past the last one stay zero.
        let mut weights = vec![[0.0; DEPTH]; n_rows];
        // [row][panel][token]
        let mut sums = vec![Lanes::ZERO; n_rows * n_panels];
        for start in (0..width).step_by(self.rows.depth()) {
            let end = (start + self.rows.depth()).min(width);
            for (weights, row) in weights.iter_mut().zip(self.first..self.last) {
                self.rows.decode(simd, row, start, &mut weights[..end - start]);
            }
            let panel = |p: usize| &self.panels[p * width..][start..end];
            let (tiles, _) = weights.as_chunks::<HIGH>();
            let mut p = 0;
            while p + WIDE <= n_panels {
                let x: [_; WIDE] = core::array::from_fn(|i| panel(p + i));
                for (weights, sums) in tiles.iter().zip(sums.chunks_exact_mut(HIGH * n_panels)) {
                    tile(simd, weights, x, &mut sums[p..], n_panels);
                }
                p += WIDE;
            }
            while p < n_panels {
                for (weights, sums) in tiles.iter().zip(sums.chunks_exact_mut(HIGH * n_panels)) {
                    tile(simd, weights, [panel(p)], &mut sums[p..], n_panels);
                }
                p += 1;
            }
        }
        for token in 0..self.n_tokens {
            // SAFETY: tasks have disjoint ranges of rows, which are columns of `out`, and this task holds one part at a time.
            let out = unsafe { self.out.part(token, self.first..self.last) };
            for (out, sums) in out.iter_mut().zip(sums.chunks_exact(n_panels)) {
                *out = sums[token / LANES].0[token % LANES];
            }
        }
    }
}

/// Adds the products of `HIGH` rows of weights with `WIDE` panels to `sums`, whose rows are `stride` apart.
#[inline(always)]
fn tile<S: Simd, const HIGH: usize, const WIDE: usize>(
    simd: S,
    weights: &[[f32; DEPTH]; HIGH],
    x: [&[Lanes]; WIDE],
    sums: &mut [Lanes],
    stride: usize,
) {
    let depth = x[0].len().min(DEPTH);
    let x = x.map(|x| &x[..depth]);
    let mut products = [[simd.splat(0.0); WIDE]; HIGH];
    for k in 0..depth {
        let mut columns = [simd.splat(0.0); WIDE];
        for (column, x) in columns.iter_mut().zip(x) {
            *column = simd.load(&x[k].0);
        }
        for (weights, products) in weights.iter().zip(&mut products) {
            let w = simd.splat(weights[k]);
            for (product, column) in products.iter_mut().zip(columns) {
                *product = simd.mul_add(w, column, *product);
            }
        }
    }
    for (sums, products) in sums.chunks_mut(stride).zip(products) {
        for (sum, product) in sums.iter_mut().zip(products) {
            simd.store(simd.add(simd.load(&sum.0), product), &mut sum.0);
        }
    }
}
