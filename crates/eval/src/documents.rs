//! From text files to documents and windows.

use crate::EvalError;
use crate::score::check_length;

/// Splits a text at every `separator` (such as `<|endoftext|>`), strips white space at both ends of each document, drops
/// empty ones.
///
/// ```
/// let text = "One day.\n<|endoftext|>\nAnother day.\n<|endoftext|>\n";
/// let documents: Vec<&str> = fewbit_eval::split_documents(text, "<|endoftext|>").collect();
/// assert_eq!(documents, ["One day.", "Another day."]);
/// ```
pub fn split_documents<'a>(text: &'a str, separator: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(separator).map(str::trim).filter(|document| !document.is_empty())
}

/// The text of a WikiText file as the GPTQ protocol reads it: rows joined with two newlines.
///
/// A row is a line of the file with its newline, or the empty string for a line of white space, as the Hugging Face data
/// set has them; so the joined text has more blank lines than the file. To be tokenized as a whole.
///
/// ```
/// assert_eq!(fewbit_eval::wikitext(" \n = Title = \n"), "\n\n = Title = \n");
/// ```
pub fn wikitext(raw: &str) -> String {
    let rows: Vec<&str> = raw
        .split_inclusive('\n')
        .map(|line| if line.trim().is_empty() { "" } else { line })
        .collect();
    rows.join("\n\n")
}

/// Non-overlapping windows of `window` tokens each; the remainder is dropped.
///
/// # Errors
/// [`EvalError::TooFewTokens`] if not one is filled, [`EvalError::LengthTooSmall`] for a window of less than 2.
pub fn windows(
    tokens: &[u32],
    window: usize,
) -> Result<std::slice::ChunksExact<'_, u32>, EvalError> {
    check_length(window, 2)?;
    if tokens.len() < window {
        return Err(EvalError::TooFewTokens { n_tokens: tokens.len(), window });
    }
    Ok(tokens.chunks_exact(window))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_stripped_and_empty_ones_dropped() {
        let split = |text| split_documents(text, "<|endoftext|>").collect::<Vec<_>>();
        assert_eq!(split("<|endoftext|>a\nb \n\n<|endoftext|> \n<|endoftext|>c"), ["a\nb", "c"]);
        assert_eq!(split("one\r\n<|endoftext|>\r\ntwo"), ["one", "two"]);
        assert!(split(" \n<|endoftext|>\t").is_empty());
    }

    #[test]
    fn wikitext_rows_keep_their_newline() {
        let raw = " \n = Robert = \n \n Robert is an actor . \n";
        assert_eq!(wikitext(raw), "\n\n = Robert = \n\n\n\n\n Robert is an actor . \n");
        assert_eq!(wikitext("a"), "a");
        assert_eq!(wikitext(""), "");
    }

    #[test]
    fn windows_drop_the_remainder_and_refuse_too_little() {
        let tokens: Vec<u32> = (0..10).collect();
        let cut: Vec<&[u32]> = windows(&tokens, 4).unwrap().collect();
        assert_eq!(cut, [&[0, 1, 2, 3], &[4, 5, 6, 7]]);
        let error = windows(&tokens, 11).unwrap_err().to_string();
        assert!(error.contains("10 tokens") && error.contains("window of 11"), "{error}");
        let error = windows(&tokens, 1).unwrap_err().to_string();
        assert!(error.contains("use at least 2"), "{error}");
    }
}
