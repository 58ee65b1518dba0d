//! Causal attention with grouped queries over cached keys and values (Ainslie et al., 2023).

use fewbit_format::MatrixShape;
use fewbit_kernels::{Level, linear_f32, linear_f32_strided, vectorize};
use rayon::prelude::*;

use crate::{ModelConfig, math::softmax};

/// Head counts and widths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let &ModelConfig { n_heads, n_kv_heads, head_dim, .. } = config;
        Self { n_heads, n_kv_heads, head_dim }
    }

    /// Query heads that share keys and values: neighbours.
    fn group(self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// Keys and values of one sequence in one layer. Keys lie token by token, values dimension by dimension, so that both products run along
/// rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyValues {
    /// For each head (n_tokens, head_dim), rotated.
    keys: Vec<Vec<f32>>,
    /// For each head (head_dim, capacity).
    values: Vec<Vec<f32>>,
    n_tokens: usize,
    capacity: usize,
}

impl KeyValues {
    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    pub(crate) fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(|v| size_of_val(&**v)).sum()
    }

    /// Forgets all but the first tokens.
    pub(crate) fn truncate(&mut self, n_tokens: usize, heads: Heads) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        for keys in &mut self.keys {
            keys.truncate(self.n_tokens * heads.head_dim);
        }
    }

    /// Appends rows of keys and values, both `(n_tokens, n_kv_heads · head_dim)`.
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32], heads: Heads) {
        let Heads { n_kv_heads, head_dim, .. } = heads;
        let width = n_kv_heads * head_dim;
        let n_new = keys.len() / width;
        if n_new == 0 {
            return;
        }
        self.reserve(self.n_tokens + n_new, heads);
        for (h, to) in self.keys.iter_mut().enumerate() {
            for row in keys.chunks_exact(width) {
                to.extend_from_slice(&row[h * head_dim..][..head_dim]);
            }
        }
        for (h, to) in self.values.iter_mut().enumerate() {
            for (d, to) in to.chunks_exact_mut(self.capacity).enumerate() {
                let from = values.iter().skip(h * head_dim + d).step_by(width);
                for (to, from) in to[self.n_tokens..].iter_mut().zip(from) {
                    *to = *from;
                }
            }
        }
        self.n_tokens += n_new;
    }

    /// Makes room for `n_tokens` tokens in all: exactly so many at first, then doubling.
    fn reserve(&mut self, n_tokens: usize, heads: Heads) {
        self.keys.resize_with(heads.n_kv_heads, Vec::new);
        self.values.resize_with(heads.n_kv_heads, Vec::new);
        if n_tokens <= self.capacity {
            return;
        }
        let capacity = n_tokens.max(2 * self.capacity);
        for values in &mut self.values {
            let mut wider = vec![0.0; heads.head_dim * capacity];
            if self.capacity > 0 {
                let old_rows = values.chunks_exact(self.capacity);
                for (to, from) in wider.chunks_exact_mut(capacity).zip(old_rows) {
                    to[..self.n_tokens].copy_from_slice(&from[..self.n_tokens]);
                }
            }
            *values = wider;
        }
        self.capacity = capacity;
    }
}

/// Positions whose queries are multiplied at a time: enough rows for the matrix product, few enough that little is computed past the
/// diagonal.
const QUERIES: usize = 32;

/// One sequence of a batch: its rotated queries `(n_new, n_heads · head_dim)`, keys and values up to and including theirs, and where the
/// weighted values go, laid out like the queries.
pub(crate) struct Sequence<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) cache: &'a KeyValues,
    pub(crate) out: &'a mut [f32],
}

/// Attention of every sequence, over pieces of [`QUERIES`] positions in parallel.
pub(crate) fn attend(sequences: Vec<Sequence<'_>>, heads: Heads) {
    let width = heads.n_heads * heads.head_dim;
    let level = Level::detect();
    let pieces: Vec<_> = sequences
        .into_iter()
        .flat_map(|Sequence { queries, cache, out }| {
            let first = cache.n_tokens - queries.len() / width;
            let pieces = queries.chunks(QUERIES * width).zip(out.chunks_mut(QUERIES * width));
            pieces.enumerate().map(move |(i, (q, out))| (first + i * QUERIES, q, cache, out))
        })
        .collect();
    // Later pieces see more keys: the longest first balances the threads.
    pieces.into_par_iter().rev().for_each(|(first, queries, cache, out)| {
        for head in 0..heads.n_kv_heads {
            attend_piece(level, queries, first, cache, head, heads, out);
        }
    });
}

/// Attention of the queries at positions from `first` on that share one head of keys and values.
fn attend_piece(
    level: Level,
    queries: &[f32],
    first: usize,
    cache: &KeyValues,
    kv_head: usize,
    heads: Heads,
    out: &mut [f32],
) {
    let Heads { n_heads, head_dim, .. } = heads;
    let (width, group) = (n_heads * head_dim, heads.group());
    let n_positions = queries.len() / width;
    let n_keys = first + n_positions;
    let n_rows = n_positions * group;

    // (position, head of the group, head_dim): each position's heads of this group are neighbours.
    let own = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
    let mut rows = Vec::with_capacity(n_rows * head_dim);
    for query in queries.chunks_exact(width) {
        rows.extend_from_slice(&query[own.clone()]);
    }
    let mut scores = vec![0.0; n_rows * n_keys];
    let keys = &cache.keys[kv_head][..n_keys * head_dim];
    linear_f32(level, &mut scores, &rows, n_rows, keys, MatrixShape::new(n_keys, head_dim));

    let scale = 1.0 / (head_dim as f32).sqrt();
    vectorize(
        level,
        #[inline(always)]
        || {
            for (i, scores) in scores.chunks_exact_mut(n_keys).enumerate() {
                let (seen, unseen) = scores.split_at_mut(first + i / group + 1);
                softmax(seen, scale);
                unseen.fill(0.0);
            }
        },
    );

    let shape = MatrixShape::new(head_dim, n_keys);
    let values = &cache.values[kv_head];
    linear_f32_strided(level, &mut rows, &scores, n_rows, values, shape, cache.capacity);
    for (out, rows) in out.chunks_exact_mut(width).zip(rows.chunks_exact(group * head_dim)) {
        out[own.clone()].copy_from_slice(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::{Random, max_abs_diff};

    /// Attention as it is defined, one query at a time in f64.
    fn plain(q: &[f32], k: &[f32], v: &[f32], first: usize, heads: Heads) -> Vec<f32> {
        let Heads { n_heads, n_kv_heads, head_dim } = heads;
        let mut out = vec![];
        for (i, q) in q.chunks(n_heads * head_dim).enumerate() {
            for h in 0..n_heads {
                let kv = h / (n_heads / n_kv_heads) * head_dim;
                let at = |x: &[f32], t: usize, d: usize| {
                    f64::from(x[t * n_kv_heads * head_dim + kv + d])
                };
                let weights: Vec<f64> = (0..=first + i)
                    .map(|t| {
                        (0..head_dim).map(|d| f64::from(q[h * head_dim + d]) * at(k, t, d)).sum()
                    })
                    .map(|score: f64| (score / (head_dim as f64).sqrt()).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let mix: f64 = weights.iter().enumerate().map(|(t, w)| w * at(v, t, d)).sum();
                    out.push((mix / sum) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_definition_at_once_and_piece_by_piece() {
        for (n_heads, n_kv_heads, head_dim, n) in [(4, 2, 8, 70), (3, 3, 6, 33), (8, 1, 16, 5)] {
            let heads = Heads { n_heads, n_kv_heads, head_dim };
            let mut random = Random::new(n as u64);
            let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
            let q = random.normals(n * width);
            let (k, v) = (random.normals(n * kv_width), random.normals(n * kv_width));
            let expected = plain(&q, &k, &v, 0, heads);
            for step in [n, 1, 4, 40] {
                let mut cache = KeyValues::default();
                let mut out = vec![f32::NAN; n * width];
                let pieces = q.chunks(step * width).zip(out.chunks_mut(step * width));
                let kv = k.chunks(step * kv_width).zip(v.chunks(step * kv_width));
                for ((queries, out), (k, v)) in pieces.zip(kv) {
                    cache.append(k, v, heads);
                    attend(vec![Sequence { queries, cache: &cache, out }], heads);
                }
                assert_eq!(cache.n_tokens(), n);
                let (worst, at) = max_abs_diff(&out, &expected);
                assert!(worst < 2e-6, "steps of {step}: off by {worst} at {at}");
            }
        }
    }

    #[test]
    fn a_truncated_cache_goes_on_as_if_nothing_had_followed() {
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4 };
        let mut random = Random::new(5);
        let (q, k, v) = (random.normals(8), random.normals(9 * 4), random.normals(9 * 4));
        let run = |detour: bool| {
            let mut cache = KeyValues::default();
            cache.append(&k[..20], &v[..20], heads);
            if detour {
                cache.append(&k[24..], &v[24..], heads);
                cache.truncate(5, heads);
            }
            cache.append(&k[20..24], &v[20..24], heads);
            let mut out = vec![f32::NAN; 8];
            attend(vec![Sequence { queries: &q, cache: &cache, out: &mut out }], heads);
            out
        };
        assert_eq!(run(false), run(true));
    }
}
