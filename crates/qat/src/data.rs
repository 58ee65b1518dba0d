//! Windows of text.

use xxhash_rust::xxh3::Xxh3;

use crate::{QatError, random};

/// Documents joined into a stream, and the places in it where windows begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    stream: Vec<u32>,
    starts: Vec<usize>,
    window: usize,
    emphasis: Option<Emphasis>,
}

/// Tokens that count more than others in the loss while learning rates are high.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Emphasis {
    /// For each token of the stream.
    marked: Vec<bool>,
    /// How many times as much as another token.
    times: u32,
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
        Ok(Self { stream, starts, window, emphasis: None })
    }

    /// Lets tokens that `mark` names count `times` as much as others in the loss of [`Objective::NextToken`](crate::Objective::NextToken). The extra weight
    /// falls with the learning rates, so that the last steps see the loss as it is: what is rare and hard to find is learned early, and probabilities come out
    /// true. `mark` gets the tokens of one document after another and gives a truth for each; losses on held-out text stay unweighted.
    ///
    /// # Panics
    /// If `mark` gives another number of truths, or the documents are not those of this text.
    #[must_use]
    pub fn emphasize(
        mut self,
        documents: &[Vec<u32>],
        times: u32,
        mark: impl Fn(&[u32]) -> Vec<bool>,
    ) -> Self {
        let mut marked = Vec::with_capacity(self.stream.len());
        for document in documents {
            let marks = mark(document);
            assert_eq!(marks.len(), document.len(), "a truth for each token");
            marked.extend(marks);
        }
        assert_eq!(marked.len(), self.stream.len(), "the documents of this text");
        self.emphasis = Some(Emphasis { marked, times });
        self
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

    /// What the tokens to be predicted in some windows count in the loss, at a share of the learning rates; `None` if all the same.
    pub(crate) fn weights(
        &self,
        numbers: impl IntoIterator<Item = usize>,
        share: f32,
    ) -> Option<Vec<f32>> {
        let Emphasis { marked, times } = self.emphasis.as_ref()?;
        let most = 1.0 + (*times as f32 - 1.0) * share;
        let mut weights = Vec::new();
        for number in numbers {
            let start = self.starts[number];
            let marked = &marked[start + 1..=start + self.window];
            weights.extend(marked.iter().map(|&marked| if marked { most } else { 1.0 }));
        }
        Some(weights)
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
        let mut hash = Xxh3::new();
        hash.update(bytemuck::cast_slice(&self.stream));
        if let Some(Emphasis { marked, times }) = &self.emphasis {
            hash.update(&times.to_le_bytes());
            let marked = marked.iter().enumerate().filter(|(_, marked)| **marked);
            marked.for_each(|(place, _)| hash.update(&(place as u64).to_le_bytes()));
        }
        format!("{} windows of {}, {:032x}", self.len(), self.window, hash.digest128())
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
    fn emphasis_falls_with_the_rates() {
        let documents = vec![vec![1, 2, 1], vec![2, 2]];
        let plain = Windows::new(&documents, 3, 3).unwrap();
        let twos = |document: &[u32]| document.iter().map(|&token| token == 2).collect();
        let windows = plain.clone().emphasize(&documents, 5, twos);
        assert_eq!(plain.weights([0], 1.0), None);
        assert_eq!(windows.weights([0], 1.0), Some(vec![5.0, 1.0, 5.0]));
        assert_eq!(windows.weights([0], 0.5), Some(vec![3.0, 1.0, 3.0]));
        assert_eq!(windows.weights([0], 0.0), Some(vec![1.0; 3]));
        assert_ne!(plain.hash(), windows.hash());
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
