//! Documents that are read together.

use ndarray::Array2;

use crate::score::{check_tokens, cut, row_major};
use crate::{EvalError, Logits};

/// Logits that a batch of texts has at most, besides those of its last text: 2²⁵, which are 128 MiB.
///
/// Of a large vocabulary a batch holds few texts for it: of 150,000 tokens, logits after 220.
pub const BATCH_LOGITS: usize = 1 << 25;

/// What fills a batch.
pub(crate) struct Filling {
    tokens: usize,
    logits: usize,
    vocab_size: usize,
}

impl Filling {
    /// For models that read so many tokens at once.
    pub(crate) fn new(batch_tokens: usize, vocab_size: usize) -> Self {
        Self { tokens: batch_tokens.max(1), logits: BATCH_LOGITS, vocab_size }
    }

    /// Counts a text by the tokens that are read and the rows of logits. Whether there is place for another.
    pub(crate) fn add(&mut self, tokens: usize, rows: usize) -> bool {
        self.tokens = self.tokens.saturating_sub(tokens);
        self.logits = self.logits.saturating_sub(rows.saturating_mul(self.vocab_size));
        self.tokens > 0 && self.logits > 0
    }
}

/// Calls `each` with every document's number and tokens, and what `logits` has for it, in order. Documents are cut to `max_len` and checked; those of a
/// batch are read together.
///
/// The first error in order is the one that counts: what comes before it in its batch is finished first, and where a whole batch fails, its documents are
/// read one by one.
pub(crate) fn for_each_document<T>(
    documents: impl IntoIterator<Item: AsRef<[u32]>>,
    max_len: usize,
    batch_tokens: usize,
    vocab_size: usize,
    mut logits: impl FnMut(usize, &[&[u32]]) -> Result<Vec<T>, EvalError>,
    mut each: impl FnMut(usize, &[u32], T) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let mut documents = documents.into_iter();
    let mut first = 0;
    loop {
        let mut batch = vec![];
        let mut filling = Filling::new(batch_tokens, vocab_size);
        let mut ends_with = None;
        let mut more = true;
        while more {
            let Some(tokens) = documents.next() else { break };
            let document = first + batch.len();
            let n_tokens = match check(document, tokens.as_ref(), max_len, vocab_size) {
                Ok(n_tokens) => n_tokens,
                Err(error) => {
                    ends_with = Some(error);
                    break;
                }
            };
            more = filling.add(n_tokens, n_tokens);
            batch.push((tokens, n_tokens));
        }
        let done = more && ends_with.is_none();
        let texts: Vec<&[u32]> = batch.iter().map(|(tokens, n)| &tokens.as_ref()[..*n]).collect();
        let all = if texts.is_empty() { Ok(vec![]) } else { logits(first, &texts) };
        match all {
            Err(_) if texts.len() > 1 => {
                for (i, text) in texts.iter().enumerate() {
                    for of_one in logits(first + i, &[text])? {
                        each(first + i, text, of_one)?;
                    }
                }
            }
            all => {
                for (i, (text, of_one)) in texts.iter().zip(all?).enumerate() {
                    each(first + i, text, of_one)?;
                }
            }
        }
        if let Some(error) = ends_with {
            return Err(error);
        }
        if done {
            return Ok(());
        }
        first += batch.len();
    }
}

fn check(
    document: usize,
    tokens: &[u32],
    max_len: usize,
    vocab_size: usize,
) -> Result<usize, EvalError> {
    let tokens = cut(document, tokens, max_len)?;
    check_tokens(document, tokens, vocab_size)?;
    Ok(tokens.len())
}

/// Logits of documents from `first` on, (tokens.len(), vocab_size) of each, in row-major order.
pub(crate) fn logits_of<L: Logits>(
    model: &mut L,
    first: usize,
    texts: &[&[u32]],
) -> Result<Vec<Array2<f32>>, EvalError> {
    let vocab_size = model.vocab_size();
    let failed = |source| EvalError::Model { document: first, source };
    let all = match texts {
        [text] => model.logits(text).map(|logits| vec![logits]),
        texts => model.batch_logits(texts),
    };
    let all = all.map_err(|error| failed(error.into()))?;
    if all.len() != texts.len() {
        return Err(failed(wrong_number(all.len(), texts.len())));
    }
    let checked = |(i, (logits, text)): (usize, (_, &&[u32]))| {
        row_major(first + i, logits, text.len(), vocab_size)
    };
    all.into_iter().zip(texts).enumerate().map(checked).collect()
}

/// The error of a model that answers too few or too many texts.
pub(crate) fn wrong_number(got: usize, expected: usize) -> crate::BoxError {
    format!("the model answered {got} texts of a batch of {expected}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_what_fills_it() {
        let lens = |batch_tokens, vocab_size, texts: &[usize]| {
            let documents = texts.iter().map(|&n| vec![0u32; n]);
            let mut batches = vec![];
            let logits = |first, texts: &[&[u32]]| {
                batches.push((first, texts.len()));
                Ok(texts.iter().map(|text| text.len()).collect())
            };
            let mut seen = vec![];
            let each = |document, text: &[u32], n: usize| {
                assert_eq!(text.len(), n);
                seen.push(document);
                Ok(())
            };
            for_each_document(documents, 9, batch_tokens, vocab_size, logits, each).unwrap();
            assert!(seen.into_iter().eq(0..texts.len()));
            batches
        };
        assert_eq!(lens(10, 5, &[5, 5, 3, 3, 3, 3]), [(0, 2), (2, 4)]);
        assert_eq!(lens(1, 5, &[5, 5, 3]), [(0, 1), (1, 1), (2, 1)]);
        assert_eq!(lens(0, 5, &[5, 5]), [(0, 1), (1, 1)]);
        // Documents count as they are cut.
        assert_eq!(lens(10, 5, &[50, 1 << 10, 3]), [(0, 2), (2, 1)]);
        // Logits of four rows fill it.
        assert_eq!(lens(100, BATCH_LOGITS / 4, &[2, 2, 2, 5, 3]), [(0, 2), (2, 2), (4, 1)]);
        assert!(lens(100, usize::MAX, &[2, 2]).len() == 2);
        assert!(lens(10, 5, &[]).is_empty());
    }
}
