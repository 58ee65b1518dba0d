//! Training of language models in few bits, on a CPU.
//!
//! A matrix on a grid is rounded on the way at every step ([`FakeMatrix`]), and gradients pass the rounding as if it were not there. What is
//! multiplied is at every moment what a file would decode to, steps in their stored type included, so the exported model is the trained one to the bit.
//!
//! ```no_run
//! use fewbit_checkpoint::{Checkpoint, Gptq};
//! use fewbit_format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry};
//! use fewbit_qat::{Learn, Objective, Silent, Start, Student, Windows, defaults, export, train_model};
//!
//! # let (documents, held_out): (Vec<Vec<u32>>, Vec<Vec<u32>>) = Default::default();
//! let scheme = IntScheme {
//!     bits: Bits::B2,
//!     symmetry: Symmetry::Affine,
//!     granularity: Granularity::group(64),
//!     scale_type: ScaleType::F16,
//! };
//! let model = Checkpoint::open("model".as_ref())?;
//! let (plan, container) = (Plan::uniform(Scheme::Int(scheme)), Gptq::default());
//! let teacher = Student::float(&model)?;
//! let mut student = Student::quantize(&model, &plan, &container, Start::Nearest)?;
//! let text = Windows::new(&documents, 256, teacher.config().vocab_size)?;
//! let checks = Windows::new(&held_out, 256, teacher.config().vocab_size)?;
//! let objective = Objective::Distill(&teacher);
//! let run = defaults::full(500);
//! train_model(&mut student, Learn::WEIGHTS, objective, &text, &checks, &run, None, &mut Silent)?;
//! export(&student, &model, Some(&container), "model-2bit".as_ref())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Map
//!
//! * [`train_blocks`]: block by block towards the float block's output, one block in memory (EfficientQAT's first phase, AutoRound).
//! * [`train_model`]: a whole model: towards a float teacher's probabilities, with all weights or step sizes alone (EfficientQAT's second phase), or from
//!   nothing towards the next token ([`Student::fresh`]).
//! * [`Learn`], [`Run`], [`Optimization`]: what is learned and how; [`defaults`]: settings that were measured.
//! * [`Windows`]: text. [`export`]: the result as a file.
//!
//! # Gradients
//!
//! There is no tape of general operations. `block.rs` is one transformer block forwards and backwards, written out, for every architecture of the runtime:
//! what they differ in, it reads from [`ModelConfig`](fewbit_model::ModelConfig). The products are the runtime's kernels (`product.rs`), so are exponential
//! and softmax. The number of threads changes no bit, and a run that was killed continues to the same bits from the
//! file it kept (`state.rs`).

mod activation;
mod adapter;
mod adapter_files;
mod attention;
mod block;
mod blocks;
mod cells;
mod data;
pub mod defaults;
mod error;
mod export;
mod fake;
mod fresh;
mod inputs;
mod loss;
mod muon;
mod norm;
mod optimizer;
mod param;
mod pool;
mod product;
mod progress;
mod random;
mod rotary;
mod state;
mod steps;
mod student;
mod tensors;
#[cfg(test)]
mod tests;
mod train;
mod train_block;
mod whole;

pub use adapter::{Adapter, AdapterSpec};
pub use adapter_files::export_adapters;
pub use block::Geometry;
pub use blocks::{BlockText, train_blocks};
pub use data::Windows;
pub use error::QatError;
pub use export::export;
pub use fake::FakeMatrix;
pub use optimizer::{Optimization, Rates, Rule, Schedule};
pub use param::{Kind, Learn};
pub use progress::{Event, Progress, Silent};
pub use state::Curve;
pub use student::Student;
pub use tensors::{BlockTensors, EndTensors, NormValues};
pub use train::Run;
pub use train_block::{Layer, Start, TrainBlock};
pub use whole::{Objective, train_model};
