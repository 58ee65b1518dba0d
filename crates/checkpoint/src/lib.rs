//! Model files: safetensors, Hugging Face folders, quantized containers, streaming writers.
//!
//! * [`Checkpoint`] opens a folder or a single file, checks every header and reads tensors by name: raw, widened to f32, or as the
//!   [`Weight`] of a linear layer, float or quantized;
//! * [`Container`] is a way of writing quantized matrices: [`Gptq`], [`Awq`], [`CompressedTensors`],
//!   [`BitsAndBytes`], [`Fp8`], [`Mlx`] and [`Onnx`]. It says beforehand what it cannot carry, and [`ContainerConfig`] reads them back;
//! * [`FolderWriter`] writes a folder tensor by tensor, under a temporary name until all is there;
//! * [`gguf`] reads and writes the files of llama.cpp, [`gguf_model`] translates between them and Hugging Face models: [`Checkpoint`] opens
//!   a `.gguf` file as the model that it stands for;
//! * [`write_atomically`] and [`free_bytes`] are for work files beside it.
//!
//! Whatever the bytes of a file are, reading gives a [`CheckpointError`] that names file, tensor and number: no panic, and no allocation beyond
//! a small multiple of the file's size.
//!
//! ```
//! use fewbit_checkpoint::{Checkpoint, Container, FolderWriter, Gptq, ModuleScheme, PlanInfo, Weight};
//! use fewbit_format::{
//!     Bits, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Symmetry,
//! };
//!
//! let (shape, container) = (MatrixShape::new(8, 64), Gptq::default());
//! let scheme = IntScheme {
//!     bits: Bits::B4,
//!     symmetry: Symmetry::Symmetric,
//!     granularity: Granularity::group(32),
//!     scale_type: ScaleType::F16,
//! };
//! let weight: Vec<f32> = (0..shape.len()).map(|i| (i % 17) as f32 - 8.0).collect();
//! let matrix = Quantized::round_to_nearest(&weight, shape, scheme.into())?;
//!
//! container.check("layer", shape, &matrix.scheme(), false)?;
//! let folder = tempfile::tempdir()?;
//! let out = folder.path().join("model");
//! let specs = container.tensors("layer", shape, &matrix.scheme(), false);
//! let mut writer = FolderWriter::create(&out, specs, FolderWriter::SHARD_BYTES)?;
//! for (spec, bytes) in container.encode("layer", &matrix)? {
//!     writer.write(&spec.name, &bytes)?;
//! }
//! let module = ModuleScheme { module: "layer".into(), shape, scheme: matrix.scheme(), group_map: false };
//! let quantization = container.config(&PlanInfo { modules: &[module], damping: None });
//! writer.write_json("config.json", &serde_json::json!({ "quantization_config": quantization }))?;
//! writer.finish()?;
//!
//! assert_eq!(Checkpoint::open(&out)?.weight("layer")?, Weight::Quant(matrix));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Features
//!
//! `mmap` (default) maps weight files instead of copying from them.

mod atomic;
mod awq;
mod bitsandbytes;
mod checkpoint;
mod compressed_tensors;
mod config;
mod container;
mod cursor;
mod error;
mod fp8;
pub mod gguf;
pub mod gguf_model;
mod gptq;
mod header;
pub mod legacy;
mod malformed;
#[cfg(feature = "mmap")]
mod mapped;
mod mlx;
mod model_writer;
mod onnx;
mod parts;
mod places;
mod storage;
mod tensor;
mod writer;

pub use atomic::{free_bytes, write_atomically};
pub use awq::{Awq, AwqConfig, AwqLayout};
pub use bitsandbytes::{BitsAndBytes, BitsAndBytesConfig};
pub use checkpoint::{Checkpoint, Weight};
pub use compressed_tensors::{
    CompressedTensors, CompressedTensorsConfig, InputRounding, IntLayout,
};
pub use container::{Container, ContainerConfig, ModelOutput, ModuleScheme, PlanInfo, Refusal};
pub use error::{CheckpointError, ConfigProblem};
pub use fp8::{Fp8, Fp8Config};
pub use gptq::{Gptq, GptqConfig, GptqVersion};
pub use header::{HeaderError, MAX_HEADER, MAX_RANK};
pub use malformed::{Item, Malformed, Problem};
pub use mlx::{Mlx, MlxConfig};
pub use model_writer::{ModelWriter, float_folder};
pub use onnx::{Onnx, OnnxConfig};
pub use safetensors::Dtype;
pub use storage::Access;
pub use tensor::{TensorInfo, TensorSource, TensorSpec, total_bytes};
pub use writer::FolderWriter;
