//! The matrix product for a few tokens: every weight is read once, decoded in registers and used for each token.

use alloc::vec::Vec;

use crate::{
    activations::gathered,
    level::{Kernel, Level},
    output::Columns,
    parallel::{PARALLEL_WORK, for_each_index},
    rows::Rows,
    simd::{Lanes, Simd},
};

/// The most tokens that this product serves.
pub(crate) const MAX_TOKENS: usize = 4;

/// Weights that a task reads, in bytes: long enough to stream, short enough to share out evenly.
const TASK_BYTES: usize = 1 << 16;

/// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ` for at least one token, row and column.
pub(crate) fn gemv<R: Rows>(
    level: Level,
    out: &mut [f32],
    x: &[f32],
    n_tokens: usize,
    rows: &R,
    out_features: usize,
) {
    let in_features = x.len() / n_tokens;
    let x: Vec<Vec<Lanes>> = x.chunks_exact(in_features).map(|x| gathered(x, rows)).collect();
    let sums: Vec<Vec<Lanes>> = x.iter().map(|x| rows.sums(x)).collect();
    let out = Columns::new(out, out_features);
    let task_rows = (TASK_BYTES / rows.row_bytes().max(1)).clamp(4, 256);
    let parallel = rows.width() * out_features >= PARALLEL_WORK;
    for_each_index(out_features.div_ceil(task_rows), parallel, |task| {
        let first = task * task_rows;
        let last = (first + task_rows).min(out_features);
        level.dispatch(Task { out: &out, x: &x, sums: &sums, rows, first, last });
    });
}

struct Task<'a, R> {
    out: &'a Columns<'a>,
    x: &'a [Vec<Lanes>],
    sums: &'a [Vec<Lanes>],
    rows: &'a R,
    first: usize,
    last: usize,
}

impl<R: Rows> Kernel for Task<'_, R> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        // The weights of a task are read from memory once: later tokens find them in cache.
        match self.x.len() {
            MAX_TOKENS => self.tokens::<S, MAX_TOKENS>(simd, 0),
            n => (0..n).for_each(|token| self.tokens::<S, 1>(simd, token)),
        }
    }
}

impl<R: Rows> Task<'_, R> {
    /// Writes the products of `T` tokens from `token` on.
    #[inline(always)]
    fn tokens<S: Simd, const T: usize>(&self, simd: S, token: usize) {
        let x = core::array::from_fn(|t| self.x[token + t].as_slice());
        let sums = core::array::from_fn(|t| self.sums[token + t].as_slice());
        for row in self.first..self.last {
            let products: [f32; T] = self.rows.dot(simd, row, x, sums);
            for (t, product) in products.into_iter().enumerate() {
                // SAFETY: tasks have disjoint ranges of rows, and this task holds no other reference into `out`.
                let out = unsafe { self.out.part(token + t, row..row + 1) };
                out[0] = product;
            }
        }
    }
}
