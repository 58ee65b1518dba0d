//! What a conversion cannot carry over exactly.

use std::fmt;

/// Something that the converted model does otherwise than the original. None of them changes a weight.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Caveat {
    /// Layers that see a window of the text only see all of it in llama.cpp's version of the architecture.
    SlidingWindow {
        /// Tokens of the window.
        width: u32,
    },
    /// A normalization of the text before tokens are made, which the other kind of file has no place for.
    Normalizer {
        /// Its name in `tokenizer.json`.
        kind: String,
    },
    /// A SentencePiece vocabulary without tokens for some bytes: llama.cpp stops at characters that are not in the vocabulary.
    MissingBytes {
        /// Bytes without a token.
        missing: usize,
    },
    /// Scores join pieces into a token wherever it fits, merges only from given halves: some texts may get other tokens.
    Merges {
        /// Tokens that could be joined from halves for which there is no merge, or in another order.
        tokens: usize,
    },
    /// A Unigram vocabulary, which llama.cpp's model joins greedily instead of taking the likeliest segmentation.
    Unigram,
    /// Tokens with equal scores, which llama.cpp joins from left to right and merges can only put in an order: that of their ids is taken.
    TiedScores {
        /// Tokens that share a score with another.
        tokens: usize,
    },
    /// Tokens that end a text besides those for which GGUF has a role or llama.cpp knows the text.
    EndTokens {
        /// Tokens of this kind.
        tokens: usize,
    },
    /// A token that is found only next to spaces, or takes them with it; the other kind of file knows no such tokens.
    Stripping {
        /// Tokens of this kind.
        tokens: usize,
    },
}

impl fmt::Display for Caveat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SlidingWindow { width } => write!(
                f,
                "attention within {width} tokens becomes attention to the whole text in llama.cpp"
            ),
            Self::Normalizer { kind } => {
                write!(f, "the text is not normalized by {kind} before it is tokenized")
            }
            Self::MissingBytes { missing } => write!(
                f,
                "{missing} bytes have no token: llama.cpp stops at characters outside of the vocabulary"
            ),
            Self::Merges { tokens } => write!(
                f,
                "{tokens} tokens can be joined otherwise by score than by merges: some texts may get other tokens"
            ),
            Self::Unigram => f.write_str(
                "the vocabulary is of the Unigram kind, which llama.cpp joins greedily: some texts may get other tokens",
            ),
            Self::TiedScores { tokens } => write!(
                f,
                "{tokens} tokens share a score with another: they are merged in the order of their ids"
            ),
            Self::EndTokens { tokens } => {
                write!(f, "{tokens} tokens that end a text are not known as such to llama.cpp")
            }
            Self::Stripping { tokens } => {
                write!(
                    f,
                    "added tokens that take the spaces around them with them ({tokens}) no longer do"
                )
            }
        }
    }
}
