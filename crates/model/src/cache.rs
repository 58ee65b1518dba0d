//! Cached keys and values, in floats or few bits.

use std::ops::Range;

use fewbit_format::f16;

/// How keys and values are cached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum CacheType {
    /// Single precision.
    #[default]
    F32,
    /// Half precision; magnitudes above 65504 become infinite.
    F16,
    /// Signed bytes, 32 dimensions of a head under a half-precision scale: the blocks of q8_0.
    Q8,
    /// 4-bit codes, 32 dimensions of a head under a half-precision scale: the blocks of q4_0.
    Q4,
}

impl CacheType {
    /// All of them, the widest first.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Q8, Self::Q4];

    /// A word for options and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }

    /// The type of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cache| cache.name() == name)
    }
}

/// Values of a block.
const BLOCK: usize = 32;

/// A block of values under a scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<const BYTES: usize> {
    /// Half precision, as bits.
    scale: u16,
    codes: [u8; BYTES],
}

/// The keys or the values of one head: a row for each token, padded to whole blocks in few bits.
#[derive(Clone, Debug)]
pub(crate) enum Rows {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Q8(Vec<Block<32>>),
    Q4(Vec<Block<16>>),
}

impl Rows {
    pub(crate) fn new(kind: CacheType) -> Self {
        match kind {
            CacheType::F32 => Self::F32(vec![]),
            CacheType::F16 => Self::F16(vec![]),
            CacheType::Q8 => Self::Q8(vec![]),
            CacheType::Q4 => Self::Q4(vec![]),
        }
    }

    /// Appends the row of a token.
    pub(crate) fn push(&mut self, row: &[f32]) {
        match self {
            Self::F32(values) => values.extend_from_slice(row),
            Self::F16(values) => values.extend(row.iter().map(|&x| f16::from_f32(x).to_bits())),
            Self::Q8(blocks) => {
                blocks.extend(row.chunks(BLOCK).map(|x| Block::<32>::of(&padded(x))))
            }
            Self::Q4(blocks) => {
                blocks.extend(row.chunks(BLOCK).map(|x| Block::<16>::of(&padded(x))))
            }
        }
    }

    /// Forgets all but the first rows.
    pub(crate) fn truncate(&mut self, n_rows: usize, width: usize) {
        match self {
            Self::F32(values) => values.truncate(n_rows * width),
            Self::F16(values) => values.truncate(n_rows * width),
            Self::Q8(blocks) => blocks.truncate(n_rows * width.div_ceil(BLOCK)),
            Self::Q4(blocks) => blocks.truncate(n_rows * width.div_ceil(BLOCK)),
        }
    }

    /// A copy of the first rows, with place for more.
    pub(crate) fn first(&self, n_rows: usize, more: usize, width: usize) -> Self {
        fn copied<T: Copy>(all: &[T], n_rows: usize, more: usize, per_row: usize) -> Vec<T> {
            let mut copy = Vec::with_capacity((n_rows + more) * per_row);
            copy.extend_from_slice(&all[..n_rows * per_row]);
            copy
        }
        let n_blocks = width.div_ceil(BLOCK);
        match self {
            Self::F32(values) => Self::F32(copied(values, n_rows, more, width)),
            Self::F16(values) => Self::F16(copied(values, n_rows, more, width)),
            Self::Q8(blocks) => Self::Q8(copied(blocks, n_rows, more, n_blocks)),
            Self::Q4(blocks) => Self::Q4(copied(blocks, n_rows, more, n_blocks)),
        }
    }

    /// Bytes of all rows.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(&**values),
            Self::F16(values) => size_of_val(&**values),
            Self::Q8(blocks) => size_of_val(&**blocks),
            Self::Q4(blocks) => size_of_val(&**blocks),
        }
    }

    /// Some rows, `width` values each; decoded into `buffer` unless they are f32 already.
    #[inline(always)]
    pub(crate) fn read<'a>(
        &'a self,
        rows: Range<usize>,
        width: usize,
        buffer: &'a mut Vec<f32>,
    ) -> &'a [f32] {
        let values = rows.start * width..rows.end * width;
        let per_row = width.div_ceil(BLOCK);
        let blocks = rows.start * per_row..rows.end * per_row;
        if !matches!(self, Self::F32(_)) {
            buffer.resize(values.len(), 0.0);
        }
        match self {
            Self::F32(all) => return &all[values],
            Self::F16(all) => {
                for (out, &bits) in buffer.iter_mut().zip(&all[values]) {
                    *out = widened(bits);
                }
            }
            Self::Q8(all) => decode(&all[blocks], width, buffer, Block::<32>::values),
            Self::Q4(all) => decode(&all[blocks], width, buffer, Block::<16>::values),
        }
        buffer
    }
}

/// Decodes rows of blocks.
#[inline(always)]
fn decode<const BYTES: usize>(
    blocks: &[Block<BYTES>],
    width: usize,
    out: &mut [f32],
    values: impl Fn(&Block<BYTES>) -> [f32; BLOCK],
) {
    if width.is_multiple_of(BLOCK) {
        for (out, block) in out.as_chunks_mut::<BLOCK>().0.iter_mut().zip(blocks) {
            *out = values(block);
        }
        return;
    }
    for (out, blocks) in out.chunks_mut(width).zip(blocks.chunks(width.div_ceil(BLOCK))) {
        for (out, block) in out.chunks_mut(BLOCK).zip(blocks) {
            out.copy_from_slice(&values(block)[..out.len()]);
        }
    }
}

fn padded(x: &[f32]) -> [f32; BLOCK] {
    let mut block = [0.0; BLOCK];
    block[..x.len()].copy_from_slice(x);
    block
}

/// 0, or NaN if one of the values is not finite: added to a scale, it keeps what has gone wrong from looking right.
fn poison(x: &[f32; BLOCK]) -> f32 {
    x.iter().map(|x| x * 0.0).sum()
}

fn reciprocal(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

impl Block<32> {
    /// The largest magnitude takes ±127; the rule of q8_0.
    fn of(x: &[f32; BLOCK]) -> Self {
        let largest = x.iter().fold(0f32, |most, x| most.max(x.abs()));
        let scale = largest / 127.0;
        let inverse = reciprocal(scale);
        let codes = x.map(|x| (x * inverse).round() as i8 as u8);
        Self { scale: f16::from_f32(scale + poison(x)).to_bits(), codes }
    }

    #[inline(always)]
    fn values(&self) -> [f32; BLOCK] {
        let scale = widened(self.scale);
        self.codes.map(|code| f32::from(code as i8) * scale)
    }
}

impl Block<16> {
    /// The value of largest magnitude takes −8; the rule of q4_0.
    fn of(x: &[f32; BLOCK]) -> Self {
        let largest = x.iter().fold(0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
        let scale = largest / -8.0;
        let inverse = reciprocal(scale);
        let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
        let codes = std::array::from_fn(|i| code(x[i]) | code(x[i + 16]) << 4);
        Self { scale: f16::from_f32(scale + poison(x)).to_bits(), codes }
    }

    #[inline(always)]
    fn values(&self) -> [f32; BLOCK] {
        let scale = widened(self.scale);
        let mut values = [0.0; BLOCK];
        let (low, high) = values.split_at_mut(16);
        for ((low, high), &byte) in low.iter_mut().zip(high).zip(&self.codes) {
            *low = (f32::from(byte & 15) - 8.0) * scale;
            *high = (f32::from(byte >> 4) - 8.0) * scale;
        }
        values
    }
}

/// A half-precision float by its bits, in operations that the compiler vectorizes.
#[inline(always)]
fn widened(bits: u16) -> f32 {
    /// 2^(127 − 15): the difference of the exponents' biases.
    const REBIAS: f32 = f32::from_bits((254 - 15) << 23);
    let shifted = u32::from(bits & 0x7fff) << 13;
    let finite = f32::from_bits(shifted) * REBIAS;
    // Infinities and NaN.
    let special = f32::from_bits(shifted | 0x7f80_0000);
    let magnitude = if bits & 0x7c00 == 0x7c00 { special } else { finite };
    f32::from_bits(magnitude.to_bits() | u32::from(bits & 0x8000) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::BlockType;
    use fewbit_testkit::Random;

    #[test]
    fn halves_widen_exactly() {
        for bits in 0..=u16::MAX {
            let (got, expected) = (widened(bits), f16::from_bits(bits).to_f32());
            assert!(got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan());
        }
    }

    #[test]
    fn rows_come_back_as_the_block_types_would_give_them() {
        for width in [64, 32, 48, 6] {
            let rows = Random::new(width as u64).normals(5 * width);
            for (kind, block_type) in [
                (CacheType::F32, None),
                (CacheType::F16, None),
                (CacheType::Q8, Some(BlockType::Q8_0)),
                (CacheType::Q4, Some(BlockType::Q4_0)),
            ] {
                let mut cache = Rows::new(kind);
                rows.chunks(width).for_each(|row| cache.push(row));
                cache.push(&vec![1.0; width]);
                cache.truncate(5, width);
                let mut buffer = vec![];
                let got = cache.read(1..5, width, &mut buffer).to_vec();
                for (got, row) in got.chunks(width).zip(rows.chunks(width).skip(1)) {
                    let expected = match block_type {
                        Some(block_type) => {
                            let mut padded = row.to_vec();
                            padded.resize(width.next_multiple_of(32), 0.0);
                            let n = padded.len();
                            let mut bytes = vec![0; block_type.row_bytes(n).unwrap()];
                            block_type.encode_rows(&padded, n, None, &mut bytes).unwrap();
                            block_type.decode(&bytes, &mut padded).unwrap();
                            padded[..width].to_vec()
                        }
                        None if kind == CacheType::F16 => {
                            row.iter().map(|&x| f16::from_f32(x).to_f32()).collect()
                        }
                        None => row.to_vec(),
                    };
                    assert_eq!(got, expected, "{kind:?}, rows of {width}");
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros() {
        for kind in CacheType::ALL {
            let mut cache = Rows::new(kind);
            cache.push(&[0.0; 40]);
            assert_eq!(cache.read(0..1, 40, &mut vec![]), [0.0; 40], "{kind:?}");
        }
    }

    #[test]
    fn what_is_not_finite_does_not_become_finite() {
        for kind in CacheType::ALL {
            let mut cache = Rows::new(kind);
            let mut row = [1.0; 32];
            row[7] = f32::NAN;
            cache.push(&row);
            assert!(cache.read(0..1, 32, &mut vec![])[7].is_nan(), "{kind:?}");
        }
    }

    #[test]
    fn names_name_their_types() {
        for kind in CacheType::ALL {
            assert_eq!(CacheType::from_name(kind.name()), Some(kind));
        }
        assert_eq!(CacheType::from_name("q5"), None);
    }
}
