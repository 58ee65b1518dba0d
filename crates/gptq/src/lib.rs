//! The GPTQ solver: Hessian, factor, column loop, refinement; matrices in, matrices out.

mod error;
mod hessian;
mod prepared;
mod report;
mod solve;
mod spec;

pub use error::GptqError;
pub use hessian::Hessian;
pub use prepared::Prepared;
pub use report::{Solution, SolveReport};
pub use solve::{quantize, quantize_bytes, round_to_nearest};
pub use spec::{FitFrom, GptqSpec, Groups, Order};
