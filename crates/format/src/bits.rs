//! Code widths.

use crate::FormatError;

/// Width of an integer code: 2, 3, 4, 5, 6 or 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bits {
    /// 4 levels.
    B2 = 2,
    /// 8 levels.
    B3 = 3,
    /// 16 levels.
    B4 = 4,
    /// 32 levels.
    B5 = 5,
    /// 64 levels.
    B6 = 6,
    /// 256 levels.
    B8 = 8,
}

impl Bits {
    /// Every width, narrowest first.
    pub const ALL: [Self; 6] = [Self::B2, Self::B3, Self::B4, Self::B5, Self::B6, Self::B8];

    /// The width in bits.
    pub const fn get(self) -> u32 {
        self as u32
    }

    /// The largest code, `2^bits − 1`.
    pub const fn max_code(self) -> u8 {
        ((1u16 << self.get()) - 1) as u8
    }

    /// The zero point of a symmetric grid, `2^(bits − 1)`.
    pub const fn middle(self) -> u8 {
        1 << (self.get() - 1)
    }
}

impl TryFrom<u32> for Bits {
    type Error = FormatError;

    fn try_from(bits: u32) -> Result<Self, FormatError> {
        Self::ALL.into_iter().find(|b| b.get() == bits).ok_or(FormatError::UnsupportedBits { bits })
    }
}
