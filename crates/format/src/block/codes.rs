//! Simple blocks as codes and parameters, for changes of layout that never pass through floats.

use super::{
    BlockType,
    codec::half,
    legacy::{W, fives, nibbles, put_fives, put_nibbles},
};
use crate::Bits;

/// One block of q4_0, q4_1, q5_0, q5_1 or q8_0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Codes {
    /// Scale, an f16.
    pub(crate) scale: f32,
    /// Value of code 0, an f16, of the types that store one.
    pub(crate) minimum: Option<f32>,
    /// Codes; where no minimum is stored, zero is the middle code.
    pub(crate) codes: [u8; W],
}

impl Codes {
    /// Width of a code and whether a minimum is stored; `None` for types that are not as simple.
    pub(crate) const fn kind(block_type: BlockType) -> Option<(Bits, bool)> {
        match block_type {
            BlockType::Q4_0 => Some((Bits::B4, false)),
            BlockType::Q4_1 => Some((Bits::B4, true)),
            BlockType::Q5_0 => Some((Bits::B5, false)),
            BlockType::Q5_1 => Some((Bits::B5, true)),
            BlockType::Q8_0 => Some((Bits::B8, false)),
            _ => None,
        }
    }

    /// Reads a block of a simple type.
    pub(crate) fn read(block_type: BlockType, block: &[u8]) -> Self {
        /// The block as an array; its length follows from its type.
        fn array<const B: usize>(block: &[u8]) -> &[u8; B] {
            block.try_into().expect("a block has the bytes of its type")
        }
        let (minimum, codes) = match block_type {
            BlockType::Q4_0 => (None, nibbles(array::<18>(block), 2)),
            BlockType::Q4_1 => (Some(2), nibbles(array::<20>(block), 4)),
            BlockType::Q5_0 => (None, fives(array::<22>(block), 2)),
            BlockType::Q5_1 => (Some(2), fives(array::<24>(block), 4)),
            _ => {
                // Signed bytes: the middle code is their zero.
                let mut codes = [0; W];
                codes.copy_from_slice(&array::<34>(block)[2..]);
                (None, codes.map(|q| q ^ 0x80))
            }
        };
        let at = |at: usize| half(array::<4>(&block[..4]), at);
        Self { scale: at(0), minimum: minimum.map(at), codes }
    }

    /// Writes a block of a simple type.
    pub(crate) fn write(&self, block_type: BlockType, block: &mut [u8]) {
        /// The block as an array; its length follows from its type.
        fn array<const B: usize>(block: &mut [u8]) -> &mut [u8; B] {
            block.try_into().expect("a block has the bytes of its type")
        }
        let put = |block: &mut [u8], at: usize, value: f32| {
            block[at..at + 2].copy_from_slice(&half::f16::from_f32_const(value).to_le_bytes());
        };
        put(block, 0, self.scale);
        if let Some(minimum) = self.minimum {
            put(block, 2, minimum);
        }
        match block_type {
            BlockType::Q4_0 => put_nibbles(array::<18>(block), 2, &self.codes),
            BlockType::Q4_1 => put_nibbles(array::<20>(block), 4, &self.codes),
            BlockType::Q5_0 => put_fives(array::<22>(block), 2, &self.codes),
            BlockType::Q5_1 => put_fives(array::<24>(block), 4, &self.codes),
            _ => block[2..34].copy_from_slice(&self.codes.map(|q| q ^ 0x80)),
        }
    }
}
