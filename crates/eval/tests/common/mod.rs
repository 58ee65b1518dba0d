//! A tokenizer that the tests share.

use std::convert::Infallible;

use fewbit_eval::Tokenize;

/// A token for each byte.
pub(crate) struct Bytes;

impl Tokenize for Bytes {
    type Error = Infallible;

    fn encode(&self, text: &str) -> Result<Vec<u32>, Infallible> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String, Infallible> {
        let bytes: Vec<u8> = tokens.iter().map(|&token| token as u8).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
