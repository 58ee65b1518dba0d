//! Where the columns of a packed matrix are stored.

use alloc::vec::Vec;

use crate::simd::LANES;

/// A stored column that belongs to no column of the matrix.
const PADDING: u32 = u32::MAX;

/// Where the columns of a matrix are stored.
pub(super) struct Layout {
    /// Column of each stored column, or [`PADDING`].
    pub(super) columns: Vec<u32>,
    /// Steps of a segment.
    pub(super) segment: usize,
    /// Group of each segment.
    pub(super) group_of_segment: Vec<u32>,
}

impl Layout {
    /// For groups of the given columns, and lines of so many steps.
    pub(super) fn new(members: &[Vec<u32>], fields: usize) -> Self {
        // Long segments need fewer multiplications by scales, but may need more padding: first save memory, then time.
        let steps = |segment: usize| -> usize {
            let padded = |m: &Vec<u32>| m.len().div_ceil(LANES).next_multiple_of(segment);
            members.iter().map(padded).sum::<usize>().next_multiple_of(fields)
        };
        let divisors = (1..=fields).rev().filter(|&segment| fields.is_multiple_of(segment));
        let segment = divisors.min_by_key(|&segment| steps(segment)).unwrap_or(1);

        let mut columns = Vec::new();
        let mut group_of_segment = Vec::new();
        for (group, members) in members.iter().enumerate() {
            columns.extend_from_slice(members);
            columns.resize(columns.len().next_multiple_of(segment * LANES), PADDING);
            group_of_segment.resize(columns.len() / (segment * LANES), group as u32);
        }
        columns.resize(columns.len().next_multiple_of(fields * LANES), PADDING);
        group_of_segment.resize(columns.len() / (segment * LANES), 0);
        Self { columns, segment, group_of_segment }
    }
}
