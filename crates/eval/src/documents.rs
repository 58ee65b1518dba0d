//! From text files to documents and windows.

use crate::EvalError;

/// Splits a text at every `separator` (such as `<|endoftext|>`), strips white space at both ends, drops empty documents.
pub fn split_documents<'a>(text: &'a str, separator: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(separator).map(str::trim).filter(|document| !document.is_empty())
}

/// The text of a WikiText file as the GPTQ protocol reads it.
pub fn wikitext(_raw: &str) -> String {
    unimplemented!()
}

/// Non-overlapping windows of `window` tokens; the remainder is dropped.
pub fn windows(
    _tokens: &[u32],
    _window: usize,
) -> Result<std::slice::ChunksExact<'_, u32>, EvalError> {
    unimplemented!()
}
