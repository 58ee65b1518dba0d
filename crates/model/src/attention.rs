//! Causal attention with grouped queries over cached keys and values (Ainslie et al., 2023), to the whole text or a sliding window of it
//! (Beltagy et al., 2020).

use std::ops::Range;

use fewbit_format::MatrixShape;
use fewbit_kernels::{Level, linear_f32, vectorize};
use rayon::prelude::*;

use crate::{
    CacheType, ModelConfig,
    cache::Rows,
    math::{dot, softmax},
};

/// Head counts and widths, and what a layer does with scores.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) n_heads: usize,
    pub(crate) n_kv_heads: usize,
    pub(crate) head_dim: usize,
    /// What products of queries and keys are multiplied by.
    pub(crate) scale: f32,
    /// Tokens that each token sees, itself included; `usize::MAX` for all before it.
    pub(crate) window: usize,
}

impl Heads {
    pub(crate) fn new(config: &ModelConfig, layer: usize) -> Self {
        let &ModelConfig { n_heads, n_kv_heads, head_dim, attention_scale: scale, .. } = config;
        let window = config.window(layer).unwrap_or(usize::MAX);
        Self { n_heads, n_kv_heads, head_dim, scale, window }
    }

    /// What a position sees.
    fn seen(self, position: usize) -> Range<usize> {
        (position + 1).saturating_sub(self.window)..position + 1
    }

    /// Width of the queries of a token.
    pub(crate) fn width(self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of the keys, and of the values, of a token.
    pub(crate) fn kv_width(self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// Query heads that share keys and values: neighbours.
    fn group(self) -> usize {
        self.n_heads / self.n_kv_heads
    }
}

/// Keys and values of one sequence in one layer, token by token.
#[derive(Clone, Debug)]
pub(crate) struct KeyValues {
    /// Rotated, one for each head.
    keys: Vec<Rows>,
    /// One for each head.
    values: Vec<Rows>,
    n_tokens: usize,
}

impl KeyValues {
    pub(crate) fn new(kind: CacheType, heads: Heads) -> Self {
        let rows = vec![Rows::new(kind); heads.n_kv_heads];
        Self { keys: rows.clone(), values: rows, n_tokens: 0 }
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    pub(crate) fn bytes(&self) -> usize {
        self.keys.iter().chain(&self.values).map(Rows::bytes).sum()
    }

    /// Forgets all but the first tokens.
    pub(crate) fn truncate(&mut self, n_tokens: usize, heads: Heads) {
        self.n_tokens = self.n_tokens.min(n_tokens);
        for rows in self.keys.iter_mut().chain(&mut self.values) {
            rows.truncate(self.n_tokens, heads.head_dim);
        }
    }

    /// A copy of the first tokens' keys and values, with place for more tokens.
    pub(crate) fn first(&self, n_tokens: usize, more: usize, heads: Heads) -> Self {
        let first = |rows: &Rows| rows.first(n_tokens, more, heads.head_dim);
        let keys = self.keys.iter().map(first).collect();
        let values = self.values.iter().map(first).collect();
        Self { keys, values, n_tokens }
    }

    /// Appends rows of keys and values, both `(n_tokens, n_kv_heads · head_dim)`.
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32], heads: Heads) {
        let Heads { n_kv_heads, head_dim, .. } = heads;
        let width = n_kv_heads * head_dim;
        let append = |(head, (to_keys, to_values)): (usize, (&mut Rows, &mut Rows))| {
            for (keys, values) in keys.chunks_exact(width).zip(values.chunks_exact(width)) {
                to_keys.push(&keys[head * head_dim..][..head_dim]);
                to_values.push(&values[head * head_dim..][..head_dim]);
            }
        };
        let places = self.keys.iter_mut().zip(&mut self.values).enumerate();
        if keys.len() >= PARALLEL_VALUES {
            let places: Vec<_> = places.collect();
            places.into_par_iter().for_each(append);
        } else {
            places.for_each(append);
        }
        self.n_tokens += keys.len() / width;
    }
}

/// Values below which threads cost more than they gain.
const PARALLEL_VALUES: usize = 1 << 14;
/// Positions whose queries are multiplied at a time: enough rows for the matrix product, few enough that little is computed past the
/// diagonal.
const QUERIES: usize = 32;
/// Keys, then values, that one position decodes at a time: they stay in the first-level cache.
const KEYS: usize = 32;

/// One sequence of a batch: its rotated queries `(n_new, n_heads · head_dim)`, keys and values up to and including theirs, and where the
/// weighted values go, laid out like the queries.
pub(crate) struct Sequence<'a> {
    pub(crate) queries: &'a [f32],
    pub(crate) cache: &'a KeyValues,
    pub(crate) out: &'a mut [f32],
}

/// Queries of neighbouring positions, the first of them at `first`.
struct Piece<'a> {
    first: usize,
    queries: &'a [f32],
    cache: &'a KeyValues,
    out: &'a mut [f32],
}

/// Memory of a task.
#[derive(Default)]
struct Buffers {
    rows: Vec<f32>,
    scores: Vec<f32>,
    decoded: Vec<f32>,
    transposed: Vec<f32>,
}

/// Attention of every sequence, over pieces of [`QUERIES`] positions in parallel.
pub(crate) fn attend(sequences: Vec<Sequence<'_>>, heads: Heads) {
    let width = heads.n_heads * heads.head_dim;
    let level = Level::detect();
    let mut pieces: Vec<_> = sequences
        .into_iter()
        .flat_map(|Sequence { queries, cache, out }| {
            let first = cache.n_tokens - queries.len() / width;
            let pieces = queries.chunks(QUERIES * width).zip(out.chunks_mut(QUERIES * width));
            pieces.enumerate().map(move |(i, (queries, out))| Piece {
                first: first + i * QUERIES,
                queries,
                cache,
                out,
            })
        })
        .collect();
    if let [piece] = &mut *pieces
        && piece.queries.len() == width
    {
        attend_position(level, piece, heads, piece.first * width >= PARALLEL_VALUES);
        return;
    }
    // Later pieces see more keys: the longest first balances the threads.
    pieces.into_par_iter().rev().for_each_init(Buffers::default, |buffers, mut piece| {
        if piece.queries.len() == width {
            attend_position(level, &mut piece, heads, false);
            return;
        }
        for head in 0..heads.n_kv_heads {
            attend_piece(level, &mut piece, head, heads, buffers);
        }
    });
}

/// Attention of the queries of a piece that share one head of keys and values.
fn attend_piece(
    level: Level,
    piece: &mut Piece<'_>,
    kv_head: usize,
    heads: Heads,
    buffers: &mut Buffers,
) {
    let Heads { n_heads, head_dim, .. } = heads;
    let (width, group) = (n_heads * head_dim, heads.group());
    let n_positions = piece.queries.len() / width;
    // All that the first and the last position see, and what lies between.
    let seen = heads.seen(piece.first).start..piece.first + n_positions;
    let n_keys = seen.len();
    let n_rows = n_positions * group;
    let Buffers { rows, scores, decoded, transposed } = buffers;

    // (position, head of the group, head_dim): each position's heads of this group are neighbours.
    let own = kv_head * group * head_dim..(kv_head + 1) * group * head_dim;
    rows.clear();
    for query in piece.queries.chunks_exact(width) {
        rows.extend_from_slice(&query[own.clone()]);
    }
    scores.resize(n_rows * n_keys, 0.0);
    let keys = read(level, &piece.cache.keys[kv_head], seen.clone(), head_dim, decoded);
    linear_f32(level, scores, rows, n_rows, keys, MatrixShape::new(n_keys, head_dim));

    vectorize(
        level,
        #[inline(always)]
        || {
            for (i, scores) in scores.chunks_exact_mut(n_keys).enumerate() {
                let own = heads.seen(piece.first + i / group);
                let (before, scores) = scores.split_at_mut(own.start - seen.start);
                let (own, after) = scores.split_at_mut(own.len());
                softmax(own, heads.scale);
                before.fill(0.0);
                after.fill(0.0);
            }
        },
    );

    // Dimension by dimension, so that the product runs along rows.
    let values = read(level, &piece.cache.values[kv_head], seen, head_dim, decoded);
    transposed.resize(n_keys * head_dim, 0.0);
    for (t, values) in values.chunks_exact(head_dim).enumerate() {
        for (d, &value) in values.iter().enumerate() {
            transposed[d * n_keys + t] = value;
        }
    }
    linear_f32(level, rows, scores, n_rows, transposed, MatrixShape::new(head_dim, n_keys));
    for (out, rows) in piece.out.chunks_exact_mut(width).zip(rows.chunks_exact(group * head_dim)) {
        out[own.clone()].copy_from_slice(rows);
    }
}

/// Some rows as floats.
fn read<'a>(
    level: Level,
    rows: &'a Rows,
    range: Range<usize>,
    width: usize,
    buffer: &'a mut Vec<f32>,
) -> &'a [f32] {
    vectorize(
        level,
        #[inline(always)]
        || rows.read(range, width, buffer),
    )
}

/// Attention of a single position.
fn attend_position(level: Level, piece: &mut Piece<'_>, heads: Heads, parallel: bool) {
    let group_width = heads.group() * heads.head_dim;
    let cache = piece.cache;
    let queries = piece.queries.chunks_exact(group_width);
    let attend = |buffers: &mut Buffers, (head, (queries, out)): (usize, (&[f32], &mut [f32]))| {
        let (keys, values) = (&cache.keys[head], &cache.values[head]);
        vectorize(
            level,
            #[inline(always)]
            || attend_group(queries, keys, values, heads, cache.n_tokens - 1, out, buffers),
        );
    };
    if parallel {
        let queries = piece.queries.par_chunks_exact(group_width);
        let groups = queries.zip(piece.out.par_chunks_exact_mut(group_width)).enumerate();
        groups.for_each_init(Buffers::default, attend);
    } else {
        let mut buffers = Buffers::default();
        let groups = queries.zip(piece.out.chunks_exact_mut(group_width)).enumerate();
        groups.for_each(|group| attend(&mut buffers, group));
    }
}

/// Attention of the queries of one position, the last, that share keys and values, `(heads of the group, head_dim)`.
#[inline(always)]
fn attend_group(
    queries: &[f32],
    keys: &Rows,
    values: &Rows,
    heads: Heads,
    position: usize,
    out: &mut [f32],
    buffers: &mut Buffers,
) {
    let Buffers { scores, decoded, .. } = buffers;
    let (seen, head_dim) = (heads.seen(position), heads.head_dim);
    let n_keys = seen.len();
    scores.resize(queries.len() / head_dim * n_keys, 0.0);
    // Of scores; rows of keys and values are further on.
    let pieces = (0..n_keys).step_by(KEYS).map(|first| first..(first + KEYS).min(n_keys));
    let rows = |piece: &Range<usize>| seen.start + piece.start..seen.start + piece.end;
    for piece in pieces.clone() {
        let keys = keys.read(rows(&piece), head_dim, decoded);
        let queries = queries.chunks_exact(head_dim);
        for (query, scores) in queries.zip(scores.chunks_exact_mut(n_keys)) {
            for (key, score) in keys.chunks_exact(head_dim).zip(&mut scores[piece.clone()]) {
                *score = dot(query, key);
            }
        }
    }
    for scores in scores.chunks_exact_mut(n_keys) {
        softmax(scores, heads.scale);
    }
    out.fill(0.0);
    for piece in pieces {
        let values = values.read(rows(&piece), head_dim, decoded);
        let out = out.chunks_exact_mut(head_dim);
        for (out, scores) in out.zip(scores.chunks_exact(n_keys)) {
            for (value, score) in values.chunks_exact(head_dim).zip(&scores[piece.clone()]) {
                for (out, value) in out.iter_mut().zip(value) {
                    *out += score * value;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::{Random, max_abs_diff};

    /// Attention as it is defined, one query at a time in f64.
    fn plain(q: &[f32], k: &[f32], v: &[f32], first: usize, heads: Heads) -> Vec<f32> {
        let Heads { n_heads, n_kv_heads, head_dim, scale, window } = heads;
        let mut out = vec![];
        for (i, q) in q.chunks(n_heads * head_dim).enumerate() {
            for h in 0..n_heads {
                let kv = h / (n_heads / n_kv_heads) * head_dim;
                let at = |x: &[f32], t: usize, d: usize| {
                    f64::from(x[t * n_kv_heads * head_dim + kv + d])
                };
                let start = (first + i + 1).saturating_sub(window);
                let weights: Vec<f64> = (start..=first + i)
                    .map(|t| {
                        (0..head_dim).map(|d| f64::from(q[h * head_dim + d]) * at(k, t, d)).sum()
                    })
                    .map(|score: f64| (score * f64::from(scale)).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                for d in 0..head_dim {
                    let mix: f64 = (start..).zip(&weights).map(|(t, w)| w * at(v, t, d)).sum();
                    out.push((mix / sum) as f32);
                }
            }
        }
        out
    }

    #[test]
    fn equals_the_definition_at_once_and_piece_by_piece() {
        for (n_heads, n_kv_heads, head_dim, n, scale, window) in [
            (4, 2, 8, 70, 0.35, usize::MAX),
            (3, 3, 6, 33, 0.41, 40),
            (8, 1, 16, 5, 0.3, 2),
            (4, 2, 8, 70, 0.2, 1),
            (4, 2, 8, 150, 0.35, 37),
            (2, 1, 8, 90, 0.35, 32),
        ] {
            let heads = Heads { n_heads, n_kv_heads, head_dim, scale, window };
            let mut random = Random::new(n as u64);
            let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
            let q = random.normals(n * width);
            let (k, v) = (random.normals(n * kv_width), random.normals(n * kv_width));
            let expected = plain(&q, &k, &v, 0, heads);
            for step in [n, 1, 4, 40] {
                let mut cache = KeyValues::new(CacheType::F32, heads);
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

    /// A rounded key changes its scores by no more than the sum of rounding errors times the query, a rounded value the result by no more than its own error.
    #[test]
    fn few_bits_cost_what_rounding_can() {
        let (n_heads, n_kv_heads, head_dim, n) = (4, 2, 64, 70);
        let scale = 1.0 / (head_dim as f32).sqrt();
        let heads = Heads { n_heads, n_kv_heads, head_dim, scale, window: usize::MAX };
        let mut random = Random::new(9);
        let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
        let q = random.normals(n * width);
        let (k, v) = (random.normals(n * kv_width), random.normals(n * kv_width));
        let expected = plain(&q, &k, &v, 0, heads);
        let largest = |x: &[f32]| x.iter().fold(0f32, |most, x| most.max(x.abs()));
        // Half a step of the widest block, with the rounding of scales; q4 clips the other end by a step of its own.
        for (kind, step) in [
            (CacheType::F16, 2f32.powi(-11)),
            (CacheType::Q8, 0.51 / 127.0),
            (CacheType::Q4, 1.01 / 8.0),
        ] {
            // A score moves by at most this much, so a weight by a factor between exp(∓2 · moved).
            let norm1 = q.chunks(head_dim).map(|q| q.iter().map(|x| x.abs()).sum::<f32>());
            let moved = norm1.fold(0f32, f32::max) * step * largest(&k) / (head_dim as f32).sqrt();
            let bound = ((2.0 * moved).exp() - 1.0) * largest(&v) + step * largest(&v);
            let mut cache = KeyValues::new(kind, heads);
            let mut at_once = vec![f32::NAN; n * width];
            cache.append(&k, &v, heads);
            attend(vec![Sequence { queries: &q, cache: &cache, out: &mut at_once }], heads);
            let (worst, at) = max_abs_diff(&at_once, &expected);
            assert!(worst < bound, "{kind:?}: off by {worst} at {at}, bound {bound}");
            let mean = at_once.iter().zip(&expected).map(|(a, b)| (a - b).abs()).sum::<f32>()
                / expected.len() as f32;
            assert!(mean < step, "{kind:?}: off by {mean} on average, step {step}");

            let mut cache = KeyValues::new(kind, heads);
            let mut one_by_one = vec![f32::NAN; n * width];
            let kv = k.chunks(kv_width).zip(v.chunks(kv_width));
            for ((queries, out), (k, v)) in
                q.chunks(width).zip(one_by_one.chunks_mut(width)).zip(kv)
            {
                cache.append(k, v, heads);
                attend(vec![Sequence { queries, cache: &cache, out }], heads);
            }
            let (worst, at) = max_abs_diff(&at_once, &one_by_one);
            assert!(worst < 3e-6, "{kind:?}: {worst} at {at} between the two ways");
        }
    }

    #[test]
    fn a_truncated_cache_goes_on_as_if_nothing_had_followed() {
        let heads = Heads { n_heads: 2, n_kv_heads: 1, head_dim: 4, scale: 0.5, window: 3 };
        let mut random = Random::new(5);
        let (q, k, v) = (random.normals(8), random.normals(9 * 4), random.normals(9 * 4));
        let run = |detour: bool| {
            let mut cache = KeyValues::new(CacheType::F32, heads);
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
