//! Perplexity, KL divergence, agreement, throughput and memory of anything that gives logits.

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
mod throughput;
pub mod units;

pub use divergence::{Divergence, compare};
pub use documents::{split_documents, wikitext, windows};
pub use error::{BoxError, EvalError};
pub use logits::{FromFn, Logits, from_fn};
pub use memory::{ResidentMemory, reset_peak_memory, resident_memory};
pub use ndarray;
pub use perplexity::{
    DocumentScore, Perplexity, perplexity_documents, perplexity_second_half, perplexity_windows,
};
pub use statistics::{Estimate, Interval};
pub use table::Table;
pub use throughput::{Decoder, Speed, Throughput, ThroughputSpec, throughput};
