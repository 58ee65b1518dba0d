//! A row-major output that tasks write column by column.

use core::{marker::PhantomData, ops::Range, slice};

/// A row-major matrix whose columns are shared out among tasks.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    len: usize,
    n_columns: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: the pointer stands for an exclusive borrow of plain floats; who calls `part` promises that no two parts overlap, from whatever
// thread.
unsafe impl Send for Columns<'_> {}
// SAFETY: as above; `part` is the only access, and `unsafe` for that reason.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    pub(crate) fn new(out: &'a mut [f32], n_columns: usize) -> Self {
        Self { start: out.as_mut_ptr(), len: out.len(), n_columns, borrow: PhantomData }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// While the result lives, no other result for the same row may live that shares a column.
    ///
    /// # Panics
    /// If the matrix has no such row or columns.
    #[expect(clippy::mut_from_ref, reason = "the caller promises that parts do not overlap")]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [f32] {
        assert!(columns.start <= columns.end && columns.end <= self.n_columns, "no such columns");
        assert!((row + 1) * self.n_columns <= self.len, "no such row");
        // SAFETY: by the assertions the offset lies within the borrowed slice, or one past its end for no columns.
        let start = unsafe { self.start.add(row * self.n_columns + columns.start) };
        // SAFETY: the assertions keep all elements within the slice, which `borrow` keeps alive and exclusive; by the caller's promise no
        // other reference to them lives.
        unsafe { slice::from_raw_parts_mut(start, columns.len()) }
    }
}
