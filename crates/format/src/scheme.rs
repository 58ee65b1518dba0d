//! What a grid is, before any weight is seen: width, symmetry, granularity, storage of the scales.

use core::{fmt, num::NonZeroU32};

use half::{bf16, f16};

use crate::{
    Bits, BlockType, CodebookScheme, Float4, Float8Scheme, LlmInt8Matrix, OffsetScheme, ScaleTile,
};

/// Shape of a weight matrix: `(out_features, in_features)`, row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatrixShape {
    /// Rows: outputs of the linear layer.
    pub out_features: usize,
    /// Columns: inputs of the linear layer; groups run along them.
    pub in_features: usize,
}

impl MatrixShape {
    /// A shape of `out_features` rows and `in_features` columns.
    pub const fn new(out_features: usize, in_features: usize) -> Self {
        Self { out_features, in_features }
    }

    /// Number of weights.
    pub const fn len(self) -> usize {
        self.out_features * self.in_features
    }

    /// Whether there are no weights at all.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// Where zero lies on an integer grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Symmetry {
    /// The zero point is the middle code, `2^(bits − 1)`; nothing is stored for it.
    Symmetric,
    /// Each group stores an integer zero point between 0 and `2^bits − 1`.
    Affine,
}

/// How many weights share one scale (and zero point).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Granularity {
    /// The whole matrix.
    Tensor,
    /// One row (output channel).
    Channel,
    /// This many columns of one row; the last group of a row may be shorter.
    Group(NonZeroU32),
}

impl Granularity {
    /// Groups of `size` columns.
    ///
    /// # Panics
    /// If `size` is 0.
    pub const fn group(size: u32) -> Self {
        Self::Group(NonZeroU32::new(size).expect("a group holds at least one column"))
    }

    /// Columns that share parameters within a row.
    pub fn group_size(self, in_features: usize) -> usize {
        match self {
            Self::Tensor | Self::Channel => in_features.max(1),
            Self::Group(size) => size.get() as usize,
        }
    }

    /// Groups along a row, the ragged last one included.
    pub fn n_groups(self, in_features: usize) -> usize {
        in_features.div_ceil(self.group_size(in_features))
    }

    /// Number of scales that a matrix of this shape stores: `(out_features, n_groups)` row-major, or 1 per tensor.
    pub fn n_scales(self, shape: MatrixShape) -> usize {
        match self {
            Self::Tensor => usize::from(!shape.is_empty()),
            _ => shape.out_features * self.n_groups(shape.in_features),
        }
    }

    /// A word for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Channel => "channel",
            Self::Group(_) => "group",
        }
    }
}

/// Storage type of the scales. A grid uses scales as they are stored, so that what a solver minimised is what the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ScaleType {
    /// IEEE half precision.
    F16,
    /// bfloat16.
    BF16,
    /// Single precision.
    F32,
}

impl ScaleType {
    /// The nearest value (ties to even) of this type.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::BF16 => bf16::from_f32(value).to_f32(),
            Self::F32 => value,
        }
    }

    /// The smallest positive normal value: no scale is smaller in magnitude.
    pub fn min_positive(self) -> f32 {
        match self {
            Self::F16 => f16::MIN_POSITIVE.to_f32(),
            Self::BF16 | Self::F32 => f32::MIN_POSITIVE,
        }
    }

    /// The largest finite value.
    pub fn max(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::BF16 => bf16::MAX.to_f32(),
            Self::F32 => f32::MAX,
        }
    }

    /// Width in bits.
    pub const fn bits(self) -> u32 {
        match self {
            Self::F16 | Self::BF16 => 16,
            Self::F32 => 32,
        }
    }

    /// A word for messages and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F32 => "f32",
        }
    }
}

/// An integer grid as a plan names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IntScheme {
    /// Width of a code.
    pub bits: Bits,
    /// Symmetric or affine.
    pub symmetry: Symmetry,
    /// How many weights share parameters.
    pub granularity: Granularity,
    /// How scales are stored.
    pub scale_type: ScaleType,
}

impl IntScheme {
    /// Bits that a matrix of this shape takes: codes, scales and zero points, before any padding of a container.
    pub fn storage_bits(&self, shape: MatrixShape) -> u64 {
        let zero = match self.symmetry {
            Symmetry::Symmetric => 0,
            Symmetry::Affine => self.bits.get(),
        };
        shape.len() as u64 * u64::from(self.bits.get())
            + self.granularity.n_scales(shape) as u64 * u64::from(self.scale_type.bits() + zero)
    }

    /// Effective bits per weight, scales and zero points included; 0 for an empty matrix.
    pub fn bits_per_weight(&self, shape: MatrixShape) -> f64 {
        if shape.is_empty() { 0.0 } else { self.storage_bits(shape) as f64 / shape.len() as f64 }
    }
}

/// What a plan says of one weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// Stays in its floating-point type.
    Float,
    /// Takes an integer grid.
    Int(IntScheme),
    /// Takes an integer grid over a float offset.
    Offset(OffsetScheme),
    /// Takes GGML blocks.
    Block(BlockType),
    /// Takes a codebook: NF4 or FP4.
    Codebook(CodebookScheme),
    /// Takes 8-bit floats.
    Float8(Float8Scheme),
    /// Takes 4-bit floats: MXFP4 or NVFP4.
    Float4(Float4),
    /// Takes the signed bytes of LLM.int8().
    LlmInt8,
}

impl Scheme {
    /// A word for messages.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::Int(_) => "integer grids",
            Self::Offset(_) => "integers with float offsets",
            Self::Block(_) => "ggml blocks",
            Self::Codebook(scheme) => scheme.codebook.name(),
            Self::Float8(scheme) => scheme.element.name(),
            Self::Float4(scheme) => scheme.name(),
            Self::LlmInt8 => "llm.int8()",
        }
    }

    /// The grid that is the same in a plainer layout, with one code a byte: integers, with float offsets or without, for GGML blocks of one scale, or of a scale
    /// and a minimum; 4-bit floats for mxfp4. Every other scheme is its own. [`Quantized::relay`](crate::Quantized::relay) goes both ways.
    pub const fn plain_layout(self) -> Self {
        const fn symmetric(bits: Bits) -> Scheme {
            Scheme::Int(IntScheme {
                bits,
                symmetry: Symmetry::Symmetric,
                granularity: Granularity::group(32),
                scale_type: ScaleType::F16,
            })
        }
        const fn offset(bits: Bits) -> Scheme {
            Scheme::Offset(OffsetScheme::new(bits, 32, ScaleType::F16))
        }
        match self {
            Self::Block(BlockType::Q4_0) => symmetric(Bits::B4),
            Self::Block(BlockType::Q5_0) => symmetric(Bits::B5),
            Self::Block(BlockType::Q8_0) => symmetric(Bits::B8),
            Self::Block(BlockType::Q4_1) => offset(Bits::B4),
            Self::Block(BlockType::Q5_1) => offset(Bits::B5),
            Self::Block(BlockType::Mxfp4) => Self::Float4(Float4::Mxfp4),
            other => other,
        }
    }

    /// Effective bits per weight of a matrix of this shape, scales and zero points included; 0 if it is empty. `None` for [`Float`](Self::Float),
    /// which does not say how wide its type is.
    pub fn bits_per_weight(&self, shape: MatrixShape) -> Option<f64> {
        let bits = match self {
            Self::Float => return None,
            Self::Block(block_type) => return Some(block_type.bits_per_weight()),
            Self::Int(scheme) => scheme.storage_bits(shape),
            Self::Offset(scheme) => scheme.storage_bits(shape),
            Self::Codebook(scheme) => scheme.storage_bits(shape),
            Self::Float8(scheme) => scheme.storage_bits(shape),
            Self::Float4(scheme) => scheme.storage_bits(shape),
            Self::LlmInt8 => LlmInt8Matrix::storage_bits(shape),
        };
        Some(if shape.is_empty() { 0.0 } else { bits as f64 / shape.len() as f64 })
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(IntScheme { bits, symmetry, granularity, scale_type }) => {
                let symmetry = match symmetry {
                    Symmetry::Symmetric => "symmetric",
                    Symmetry::Affine => "affine",
                };
                write!(f, "int{} {symmetry} ", bits.get())?;
                match granularity {
                    Granularity::Group(size) => write!(f, "g{size}")?,
                    other => f.write_str(other.name())?,
                }
                write!(f, ", {} scales", scale_type.name())
            }
            Self::Offset(OffsetScheme { bits, group_size, value_type }) => {
                let value_type = value_type.name();
                write!(f, "int{} g{group_size}, {value_type} scales and offsets", bits.get())
            }
            Self::Block(block_type) => f.write_str(block_type.name()),
            Self::Codebook(scheme) => {
                let double = if scheme.double_quant.is_some() { ", double-quantized" } else { "" };
                write!(f, "{} b{}{double}", scheme.codebook.name(), scheme.block_size)
            }
            Self::Float8(Float8Scheme { element, tile, scale_type }) => {
                write!(f, "{} ", element.name())?;
                match tile {
                    ScaleTile::Block { out_features, in_features } => {
                        write!(f, "{out_features}x{in_features}")?;
                    }
                    other => f.write_str(other.name())?,
                }
                write!(f, ", {} scales", scale_type.name())
            }
            other => f.write_str(other.name()),
        }
    }
}

impl From<IntScheme> for Scheme {
    fn from(scheme: IntScheme) -> Self {
        Self::Int(scheme)
    }
}
