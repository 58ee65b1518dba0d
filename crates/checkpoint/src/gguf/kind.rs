//! Tensor types by their numbers in the file.

use std::fmt;

use crate::Problem;

/// Declares the types with their numbers, names, weights in a block, and bytes of a block.
macro_rules! types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $weights:literal, $bytes:literal;)*) => {
        /// Type of a tensor in a GGUF file: plain numbers, or blocks of quantized weights along the first dimension.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum GgmlType {
            $($(#[$doc])* $variant,)*
        }

        impl GgmlType {
            /// All types, by their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number in the file.
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id),* }
            }

            /// The name that everyone uses, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// Weights in a block; 1 for plain numbers. The first dimension of a tensor is a multiple of it.
            pub const fn block_weights(self) -> u64 {
                match self { $(Self::$variant => $weights),* }
            }

            /// Bytes of a block.
            pub const fn block_bytes(self) -> u64 {
                match self { $(Self::$variant => $bytes),* }
            }
        }
    };
}

types! {
    /// 32-bit float.
    F32 = 0, "F32", 1, 4;
    /// 16-bit float.
    F16 = 1, "F16", 1, 2;
    /// 4 bits, scale.
    Q4_0 = 2, "Q4_0", 32, 18;
    /// 4 bits, scale and minimum.
    Q4_1 = 3, "Q4_1", 32, 20;
    /// 5 bits, scale.
    Q5_0 = 6, "Q5_0", 32, 22;
    /// 5 bits, scale and minimum.
    Q5_1 = 7, "Q5_1", 32, 24;
    /// 8 bits, scale.
    Q8_0 = 8, "Q8_0", 32, 34;
    /// 8 bits, scale and sum: activations, not meant for files.
    Q8_1 = 9, "Q8_1", 32, 36;
    /// 2 bits, super-block.
    Q2K = 10, "Q2_K", 256, 84;
    /// 3 bits, super-block.
    Q3K = 11, "Q3_K", 256, 110;
    /// 4 bits, super-block.
    Q4K = 12, "Q4_K", 256, 144;
    /// 5 bits, super-block.
    Q5K = 13, "Q5_K", 256, 176;
    /// 6 bits, super-block.
    Q6K = 14, "Q6_K", 256, 210;
    /// 8 bits, super-block: activations, not meant for files.
    Q8K = 15, "Q8_K", 256, 292;
    /// 2.06 bits, codebook.
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    /// 2.31 bits, codebook.
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    /// 3.06 bits, codebook.
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    /// 1.56 bits, codebook.
    Iq1S = 19, "IQ1_S", 256, 50;
    /// 4 bits, non-linear levels.
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    /// 3.44 bits, codebook.
    Iq3S = 21, "IQ3_S", 256, 110;
    /// 2.56 bits, codebook.
    Iq2S = 22, "IQ2_S", 256, 82;
    /// 4 bits, non-linear levels, super-block.
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    /// 8-bit integer.
    I8 = 24, "I8", 1, 1;
    /// 16-bit integer.
    I16 = 25, "I16", 1, 2;
    /// 32-bit integer.
    I32 = 26, "I32", 1, 4;
    /// 64-bit integer.
    I64 = 27, "I64", 1, 8;
    /// 64-bit float.
    F64 = 28, "F64", 1, 8;
    /// 1.75 bits, codebook.
    Iq1M = 29, "IQ1_M", 256, 56;
    /// 16-bit brain float.
    BF16 = 30, "BF16", 1, 2;
    /// 1.69 bits, three values.
    Tq1_0 = 34, "TQ1_0", 256, 54;
    /// 2.06 bits, three values.
    Tq2_0 = 35, "TQ2_0", 256, 66;
    /// 4-bit floats, one power of two for 32.
    Mxfp4 = 39, "MXFP4", 32, 17;
    /// 4-bit floats, one 8-bit float for 16.
    Nvfp4 = 40, "NVFP4", 64, 36;
    /// 1 bit, scale.
    Q1_0 = 41, "Q1_0", 128, 18;
    /// 2 bits, scale, 64 weights.
    Q2_0 = 42, "Q2_0", 64, 18;
}

/// Numbers that were types once.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl GgmlType {
    /// The type of a number in a file.
    ///
    /// # Errors
    /// [`Problem::RemovedType`] if it was a type once, [`Problem::UnknownType`] otherwise.
    pub fn from_id(id: u32) -> Result<Self, Problem> {
        if let Some(kind) = Self::ALL.iter().find(|kind| kind.id() == id) {
            return Ok(*kind);
        }
        match REMOVED.iter().find(|(removed, _)| *removed == id) {
            Some(&(id, name)) => Err(Problem::RemovedType { id, name }),
            None => Err(Problem::UnknownType { id }),
        }
    }

    /// The type of this [`name`](Self::name), in capitals or not.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Bits that a weight takes on average, block parameters included.
    pub fn bits_per_weight(self) -> f64 {
        (self.block_bytes() * 8) as f64 / self.block_weights() as f64
    }

    /// Bytes of a tensor of these dimensions, fastest first.
    ///
    /// # Errors
    /// [`Problem::Row`] if the first dimension is no multiple of a block, [`Problem::Overflow`] if elements or bytes exceed `i64::MAX`.
    pub fn tensor_bytes(self, dims: &[u64]) -> Result<u64, Problem> {
        let (weights, in_features) = (self.block_weights(), dims.first().copied().unwrap_or(1));
        if !in_features.is_multiple_of(weights) {
            return Err(Problem::Row { kind: self, in_features, block: weights });
        }
        let fits = |n: &u64| i64::try_from(*n).is_ok();
        let multiply = |n: u64, &d: &u64| n.checked_mul(d).filter(fits);
        let elements = match dims.iter().all(fits) {
            true => dims.iter().try_fold(1, multiply),
            false => None,
        };
        elements
            .and_then(|n| multiply(n / weights, &self.block_bytes()))
            .ok_or_else(|| Problem::Overflow { dims: dims.to_vec() })
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
