//! How a prediction is scored against a reference answer: `metrics.py` of LongBench.

use std::collections::HashMap;

use serde::Serialize;

use super::{rouge::rouge_l, similarity::similarity};
use crate::tasks::{Fault, python};

/// A measure of a prediction, in 0..=1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Metric {
    /// Words in common, in no order: harmonic mean of precision and recall, articles and punctuation left out.
    F1,
    /// ROUGE-L of the summary level, as the Python package `rouge` 1.0 computes it.
    RougeL,
    /// Whether the right class is named, shared among the classes named.
    Classification,
    /// Share of the right paragraph's number among the numbers named.
    Retrieval,
    /// The same for answers in Chinese.
    RetrievalZh,
    /// Share of the right number among the numbers named.
    Count,
    /// Similarity of the first line of code, in whole percent, as `fuzzywuzzy` computes it without python-Levenshtein.
    CodeSimilarity,
}

impl Metric {
    /// The score of a prediction against one reference answer. `classes` are those of [`Classification`](Self::Classification).
    ///
    /// ```
    /// use fewbit_eval::tasks::longbench::Metric;
    ///
    /// assert_eq!(Metric::F1.score("The cat sat.", "a cat", &[]), 2.0 / 3.0);
    /// assert_eq!(Metric::Count.score("I count 7, or 8.", "7", &[]), 0.5);
    /// assert_eq!(Metric::CodeSimilarity.score("# first\nreturn x", "return y", &[]), 0.88);
    /// ```
    pub fn score(self, prediction: &str, answer: &str, classes: &[String]) -> f64 {
        match self {
            Self::F1 => f1(prediction, answer),
            Self::RougeL => rouge_l(prediction, answer),
            Self::Classification => classification(prediction, answer, classes),
            Self::Retrieval | Self::RetrievalZh => {
                self.paragraph(answer).map_or(0.0, |number| share_of_number(prediction, number))
            }
            Self::Count => share_of_number(prediction, answer),
            Self::CodeSimilarity => {
                let lines = prediction.trim_start_matches('\n').split('\n');
                let is_code =
                    |line: &&str| !["`", "#", "//"].iter().any(|mark| line.contains(mark));
                similarity(lines.into_iter().find(is_code).unwrap_or(""), answer)
            }
        }
    }

    /// Whether the metric can read this reference answer.
    pub(super) fn check(self, dataset: &'static str, answer: &str) -> Result<(), Fault> {
        let expected = match self {
            Self::Retrieval if self.paragraph(answer).is_none() => "Paragraph and a number",
            Self::RetrievalZh if self.paragraph(answer).is_none() => "段落 and a number",
            _ => return Ok(()),
        };
        Err(Fault::Answer { answer: answer.chars().take(60).collect(), dataset, expected })
    }

    /// The number of the right paragraph.
    fn paragraph(self, answer: &str) -> Option<&str> {
        let word = if self == Self::RetrievalZh { "段落" } else { "Paragraph " };
        answer.match_indices(word).find_map(|(at, _)| {
            let rest = &answer[at + word.len()..];
            let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            (end > 0).then(|| &rest[..end])
        })
    }
}

/// Share of `number` among the maximal runs of digits; 0 if there are none.
fn share_of_number(prediction: &str, number: &str) -> f64 {
    let numbers = prediction.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty());
    let (mut right, mut all) = (0u32, 0u32);
    for found in numbers {
        all += 1;
        right += u32::from(found == number);
    }
    if all == 0 { 0.0 } else { f64::from(right) / f64::from(all) }
}

fn classification(prediction: &str, answer: &str, classes: &[String]) -> f64 {
    let mut named: Vec<&str> =
        classes.iter().map(|class| &**class).filter(|class| prediction.contains(class)).collect();
    // Names within the right name are not meant. The original removes from the list that it walks through, and so passes over
    // the one after each that it removes.
    let mut at = 0;
    while at < named.len() {
        let name = named[at];
        if answer.contains(name) && name != answer {
            let first = named.iter().position(|other| *other == name).unwrap_or(at);
            named.remove(first);
        }
        at += 1;
    }
    if named.contains(&answer) { 1.0 / named.len() as f64 } else { 0.0 }
}

fn f1(prediction: &str, answer: &str) -> f64 {
    let (prediction, answer) = (normalized(prediction), normalized(answer));
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &answer {
        *left.entry(word).or_default() += 1;
    }
    let mut common = 0;
    for word in &prediction {
        if let Some(count) = left.get_mut(&**word).filter(|count| **count > 0) {
            *count -= 1;
            common += 1;
        }
    }
    if common == 0 {
        return 0.0;
    }
    let precision = f64::from(common) / prediction.len() as f64;
    let recall = f64::from(common) / answer.len() as f64;
    2.0 * precision * recall / (precision + recall)
}

/// Words in lower case, without ASCII punctuation and articles.
fn normalized(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let plain: String = lower.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    // Articles stand between characters that belong to no word.
    let mut words = String::with_capacity(plain.len());
    let mut rest = &*plain;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        let word = &rest[..end];
        words.push_str(if matches!(word, "a" | "an" | "the") { " " } else { word });
        let gap = rest[end..].find(char::is_alphanumeric).map_or(rest.len(), |gap| end + gap);
        words.push_str(&rest[end..gap]);
        rest = &rest[gap..];
    }
    words.split(python::is_space).filter(|word| !word.is_empty()).map(String::from).collect()
}
