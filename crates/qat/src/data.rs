//! Windows of text.

use crate::{QatError, random};

/// Documents joined into a stream, and the places in it where windows begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    stream: Vec<u32>,
    starts: Vec<usize>,
    window: usize,
}

impl Windows {
    /// Windows of `window` tokens: from the beginning of every document, over into the next where it is short, and where it is long again every `window`
    /// tokens.
    ///
    /// # Errors
    /// [`QatError::TextTooShort`] if there is none, [`QatError::Token`] for a token the model does not know, [`QatError::Setting`] for windows of less
    /// than two tokens.
    pub fn new(documents: &[Vec<u32>], window: usize, vocab_size: usize) -> Result<Self, QatError> {
        if window < 2 {
            let (setting, expected) = ("window", "at least 2 tokens");
            return Err(QatError::Setting { setting, value: window as f64, expected });
        }
        let stream = documents.concat();
        if let Some(position) = stream.iter().position(|&token| token as usize >= vocab_size) {
            return Err(QatError::Token { token: stream[position], position, vocab_size });
        }
        let mut starts = Vec::new();
        let mut begin = 0;
        for document in documents {
            let end = begin + document.len();
            // One token more than a window: every one has a successor to predict.
            let fits = |start: &usize| start + window < stream.len();
            starts.extend((begin..end).step_by(window).filter(fits));
            begin = end;
        }
        if starts.is_empty() {
            return Err(QatError::TextTooShort { tokens: stream.len(), window });
        }
        Ok(Self { stream, starts, window })
    }

    /// Tokens of a window.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Number of windows.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there are none; never so.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Tokens of some windows, and the token after each.
    pub fn pairs(&self, numbers: impl IntoIterator<Item = usize>) -> (Vec<u32>, Vec<u32>) {
        let (mut tokens, mut targets) = (Vec::new(), Vec::new());
        for number in numbers {
            let start = self.starts[number];
            tokens.extend_from_slice(&self.stream[start..start + self.window]);
            targets.extend_from_slice(&self.stream[start + 1..=start + self.window]);
        }
        (tokens, targets)
    }

    /// Numbers of the windows of batch `number`, drawn anew by each seed and number.
    pub(crate) fn batch(&self, seed: u64, number: u64, size: usize) -> Vec<usize> {
        let draw = |i| random::below(seed, number * size as u64 + i, self.len());
        (0..size as u64).map(draw).collect()
    }

    /// At most `n` numbers of windows, evenly spread.
    pub(crate) fn spread(&self, n: usize) -> Vec<usize> {
        let n = n.min(self.len());
        (0..n).map(|i| i * self.len() / n).collect()
    }

    /// What identifies the text.
    pub(crate) fn hash(&self) -> String {
        let hash = xxhash_rust::xxh3::xxh3_128(bytemuck::cast_slice(&self.stream));
        format!("{} windows of {}, {hash:032x}", self.len(), self.window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_begin_with_documents() {
        let documents = vec![vec![1, 2, 3], vec![4, 5], vec![6, 7, 8, 9, 10, 11, 12]];
        let windows = Windows::new(&documents, 4, 13).unwrap();
        assert_eq!(windows.starts, [0, 3, 5]);
        assert_eq!(windows.pairs([1]), (vec![4, 5, 6, 7], vec![5, 6, 7, 8]));
        assert!(windows.batch(7, 3, 50).iter().all(|&n| n < 3));
        assert_eq!(windows.spread(2), [0, 1]);
    }

    #[test]
    fn refuses_what_cannot_be_trained_on() {
        let refused = Windows::new(&[vec![1, 2, 3, 4]], 4, 9).unwrap_err();
        assert!(matches!(refused, QatError::TextTooShort { tokens: 4, window: 4 }));
        let refused = Windows::new(&[vec![1, 2], vec![3, 9]], 2, 9).unwrap_err();
        assert!(matches!(refused, QatError::Token { token: 9, position: 3, vocab_size: 9 }));
        assert!(Windows::new(&[vec![1, 2, 3]], 1, 9).is_err());
    }
}
