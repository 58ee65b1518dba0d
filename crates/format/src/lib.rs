//! Few-bit tensor formats, without SIMD, threads, files or model names.
//!
//! A weight matrix is `(out_features, in_features)`, row-major, as in `y = x · Wᵀ`. Quantization replaces each weight by
//! an unsigned *code* and each group of weights by a few *parameters*:
//!
//! > weight ≈ (code − zero_point) · scale
//!
//! * [`Scheme`] and [`Plan`] say which grid each matrix takes;
//! * a [`Grid`] fits parameters to a group, encodes a value to a code and decodes it; solvers know only this trait;
//! * [`IntGrid`] is the integer grid of 2 to 8 bits, symmetric or affine;
//! * [`QuantMatrix`] is the neutral result: codes, scales, zero points, group map;
//! * [`OffsetMatrix`] is the same with floats in place of zero points;
//! * [`BlockType`] is the GGML block types, [`BlockMatrix`] and [`BlockView`] a matrix of blocks, owned or borrowed;
//! * [`CodebookMatrix`] holds NF4 and FP4, [`LlmInt8Matrix`] LLM.int8(), [`Float8Matrix`] FP8, [`Float4Matrix`] MXFP4 and NVFP4;
//! * [`Quantized`] is a matrix of any of these kinds;
//! * [`minifloat`] encodes and decodes numbers of 8 and 4 bits;
//! * [`packing`] lays codes out as bytes, nibbles and 32-bit words, the way files store them.
//!
//! ```
//! use fewbit_format::{Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Symmetry};
//!
//! let weight: Vec<f32> = (0..2 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
//! let scheme = IntScheme {
//!     bits: Bits::B4,
//!     symmetry: Symmetry::Affine,
//!     granularity: Granularity::group(32),
//!     scale_type: ScaleType::F16,
//! };
//! let matrix = QuantMatrix::round_to_nearest(&weight, MatrixShape::new(2, 64), scheme)?;
//! let back = matrix.dequantize();
//! assert!(weight.iter().zip(&back).all(|(w, b)| (w - b).abs() < 0.07));
//! assert_eq!(matrix.bits_per_weight(), 4.0 + (16.0 + 4.0) / 32.0);
//! # Ok::<(), fewbit_format::FormatError>(())
//! ```
//!
//! # Features
//!
//! `std` (default) only forwards to the dependencies; without it the crate needs `alloc` alone.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod bits;
mod block;
mod checks;
mod codebook;
mod error;
mod float4;
mod float8;
mod grid;
mod int_grid;
mod llm_int8;
mod matrix;
pub mod minifloat;
mod offset;
pub mod packing;
mod plan;
mod quantized;
mod relay;
mod round;
mod scheme;
mod table_grid;

pub use bits::Bits;
pub use block::{BlockMatrix, BlockType, BlockView, SuperFactors, SuperGrid, SuperParams};
pub use codebook::{Absmax, Codebook, CodebookMatrix, CodebookScheme, DoubleQuant};
pub use error::FormatError;
pub use float4::{Float4, Float4Matrix};
pub use float8::{Float8Matrix, Float8Scheme, ScaleTile};
pub use grid::Grid;
pub use half::{bf16, f16};
pub use int_grid::{IntGrid, IntParams, Range};
pub use llm_int8::LlmInt8Matrix;
pub use matrix::QuantMatrix;
pub use minifloat::Float8;
pub use offset::{OffsetGrid, OffsetMatrix, OffsetParams, OffsetScheme};
pub use plan::Plan;
pub use quantized::Quantized;
pub use relay::Misfit;
pub use scheme::{Granularity, IntScheme, MatrixShape, ScaleType, Scheme, Symmetry};
pub use table_grid::{TableGrid, TableParams, TableParts};
