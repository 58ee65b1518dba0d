//! Tasks with right answers: HellaSwag, MMLU and LongBench, from local files.
//!
//! Items are read from files ([`read_hellaswag`], [`read_mmlu`], …), scored one by one or together ([`score_choice`], [`score_choices`], …), kept in a
//! [`Journal`] so that long work can be interrupted, and summed up ([`Accuracy`], [`MmluReport`], …). Two models on the same
//! items are compared by their differences ([`PairedAccuracy`]).
//!
//! ```
//! use fewbit_eval::{Tokenize, from_fn, ndarray::Array2, tasks::*};
//! use std::{convert::Infallible, ops::ControlFlow};
//!
//! // A tokenizer with a token for each byte, and a model that likes letters to come twice.
//! struct Bytes;
//! impl Tokenize for Bytes {
//!     type Error = Infallible;
//!     fn encode(&self, text: &str) -> Result<Vec<u32>, Infallible> {
//!         Ok(text.bytes().map(u32::from).collect())
//!     }
//!     fn decode(&self, tokens: &[u32]) -> Result<String, Infallible> {
//!         Ok(tokens.iter().map(|&token| token as u8 as char).collect())
//!     }
//! }
//! let mut model = from_fn(256, |tokens: &[u32]| {
//!     Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 256), |(t, i)| f32::from(tokens[t] == i as u32)))
//! });
//!
//! let choices = ["aardvark".to_string(), "badger".to_string(), "eel".to_string()].to_vec();
//! let items = [ChoiceItem { context: "The fish is an".into(), choices, gold: 2 }];
//! let mut journal = Journal::in_memory();
//! let scores = run(&items, &mut journal, |_, _| ControlFlow::Continue(()), |number, item| {
//!     score_choice(&mut model, &Bytes, number, item, 128)
//! })?;
//! let accuracy = Accuracy::of(&scores).unwrap();
//! assert_eq!((accuracy.n_items, accuracy.acc.value), (1, 1.0));
//! # Ok::<(), fewbit_eval::EvalError>(())
//! ```

mod accuracy;
mod choice;
mod fault;
mod hellaswag;
mod journal;
mod lines;
pub mod longbench;
mod mmlu;
mod pairs;
mod python;
mod subjects;

pub use accuracy::Accuracy;
pub use choice::{ChoiceItem, ChoiceScore, score_choice, score_choices};
pub use fault::Fault;
pub use hellaswag::read_hellaswag;
pub use journal::{Journal, run, run_batches};
pub use mmlu::{
    MmluProtocol, MmluQuestion, MmluReport, MmluSubject, SubjectAccuracy, mmlu_items, read_mmlu,
};
pub use pairs::{PairedAccuracy, sign_test};
pub use subjects::{Category, MMLU_SUBJECTS};
