//! Matrix products of float and few-bit matrices, at the level that the CPU has.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod activations;
mod arch;
mod gemm;
mod gemv;
mod level;
mod linear;
mod output;
mod packed;
mod parallel;
mod rows;
mod simd;

pub use level::{LEVEL_NAMES, Level, vectorize};
pub use linear::{linear_bf16, linear_f16, linear_f32, linear_f32_strided};
pub use packed::PackedMatrix;
