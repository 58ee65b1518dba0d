//! A quantized matrix prepared for products.
//!
//! Codes lie in 32-bit words, as many *fields* as fit: 16, 10, 8, 6, 5 or 4 for 2, 3, 4, 5, 6 or 8 bits. Sixteen words are a *line*; field
//! `j` of the sixteen words holds sixteen neighbouring columns, a *step*:
//!
//! ```text
//! line b, word i, field j   =   column (b · fields + j) · 16 + i        (as stored)
//! ```
//!
//! A code becomes a float without a conversion: masked where it lies and joined with an exponent whose mantissa counts in units of the
//! field's lowest bit, it is `2^e + code`. Subtracting `2^e + middle` leaves `code − middle` exactly, ready to be multiplied.
//!
//! Columns are stored group by group, each group padded to whole steps, and rows padded to whole lines; activations are gathered into
//! the same order, with zeros in the padding. Some steps that lie in one group make a *segment*: its products are summed before they are
//! multiplied by the scale. On an affine grid a segment's sum begins with `(middle − zero_point) · Σ x`, from sums of the activations that
//! are made once for all rows.

use alloc::{vec, vec::Vec};

use fewbit_format::{Bits, MatrixShape, QuantMatrix, Symmetry};

use crate::{
    Level,
    level::Kernel,
    linear::linear,
    parallel::for_each_chunk,
    rows::Rows,
    simd::{Aligned, LANES, Lanes, Simd},
};

/// Columns in a field that belong to no column of the matrix.
const PADDING: u32 = u32::MAX;

/// Sixteen words.
type Line = Aligned<u32>;

/// A quantized matrix prepared once for products with float activations, decoded in registers.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    shape: MatrixShape,
    bits: Bits,
    /// (out_features, lines per row).
    lines: Vec<Line>,
    lines_per_row: usize,
    /// (out_features, n_groups).
    scales: Vec<f32>,
    /// `middle − zero_point`, like `scales`; empty when symmetric.
    offsets: Vec<i16>,
    n_groups: usize,
    /// Steps of a segment; divides the fields of a word.
    segment: usize,
    /// Group of each segment of a row.
    group_of_segment: Vec<u32>,
    /// Column of each stored column, or [`PADDING`], where they differ.
    gather: Option<Vec<u32>>,
}

impl PackedMatrix {
    /// Rearranges the codes of a matrix. Any width, granularity, zero points and group map.
    pub fn from_quant(matrix: &QuantMatrix) -> Self {
        let MatrixShape { out_features, in_features } = matrix.shape();
        let bits = matrix.scheme().bits;
        let fields = fields(bits);
        let n_groups = matrix.n_groups();
        let layout = Layout::new(matrix, fields);
        let lines_per_row = layout.columns.len() / (fields * LANES);

        let mut lines = vec![Aligned([0; LANES]); out_features * lines_per_row];
        for_each_chunk(&mut lines, lines_per_row.max(1), true, |row, lines| {
            let codes = &matrix.codes()[row * in_features..][..in_features];
            for (step, columns) in layout.columns.chunks_exact(LANES).enumerate() {
                let words = &mut lines[step / fields].0;
                let shift = (step % fields) as u32 * bits.get();
                for (word, &column) in words.iter_mut().zip(columns) {
                    if let Some(&code) = codes.get(column as usize) {
                        *word |= u32::from(code) << shift;
                    }
                }
            }
        });
        let params = (0..out_features)
            .flat_map(|row| (0..n_groups).map(move |group| matrix.params(row, group)));
        let (scales, zeros): (Vec<f32>, Vec<u8>) = params.map(|p| (p.scale, p.zero_point)).unzip();
        let offset = |zero: u8| i16::from(bits.middle()) - i16::from(zero);
        let offsets = match matrix.scheme().symmetry {
            Symmetry::Symmetric => Vec::new(),
            Symmetry::Affine => zeros.into_iter().map(offset).collect(),
        };
        let in_order = (0..in_features as u32).eq(layout.columns[..in_features].iter().copied());
        let gather = (!in_order).then_some(layout.columns);
        Self {
            shape: matrix.shape(),
            bits,
            lines,
            lines_per_row,
            scales,
            offsets,
            n_groups,
            segment: layout.segment,
            group_of_segment: layout.group_of_segment,
            gather,
        }
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Bytes that it takes in memory: codes, scales, zero points and maps, padding included.
    pub fn packed_bytes(&self) -> usize {
        size_of_val(&*self.lines)
            + size_of_val(&*self.scales)
            + size_of_val(&*self.offsets)
            + size_of_val(&*self.group_of_segment)
            + self.gather.as_ref().map_or(0, |gather| size_of_val(&**gather))
    }

    /// Writes the values of one row, `in_features` of them: the same bits as `QuantMatrix::dequantize_row_into`.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row_into(&self, level: Level, row: usize, out: &mut [f32]) {
        assert!(row < self.shape.out_features, "no row {row}");
        assert_eq!(out.len(), self.shape.in_features, "a row has in_features values");
        match self.bits {
            Bits::B2 => decode_row(level, &Fields::<2, 16>(self), row, out),
            Bits::B3 => decode_row(level, &Fields::<3, 10>(self), row, out),
            Bits::B4 => decode_row(level, &Fields::<4, 8>(self), row, out),
            Bits::B5 => decode_row(level, &Fields::<5, 6>(self), row, out),
            Bits::B6 => decode_row(level, &Fields::<6, 5>(self), row, out),
            Bits::B8 => decode_row(level, &Fields::<8, 4>(self), row, out),
        }
    }

    /// `out (n_tokens, out_features) = x (n_tokens, in_features) · Wᵀ`, in f32 throughout.
    ///
    /// # Panics
    /// If a length does not follow from the shape.
    pub fn linear(&self, level: Level, out: &mut [f32], x: &[f32], n_tokens: usize) {
        match self.bits {
            Bits::B2 => linear(level, out, x, n_tokens, &Fields::<2, 16>(self), self.shape),
            Bits::B3 => linear(level, out, x, n_tokens, &Fields::<3, 10>(self), self.shape),
            Bits::B4 => linear(level, out, x, n_tokens, &Fields::<4, 8>(self), self.shape),
            Bits::B5 => linear(level, out, x, n_tokens, &Fields::<5, 6>(self), self.shape),
            Bits::B6 => linear(level, out, x, n_tokens, &Fields::<6, 5>(self), self.shape),
            Bits::B8 => linear(level, out, x, n_tokens, &Fields::<8, 4>(self), self.shape),
        }
    }
}

/// Writes a row of any kind of weights in the order of its columns.
fn decode_row<R: Rows>(level: Level, rows: &R, row: usize, out: &mut [f32]) {
    struct Decode<'a, R>(&'a R, usize, &'a mut [f32]);
    impl<R: Rows> Kernel for Decode<'_, R> {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, simd: S) {
            self.0.decode(simd, self.1, 0, self.2);
        }
    }
    let mut stored = vec![0.0; rows.width()];
    level.dispatch(Decode(rows, row, &mut stored));
    match rows.gather() {
        None => out.copy_from_slice(&stored[..out.len()]),
        Some(gather) => {
            for (value, &column) in stored.iter().zip(gather) {
                if let Some(out) = out.get_mut(column as usize) {
                    *out = *value;
                }
            }
        }
    }
}

/// Codes in a word.
const fn fields(bits: Bits) -> usize {
    (32 / bits.get()) as usize
}

/// Where the columns of a matrix are stored.
struct Layout {
    /// Column of each stored column, or [`PADDING`].
    columns: Vec<u32>,
    segment: usize,
    group_of_segment: Vec<u32>,
}

impl Layout {
    fn new(matrix: &QuantMatrix, fields: usize) -> Self {
        let mut members = vec![Vec::new(); matrix.n_groups()];
        for column in 0..matrix.shape().in_features {
            members[matrix.group(column)].push(column as u32);
        }
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

/// A packed matrix whose words hold `FIELDS` codes of `BITS` bits.
struct Fields<'a, const BITS: u32, const FIELDS: usize>(&'a PackedMatrix);

/// How a field becomes a float.
#[derive(Clone, Copy)]
struct Field {
    /// Bits that the word is shifted by, so that the field lies within the mantissa. Neighbouring fields share a shift.
    shift: u32,
    /// The field after the shift.
    mask: u32,
    /// Exponent that makes the lowest bit of the field count 1.
    exponent: u32,
    /// What to subtract, so that the middle code becomes 0.
    zero: f32,
}

impl<const BITS: u32, const FIELDS: usize> Fields<'_, BITS, FIELDS> {
    const FIELD: [Field; FIELDS] = {
        let none = Field { shift: 0, mask: 0, exponent: 0, zero: 0.0 };
        let mut fields = [none; FIELDS];
        let mut shift = 0;
        let mut j = 0;
        while j < FIELDS {
            let offset = BITS * j as u32;
            // 23 bits of mantissa.
            if offset + BITS - shift > 23 {
                shift = offset;
            }
            let low = offset - shift;
            let one = 1u32 << (23 - low);
            fields[j] = Field {
                shift,
                mask: ((1 << BITS) - 1) << low,
                exponent: (127 + 23 - low) << 23,
                zero: (one + (1 << (BITS - 1))) as f32,
            };
            j += 1;
        }
        fields
    };

    /// `code − middle` of field `j`.
    #[inline(always)]
    fn centered<S: Simd>(simd: S, words: S::Words, j: usize) -> S::Floats {
        let Field { shift, mask, exponent, zero } = Self::FIELD[j];
        let float = simd.float_of_bits(simd.shift_right(words, shift), mask, exponent);
        simd.sub(float, simd.splat(zero))
    }

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
                let w = Self::centered(simd, words, j);
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

impl<const BITS: u32, const FIELDS: usize> Rows for Fields<'_, BITS, FIELDS> {
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
        for (out, line) in out.iter_mut().zip(lines) {
            let words = simd.load_words(&line.0);
            for j in 0..FIELDS {
                let group = matrix.group_of_segment[segment] as usize;
                let offset = match matrix.offsets.get(row * matrix.n_groups + group) {
                    Some(&offset) => f32::from(offset),
                    None => 0.0,
                };
                // The difference of two small integers is exact, so this is the value of the code, rounded once.
                let steps = simd.add(Self::centered(simd, words, j), simd.splat(offset));
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
