//! Checks of documents and their logits; and rows of logits to one result each.

use ndarray::Array2;

use crate::EvalError;

/// Cuts a document to `max_len` tokens and checks that something is predicted in it.
pub(crate) fn cut(document: usize, tokens: &[u32], max_len: usize) -> Result<&[u32], EvalError> {
    if tokens.len() < 2 {
        return Err(EvalError::DocumentTooShort { document, n_tokens: tokens.len() });
    }
    Ok(&tokens[..tokens.len().min(max_len)])
}

/// Nothing is predicted in a document cut to fewer than two tokens.
pub(crate) fn check_length(length: usize, minimum: usize) -> Result<(), EvalError> {
    if length < minimum {
        return Err(EvalError::LengthTooSmall { length, minimum });
    }
    Ok(())
}

/// Every token has to be in the vocabulary.
pub(crate) fn check_tokens(
    document: usize,
    tokens: &[u32],
    vocab_size: usize,
) -> Result<(), EvalError> {
    match tokens.iter().position(|&token| token as usize >= vocab_size) {
        None => Ok(()),
        Some(position) => {
            let token = tokens[position];
            Err(EvalError::UnknownToken { document, position, token, vocab_size })
        }
    }
}

/// Logits of the shape they have to have, in row-major order.
pub(crate) fn row_major(
    document: usize,
    logits: Array2<f32>,
    n_tokens: usize,
    vocab_size: usize,
) -> Result<Array2<f32>, EvalError> {
    let (rows, columns) = logits.dim();
    if (rows, columns) != (n_tokens, vocab_size) {
        return Err(EvalError::LogitsShape { document, rows, columns, n_tokens, vocab_size });
    }
    Ok(if logits.is_standard_layout() { logits } else { logits.as_standard_layout().into_owned() })
}

/// Row `position` of logits in row-major order.
pub(crate) fn row(logits: &Array2<f32>, position: usize) -> &[f32] {
    let width = logits.ncols();
    let all = logits.as_slice().expect("row_major made them so");
    &all[position * width..(position + 1) * width]
}

/// The error of a logit that is not finite.
pub(crate) fn not_finite(
    logits: &Array2<f32>,
    document: usize,
    position: usize,
    token: usize,
) -> EvalError {
    EvalError::NonFiniteLogit { document, position, token, value: logits[[position, token]] }
}

/// `function` of each position, in order; the first error in order. Parallel over positions with feature `rayon`.
pub(crate) fn map_positions<R: Send>(
    positions: std::ops::Range<usize>,
    function: impl Fn(usize) -> Result<R, EvalError> + Send + Sync,
) -> Result<Vec<R>, EvalError> {
    #[cfg(feature = "rayon")]
    {
        use rayon::prelude::*;
        // Collected before the errors are looked at: which error is reported must not depend on the threads.
        let results: Vec<Result<R, EvalError>> = positions.into_par_iter().map(function).collect();
        results.into_iter().collect()
    }
    #[cfg(not(feature = "rayon"))]
    positions.map(function).collect()
}
