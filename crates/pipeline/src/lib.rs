//! The main job: calibrate, quantize block by block, write, reopen and verify.
//!
//! [`Job::prepare`] opens the model, refuses whatever can be refused, and estimates time, memory and size. [`Prepared::run`] does the work with
//! one block of the model in memory, and leaves a work folder behind if it is killed, from which the same job continues to the same
//! bytes. [`compare_streamed`] measures the result against the original, again block by block.
//!
//! ```no_run
//! use fewbit_checkpoint::Gptq;
//! use fewbit_format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry};
//! use fewbit_gptq::GptqSpec;
//! use fewbit_pipeline::{Calibration, Job, Method, Silent};
//!
//! # let documents: Vec<Vec<u32>> = Vec::new();
//! let scheme = IntScheme {
//!     bits: Bits::B4,
//!     symmetry: Symmetry::Symmetric,
//!     granularity: Granularity::group(128),
//!     scale_type: ScaleType::F16,
//! };
//! let mut job = Job::new("model", "model-int4", Plan::uniform(Scheme::Int(scheme)), Gptq::default());
//! job.calibration = Some(Calibration::from_documents(&documents, 512, 128)?);
//! job.method = Method::gptq(GptqSpec::default(), 1.0);
//! let prepared = job.prepare(&mut Silent)?;
//! println!("about {:.0} s", prepared.estimate().seconds);
//! let report = prepared.run(&mut Silent)?;
//! println!("{:.2} bits per weight", report.bits_per_weight);
//! # Ok::<(), fewbit_pipeline::PipelineError>(())
//! ```
//!
//! Progress and cancellation are the caller's: see [`Progress`].

mod calibration;
mod compare;
mod contest;
mod convert;
mod error;
mod estimate;
mod fingerprint;
mod folding;
mod hadamard;
mod importance;
mod job;
mod method;
mod output;
mod progress;
mod report;
mod rotate;
mod round;
mod run;
pub mod sensitivity;
mod solver;
mod stages;
mod streams;
mod transform;
mod work;

pub use calibration::Calibration;
pub use compare::{Candidate, compare_streamed};
pub use contest::{Entry, Outcome, contest};
pub use convert::{Conversion, Conveyed, PreparedConversion};
pub use error::PipelineError;
pub use estimate::Estimate;
pub use fewbit_awq::HqqSpec;
pub use importance::{
    Importance, ImportanceSource, importance_matrix, importance_of_matrix, measure_importance,
};
pub use job::{Job, Module, Prepared, Resume, weight_dtype};
pub use method::{AwqSpec, Method, Rounding, SmoothQuantSpec, Transform};
pub use progress::{Event, Phase, Progress, Silent};
pub(crate) use report::BlockReport;
pub use report::{FoldedTensor, MatrixReport, Repair, Report, SiteReport};
pub use rotate::{Rotation, rotate};
