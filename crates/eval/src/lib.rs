//! Perplexity, KL divergence, agreement, throughput and memory of anything that gives logits.
//!
//! The evaluator asks nothing of a model but a function from tokens to logits ([`Logits`]), so that a float model, its
//! quantized copy in memory and the file read back are measured by the same code.
//!
//! ```
//! use fewbit_eval::{Table, compare, from_fn, ndarray::Array2, units};
//! use std::convert::Infallible;
//!
//! // Two models over 16 tokens: the second is a coarser copy of the first.
//! let logit = |token: u32, i: usize| ((token * 31 + i as u32 * 17) % 23) as f32 / 4.0;
//! let mut original = from_fn(16, |tokens: &[u32]| {
//!     Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 16), |(t, i)| logit(tokens[t], i)))
//! });
//! let mut rounded = from_fn(16, |tokens: &[u32]| {
//!     Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 16), |(t, i)| logit(tokens[t], i).round()))
//! });
//! let documents = [vec![0, 3, 9, 12, 4], vec![0, 7, 1, 15]];
//! let result = compare(&mut original, &mut rounded, &documents, 512)?;
//! assert!(result.kl.value > 0.0 && result.top1_agreement.value > 0.5);
//!
//! let mut table = Table::new().left("model").right("perplexity").right("KLD").unit("nats");
//! table.row(["original".to_string(), units::significant(result.baseline.perplexity, 4), "–".to_string()]);
//! table.row(["rounded".to_string(), units::significant(result.model.perplexity, 4), units::significant(result.kl.value, 3)]);
//! println!("{table}");
//! # Ok::<(), fewbit_eval::EvalError>(())
//! ```
//!
//! # Map
//!
//! | question | answer |
//! | --- | --- |
//! | How good is a model? | [`perplexity_documents`], [`perplexity_windows`] (GPTQ), [`perplexity_second_half`] (llama.cpp) |
//! | What did quantization cost? | [`compare`] |
//! | What does it know? | [`tasks`]: HellaSwag, MMLU |
//! | How fast is it? | [`throughput`] of a [`Decoder`] |
//! | How much memory? | [`resident_memory`], [`reset_peak_memory`] |
//! | From text to documents | [`split_documents`], [`wikitext`], [`windows`] |
//! | Is a difference real? | [`statistics`], and the standard errors in every result |
//! | How to show it | [`Table`], [`units`], `figure` |
//!
//! Every result is computed in f64 with sums in a fixed order: it does not depend on the number of threads. A logit that
//! is not finite, a token outside the vocabulary or a document in which nothing is predicted is an [`EvalError`] that
//! names the place; nothing is skipped.
//!
//! # Features
//!
//! * `figures` (default): charts as SVG text, without fonts or C libraries.
//! * `rayon`: softmax and divergence over the rows of the logits in rayon's current pool, with the same results.

mod batch;
mod divergence;
mod documents;
mod error;
#[cfg(feature = "figures")]
pub mod figure;
mod logits;
mod memory;
mod perplexity;
mod score;
mod softmax;
pub mod statistics;
mod table;
pub mod tasks;
mod throughput;
mod tokenize;
pub mod units;

pub use batch::BATCH_LOGITS;
pub use divergence::{Divergence, compare, compare_second_half};
pub use documents::{split_documents, wikitext, windows};
pub use error::{BoxError, EvalError};
pub use logits::{Continuations, FromFn, Logits, from_fn};
pub use memory::{ResidentMemory, reset_peak_memory, resident_memory};
pub use ndarray;
pub use perplexity::{
    DocumentScore, Perplexity, perplexity_documents, perplexity_second_half, perplexity_windows,
};
pub use statistics::{Estimate, Interval};
pub use table::Table;
pub use throughput::{Decoder, Speed, Throughput, ThroughputSpec, throughput};
pub use tokenize::Tokenize;
