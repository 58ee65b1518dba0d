//! What can be wrong with a line of a task file.

use std::str::Utf8Error;

use thiserror::Error;

/// What is wrong with a line of a task file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Fault {
    /// Bytes that are no UTF-8.
    #[error("byte {} is not UTF-8: convert the file first", .0.valid_up_to() + 1)]
    NotUtf8(Utf8Error),
    /// A line that is no JSON object.
    #[error("not a JSON object")]
    Json(#[from] serde_json::Error),
    /// A record that is no CSV.
    #[error("not CSV")]
    Csv(#[from] csv::Error),
    /// A field that is not there.
    #[error("there is no field `{field}`")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field of another type.
    #[error("field `{field}` is {found}, where {expected} is expected")]
    Type {
        /// Its name.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
        /// What it is, shortened.
        found: String,
    },
    /// A text that has to say something.
    #[error("field `{field}` is empty")]
    Empty {
        /// Its name.
        field: &'static str,
    },
    /// A choice that is empty, perhaps only after cleaning: it has no likelihood.
    #[error("choice {choice} of `{field}` is empty: there is nothing to score")]
    EmptyChoice {
        /// The list.
        field: &'static str,
        /// Its index, from 0.
        choice: usize,
    },
    /// Another number of choices.
    #[error("`{field}` has {found} choices, where {expected} are expected")]
    Choices {
        /// The list.
        field: &'static str,
        /// Choices found.
        found: usize,
        /// Choices that the task has.
        expected: usize,
    },
    /// A right answer that is none of the choices.
    #[error("`{field}` is {found}, and only {expected} name a choice{}", hint(found))]
    Label {
        /// Its name.
        field: &'static str,
        /// What is there.
        found: String,
        /// What may be there.
        expected: &'static str,
    },
    /// A CSV record with another number of columns.
    #[error(
        "{found} columns, where {expected} are expected: a text with a comma, a quote or a line break has to stand in double quotes, its own quotes doubled"
    )]
    Columns {
        /// Columns found.
        found: usize,
        /// Columns of the layout.
        expected: usize,
    },
    /// A quote that no other closes.
    #[error("the double quote that opens a text here is never closed")]
    OpenQuote,
    /// A subject without enough solved examples.
    #[error(
        "{found} solved examples of {subject}, where {expected} are asked for: use fewer shots"
    )]
    Examples {
        /// The subject.
        subject: String,
        /// Examples found.
        found: usize,
        /// Shots asked for.
        expected: usize,
    },
    /// A reference answer that the metric cannot read.
    #[error(
        "the answer `{answer}` is not of the form that the metric of {dataset} reads: {expected}"
    )]
    Answer {
        /// The answer.
        answer: String,
        /// The data set.
        dataset: &'static str,
        /// What the metric reads.
        expected: &'static str,
    },
}

fn hint(found: &str) -> &'static str {
    if found == "\"\"" { " (test files whose labels are hidden cannot be scored)" } else { "" }
}
