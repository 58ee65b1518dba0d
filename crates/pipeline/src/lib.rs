//! Calibrate, quantize block by block, write, reopen and verify.
mod calibration;
mod compare;
mod error;
mod estimate;
mod fingerprint;
mod job;
mod output;
mod progress;
mod report;
mod run;
mod stages;
mod streams;
mod work;

pub use calibration::Calibration;
pub use compare::{Candidate, compare_streamed};
pub use error::PipelineError;
pub use estimate::Estimate;
pub use job::{Job, Method, Module, Prepared, Resume, weight_dtype};
pub use progress::{Event, Phase, Progress, Silent};
pub use report::{MatrixReport, Repair, Report};
