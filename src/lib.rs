//! Quantize language models into few bits and run them, on a plain CPU.
//!
//! This crate only re-exports; each part stands alone:
//!
//! * [`mod@format`] — grids, codes, packing, the neutral quantized matrix
//! * [`kernels`] — float and few-bit linear layers at the level the CPU has
//! * [`checkpoint`] — safetensors folders, GPTQ and compressed-tensors containers, streaming writers
//! * [`gptq`] — the solver: matrices in, matrices out
//! * [`awq`] — channel scaling before rounding: statistics, search, folding, clipping
//! * [`planner`] — how many bits each matrix gets, for a budget
//! * [`model`] — a reference runtime of the Llama family, with taps on every linear layer
//! * [`eval`] — perplexity, KL divergence, throughput, memory, tables and figures
//! * [`pipeline`] — the main job: calibrate, quantize block by block, write, reopen and verify
//! * [`qat`] — training in few bits: learned step sizes, block reconstruction, distillation
//!
//! The programs in `examples/` show each at work. The README, which follows, is tested with this crate.
//!
#![doc = include_str!("../README.md")]

pub use fewbit_awq as awq;
pub use fewbit_checkpoint as checkpoint;
pub use fewbit_eval as eval;
pub use fewbit_format as format;
pub use fewbit_gptq as gptq;
pub use fewbit_kernels as kernels;
pub use fewbit_model as model;
pub use fewbit_pipeline as pipeline;
pub use fewbit_planner as planner;
pub use fewbit_qat as qat;
