//! The one storage of the solver, and the one product kernel on it.
//!
//! A matrix lies in *strips* of 16 neighbouring rows; a strip is a list of its columns, each an array of 16. A product `C = A·Bᵀ` of two such
//! matrices needs no packing: for each common column the kernel multiplies four numbers of a strip of `A` with the 16 of a strip of `B`. The
//! compiler turns it into vector instructions when called under [`vectorize`](fewbit_kernels::vectorize).
//!
//! Each element of a product is one chain of fused multiply-adds in ascending order of the common index, however the index is cut into
//! runs. So results are the same bits on every CPU, for every panel size and any number of threads.

use rayon::prelude::*;

/// Rows of a strip.
pub(crate) const LANES: usize = 16;
/// Numbers of `A` that a call of the kernel takes.
pub(crate) const QUAD: usize = 4;
/// Bytes of a run of a strip along the common index: two of them leave half of a first-level cache of 32 KiB free.
const RUN: usize = 8 << 10;

/// 16 rows of one column.
pub(crate) type Column<T> = [T; LANES];

/// A strip, and the columns that its product is added to.
pub(crate) type Product<'a, T> = (&'a [Column<T>], &'a mut [Column<T>]);

/// f32, in which weights are rounded, and f64, in which sums are kept.
pub(crate) trait Real: Copy + Default + Send + Sync + 'static {
    fn from_f64(value: f64) -> Self;
    fn to_f64(self) -> f64;
    /// `self · b + c`, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
}

impl Real for f32 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value as f32
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        f32::mul_add(self, b, c)
    }
}

impl Real for f64 {
    #[inline(always)]
    fn from_f64(value: f64) -> Self {
        value
    }
    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn mul_add(self, b: Self, c: Self) -> Self {
        f64::mul_add(self, b, c)
    }
}

/// Index of the first NaN or infinity.
pub(crate) fn first_non_finite(values: &[f32]) -> Option<usize> {
    const CHUNK: usize = 1 << 14;
    // Without an early exit the check of a chunk vectorizes.
    let bad = |chunk: &[f32]| chunk.iter().fold(false, |bad, v| bad | !v.is_finite());
    let chunk = values.par_chunks(CHUNK).position_first(bad)?;
    let start = chunk * CHUNK;
    values[start..].iter().position(|v| !v.is_finite()).map(|i| start + i)
}

/// `sum[i][lane] += Σ_k a[k][4·quad + i] · b[k][lane]`.
#[inline(always)]
pub(crate) fn multiply_quad<T: Real>(
    a: &[Column<T>],
    quad: usize,
    b: &[Column<T>],
    sum: &mut [Column<T>; QUAD],
) {
    let mut s = *sum;
    for (a, b) in a.iter().zip(b) {
        let a = &a.as_chunks::<QUAD>().0[quad % (LANES / QUAD)];
        for i in 0..QUAD {
            for lane in 0..LANES {
                s[i][lane] = a[i].mul_add(b[lane], s[i][lane]);
            }
        }
    }
    *sum = s;
}

/// `sum[16·t + i][lane] += Σ_k a[t][k][i] · b[k][lane]` for each strip `t` of `a` and `(b, sum)` of `products`; `k` runs over
/// the range `common`.
#[inline(always)]
pub(crate) fn multiply<T: Real>(
    a: &[&[Column<T>]],
    common: core::ops::Range<usize>,
    products: &mut [Product<'_, T>],
) {
    let run = RUN / size_of::<Column<T>>();
    for from in common.clone().step_by(run) {
        let to = (from + run).min(common.end);
        for (b, sum) in &mut *products {
            for (a, sum) in a.iter().zip(sum.chunks_mut(LANES)) {
                for (quad, sum) in sum.as_chunks_mut::<QUAD>().0.iter_mut().enumerate() {
                    multiply_quad(&a[from..to], quad, &b[from..to], sum);
                }
            }
        }
    }
}

/// The lower triangle of a square matrix: strip `s` holds columns `0..16·(s + 1)`, that is, its diagonal block whole.
#[derive(Clone, Debug)]
pub(crate) struct Lower<T> {
    size: usize,
    data: Vec<Column<T>>,
}

impl<T: Real> Lower<T> {
    pub(crate) fn new(size: usize) -> Self {
        let data = vec![[T::default(); LANES]; Self::start(size.div_ceil(LANES))];
        Self { size, data }
    }

    /// Bytes of a matrix of this size: about half of the square.
    pub(crate) const fn bytes(size: usize) -> usize {
        Self::start(size.div_ceil(LANES)) * size_of::<Column<T>>()
    }

    /// Columns of all strips before `strip`.
    const fn start(strip: usize) -> usize {
        LANES * strip * (strip + 1) / 2
    }

    pub(crate) fn n_strips(&self) -> usize {
        self.size.div_ceil(LANES)
    }

    pub(crate) fn strip(&self, strip: usize) -> &[Column<T>] {
        &self.data[Self::start(strip)..Self::start(strip + 1)]
    }

    /// All strips, to be changed in parallel.
    pub(crate) fn strips_mut(&mut self) -> Vec<&mut [Column<T>]> {
        let mut rest = self.data.as_mut_slice();
        let mut strips = Vec::with_capacity(self.size.div_ceil(LANES));
        for s in 0..self.size.div_ceil(LANES) {
            let (strip, tail) = rest.split_at_mut(LANES * (s + 1));
            strips.push(strip);
            rest = tail;
        }
        strips
    }

    /// The element of a row and a column, `column ≤ row` or within the diagonal block.
    #[inline(always)]
    pub(crate) fn get(&self, row: usize, column: usize) -> T {
        self.data[Self::start(row / LANES) + column][row % LANES]
    }

    /// The element of a symmetric matrix.
    #[inline(always)]
    pub(crate) fn symmetric(&self, i: usize, j: usize) -> T {
        self.get(i.max(j), i.min(j))
    }

    /// A row of a symmetric matrix.
    pub(crate) fn symmetric_row(&self, row: usize, out: &mut [T]) {
        let (strip, lane) = (row / LANES, row % LANES);
        let (before, after) = out.split_at_mut((LANES * (strip + 1)).min(self.size));
        for (out, column) in before.iter_mut().zip(self.strip(strip)) {
            *out = column[lane];
        }
        for (s, out) in (strip + 1..).zip(after.chunks_mut(LANES)) {
            out.copy_from_slice(&self.strip(s)[row][..out.len()]);
        }
    }

    pub(crate) fn diagonal(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.size).map(|i| self.get(i, i))
    }

    pub(crate) fn columns(&self) -> &[Column<T>] {
        &self.data
    }

    pub(crate) fn columns_mut(&mut self) -> &mut [Column<T>] {
        &mut self.data
    }
}
