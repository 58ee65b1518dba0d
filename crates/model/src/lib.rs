//! A thin reference runtime for language models, with taps on every linear layer: Llama, Mistral, Qwen2, Qwen3, Gemma 3 (text), GPT-2 and
//! EXAONE 3.
//!
//! Weights stay in the type that the file stores, few bits too, and meet inputs in f32 or, [where it is asked for](Activations), in 8 bits; everything else is
//! computed in f32. The number of threads changes no bit.
//!
//! ```no_run
//! use fewbit_checkpoint::Checkpoint;
//! use fewbit_model::{Choice, Model, Stop, Tokenizer, end_tokens, generate};
//!
//! let checkpoint = Checkpoint::open("models/llama".as_ref())?;
//! let model = Model::load(&checkpoint)?;
//! let tokenizer = Tokenizer::load(&checkpoint)?;
//! let prompt = tokenizer.encode_with_bos("Once upon a time", model.config().bos_token)?;
//! let stop = Stop { max_tokens: 100, end_tokens: end_tokens(&checkpoint, model.config())? };
//! let (tokens, _) = generate(&mut model.session(), &prompt, &Choice::Greedy, &stop, |_| true)?;
//! println!("{}", tokenizer.decode(&tokens)?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//!
//! * [`Architecture`]: names of tensors, sites and what computes them, a page for each.
//! * [`ModelConfig`]: what `config.json` says; shapes and names of the linear layers follow from it and the architecture.
//! * [`Block`]: one transformer block in four stages, each of which yields the input of some linear layers ([`Groups`]).
//!   Quantization needs only one of them in memory.
//! * [`Ends`]: embedding, final norm and head.
//! * [`Linear`]: a layer with float or few-bit weights; [`Activations`]: what its inputs are rounded to.
//! * [`Model`]: all of them; [`Session`]: a text in progress with its cached keys and values ([`CacheType`]), or several that share beginnings ([`Wanted`]);
//!   [`generate`]: text generation.
//! * [`Tokenizer`]: text to tokens and back.
//!
//! # Features
//!
//! `tokenizers` (default): [`Tokenizer`], on the crate of that name.

mod architecture;
mod attention;
mod block;
mod cache;
#[cfg(feature = "chat")]
mod chat;
mod config;
mod error;
mod generate;
mod integers;
mod linear;
pub mod math;
mod model;
mod norm;
mod role;
mod rope;
mod session;
#[cfg(feature = "tokenizers")]
mod tokenizer;
mod tree;
mod weights;
mod workspace;

pub use architecture::{Activation, Architecture, BlockNorm, Groups, NormKind, Producer};
pub use block::Block;
pub use cache::CacheType;
#[cfg(feature = "chat")]
pub use chat::{ChatTemplate, Message, Speaker};
pub use config::{ModelConfig, NormTensors, SlidingWindow};
pub use error::ModelError;
pub use generate::{Choice, Sampling, Stop, StopReason, argmax, end_tokens, generate};
pub use linear::{Activations, Linear, Matrix};
pub use model::{Ends, Model};
pub use ndarray;
pub use role::{Role, Site};
pub use rope::{RopeScaling, RopeSettings, inverse_frequencies};
pub use session::Session;
#[cfg(feature = "tokenizers")]
pub use tokenizer::Tokenizer;
pub use tree::Wanted;
