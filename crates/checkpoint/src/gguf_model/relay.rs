//! How the same weights lie in the two kinds of files.

use std::borrow::Cow;

/// What becomes of a tensor on the way from a Hugging Face model to GGUF, and back again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relay {
    /// Nothing.
    AsIs,
    /// The rows of each head are reordered: Hugging Face rotates dimension `i` with `i + head_dim / 2`, llama.cpp's Llama rotates
    /// neighbours. Within a head of `d` rows, row `2j + s` of the GGUF is row `s · d/2 + j` of the model. Whole rows move, so that this
    /// loses nothing on block-quantized rows either.
    Interleave {
        /// Heads that the rows belong to.
        heads: usize,
    },
    /// GPT-2 stores `(in_features, out_features)`, GGUF the transpose.
    Transpose,
    /// Gemma stores norm weights less one.
    AddOne,
}

/// Which way a tensor goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    /// From a Hugging Face model to GGUF.
    Gguf,
    /// From GGUF to a Hugging Face model.
    HuggingFace,
}

impl Relay {
    /// Whether it moves whole rows at most, and so applies to rows in any encoding.
    pub const fn keeps_rows(self) -> bool {
        matches!(self, Self::AsIs | Self::Interleave { .. })
    }

    /// Rows that can only be re-laid together, of the `n_rows` of a tensor of numbers or of encoded rows.
    pub(super) fn row_unit(self, n_rows: usize) -> usize {
        match self {
            Self::AsIs | Self::AddOne => 1,
            Self::Interleave { heads } => n_rows / heads.max(1),
            Self::Transpose => n_rows,
        }
    }

    /// The relay of `part` rows, whole [units](Self::row_unit), of `n_rows`.
    pub(super) fn of_part(self, part: usize, n_rows: usize) -> Self {
        match self {
            Self::Interleave { .. } => {
                Self::Interleave { heads: part / self.row_unit(n_rows).max(1) }
            }
            other => other,
        }
    }

    /// Re-lays encoded rows, `n_rows` of equal length.
    ///
    /// # Panics
    /// If this relay does more than move rows, or the heads or bytes do not divide by the rows.
    pub fn rows<'a>(self, towards: Towards, rows: Cow<'a, [u8]>, n_rows: usize) -> Cow<'a, [u8]> {
        match self {
            Self::AsIs => rows,
            Self::Interleave { heads } => interleave(towards, &rows, n_rows, heads).into(),
            Self::Transpose | Self::AddOne => panic!("{self:?} is not defined on encoded rows"),
        }
    }

    /// Re-lays plain numbers of `element` bytes each; `shape` is that of the model, slowest dimension first. [`AddOne`](Self::AddOne) is
    /// left to [`f32`](Self::f32).
    ///
    /// # Panics
    /// If the shape does not fit the bytes, or the heads do not divide the rows.
    pub fn numbers<'a>(
        self,
        towards: Towards,
        bytes: Cow<'a, [u8]>,
        shape: &[usize],
        element: usize,
    ) -> Cow<'a, [u8]> {
        match (self, shape) {
            (Self::AsIs | Self::AddOne, _) => bytes,
            (Self::Interleave { .. }, _) => self.rows(towards, bytes, shape[0]),
            (Self::Transpose, &[rows, columns]) => {
                let (rows, columns) = match towards {
                    Towards::Gguf => (rows, columns),
                    Towards::HuggingFace => (columns, rows),
                };
                transpose(&bytes, rows, columns, element).into()
            }
            (Self::Transpose, _) => bytes,
        }
    }

    /// The part of a relay that changes values.
    pub fn f32(self, towards: Towards, values: &mut [f32]) {
        if self == Self::AddOne {
            let one = if towards == Towards::Gguf { 1.0 } else { -1.0 };
            values.iter_mut().for_each(|value| *value += one);
        }
    }
}

fn interleave(towards: Towards, rows: &[u8], n_rows: usize, heads: usize) -> Vec<u8> {
    assert!(
        heads > 0 && n_rows.is_multiple_of(2 * heads),
        "{n_rows} rows are no {heads} even heads"
    );
    assert_eq!(rows.len() % n_rows, 0, "bytes divide by the rows");
    let (row, half) = (rows.len() / n_rows, n_rows / heads / 2);
    let mut out = Vec::with_capacity(rows.len());
    for head in 0..heads {
        for to in 0..2 * half {
            let from = match towards {
                Towards::Gguf => (to % 2) * half + to / 2,
                Towards::HuggingFace => 2 * (to % half) + to / half,
            };
            let at = (head * 2 * half + from) * row;
            out.extend_from_slice(&rows[at..at + row]);
        }
    }
    out
}

/// `(rows, columns)` to `(columns, rows)`, in tiles that fit the first cache.
fn transpose(bytes: &[u8], rows: usize, columns: usize, element: usize) -> Vec<u8> {
    const TILE: usize = 32;
    assert_eq!(bytes.len(), rows * columns * element, "the shape fits the bytes");
    let mut out = vec![0; bytes.len()];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for row in top..rows.min(top + TILE) {
                for column in left..columns.min(left + TILE) {
                    let (from, to) = (row * columns + column, column * rows + row);
                    out[to * element..][..element]
                        .copy_from_slice(&bytes[from * element..][..element]);
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_head_of_eight_rows() {
        let rows: Vec<u8> = (0..8).collect();
        let relay = Relay::Interleave { heads: 1 };
        let gguf = relay.rows(Towards::Gguf, (&rows).into(), 8);
        assert_eq!(*gguf, [0, 4, 1, 5, 2, 6, 3, 7]);
        assert_eq!(*relay.rows(Towards::HuggingFace, gguf, 8), *rows);
    }

    #[test]
    fn rows_of_several_bytes_stay_whole_and_in_their_head() {
        let rows: Vec<u8> = (0..2 * 6 * 3).collect();
        let relay = Relay::Interleave { heads: 2 };
        let gguf = relay.rows(Towards::Gguf, (&rows).into(), 12);
        assert_eq!(gguf[..9], [0, 1, 2, 9, 10, 11, 3, 4, 5]);
        assert_eq!(gguf[18..24], [18, 19, 20, 27, 28, 29]);
        assert_eq!(*relay.rows(Towards::HuggingFace, gguf, 12), *rows);
    }

    #[test]
    fn transposing_twice_gives_the_matrix_back() {
        let (rows, columns) = (37, 70);
        let bytes: Vec<u8> = (0..rows * columns * 2).map(|i| (i * 7 % 251) as u8).collect();
        let gguf = Relay::Transpose.numbers(Towards::Gguf, (&bytes).into(), &[rows, columns], 2);
        assert_eq!(gguf[2 * rows..][..2], bytes[2..4]);
        let back = Relay::Transpose.numbers(Towards::HuggingFace, gguf, &[rows, columns], 2);
        assert_eq!(*back, *bytes);
    }

    #[test]
    fn norms_gain_one() {
        let mut values = [0.0, -0.5];
        Relay::AddOne.f32(Towards::Gguf, &mut values);
        assert_eq!(values, [1.0, 0.5]);
        Relay::AddOne.f32(Towards::HuggingFace, &mut values);
        assert_eq!(values, [0.0, -0.5]);
    }
}
