//! Matrix products of float and few-bit weights with float activations, at the level that the CPU has.
//!
//! ```
//! use fewbit_format::{Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Symmetry};
//! use fewbit_kernels::{Level, PackedMatrix, linear_f32};
//!
//! let shape = MatrixShape::new(8, 256);
//! let weight: Vec<f32> = (0..shape.len()).map(|i| (i as f32).sin()).collect();
//! let scheme = IntScheme {
//!     bits: Bits::B8,
//!     symmetry: Symmetry::Symmetric,
//!     granularity: Granularity::group(64),
//!     scale_type: ScaleType::F16,
//! };
//! let packed = PackedMatrix::from_quant(&QuantMatrix::round_to_nearest(&weight, shape, scheme)?);
//! let x = vec![0.1; 256];
//! let (mut exact, mut close) = ([0.0; 8], [0.0; 8]);
//! linear_f32(Level::detect(), &mut exact, &x, 1, &weight, shape);
//! packed.linear(Level::detect(), &mut close, &x, 1);
//! assert!(exact.iter().zip(&close).all(|(a, b)| (a - b).abs() < 0.05));
//! # Ok::<(), fewbit_format::FormatError>(())
//! ```
//!
//! # Map
//!
//! * [`Level`]: which vector instructions the machine has, found at run time. `level.rs` alone names CPU features.
//! * [`linear_f32`], [`linear_f16`], [`linear_bf16`]: float weights as they lie in files.
//! * [`PackedMatrix`]: a quantized matrix, rearranged once. Codes become floats in registers, never in memory (a few tokens), or in a tile
//!   that stays in cache (many).
//! * [`IntMatrix`]: the same for products of integers, much faster: activations become signed bytes on the way. [`LlmInt8Linear`]: with floats for the large ones.
//! * [`probe`]: how fast the machine reads and multiplies at most.
//! * [`vectorize`]: ordinary loops, compiled for a level.
//!
//! Inside, the algorithms (`gemv.rs` for a few tokens, `gemm.rs` for many) are written once against two interfaces: `Simd`, vectors of
//! sixteen lanes that `arch/` maps to registers, and `Rows`, weights that can be multiplied or decoded.
//!
//! # Which results are equal
//!
//! Every product is a sum in a fixed order, so the number of threads changes no bit, and neither does the level among those with fused
//! multiply-add. The two paths for few and many tokens add in different orders; all stay within `(in_features + 16) · 2⁻²⁴ · Σ|x·w|` of the
//! exact product.
//!
//! # Features
//!
//! `std` (default): levels are found at run time; without it they follow from the target the crate is compiled for, and only `alloc` is
//! needed. `rayon` (default): products run in rayon's current thread pool.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_op_in_unsafe_fn)]

extern crate alloc;

mod activations;
mod arch;
mod gemm;
mod gemv;
mod int;
mod level;
mod linear;
mod outer;
mod output;
mod packed;
mod parallel;
pub mod probe;
mod rows;
mod simd;

pub use int::{ActivationScales, IntMatrix, LlmInt8Linear, Scratch};
pub use level::{LEVEL_NAMES, Level, vectorize};
pub use linear::{linear_bf16, linear_f16, linear_f32, linear_f32_strided};
pub use outer::add_outer_products;
pub use packed::PackedMatrix;
pub use simd::{Aligned, Lanes};

/// The example of the README, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
