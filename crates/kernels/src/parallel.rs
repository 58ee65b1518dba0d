//! Loops over disjoint pieces of fixed size: the pieces, and so the results, do not depend on the number of threads.

/// Calls `f` with the index of each piece and the piece, `size` elements each but the last. In parallel if the crate has threads and
/// `parallel` is set.
pub(crate) fn for_each_chunk<T: Send>(
    items: &mut [T],
    size: usize,
    parallel: bool,
    f: impl Fn(usize, &mut [T]) + Sync,
) {
    #[cfg(feature = "rayon")]
    if parallel {
        use rayon::prelude::*;
        items.par_chunks_mut(size).enumerate().for_each(|(i, piece)| f(i, piece));
        return;
    }
    let _ = parallel;
    items.chunks_mut(size).enumerate().for_each(|(i, piece)| f(i, piece));
}

/// Calls `f` with 0, 1, … n − 1. In parallel if the crate has threads and `parallel` is set.
pub(crate) fn for_each_index(n: usize, parallel: bool, f: impl Fn(usize) + Sync + Send) {
    #[cfg(feature = "rayon")]
    if parallel {
        use rayon::prelude::*;
        (0..n).into_par_iter().for_each(f);
        return;
    }
    let _ = parallel;
    (0..n).for_each(f);
}

/// Multiplications below which threads cost more than they gain.
pub(crate) const PARALLEL_WORK: usize = 1 << 18;
