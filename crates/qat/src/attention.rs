//! Causal attention with grouped queries, and its gradient.
//!
//! Heads are computed one by one on `(window, head_dim)` matrices of their own. Queries go in pieces of [`QUERIES`] positions, each with the keys up to its
//! end, so little is computed past the diagonal. The weights of the forward pass are kept for the backward one:
//!
//! ```text
//! P = softmax(Q·Kᵀ/√d)    O = P·V
//! dV = Pᵀ·dO    dP = dO·Vᵀ    dS = P ∘ (dP − Σ dP∘P) / √d    dQ = dS·K    dK = dSᵀ·Q
//! ```

use fewbit_format::MatrixShape;
use fewbit_kernels::{Level, linear_f32, linear_f32_strided, vectorize};
use fewbit_model::{
    ModelConfig,
    math::{dot, softmax},
};
use rayon::prelude::*;

use crate::{
    pool::Pool,
    product::{add, transpose},
    rotary::Rotary,
};

/// Positions whose queries are multiplied at a time.
const QUERIES: usize = 64;

/// Sizes of the attention of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Tokens of each window.
    pub(crate) window: usize,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig, window: usize) -> Self {
        let &ModelConfig { n_heads, n_kv_heads, head_dim, .. } = config;
        Self { n_heads, n_kv_heads, head_dim, window }
    }

    fn group(self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Weights that one head keeps.
    fn kept(self) -> usize {
        pieces(self.window).map(|(first, end)| (end - first) * end).sum()
    }
}

/// Positions of each piece of a window.
fn pieces(window: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..window).step_by(QUERIES).map(move |first| (first, (first + QUERIES).min(window)))
}

/// What the backward pass needs: queries and keys, rotated, values and attention weights, head after head.
#[derive(Debug)]
pub(crate) struct Kept {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    weights: Vec<f32>,
}

impl Kept {
    pub(crate) fn give(self, pool: &mut Pool) {
        for buffer in [self.queries, self.keys, self.values, self.weights] {
            pool.give(buffer);
        }
    }
}

/// From `(token, head, head_dim)` to `(window, head, token, head_dim)`.
fn by_head(
    out: &mut [f32],
    x: &[f32],
    n_heads: usize,
    heads: Heads,
    turn: impl Fn(&mut [f32], usize) + Sync,
) {
    let Heads { head_dim, window, .. } = heads;
    let level = Level::detect();
    out.par_chunks_exact_mut(window * head_dim).enumerate().for_each(|(i, out)| {
        let (sequence, head) = (i / n_heads, i % n_heads);
        vectorize(
            level,
            #[inline(always)]
            || {
                for (t, out) in out.chunks_exact_mut(head_dim).enumerate() {
                    let from = ((sequence * window + t) * n_heads + head) * head_dim;
                    out.copy_from_slice(&x[from..from + head_dim]);
                    turn(out, t);
                }
            },
        );
    });
}

/// The other way.
fn by_token(
    out: &mut [f32],
    x: &[f32],
    n_heads: usize,
    heads: Heads,
    turn: impl Fn(&mut [f32], usize) + Sync,
) {
    let Heads { head_dim, window, .. } = heads;
    let level = Level::detect();
    out.par_chunks_exact_mut(n_heads * head_dim).with_min_len(32).enumerate().for_each(
        |(token, out)| {
            let (sequence, t) = (token / window, token % window);
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (head, out) in out.chunks_exact_mut(head_dim).enumerate() {
                        let from = ((sequence * n_heads + head) * window + t) * head_dim;
                        out.copy_from_slice(&x[from..from + head_dim]);
                        turn(out, t);
                    }
                },
            );
        },
    );
}

/// The heads' weighted values `mix (n_tokens, n_heads · head_dim)` of queries, keys and values as the projections give them, token after token.
pub(crate) fn forward(
    mix: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    heads: Heads,
    rotary: &Rotary,
    pool: &mut Pool,
) -> Kept {
    let Heads { n_heads, n_kv_heads, head_dim, window } = heads;
    let (mut queries, mut keys) = (pool.take(q.len()), pool.take(k.len()));
    let mut values = pool.take(v.len());
    by_head(
        &mut queries,
        q,
        n_heads,
        heads,
        #[inline(always)]
        |x, t| rotary.turn(x, t),
    );
    by_head(
        &mut keys,
        k,
        n_kv_heads,
        heads,
        #[inline(always)]
        |x, t| rotary.turn(x, t),
    );
    by_head(
        &mut values,
        v,
        n_kv_heads,
        heads,
        #[inline(always)]
        |_, _| (),
    );

    let one = window * head_dim;
    let n_sequences = q.len() / one / n_heads;
    let mut weights = pool.take(n_sequences * n_heads * heads.kept());
    let mut mixed = pool.take(q.len());
    let level = Level::detect();
    let tasks = mixed.par_chunks_exact_mut(one).zip(weights.par_chunks_exact_mut(heads.kept()));
    tasks.enumerate().for_each_init(Vec::new, |v_t, (i, (out, weights))| {
        let kv = i / heads.group();
        let (q, k, v) =
            (&queries[i * one..][..one], &keys[kv * one..][..one], &values[kv * one..][..one]);
        v_t.resize(one, 0.0);
        transpose(v_t, v, window, head_dim);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut rest = weights;
        for (first, end) in pieces(window) {
            let n = end - first;
            let (p, more) = rest.split_at_mut(n * end);
            rest = more;
            let q = &q[first * head_dim..end * head_dim];
            linear_f32(level, p, q, n, &k[..end * head_dim], MatrixShape::new(end, head_dim));
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (row, scores) in p.chunks_exact_mut(end).enumerate() {
                        let (seen, unseen) = scores.split_at_mut(first + row + 1);
                        softmax(seen, scale);
                        unseen.fill(0.0);
                    }
                },
            );
            let out = &mut out[first * head_dim..end * head_dim];
            linear_f32_strided(level, out, p, n, v_t, MatrixShape::new(head_dim, end), window);
        }
    });
    by_token(
        mix,
        &mixed,
        n_heads,
        heads,
        #[inline(always)]
        |_, _| (),
    );
    pool.give(mixed);
    Kept { queries, keys, values, weights }
}

/// Gradients of queries, keys and values, token after token, from that of the weighted values.
pub(crate) fn backward(
    [dq, dk, dv]: [&mut [f32]; 3],
    d_mix: &[f32],
    kept: &Kept,
    heads: Heads,
    rotary: &Rotary,
    pool: &mut Pool,
) {
    let Heads { n_heads, n_kv_heads, head_dim, window } = heads;
    let (one, group) = (window * head_dim, heads.group());
    let mut d_out = pool.take(d_mix.len());
    by_head(
        &mut d_out,
        d_mix,
        n_heads,
        heads,
        #[inline(always)]
        |_, _| (),
    );
    let (mut d_queries, mut d_keys) = (pool.take(dq.len()), pool.take(dk.len()));
    let mut d_values = pool.take(dv.len());
    let tasks = d_queries
        .par_chunks_exact_mut(group * one)
        .zip(d_keys.par_chunks_exact_mut(one).zip(d_values.par_chunks_exact_mut(one)));
    tasks.enumerate().for_each_init(Buffers::default, |buffers, (kv, (dq, (dk, dv)))| {
        dk.fill(0.0);
        dv.fill(0.0);
        let (k, v) = (&kept.keys[kv * one..][..one], &kept.values[kv * one..][..one]);
        for (i, dq) in dq.chunks_exact_mut(one).enumerate() {
            let head = kv * group + i;
            let one_head = OneHead {
                q: &kept.queries[head * one..][..one],
                k,
                v,
                weights: &kept.weights[head * heads.kept()..][..heads.kept()],
                d_out: &d_out[head * one..][..one],
            };
            one_head.backward(dq, dk, dv, head_dim, buffers);
        }
    });
    by_token(
        dq,
        &d_queries,
        n_heads,
        heads,
        #[inline(always)]
        |x, t| rotary.turn_back(x, t),
    );
    by_token(
        dk,
        &d_keys,
        n_kv_heads,
        heads,
        #[inline(always)]
        |x, t| rotary.turn_back(x, t),
    );
    by_token(
        dv,
        &d_values,
        n_kv_heads,
        heads,
        #[inline(always)]
        |_, _| (),
    );
    for buffer in [d_out, d_queries, d_keys, d_values] {
        pool.give(buffer);
    }
}

/// Memory of a task.
#[derive(Default)]
struct Buffers {
    keys: Vec<f32>,
    d_scores: Vec<f32>,
    transposed: Vec<f32>,
    columns: Vec<f32>,
    product: Vec<f32>,
}

struct OneHead<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    weights: &'a [f32],
    d_out: &'a [f32],
}

impl OneHead<'_> {
    /// Sets `dq`, adds to `dk` and `dv`.
    fn backward(
        &self,
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
        head_dim: usize,
        buffers: &mut Buffers,
    ) {
        let level = Level::detect();
        let Buffers { keys, d_scores, transposed, columns, product } = buffers;
        let window = self.q.len() / head_dim;
        let scale = 1.0 / (head_dim as f32).sqrt();
        keys.resize(self.k.len(), 0.0);
        transpose(keys, self.k, window, head_dim);
        let mut rest = self.weights;
        for (first, end) in pieces(window) {
            let n = end - first;
            let (p, more) = rest.split_at(n * end);
            rest = more;
            let own = first * head_dim..end * head_dim;
            let (q, d_out) = (&self.q[own.clone()], &self.d_out[own.clone()]);
            d_scores.resize(n * end, 0.0);
            let shape = MatrixShape::new(end, head_dim);
            linear_f32(level, d_scores, d_out, n, &self.v[..end * head_dim], shape);
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (ds, p) in d_scores.chunks_exact_mut(end).zip(p.chunks_exact(end)) {
                        let mean = dot(ds, p);
                        for (ds, p) in ds.iter_mut().zip(p) {
                            *ds = p * (*ds - mean) * scale;
                        }
                    }
                },
            );
            let shape = MatrixShape::new(head_dim, end);
            linear_f32_strided(level, &mut dq[own], d_scores, n, keys, shape, window);
            for (x, scores, sum) in [(q, &**d_scores, &mut *dk), (d_out, p, &mut *dv)] {
                transposed.resize(n * end, 0.0);
                transpose(transposed, scores, n, end);
                columns.resize(n * head_dim, 0.0);
                transpose(columns, x, n, head_dim);
                product.resize(end * head_dim, 0.0);
                let shape = MatrixShape::new(head_dim, n);
                linear_f32(level, product, transposed, end, columns, shape);
                add(&mut sum[..end * head_dim], product);
            }
        }
    }
}
