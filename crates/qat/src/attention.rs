//! Causal attention with grouped queries, to the whole text or the last tokens of it, and its gradient.
//!
//! Heads are computed one by one on `(window, head_dim)` matrices of their own. Queries go in pieces of [`QUERIES`] positions, each with the keys that some
//! position of it sees, so little is computed that nothing sees. The weights of the forward pass are kept for the backward one:
//!
//! ```text
//! P = softmax(Q·Kᵀ·s)    O = P·V
//! dV = Pᵀ·dO    dP = dO·Vᵀ    dS = P ∘ (dP − Σ dP∘P) · s    dQ = dS·K    dK = dSᵀ·Q
//! ```

use std::ops::Range;

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

/// Sizes of a layer's attention of a batch, and what it does with scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Tokens of each window of text.
    pub(crate) window: usize,
    /// Tokens that each token sees, itself included; at most those of the window.
    pub(crate) span: usize,
    /// What products of queries and keys are multiplied by.
    pub(crate) scale: f32,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig, layer: usize, window: usize) -> Self {
        let &ModelConfig { n_heads, n_kv_heads, head_dim, attention_scale: scale, .. } = config;
        let span = config.window(layer).map_or(window, |seen| seen.min(window));
        Self { n_heads, n_kv_heads, head_dim, window, span, scale }
    }

    /// What a position sees.
    fn seen(self, position: usize) -> Range<usize> {
        (position + 1).saturating_sub(self.span)..position + 1
    }

    /// Pieces of a window: positions of queries, and of all keys that some of them see.
    fn pieces(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.window).step_by(QUERIES).map(move |first| {
            let end = (first + QUERIES).min(self.window);
            (first..end, self.seen(first).start..end)
        })
    }

    fn group(self) -> usize {
        self.n_heads / self.n_kv_heads
    }

    /// Weights that one head keeps.
    fn kept(self) -> usize {
        self.pieces().map(|(queries, keys)| queries.len() * keys.len()).sum()
    }
}

/// Rows of a matrix of this width.
fn rows(positions: &Range<usize>, width: usize) -> Range<usize> {
    positions.start * width..positions.end * width
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

/// Turns a head where heads are turned.
#[inline(always)]
fn turn(rotary: Option<&Rotary>, head: &mut [f32], position: usize) {
    if let Some(rotary) = rotary {
        rotary.turn(head, position);
    }
}

/// Turns it back.
#[inline(always)]
fn turn_back(rotary: Option<&Rotary>, head: &mut [f32], position: usize) {
    if let Some(rotary) = rotary {
        rotary.turn_back(head, position);
    }
}

/// The heads' weighted values `mix (n_tokens, n_heads · head_dim)` of queries, keys and values as the projections give them, token after token.
pub(crate) fn forward(
    mix: &mut [f32],
    [q, k, v]: [&[f32]; 3],
    heads: Heads,
    rotary: Option<&Rotary>,
    pool: &mut Pool,
) -> Kept {
    let Heads { n_heads, n_kv_heads, head_dim, window, .. } = heads;
    let (mut queries, mut keys) = (pool.take(q.len()), pool.take(k.len()));
    let mut values = pool.take(v.len());
    by_head(
        &mut queries,
        q,
        n_heads,
        heads,
        #[inline(always)]
        |x, t| turn(rotary, x, t),
    );
    by_head(
        &mut keys,
        k,
        n_kv_heads,
        heads,
        #[inline(always)]
        |x, t| turn(rotary, x, t),
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
        let mut rest = weights;
        for (own, seen) in heads.pieces() {
            let (n, n_keys) = (own.len(), seen.len());
            let (p, more) = rest.split_at_mut(n * n_keys);
            rest = more;
            let (q, k) = (&q[rows(&own, head_dim)], &k[rows(&seen, head_dim)]);
            linear_f32(level, p, q, n, k, MatrixShape::new(n_keys, head_dim));
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (position, scores) in own.clone().zip(p.chunks_exact_mut(n_keys)) {
                        let sees = heads.seen(position);
                        let (before, scores) = scores.split_at_mut(sees.start - seen.start);
                        let (scores, after) = scores.split_at_mut(sees.len());
                        before.fill(0.0);
                        softmax(scores, heads.scale);
                        after.fill(0.0);
                    }
                },
            );
            let (out, v_t) = (&mut out[rows(&own, head_dim)], &v_t[seen.start..]);
            linear_f32_strided(level, out, p, n, v_t, MatrixShape::new(head_dim, n_keys), window);
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
    rotary: Option<&Rotary>,
    pool: &mut Pool,
) {
    let Heads { n_heads, n_kv_heads, head_dim, window, .. } = heads;
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
            one_head.backward(dq, dk, dv, heads, buffers);
        }
    });
    by_token(
        dq,
        &d_queries,
        n_heads,
        heads,
        #[inline(always)]
        |x, t| turn_back(rotary, x, t),
    );
    by_token(
        dk,
        &d_keys,
        n_kv_heads,
        heads,
        #[inline(always)]
        |x, t| turn_back(rotary, x, t),
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
        heads: Heads,
        buffers: &mut Buffers,
    ) {
        let level = Level::detect();
        let Heads { head_dim, window, scale, .. } = heads;
        let Buffers { keys, d_scores, transposed, columns, product } = buffers;
        keys.resize(self.k.len(), 0.0);
        transpose(keys, self.k, window, head_dim);
        let mut rest = self.weights;
        for (own, seen) in heads.pieces() {
            let (n, n_keys) = (own.len(), seen.len());
            let (p, more) = rest.split_at(n * n_keys);
            rest = more;
            let (own, all) = (rows(&own, head_dim), rows(&seen, head_dim));
            let (q, d_out) = (&self.q[own.clone()], &self.d_out[own.clone()]);
            d_scores.resize(n * n_keys, 0.0);
            let shape = MatrixShape::new(n_keys, head_dim);
            linear_f32(level, d_scores, d_out, n, &self.v[all.clone()], shape);
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (ds, p) in d_scores.chunks_exact_mut(n_keys).zip(p.chunks_exact(n_keys)) {
                        let mean = dot(ds, p);
                        for (ds, p) in ds.iter_mut().zip(p) {
                            *ds = p * (*ds - mean) * scale;
                        }
                    }
                },
            );
            let (dq, keys) = (&mut dq[own], &keys[seen.start..]);
            let shape = MatrixShape::new(head_dim, n_keys);
            linear_f32_strided(level, dq, d_scores, n, keys, shape, window);
            for (x, scores, sum) in [(q, &**d_scores, &mut *dk), (d_out, p, &mut *dv)] {
                transposed.resize(n * n_keys, 0.0);
                transpose(transposed, scores, n, n_keys);
                columns.resize(n * head_dim, 0.0);
                transpose(columns, x, n, head_dim);
                product.resize(n_keys * head_dim, 0.0);
                let shape = MatrixShape::new(head_dim, n);
                linear_f32(level, product, transposed, n_keys, columns, shape);
                add(&mut sum[all.clone()], product);
            }
        }
    }
}
