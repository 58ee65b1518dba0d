//! Containers by name, and grids as they store them.

use clap::ValueEnum;
use fewbit::{
    checkpoint::{
        Awq, BitsAndBytes, CompressedTensors, Container, Fp8, Gptq, GptqVersion, InputRounding,
        IntLayout, Mlx, Onnx,
        gguf_model::{FileType, GgufContainer},
    },
    format::{
        CodebookScheme, Float8Scheme, Granularity, IntScheme, OffsetScheme, ScaleType, Scheme,
        Symmetry,
    },
};

use super::grid::for_folder;

/// How the matrices lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ContainerArg {
    /// GPTQ, in the version that most engines read right for the grid.
    Gptq,
    /// GPTQ, version 1: zero points less one.
    GptqV1,
    /// GPTQ, version 2: zero points as they are.
    GptqV2,
    /// compressed-tensors, pack-quantized.
    CompressedTensors,
    /// compressed-tensors, a byte a code.
    CompressedTensorsBytes,
    /// The same under the name naive-quantized.
    CompressedTensorsNaive,
    /// compressed-tensors, a byte a code, inputs to be rounded to 8 bits token by token.
    W8a8,
    /// The same, with a step for the inputs of each layer in the file.
    W8a8Static,
    /// AWQ, in the layout "gemm".
    Awq,
    /// bitsandbytes: nf4, fp4, llm-int8.
    Bitsandbytes,
    /// FP8 with a scale for each block of 128×128 (fp8-block), as DeepSeek has it.
    Fp8,
    /// One GGUF file, as llama.cpp reads it.
    Gguf,
    /// MLX: integers with float offsets in groups of 32, 64 or 128; mxfp4, nvfp4.
    Mlx,
    /// One ONNX file of MatMulNBits weights: 2, 4 or 8 bits.
    Onnx,
}

impl ContainerArg {
    /// The one that a grid is at home in.
    pub fn home(scheme: &Scheme) -> Self {
        match scheme {
            Scheme::Float | Scheme::Int(_) => Self::Gptq,
            Scheme::Offset(_) => Self::Mlx,
            Scheme::Block(_) => Self::Gguf,
            Scheme::Codebook(_) | Scheme::LlmInt8 => Self::Bitsandbytes,
            _ => Self::CompressedTensors,
        }
    }

    /// The one that a plan file names.
    pub fn of_plan(name: &str) -> Option<Self> {
        match name {
            "gguf" => Some(Self::Gguf),
            "gptq_v2" => Some(Self::GptqV2),
            "compressed-tensors" => Some(Self::CompressedTensors),
            "mlx" => Some(Self::Mlx),
            "onnx" => Some(Self::Onnx),
            _ => None,
        }
    }

    /// The ending of an output that is one file.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Gguf => ".gguf",
            Self::Onnx => ".onnx",
            _ => "",
        }
    }

    /// The container, for matrices of a scheme; a GGUF file says that it has a mix.
    pub fn container(self, scheme: &Scheme, mix: Option<FileType>) -> Box<dyn Container> {
        let compressed = |integers| CompressedTensors { integers, ..CompressedTensors::default() };
        match self {
            Self::Gptq => {
                let version = match scheme {
                    Scheme::Int(scheme) => GptqVersion::portable([*scheme].iter()),
                    _ => GptqVersion::V2,
                };
                Box::new(Gptq { version })
            }
            Self::GptqV1 => Box::new(Gptq { version: GptqVersion::V1 }),
            Self::GptqV2 => Box::new(Gptq { version: GptqVersion::V2 }),
            Self::CompressedTensors => Box::new(compressed(IntLayout::Packed)),
            Self::CompressedTensorsBytes => Box::new(compressed(IntLayout::Bytes)),
            Self::CompressedTensorsNaive => Box::new(compressed(IntLayout::Naive)),
            Self::W8a8 => Box::new(CompressedTensors {
                integers: IntLayout::Bytes,
                inputs: InputRounding::Int8PerToken,
            }),
            Self::W8a8Static => Box::new(CompressedTensors {
                integers: IntLayout::Bytes,
                inputs: InputRounding::Int8Static,
            }),
            Self::Awq => Box::new(Awq),
            Self::Bitsandbytes => Box::new(BitsAndBytes),
            Self::Fp8 => Box::new(Fp8),
            Self::Gguf => Box::new(GgufContainer { file_type: mix, split_bytes: None }),
            Self::Mlx => Box::new(Mlx),
            Self::Onnx => Box::new(Onnx),
        }
    }

    /// A grid as this container stores it: scales in its type, MLX with offsets where others have zero points, no GGML blocks in folders.
    pub fn stored(self, scheme: Scheme, scale_type: ScaleType) -> Scheme {
        match scheme {
            Scheme::Int(IntScheme {
                bits,
                symmetry: Symmetry::Affine,
                granularity: Granularity::Group(group_size),
                ..
            }) if self == Self::Mlx => {
                Scheme::Offset(OffsetScheme { bits, group_size, value_type: scale_type })
            }
            Scheme::Int(scheme) => Scheme::Int(IntScheme { scale_type, ..scheme }),
            Scheme::Offset(scheme) => {
                Scheme::Offset(OffsetScheme { value_type: scale_type, ..scheme })
            }
            Scheme::Codebook(scheme) => {
                Scheme::Codebook(CodebookScheme { value_type: scale_type, ..scheme })
            }
            Scheme::Float8(scheme) => Scheme::Float8(Float8Scheme { scale_type, ..scheme }),
            Scheme::Block(block_type) if self == Self::Gguf => Scheme::Block(block_type),
            other => for_folder(other),
        }
    }
}
