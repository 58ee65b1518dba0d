//! ROUGE-L as the Python package `rouge` 1.0 computes it: on the summary level, with sets of words.

use std::collections::HashSet;

use crate::tasks::python;

/// F of ROUGE-L; 0 if a text has no sentence.
///
/// The package's recursion ends at about a thousand words of two sentences together, and LongBench then counts 0; here there is no
/// such limit.
pub(super) fn rouge_l(hypothesis: &str, reference: &str) -> f64 {
    let (hypothesis, reference) = (sentences(hypothesis), sentences(reference));
    if hypothesis.is_empty() || reference.is_empty() {
        return 0.0;
    }
    let n_words =
        |sentences: &[Vec<&str>]| sentences.iter().flatten().collect::<HashSet<_>>().len() as f64;
    let mut union = HashSet::new();
    for expected in &reference {
        for found in &hypothesis {
            union.extend(common_subsequence(expected, found));
        }
    }
    let recall = union.len() as f64 / n_words(&reference);
    let precision = union.len() as f64 / n_words(&hypothesis);
    2.0 * (precision * recall / (precision + recall + 1e-8))
}

/// The words of each piece between points. A piece of white space is a sentence of one empty word.
fn sentences(text: &str) -> Vec<Vec<&str>> {
    text.split('.').filter(|piece| !piece.is_empty()).map(words_of).collect()
}

fn words_of(piece: &str) -> Vec<&str> {
    let words: Vec<&str> = piece.split(python::is_space).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { vec![""] } else { words }
}

/// A longest common subsequence. Of several it is the one that leaves words of `x` only where that is strictly better.
fn common_subsequence<'a>(x: &[&'a str], y: &[&str]) -> Vec<&'a str> {
    let width = y.len() + 1;
    // Length for each pair of beginnings.
    let mut table = vec![0u32; (x.len() + 1) * width];
    for i in 1..=x.len() {
        for j in 1..=y.len() {
            table[i * width + j] = if x[i - 1] == y[j - 1] {
                table[(i - 1) * width + j - 1] + 1
            } else {
                table[(i - 1) * width + j].max(table[i * width + j - 1])
            };
        }
    }
    let (mut i, mut j) = (x.len(), y.len());
    let mut words = vec![];
    while i > 0 && j > 0 {
        if x[i - 1] == y[j - 1] {
            words.push(x[i - 1]);
            (i, j) = (i - 1, j - 1);
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    words
}
