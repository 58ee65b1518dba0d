//! The standard file types of llama.cpp by number and name.

use crate::gguf::GgmlType;

macro_rules! file_types {
    ($($(#[$doc:meta])* $variant:ident = $id:literal, $name:literal, $base:ident;)*) => {
        /// What `general.file_type` says: the type that most matrices of a file have, and a [mix](super::Mix) of types around it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum FileType {
            $($(#[$doc])* $variant,)*
        }

        impl FileType {
            /// All of them, by their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number in the file.
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id),* }
            }

            /// The name that everyone uses, such as `Q4_K_M`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The type that most matrices have.
            pub const fn base(self) -> GgmlType {
                match self { $(Self::$variant => GgmlType::$base),* }
            }
        }
    };
}

file_types! {
    /// 32-bit floats.
    F32 = 0, "F32", F32;
    /// 16-bit floats, vectors in 32.
    F16 = 1, "F16", F16;
    /// 4 bits, a scale for 32.
    Q4_0 = 2, "Q4_0", Q4_0;
    /// 4 bits, scale and minimum for 32.
    Q4_1 = 3, "Q4_1", Q4_1;
    /// 8 bits, a scale for 32.
    Q8_0 = 7, "Q8_0", Q8_0;
    /// 5 bits, a scale for 32.
    Q5_0 = 8, "Q5_0", Q5_0;
    /// 5 bits, scale and minimum for 32.
    Q5_1 = 9, "Q5_1", Q5_1;
    /// 2 bits, more where it hurts.
    Q2K = 10, "Q2_K", Q2K;
    /// 3 bits.
    Q3KS = 11, "Q3_K_S", Q3K;
    /// 3 bits, more where it hurts.
    Q3KM = 12, "Q3_K_M", Q3K;
    /// 3 bits, still more where it hurts.
    Q3KL = 13, "Q3_K_L", Q3K;
    /// 4 bits, a few matrices 5.
    Q4KS = 14, "Q4_K_S", Q4K;
    /// 4 bits, half of the sensitive matrices 6.
    Q4KM = 15, "Q4_K_M", Q4K;
    /// 5 bits.
    Q5KS = 16, "Q5_K_S", Q5K;
    /// 5 bits, half of the sensitive matrices 6.
    Q5KM = 17, "Q5_K_M", Q5K;
    /// 6 bits.
    Q6K = 18, "Q6_K", Q6K;
    /// 2 bits with an importance matrix.
    Q2KS = 21, "Q2_K_S", Q2K;
    /// 4 bits of a codebook, a scale for 32.
    Iq4Nl = 25, "IQ4_NL", Iq4Nl;
    /// 4 bits of a codebook, scales for 32 and 256.
    Iq4Xs = 30, "IQ4_XS", Iq4Xs;
    /// 16-bit floats of the range of 32-bit ones, vectors in 32.
    BF16 = 32, "BF16", BF16;
    /// 4-bit floats with a power of two for 32; in models without experts 8 bits, as llama.cpp has it.
    Mxfp4Moe = 38, "MXFP4_MOE", Mxfp4;
}

impl FileType {
    /// The file type of this number.
    pub fn of_id(id: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|file_type| file_type.id() == id)
    }

    /// The file type of this [`name`](Self::name), in capitals or not.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|file_type| file_type.name().eq_ignore_ascii_case(name))
    }

    /// The file type for a file of matrices of these types, none of which has to be standard: that of the most frequent one.
    pub fn of_kinds(kinds: impl IntoIterator<Item = GgmlType>) -> Self {
        let kinds: Vec<GgmlType> = kinds.into_iter().collect();
        let count = |file_type: &&Self| kinds.iter().filter(|k| **k == file_type.base()).count();
        // Of those with one base, `max_by_key` takes the last: go from behind, so that the plainest comes out.
        let plain = Self::ALL.iter().rev().filter(|file_type| **file_type != Self::Q2KS);
        plain.max_by_key(count).copied().unwrap_or(Self::F32)
    }

    /// Whether it is only to be had with an importance matrix.
    pub const fn needs_importance(self) -> bool {
        matches!(self, Self::Q2KS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_come_back() {
        for &file_type in FileType::ALL {
            assert_eq!(FileType::of_id(file_type.id()), Some(file_type));
            assert_eq!(FileType::of_name(&file_type.name().to_lowercase()), Some(file_type));
        }
        assert_eq!(FileType::of_id(4), None);
    }

    #[test]
    fn most_frequent_kind() {
        use GgmlType::{F32, Q4K, Q6K};
        assert_eq!(FileType::of_kinds([Q4K, Q6K, Q4K]), FileType::Q4KS);
        assert_eq!(FileType::of_kinds([Q6K]), FileType::Q6K);
        assert_eq!(FileType::of_kinds([F32]), FileType::F32);
        assert_eq!(FileType::of_kinds([]), FileType::F32);
    }
}
