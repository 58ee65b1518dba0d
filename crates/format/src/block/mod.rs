//! GGML block types: runs of weights of one row, stored as one struct of scales and codes.
//!
//! A row is a whole number of blocks, one after another; a matrix is its rows, one after another. Nothing is aligned or padded,
//! everything is little-endian. Encoding follows the rules of llama.cpp's file quantizer to the byte, in plain `f32` arithmetic: products are
//! rounded before they are added. A build of llama.cpp whose compiler contracts them (most do, where the CPU has fused
//! multiply-add) differs in rare codes of the types that search for scales. Decoding has no such freedom.
//!
//! | file | types | idea |
//! |---|---|---|
//! | `legacy` | q4_0, q4_1, q5_0, q5_1, q8_0 | 32 weights, an f16 scale, perhaps an f16 minimum |
//! | `kquant` | q2_k to q6_k | 256 weights; the scales of its groups are codes themselves |
//! | `iq4` | iq4_nl, iq4_xs | 4-bit codes for a fixed, uneven codebook |
//! | `mx` | mxfp4, nvfp4 | 4-bit floats under an 8-bit scale |
//! | `ternary` | tq1_0, tq2_0, q1_0, q2_0 | a handful of values around zero |
//!
//! Blocks are independent of each other (under importance weights a few types also use the mean square of their row), so callers may
//! cut a matrix anywhere between rows and encode the parts on as many threads as they like.

mod codec;
mod codes;
mod iq4;
mod kquant;
mod legacy;
mod matrix;
mod mx;
mod search;
mod super_grid;
mod ternary;

use core::fmt;

use self::codec::Codec;
pub(crate) use self::codes::Codes;
pub(crate) use self::iq4::{VALUES as IQ4_VALUES, nearest_index as nearest_iq4};
use crate::{FormatError, FormatError as E};

pub use self::{
    matrix::{BlockMatrix, BlockView},
    super_grid::{SuperFactors, SuperGrid, SuperParams},
};

/// A block layout, by its name in GGML.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BlockType {
    /// 4-bit codes, value `(code − 8) · d`.
    Q4_0,
    /// 4-bit codes, value `code · d + m`.
    Q4_1,
    /// 5-bit codes, value `(code − 16) · d`.
    Q5_0,
    /// 5-bit codes, value `code · d + m`.
    Q5_1,
    /// Signed bytes, value `code · d`.
    Q8_0,
    /// 2-bit codes in groups of 16 with 4-bit scales and minima.
    Q2K,
    /// 3-bit codes in groups of 16 with signed 6-bit scales.
    Q3K,
    /// 4-bit codes in groups of 32 with 6-bit scales and minima.
    Q4K,
    /// 5-bit codes in groups of 32 with 6-bit scales and minima.
    Q5K,
    /// 6-bit codes in groups of 16 with 8-bit scales.
    Q6K,
    /// 4-bit codes for an uneven codebook, one scale.
    Iq4Nl,
    /// As [`Iq4Nl`](Self::Iq4Nl), in groups of 32 with 6-bit scales.
    Iq4Xs,
    /// E2M1 floats under a power of two (OCP Microscaling).
    Mxfp4,
    /// E2M1 floats in groups of 16 under E4M3 scales.
    Nvfp4,
    /// Ternary codes, five a byte.
    Tq1_0,
    /// Ternary codes, four a byte.
    Tq2_0,
    /// Signs: value `±d`.
    Q1_0,
    /// 2-bit codes, value `(code − 1) · d`.
    Q2_0,
}

/// Calls a generic function with the codec of a block type.
macro_rules! dispatch {
    ($type:expr, $function:ident($($argument:expr),*)) => {
        match $type {
            BlockType::Q4_0 => $function(legacy::Q4_0, $($argument),*),
            BlockType::Q4_1 => $function(legacy::Q4_1, $($argument),*),
            BlockType::Q5_0 => $function(legacy::Q5_0, $($argument),*),
            BlockType::Q5_1 => $function(legacy::Q5_1, $($argument),*),
            BlockType::Q8_0 => $function(legacy::Q8_0, $($argument),*),
            BlockType::Q2K => $function(kquant::Q2K, $($argument),*),
            BlockType::Q3K => $function(kquant::Q3K, $($argument),*),
            BlockType::Q4K => $function(kquant::Q4K, $($argument),*),
            BlockType::Q5K => $function(kquant::Q5K, $($argument),*),
            BlockType::Q6K => $function(kquant::Q6K, $($argument),*),
            BlockType::Iq4Nl => $function(iq4::Iq4Nl, $($argument),*),
            BlockType::Iq4Xs => $function(iq4::Iq4Xs, $($argument),*),
            BlockType::Mxfp4 => $function(mx::Mxfp4, $($argument),*),
            BlockType::Nvfp4 => $function(mx::Nvfp4, $($argument),*),
            BlockType::Tq1_0 => $function(ternary::Tq1_0, $($argument),*),
            BlockType::Tq2_0 => $function(ternary::Tq2_0, $($argument),*),
            BlockType::Q1_0 => $function(ternary::Q1_0, $($argument),*),
            BlockType::Q2_0 => $function(ternary::Q2_0, $($argument),*),
        }
    };
}

impl BlockType {
    /// Every type.
    pub const ALL: [Self; 18] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
        Self::Nvfp4,
        Self::Tq1_0,
        Self::Tq2_0,
        Self::Q1_0,
        Self::Q2_0,
    ];

    /// Name, weights and bytes of a block.
    const fn layout(self) -> (&'static str, usize, usize) {
        match self {
            Self::Q4_0 => ("q4_0", 32, 18),
            Self::Q4_1 => ("q4_1", 32, 20),
            Self::Q5_0 => ("q5_0", 32, 22),
            Self::Q5_1 => ("q5_1", 32, 24),
            Self::Q8_0 => ("q8_0", 32, 34),
            Self::Q2K => ("q2_k", 256, 84),
            Self::Q3K => ("q3_k", 256, 110),
            Self::Q4K => ("q4_k", 256, 144),
            Self::Q5K => ("q5_k", 256, 176),
            Self::Q6K => ("q6_k", 256, 210),
            Self::Iq4Nl => ("iq4_nl", 32, 18),
            Self::Iq4Xs => ("iq4_xs", 256, 136),
            Self::Mxfp4 => ("mxfp4", 32, 17),
            Self::Nvfp4 => ("nvfp4", 64, 36),
            Self::Tq1_0 => ("tq1_0", 256, 54),
            Self::Tq2_0 => ("tq2_0", 256, 66),
            Self::Q1_0 => ("q1_0", 128, 18),
            Self::Q2_0 => ("q2_0", 64, 18),
        }
    }

    /// The name in lower case, as in `q4_k`.
    pub const fn name(self) -> &'static str {
        self.layout().0
    }

    /// The type of a name, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Weights of a block.
    pub const fn weights(self) -> usize {
        self.layout().1
    }

    /// Bytes of a block.
    pub const fn bytes(self) -> usize {
        self.layout().2
    }

    /// Bits per weight, scales included.
    pub const fn bits_per_weight(self) -> f64 {
        (8 * self.bytes()) as f64 / self.weights() as f64
    }

    /// Whether encoding makes use of importance weights; the other types ignore them.
    pub fn uses_importance(self) -> bool {
        fn get<const W: usize, const B: usize, C: Codec<W, B>>(_: C) -> bool {
            C::USES_IMPORTANCE
        }
        dispatch!(self, get())
    }

    /// Bytes of a row.
    ///
    /// # Errors
    /// If the row is not a whole number of blocks, or its bytes overflow `usize`.
    pub const fn row_bytes(self, in_features: usize) -> Result<usize, FormatError> {
        if in_features.is_multiple_of(self.weights())
            && let Some(bytes) = (in_features / self.weights()).checked_mul(self.bytes())
        {
            return Ok(bytes);
        }
        Err(E::RowLength { block_type: self, in_features, fallback: self.fallback(in_features) })
    }

    /// The type that llama.cpp's quantizer takes for rows of this length: this one if it divides them, else a type with blocks of 32, or
    /// `None` if these do not divide them either and the matrix stays f16.
    pub const fn fallback(self, in_features: usize) -> Option<Self> {
        let other = match self {
            _ if in_features.is_multiple_of(self.weights()) => self,
            Self::Q4K => Self::Q5_0,
            Self::Q5K => Self::Q5_1,
            Self::Q6K => Self::Q8_0,
            Self::Iq4Xs => Self::Iq4Nl,
            _ => Self::Q4_0,
        };
        if in_features.is_multiple_of(other.weights()) { Some(other) } else { None }
    }

    /// Encodes whole rows.
    ///
    /// `weights` is `(rows, in_features)` row-major and finite. `importance`, of length `in_features`, finite and not negative, weights the squared
    /// error of each column (an importance matrix holds the mean square of each input); types that have no use for it
    /// [ignore](Self::uses_importance) it. As in the reference, a group whose importances are all 0 may decode to zeros. `out` is
    /// `(rows, row_bytes)`; its content is unspecified after an error.
    ///
    /// # Errors
    /// If a length does not follow from the others, a weight or importance is NaN or infinite, or a block is too large for its scale's type.
    #[inline(always)]
    pub fn encode_rows(
        self,
        weights: &[f32],
        in_features: usize,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) -> Result<(), FormatError> {
        let row_bytes = self.row_bytes(in_features)?;
        let out_features = weights.len().checked_div(in_features).unwrap_or(0);
        let length = |what, got, expected| {
            if got == expected {
                return Ok(());
            }
            Err(E::Length { what, got, expected, out_features, in_features })
        };
        length("weight", weights.len(), out_features * in_features)?;
        length("blocks", out.len(), out_features * row_bytes)?;
        if let Some(d) = importance {
            length("importance", d.len(), in_features)?;
            if let Some(index) = d.iter().position(|d| !(d.is_finite() && *d >= 0.0)) {
                return Err(E::Importance { index, value: d[index] });
            }
        }
        if weights.is_empty() {
            return Ok(());
        }
        use codec::encode_rows;
        dispatch!(self, encode_rows(self, weights, in_features, importance, out))
    }

    /// Decodes whole blocks. Never fails on their content: a scale that is NaN or infinite gives such values (see
    /// [`check`](Self::check)).
    ///
    /// # Errors
    /// If `out` is not a whole number of blocks, or `blocks` not the bytes that they take.
    #[inline(always)]
    pub fn decode(self, blocks: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
        let expected = self.row_bytes(out.len())?;
        if blocks.len() != expected {
            let (got, in_features) = (blocks.len(), out.len());
            let what = "blocks";
            return Err(E::Length { what, got, expected, out_features: 1, in_features });
        }
        use codec::decode;
        dispatch!(self, decode(blocks, out));
        Ok(())
    }

    /// Finds scales that are NaN or infinite, which no sound file has. Bytes after the last whole block are not looked at.
    ///
    /// # Errors
    /// Names the first such block.
    pub fn check(self, blocks: &[u8]) -> Result<(), FormatError> {
        use codec::first_unsound;
        match dispatch!(self, first_unsound(blocks)) {
            Some(block) => Err(E::BlockScale { block_type: self, block }),
            None => Ok(()),
        }
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_codecs() {
        fn sizes<const W: usize, const B: usize, C: Codec<W, B>>(_: C) -> (usize, usize) {
            assert!(C::HALVES.iter().all(|at| at + 2 <= B));
            (W, B)
        }
        for t in BlockType::ALL {
            assert_eq!((t.weights(), t.bytes()), dispatch!(t, sizes()), "{t}");
        }
    }
}
