//! Products and rows of a packed matrix.

use alloc::vec::Vec;
use core::marker::PhantomData;

use super::{Line, PackedMatrix, values::Value};
use crate::{
    rows::Rows,
    simd::{LANES, Lanes, Simd},
};

/// A packed matrix whose words hold `FIELDS` codes of a kind.
pub(super) struct Fields<'a, V, const FIELDS: usize>(&'a PackedMatrix, PhantomData<fn() -> V>);

impl<'a, V, const FIELDS: usize> Fields<'a, V, FIELDS> {
    pub(super) fn of(matrix: &'a PackedMatrix) -> Self {
        Self(matrix, PhantomData)
    }
}

impl<V: Value, const FIELDS: usize> Fields<'_, V, FIELDS> {
    #[inline(always)]
    fn row_scales(&self, row: usize) -> &[f32] {
        &self.0.scales[row * self.0.n_groups..][..self.0.n_groups]
    }

    /// As `dot`, for lines of `SEGMENTS` segments; 0 for any other number of them.
    #[inline(always)]
    fn dot_segments<S: Simd, const T: usize, const SEGMENTS: usize>(
        &self,
        simd: S,
        row: usize,
        x: [&[Lanes]; T],
        sums: [&[Lanes]; T],
    ) -> [f32; T] {
        let matrix = self.0;
        let lines = &matrix.lines[row * matrix.lines_per_row..][..matrix.lines_per_row];
        let x = x.map(|x| &x.as_chunks::<FIELDS>().0[..lines.len()]);
        let scales = self.row_scales(row);
        let offsets = match matrix.offsets.is_empty() {
            true => &[],
            false => &matrix.offsets[row * matrix.n_groups..][..matrix.n_groups],
        };
        let groups = matrix.group_of_segment.as_slice();
        let ends = segment_ends(matrix.segment, FIELDS);
        let table = simd.table(&matrix.table);

        let mut total = [simd.splat(0.0); T];
        let mut segment = 0;
        let mut sum = total;
        let mut begins = true;
        for (b, line) in lines.iter().enumerate() {
            let words = simd.load_words(&line.0);
            for j in 0..FIELDS {
                if begins {
                    // Absent on a symmetric grid.
                    let offset = offsets.get(groups[segment] as usize);
                    for t in 0..T {
                        sum[t] = match offset {
                            Some(&offset) => {
                                let offset = simd.splat(f32::from(offset));
                                simd.mul(offset, simd.load(&sums[t][segment].0))
                            }
                            None => simd.splat(0.0),
                        };
                    }
                }
                let w = V::value(simd, table, words, j);
                for t in 0..T {
                    sum[t] = simd.mul_add(w, simd.load(&x[t][b][j].0), sum[t]);
                }
                begins = match SEGMENTS {
                    0 => ends >> j & 1 == 1,
                    n => (j + 1) % (FIELDS / n) == 0,
                };
                if begins {
                    let scale = simd.splat(scales[groups[segment] as usize]);
                    for t in 0..T {
                        total[t] = simd.mul_add(sum[t], scale, total[t]);
                    }
                    segment += 1;
                }
            }
        }
        let mut products = [0.0; T];
        for t in 0..T {
            products[t] = simd.sum(total[t]);
        }
        products
    }
}

/// Bit `j` is set where a segment ends with field `j`.
fn segment_ends(segment: usize, fields: usize) -> u32 {
    (0..fields).filter(|j| (j + 1) % segment == 0).fold(0, |ends, j| ends | 1 << j)
}

impl<V: Value, const FIELDS: usize> Rows for Fields<'_, V, FIELDS> {
    fn width(&self) -> usize {
        self.0.lines_per_row * FIELDS * LANES
    }

    fn gather(&self) -> Option<&[u32]> {
        self.0.gather.as_deref()
    }

    fn row_bytes(&self) -> usize {
        self.0.lines_per_row * size_of::<Line>()
    }

    fn depth(&self) -> usize {
        let line = FIELDS * LANES;
        crate::rows::DEPTH / line * line
    }

    #[inline(always)]
    fn decode<S: Simd>(&self, simd: S, row: usize, start: usize, out: &mut [f32]) {
        let matrix = self.0;
        let first = start / (FIELDS * LANES);
        let lines = &matrix.lines[row * matrix.lines_per_row + first..];
        let scales = self.row_scales(row);
        let (out, _) = out.as_chunks_mut::<LANES>();
        let (out, _) = out.as_chunks_mut::<FIELDS>();
        let mut segment = first * FIELDS / matrix.segment;
        let segment_ends = segment_ends(matrix.segment, FIELDS);
        let table = simd.table(&matrix.table);
        for (out, line) in out.iter_mut().zip(lines) {
            let words = simd.load_words(&line.0);
            for j in 0..FIELDS {
                let group = matrix.group_of_segment[segment] as usize;
                let offset = match matrix.offsets.get(row * matrix.n_groups + group) {
                    Some(&offset) => f32::from(offset),
                    None => 0.0,
                };
                // The difference of two small integers is exact, and tables have no offsets, so this is the value of the code, rounded once.
                let steps = simd.add(V::value(simd, table, words, j), simd.splat(offset));
                simd.store(simd.mul(steps, simd.splat(scales[group])), &mut out[j]);
                segment += (segment_ends >> j & 1) as usize;
            }
        }
    }

    /// Each segment's activations, added step to step, if there are offsets to multiply them with.
    fn sums(&self, x: &[Lanes]) -> Vec<Lanes> {
        if self.0.offsets.is_empty() {
            return Vec::new();
        }
        let sum = |steps: &[Lanes]| {
            let mut sum = Lanes::ZERO;
            for step in steps {
                for (sum, x) in sum.0.iter_mut().zip(&step.0) {
                    *sum += x;
                }
            }
            sum
        };
        x.chunks_exact(self.0.segment).map(sum).collect()
    }

    #[inline(always)]
    fn dot<S: Simd, const T: usize>(
        &self,
        simd: S,
        row: usize,
        x: [&[Lanes]; T],
        sums: [&[Lanes]; T],
    ) -> [f32; T] {
        match FIELDS / self.0.segment {
            1 => self.dot_segments::<S, T, 1>(simd, row, x, sums),
            2 => self.dot_segments::<S, T, 2>(simd, row, x, sums),
            4 => self.dot_segments::<S, T, 4>(simd, row, x, sums),
            _ => self.dot_segments::<S, T, 0>(simd, row, x, sums),
        }
    }
}
