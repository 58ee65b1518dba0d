//! How codes of few bits lie in lines, and become bytes again.
//!
//! A *block* is 32 columns of a tile's 16 rows: 8 *steps* of 4 columns, in each of which code (row, column) has the byte `4 · row + column`. A line
//! holds the bytes of one step of 8 bits, or in each byte the codes of 2, 4 or 8 steps of 4, 2 or 1 bits, the first step lowest. Widths between are
//! made of two such *planes*, whose lines follow one another in the order in which the steps need them: hardware reads ahead of a stream only where it
//! rises.
//!
//! ```text
//! bits   lines of a block                                    code of step s
//! 8      8                                                   line s
//! 4      4                                                   nibble s % 2 of line s / 2
//! 2      2                                                   bits 2 (s % 4) and one more of line s / 4
//! 6      high two | low four, low four | the same again      planes of 2 and 4 bits, each as above
//! 5      fifth | 4 of the low four bits                      bit s of the first line, over a plane of 4 bits
//! 3      third | 2 of the low two bits                       bit s of the first line, over a plane of 2 bits
//! ```

use super::{line::Line, simd::IntSimd};

/// Whether codes of 8 bits are stored less 128: where every vector unit multiplies signed bytes, and none has to make them on the way.
const STORED_SIGNED: bool = cfg!(any(target_arch = "aarch64", target_arch = "wasm32"));

/// The range of what is multiplied.
pub(crate) trait Width {
    /// Bytes handed to [`IntSimd::dot`] are below 2^BITS.
    const BITS: u32;
}

/// A way of storing codes.
pub(crate) trait Codes: Width + Sync + 'static {
    /// Lines of a block.
    const LINES: usize;

    /// The bytes of a step, ready to be multiplied.
    fn step<S: IntSimd>(simd: S, block: &[Line], step: usize) -> S::Bytes;
}

/// Integers of 2, 3, 4, 5, 6 or 8 bits.
pub(crate) struct Plain<const BITS: u32>;

impl<const BITS: u32> Width for Plain<BITS> {
    const BITS: u32 = BITS;
}

impl<const BITS: u32> Codes for Plain<BITS> {
    const LINES: usize = BITS as usize;

    #[inline(always)]
    fn step<S: IntSimd>(simd: S, block: &[Line], step: usize) -> S::Bytes {
        match BITS {
            2 => twos(simd, &block[step / 4], step, 0),
            3 => {
                let high = ones(simd, &block[0], step, 2);
                simd.join(high, twos(simd, &block[1 + step / 4], step, 0))
            }
            4 => fours(simd, &block[step / 2], step),
            5 => {
                let high = ones(simd, &block[0], step, 4);
                simd.join(high, fours(simd, &block[1 + step / 2], step))
            }
            6 => {
                let half = &block[3 * (step / 4)..];
                let high = twos(simd, &half[0], step, 4);
                simd.join(high, fours(simd, &half[1 + step % 4 / 2], step))
            }
            _ => {
                let bytes = simd.bytes(&block[step]);
                if S::SIGNED == STORED_SIGNED { bytes } else { simd.flip(bytes) }
            }
        }
    }
}

/// The nibbles of a step.
#[inline(always)]
fn fours<S: IntSimd>(simd: S, line: &Line, step: usize) -> S::Bytes {
    simd.field(simd.bytes(line), 4 * (step % 2) as i32, 0x0f)
}

/// The pairs of bits of a step, moved to bit `to` of the bytes.
#[inline(always)]
fn twos<S: IntSimd>(simd: S, line: &Line, step: usize, to: i32) -> S::Bytes {
    simd.field(simd.bytes(line), 2 * (step % 4) as i32 - to, 3 << to)
}

/// The single bits of a step, moved to bit `to` of the bytes.
#[inline(always)]
fn ones<S: IntSimd>(simd: S, line: &Line, step: usize, to: i32) -> S::Bytes {
    simd.field(simd.bytes(line), step as i32 - to, 1 << to)
}

/// A table of 16 values, stored plus a bias that makes them unsigned.
pub(crate) trait Table: Sync + 'static {
    /// Bits of the largest entry.
    const BITS: u32;
    /// The entries.
    const ENTRIES: [u8; 16];
}

/// Nibbles that stand for the entries of a table.
pub(crate) struct Looked<T>(core::marker::PhantomData<fn() -> T>);

impl<T: Table> Width for Looked<T> {
    const BITS: u32 = T::BITS;
}

impl<T: Table> Looked<T> {
    const FLIPPED: [u8; 16] = {
        let mut entries = T::ENTRIES;
        let mut i = 0;
        while i < 16 {
            entries[i] ^= 0x80;
            i += 1;
        }
        entries
    };
}

impl<T: Table> Codes for Looked<T> {
    const LINES: usize = 4;

    #[inline(always)]
    fn step<S: IntSimd>(simd: S, block: &[Line], step: usize) -> S::Bytes {
        let table = if S::SIGNED && T::BITS == 8 { &Self::FLIPPED } else { &T::ENTRIES };
        simd.lookup(table, fours(simd, &block[step / 2], step))
    }
}

/// The codebook of IQ4_NL and IQ4_XS, plus 128.
pub(crate) struct Iq4;

impl Table for Iq4 {
    const BITS: u32 = 8;
    const ENTRIES: [u8; 16] =
        [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];
}

/// Twice the values of E2M1, plus 12.
pub(crate) struct E2m1;

impl Table for E2m1 {
    const BITS: u32 = 5;
    const ENTRIES: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];
}

/// Codes by their name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CodeKind {
    Two,
    Three,
    Four,
    Five,
    Six,
    Eight,
    Iq4,
    E2m1,
}

impl CodeKind {
    /// Lines of a block, which are also the bits of a code.
    pub(crate) const fn lines(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four | Self::Iq4 | Self::E2m1 => 4,
            Self::Five => 5,
            Self::Six => 6,
            Self::Eight => 8,
        }
    }

    /// Bits of the numbers that are multiplied.
    pub(crate) const fn width(self) -> u32 {
        match self {
            Self::Iq4 => Iq4::BITS,
            Self::E2m1 => E2m1::BITS,
            plain => plain.lines() as u32,
        }
    }

    /// The number that a code stands for.
    pub(crate) fn value(self, code: u8) -> u8 {
        match self {
            Self::Iq4 => Iq4::ENTRIES[usize::from(code)],
            Self::E2m1 => E2m1::ENTRIES[usize::from(code)],
            _ => code,
        }
    }

    /// The planes: bits, and the line and lowest bit of a step. The second is of the high bits, and may have none.
    const fn planes(self, step: usize) -> [(u32, usize, u32); 2] {
        let (one, two, four) = (step as u32, 2 * (step as u32 % 4), 4 * (step as u32 % 2));
        match self {
            Self::Two => [(2, step / 4, two), (0, 0, 0)],
            Self::Three => [(2, 1 + step / 4, two), (1, 0, one)],
            Self::Four | Self::Iq4 | Self::E2m1 => [(4, step / 2, four), (0, 0, 0)],
            Self::Five => [(4, 1 + step / 2, four), (1, 0, one)],
            Self::Six => [(4, step / 4 + 1 + step / 2, four), (2, 3 * (step / 4), two)],
            Self::Eight => [(8, step, 0), (0, 0, 0)],
        }
    }

    /// Puts 32 codes of row `lane` into a block of zeros.
    pub(crate) fn put(self, block: &mut [Line], lane: usize, codes: &[u8; 32]) {
        for (step, codes) in codes.as_chunks::<4>().0.iter().enumerate() {
            let [(bits, line, shift), (high_bits, high_line, high_shift)] = self.planes(step);
            let mask = ((1u32 << bits) - 1) as u8;
            for (c, code) in codes.iter().enumerate() {
                let byte = 4 * lane + c;
                block[line].0[byte] |= (code & mask) << shift ^ self.flipped();
                if high_bits > 0 {
                    block[high_line].0[byte] |= (code >> bits) << high_shift;
                }
            }
        }
    }

    /// The code of row `lane` and column `column` of a block.
    pub(crate) fn get(self, block: &[Line], lane: usize, column: usize) -> u8 {
        let byte = 4 * lane + column % 4;
        let planes = self.planes(column / 4);
        let field = |(bits, line, shift): (u32, usize, u32)| {
            block[line].0[byte] >> shift & ((1u32 << bits) - 1) as u8
        };
        self.flipped() ^ field(planes[0]) | field(planes[1]) << (planes[0].0 % 8)
    }

    /// The bit in which stored codes differ from their numbers.
    const fn flipped(self) -> u8 {
        if STORED_SIGNED && matches!(self, Self::Eight) { 0x80 } else { 0 }
    }
}
