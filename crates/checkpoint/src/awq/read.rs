//! Reading what is drawn in the parent module.

use fewbit_format::{
    Bits, IntScheme, MatrixShape, QuantMatrix, ScaleType, Symmetry,
    packing::{Words, transpose, unpack_rows},
};

use super::{CODES, NAME, ORDER, Settings};
use crate::{
    CheckpointError, Dtype, Refusal, TensorSource,
    config::{Keys, group_size},
    container::refuse,
    parts::Parts,
};

/// Where codes lie in an AWQ file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AwqLayout {
    /// Packed along the outputs, interleaved: the usual one.
    Gemm,
    /// Packed along the inputs.
    Gemv,
    /// Four outputs interleaved; also that of llm-awq.
    GemvFast,
}

impl AwqLayout {
    /// The value of `version` in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gemm => "gemm",
            Self::Gemv => "gemv",
            Self::GemvFast => "gemv_fast",
        }
    }
}

/// What an AWQ configuration says, for reading.
#[derive(Clone, Copy, Debug)]
pub struct AwqConfig {
    layout: AwqLayout,
    settings: Settings,
}

impl AwqConfig {
    /// Where codes lie.
    pub fn layout(&self) -> AwqLayout {
        self.layout
    }

    pub(crate) fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        // AutoAWQ and transformers, later transformers, GPTQModel.
        let named = ["version", "format", "checkpoint_format"];
        let key = named.into_iter().find(|key| keys.get(key).is_some()).unwrap_or(named[0]);
        let layout = match keys.text(key)?.unwrap_or("gemm").to_ascii_lowercase().as_str() {
            "gemm" => AwqLayout::Gemm,
            "gemv" => AwqLayout::Gemv,
            "gemv_fast" | "llm-awq" => AwqLayout::GemvFast,
            other => return Err(keys.unsupported(key, other, "gemm, gemv, gemv_fast and llm-awq")),
        };
        // llm-awq files keep the name of the layout that they were converted from.
        let layout = match keys.text("backend")? {
            Some("llm-awq") => AwqLayout::GemvFast,
            _ => layout,
        };
        let bits = match keys.integer("bits")? {
            None => keys.need("bits", keys.integer("w_bit")?)?,
            Some(bits) => bits,
        };
        if bits != 4 {
            return Err(keys.unsupported("bits", &bits.to_string(), "4"));
        }
        let group_size = keys.need("group_size", group_size(keys)?)?;
        let symmetry = match keys.boolean("zero_point")? {
            None | Some(true) => Symmetry::Affine,
            Some(false) => Symmetry::Symmetric,
        };
        Ok(Self { layout, settings: Settings { group_size, symmetry } })
    }

    pub(crate) fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<QuantMatrix, CheckpointError> {
        let parts = Parts { source, module };
        let Settings { symmetry, .. } = self.settings;
        let granularity = self.settings.granularity();
        let [rows, columns] = parts.matrix("qweight")?;
        let shape = match self.layout {
            AwqLayout::Gemm => MatrixShape::new(columns.saturating_mul(CODES), rows),
            AwqLayout::Gemv => MatrixShape::new(rows, columns.saturating_mul(CODES)),
            AwqLayout::GemvFast => MatrixShape::new(rows.saturating_mul(4), columns),
        };
        let MatrixShape { out_features, in_features } = shape;
        if out_features == 0 || in_features == 0 {
            return refuse(NAME, module, Refusal::Empty { out_features, in_features });
        }
        let n_groups = granularity.n_groups(in_features);
        let group_size = granularity.group_size(in_features);
        let Decoded { codes, scales, scale_type, zeros } = match self.layout {
            AwqLayout::Gemm => gemm(&parts, shape, n_groups)?,
            AwqLayout::Gemv => gemv(&parts, shape, n_groups, group_size)?,
            AwqLayout::GemvFast => gemv_fast(&parts, shape, n_groups, group_size)?,
        };
        let zeros = match symmetry {
            Symmetry::Affine => zeros,
            Symmetry::Symmetric => {
                parts.check_symmetric(&zeros, n_groups, Bits::B4.middle())?;
                Vec::new()
            }
        };
        let scheme = IntScheme { bits: Bits::B4, symmetry, granularity, scale_type };
        QuantMatrix::new(shape, scheme, codes, scales, zeros, None)
            .map_err(|error| parts.format(error))
    }
}

struct Decoded {
    /// (out_features, in_features)
    codes: Vec<u8>,
    /// (out_features, n_groups)
    scales: Vec<f32>,
    scale_type: ScaleType,
    /// Like the scales.
    zeros: Vec<u8>,
}

fn gemm(
    parts: &Parts<'_>,
    shape: MatrixShape,
    n_groups: usize,
) -> Result<Decoded, CheckpointError> {
    let MatrixShape { out_features: out, in_features } = shape;
    let unpack = |part, rows| {
        let words = parts.words(part, [rows, out / CODES])?;
        let mut codes = unpack_rows(&words, rows, out, Bits::B4, Words::Dense)
            .map_err(|error| parts.format(error))?;
        for word in codes.as_chunks_mut::<CODES>().0 {
            let fields = *word;
            for (field, output) in ORDER.into_iter().enumerate() {
                word[output] = fields[field];
            }
        }
        Ok(transpose(&codes, rows, out))
    };
    parts.check_shape("scales", &[n_groups, out])?;
    let (scales, scale_type) = parts.scales("scales")?;
    let scales = transpose(&scales, n_groups, out);
    let (codes, zeros) = (unpack("qweight", in_features)?, unpack("qzeros", n_groups)?);
    Ok(Decoded { codes, scales, scale_type, zeros })
}

/// Words that hold the zero points of a row in the two matrix-vector layouts.
fn zeros_width(
    parts: &Parts<'_>,
    n_groups: usize,
    group_size: usize,
) -> Result<usize, CheckpointError> {
    let multiple = match group_size {
        128.. => 1,
        64 => 2,
        32 => 4,
        _ => {
            let remedy = "32, 64 or at least 128";
            return refuse(NAME, parts.module, Refusal::GroupSize { group_size, remedy });
        }
    };
    Ok(n_groups.div_ceil(CODES).next_multiple_of(multiple))
}

/// The first `n_groups` of each row.
fn cut<T: Copy>(values: &[T], width: usize, n_groups: usize) -> Vec<T> {
    values.chunks(width).flat_map(|row| row[..n_groups].iter().copied()).collect()
}

fn gemv(
    parts: &Parts<'_>,
    shape: MatrixShape,
    n_groups: usize,
    group_size: usize,
) -> Result<Decoded, CheckpointError> {
    let MatrixShape { out_features: out, in_features } = shape;
    let unpack = |part, words| {
        let packed = parts.words(part, [out, words])?;
        unpack_rows(&packed, out, words * CODES, Bits::B4, Words::Dense)
            .map_err(|error| parts.format(error))
    };
    let width = zeros_width(parts, n_groups, group_size)?;
    let codes = unpack("qweight", in_features / CODES)?;
    parts.check_shape("scales", &[out, width * CODES])?;
    let (scales, scale_type) = parts.scales("scales")?;
    let scales = cut(&scales, width * CODES, n_groups);
    let zeros = cut(&unpack("qzeros", width)?, width * CODES, n_groups);
    Ok(Decoded { codes, scales, scale_type, zeros })
}

/// A halfword of "gemv_fast" holds four codes of four rows and 64 columns, which are taken row after row; within a row the columns of 32 are
/// those of [`fast_column`].
fn gemv_fast(
    parts: &Parts<'_>,
    shape: MatrixShape,
    n_groups: usize,
    group_size: usize,
) -> Result<Decoded, CheckpointError> {
    const ROWS: usize = 4;
    const COLUMNS: usize = 64;
    let MatrixShape { out_features: out, in_features: n } = shape;
    if !n.is_multiple_of(COLUMNS) {
        let (axis, size, multiple, bits) = ("input", n, COLUMNS, Bits::B4);
        return refuse(NAME, parts.module, Refusal::Words { axis, size, multiple, bits });
    }
    let width = zeros_width(parts, n_groups, group_size)? * CODES;
    let halfwords = parts.typed("qweight", &[Dtype::I16], "I16", &[out / ROWS, n])?;
    let mut codes = vec![0; shape.len()];
    for (i, &halfword) in halfwords.as_chunks().0.iter().enumerate() {
        let (row, block) = (i / n * ROWS, i % n / COLUMNS * COLUMNS);
        for field in 0..4 {
            let place = i % COLUMNS * 4 + field;
            let (row, column) = (row + place / COLUMNS, block + fast_column(place % COLUMNS));
            codes[row * n + column] = (u16::from_le_bytes(halfword) >> (4 * field) & 15) as u8;
        }
    }
    let parameters = |part| {
        parts.check_shape(part, &[width, out])?;
        let (values, scale_type) = parts.scales(part)?;
        Ok((cut(&transpose(&values, width, out), width, n_groups), scale_type))
    };
    let ((scales, scale_type), (scaled_zeros, _)) = (parameters("scales")?, parameters("qzeros")?);
    let zeros = scales.iter().zip(&scaled_zeros).enumerate();
    let zeros = zeros.map(|(i, (&scale, &product))| {
        zero_point(scale, product, scale_type).ok_or_else(|| CheckpointError::ScaledZeroPoint {
            module: parts.module.to_owned(),
            row: i / n_groups,
            group: i % n_groups,
            product,
            scale,
        })
    });
    let zeros = zeros.collect::<Result<_, _>>()?;
    Ok(Decoded { codes, scales, scale_type, zeros })
}

/// The column whose code lies at a place of a run of 64.
const fn fast_column(place: usize) -> usize {
    place / 32 * 32 + place % 4 * 8 + place % 32 / 8 * 2 + place % 8 / 4
}

/// The zero point of which `product` is the stored `−scale · zero_point`.
fn zero_point(scale: f32, product: f32, stored: ScaleType) -> Option<u8> {
    if scale == 0.0 {
        return (product == 0.0).then_some(0);
    }
    let zero = (-product / scale).round();
    let again = stored.round(-(scale * zero));
    ((0.0..=15.0).contains(&zero) && again == product).then_some(zero as u8)
}
