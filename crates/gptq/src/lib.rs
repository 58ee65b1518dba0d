//! The GPTQ solver: Hessian, factor, column loop, refinement; matrices in, matrices out.

mod cholesky;
mod error;
mod hessian;
mod loss;
mod order;
mod prepared;
mod problem;
mod quantize;
mod refine;
mod report;
mod solve;
mod spec;
mod strips;
#[cfg(test)]
mod tests;

pub use error::GptqError;
pub use hessian::Hessian;
pub use prepared::Prepared;
pub use quantize::{quantize, quantize_bytes, round_to_nearest};
pub use report::{Solution, SolveReport};
pub use spec::{FitFrom, GptqSpec, Groups, Order};
