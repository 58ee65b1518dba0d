//! A thin reference runtime for language models, with taps on every linear layer.
#![allow(clippy::unimplemented, unused, missing_docs)]

mod block;
mod config;
mod error;
mod linear;
mod llama;
mod model;
mod role;
mod rope;
mod session;
#[cfg(feature = "tokenizers")]
mod tokenizer;

pub use block::Block;
pub use config::ModelConfig;
pub use error::ModelError;
pub use linear::{Linear, Matrix};
pub use model::{Ends, Model};
pub use ndarray;
pub use role::{Role, SEQUENTIAL_GROUPS, Site};
pub use rope::RopeScaling;
pub use session::Session;
#[cfg(feature = "tokenizers")]
pub use tokenizer::Tokenizer;
