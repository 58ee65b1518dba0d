//! Sources of weights: matrices whose rows can be multiplied, or decoded piece by piece.

use alloc::{vec, vec::Vec};

use fewbit_format::{bf16, f16};

use crate::simd::{LANES, Lanes, Simd};

/// The most columns that are decoded at a time: a tile of weights and a panel of activations then fit the nearest caches.
pub(crate) const DEPTH: usize = 256;

/// A matrix of weights, in whatever it is stored as.
///
/// Its *width* is the number of columns as stored: in_features, perhaps reordered and padded to whole vectors. Activations are gathered
/// into the same order, with zeros in the padding.
pub(crate) trait Rows: Sync {
    /// Columns as stored, padding included.
    fn width(&self) -> usize;

    /// For each stored column the column of the matrix, or a number past the last where there is only padding. None: as they are.
    fn gather(&self) -> Option<&[u32]>;

    /// Bytes of a row in memory.
    fn row_bytes(&self) -> usize;

    /// Columns that [`decode`](Self::decode) is called for at a time, at most [`DEPTH`].
    fn depth(&self) -> usize;

    /// Writes columns `start..start + out.len()` of a row. `start` is a multiple of [`depth`](Self::depth).
    fn decode<S: Simd>(&self, simd: S, row: usize, start: usize, out: &mut [f32]);

    /// What [`dot`](Self::dot) needs to know of a token's activations besides themselves.
    fn sums(&self, x: &[Lanes]) -> Vec<Lanes>;

    /// The products of a row with the activations of `T` tokens, gathered and padded to whole vectors.
    fn dot<S: Simd, const T: usize>(
        &self,
        simd: S,
        row: usize,
        x: [&[Lanes]; T],
        sums: [&[Lanes]; T],
    ) -> [f32; T];
}

/// A float type that weights are stored in.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Sixteen of them, widened.
    fn load<S: Simd>(simd: S, x: &[Self; LANES]) -> S::Floats;
    /// One of them, widened.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f32; LANES]) -> S::Floats {
        simd.stream(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[f16; LANES]) -> S::Floats {
        simd.load_f16(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, x: &[bf16; LANES]) -> S::Floats {
        simd.load_bf16(x)
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// A float matrix, row-major, with the starts of its rows `stride` elements apart.
pub(crate) struct Dense<'a, E> {
    pub(crate) weight: &'a [E],
    pub(crate) in_features: usize,
    pub(crate) stride: usize,
}

/// The end of a row, filled up with zeros.
#[inline(always)]
fn widen_rest<E: Element>(rest: &[E]) -> [f32; LANES] {
    let mut wide = [0.0; LANES];
    for (wide, &w) in wide.iter_mut().zip(rest) {
        *wide = w.widen();
    }
    wide
}

impl<E: Element> Rows for Dense<'_, E> {
    fn width(&self) -> usize {
        self.in_features
    }

    fn gather(&self) -> Option<&[u32]> {
        None
    }

    fn row_bytes(&self) -> usize {
        self.in_features * size_of::<E>()
    }

    fn depth(&self) -> usize {
        DEPTH
    }

    #[inline(always)]
    fn decode<S: Simd>(&self, simd: S, row: usize, start: usize, out: &mut [f32]) {
        let weight = &self.weight[row * self.stride + start..][..out.len()];
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        let (out, out_rest) = out.as_chunks_mut::<LANES>();
        for (w, o) in weight.iter().zip(out) {
            simd.store(E::load(simd, w), o);
        }
        for (w, o) in weight_rest.iter().zip(out_rest) {
            *o = w.widen();
        }
    }

    fn sums(&self, _: &[Lanes]) -> Vec<Lanes> {
        vec![]
    }

    #[inline(always)]
    fn dot<S: Simd, const T: usize>(
        &self,
        simd: S,
        row: usize,
        x: [&[Lanes]; T],
        _: [&[Lanes]; T],
    ) -> [f32; T] {
        let (weight, rest) =
            self.weight[row * self.stride..][..self.in_features].as_chunks::<LANES>();
        // Two sums a token hide the latency of the addition; memory is slower than that.
        let mut even = [simd.splat(0.0); T];
        let mut odd = even;
        let (pairs, last) = weight.as_chunks::<2>();
        let x_pairs = x.map(|x| &x.as_chunks::<2>().0[..pairs.len()]);
        for (i, pair) in pairs.iter().enumerate() {
            let w = [E::load(simd, &pair[0]), E::load(simd, &pair[1])];
            for t in 0..T {
                even[t] = simd.mul_add(w[0], simd.load(&x_pairs[t][i][0].0), even[t]);
                odd[t] = simd.mul_add(w[1], simd.load(&x_pairs[t][i][1].0), odd[t]);
            }
        }
        if let [last] = last {
            let w = E::load(simd, last);
            for t in 0..T {
                even[t] = simd.mul_add(w, simd.load(&x[t][weight.len() - 1].0), even[t]);
            }
        }
        if !rest.is_empty() {
            let w = simd.load(&widen_rest(rest));
            for t in 0..T {
                odd[t] = simd.mul_add(w, simd.load(&x[t][weight.len()].0), odd[t]);
            }
        }
        let mut products = [0.0; T];
        for t in 0..T {
            products[t] = simd.sum(simd.add(even[t], odd[t]));
        }
        products
    }
}
