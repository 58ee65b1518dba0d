//! Codebooks of 16 values under the largest magnitude of each block: NF4 and FP4 of QLoRA (Dettmers et al., 2023), as bitsandbytes stores them.
//!
//! Blocks are runs of the row-major flattened matrix, so that one may begin in a row and end in the next. With double quantization the
//! magnitudes are themselves quantized, to 8 bits.

use alloc::{borrow::Cow, vec::Vec};
use core::num::NonZeroU32;

use crate::{FormatError, MatrixShape, ScaleType, checks};

/// A table of 16 values between −1 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codebook {
    /// 4-bit NormalFloat: quantiles of a normal distribution.
    Nf4,
    /// bitsandbytes' own 4-bit float; not the E2M1 of MXFP4, and not in the order of its values.
    Fp4,
}

impl Codebook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Nf4, Self::Fp4];

    /// A word for messages and files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nf4 => "nf4",
            Self::Fp4 => "fp4",
        }
    }

    /// The value of each code.
    pub const fn values(self) -> &'static [f32; 16] {
        match self {
            Self::Nf4 => &NF4,
            Self::Fp4 => &FP4,
        }
    }

    /// The code whose value is nearest; half-way between two, the lower value. `value` is not NaN.
    #[inline]
    pub fn nearest(self, value: f32) -> u8 {
        match self {
            Self::Nf4 => passed(value, const { &midpoints(&NF4) }) as u8,
            Self::Fp4 => {
                const SORTED: [f32; 15] = sorted_fp4();
                FP4_CODES[passed(value, const { &midpoints(&SORTED) })]
            }
        }
    }
}

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// 0, 0.0625, 8, 12, 4, 6, 2 and 3 twelfths, then the same with a minus; the second zero has none either.
const FP4: [f32; 16] = {
    const TWELFTHS: [f32; 8] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0];
    let mut values = [0.0; 16];
    let mut i = 0;
    while i < 8 {
        values[i] = TWELFTHS[i] / 12.0;
        values[i + 8] = 0.0 - TWELFTHS[i] / 12.0;
        i += 1;
    }
    values
};

/// Codes of FP4 in the order of their values, the second zero left out.
const FP4_CODES: [u8; 15] = [11, 10, 13, 12, 15, 14, 9, 0, 1, 6, 7, 4, 5, 2, 3];

const fn sorted_fp4() -> [f32; 15] {
    let mut values = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        values[i] = FP4[FP4_CODES[i] as usize];
        i += 1;
    }
    values
}

/// Points half-way between neighbours; the last place holds infinity, which nothing passes.
const fn midpoints<const N: usize>(sorted: &[f32; N]) -> [f32; N] {
    let mut points = [f32::INFINITY; N];
    let mut i = 0;
    while i + 1 < N {
        points[i] = (sorted[i] + sorted[i + 1]) / 2.0;
        i += 1;
    }
    points
}

/// How many of the points lie below `value`.
#[inline]
fn passed(value: f32, points: &[f32]) -> usize {
    points.iter().map(|&point| usize::from(value > point)).sum()
}

/// A codebook as a plan names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CodebookScheme {
    /// The table.
    pub codebook: Codebook,
    /// Weights that share a magnitude.
    pub block_size: NonZeroU32,
    /// Magnitudes that share a magnitude of their own, with double quantization.
    pub double_quant: Option<NonZeroU32>,
    /// The type of the float weights, which files note and into which their readers round. What this crate decodes is the f32 product before that.
    pub value_type: ScaleType,
}

impl CodebookScheme {
    /// Blocks of `block_size` weights, with or without double quantization in blocks of 256, of weights that were `value_type`.
    ///
    /// # Panics
    /// If `block_size` is 0.
    pub const fn new(
        codebook: Codebook,
        block_size: u32,
        double_quant: bool,
        value_type: ScaleType,
    ) -> Self {
        let block_size = NonZeroU32::new(block_size).expect("a block holds at least one weight");
        let double_quant = if double_quant { NonZeroU32::new(256) } else { None };
        Self { codebook, block_size, double_quant, value_type }
    }

    /// Blocks of a matrix of this shape.
    pub const fn n_blocks(&self, shape: MatrixShape) -> usize {
        shape.len().div_ceil(self.block_size.get() as usize)
    }

    /// Bits that a matrix of this shape takes: codes and magnitudes. The two tables of a file are not counted.
    pub fn storage_bits(&self, shape: MatrixShape) -> u64 {
        let blocks = self.n_blocks(shape) as u64;
        let magnitudes = match self.double_quant {
            None => blocks * 32,
            Some(size) => blocks * 8 + blocks.div_ceil(u64::from(size.get())) * 32 + 32,
        };
        shape.len() as u64 * 4 + magnitudes
    }
}

/// The largest magnitude of each block.
#[derive(Clone, Debug, PartialEq)]
pub enum Absmax {
    /// As they are.
    Plain(Vec<f32>),
    /// Quantized to 8 bits.
    Double(DoubleQuant),
}

/// Magnitudes quantized to 8 bits: magnitude = `map[code] · absmax + offset`, two roundings in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct DoubleQuant {
    /// A code for each block of weights.
    pub codes: Vec<u8>,
    /// The largest |magnitude − offset| of each block of codes.
    pub absmax: Vec<f32>,
    /// The 256 values of a code between −1 and 1. Files hold the table of the library that wrote them, which differs by version in last bits.
    pub map: Vec<f32>,
    /// The mean magnitude.
    pub offset: f32,
}

/// A weight matrix on a codebook: weight = value of the code · magnitude of its block, one rounding in f32.
#[derive(Clone, Debug, PartialEq)]
pub struct CodebookMatrix {
    shape: MatrixShape,
    scheme: CodebookScheme,
    /// (out_features, in_features), one 4-bit code a byte.
    codes: Vec<u8>,
    absmax: Absmax,
}

impl CodebookMatrix {
    /// Assembles a matrix from codes, `(out_features, in_features)` row-major, one a byte, and magnitudes, one for each block of the flattened matrix.
    ///
    /// # Errors
    /// If a length does not follow from the shape, the kind of magnitudes is not the scheme's, a code exceeds 15, or a number is not finite.
    pub fn new(
        shape: MatrixShape,
        scheme: CodebookScheme,
        codes: Vec<u8>,
        absmax: Absmax,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::codes("code", &codes, 15, 4)?;
        let n_blocks = scheme.n_blocks(shape);
        match (&absmax, scheme.double_quant) {
            (Absmax::Plain(values), None) => {
                checks::length(shape, "magnitudes", values.len(), n_blocks)?;
                checks::finite("magnitude", values)?;
            }
            (Absmax::Double(double), Some(size)) => {
                let outer = n_blocks.div_ceil(size.get() as usize);
                checks::length(shape, "magnitude codes", double.codes.len(), n_blocks)?;
                checks::length(shape, "nested magnitudes", double.absmax.len(), outer)?;
                checks::length(shape, "map of magnitudes", double.map.len(), 256)?;
                checks::finite("nested magnitude", &double.absmax)?;
                checks::finite("value in the map of magnitudes", &double.map)?;
                checks::finite("mean magnitude", &[double.offset])?;
                let values: Vec<f32> = (0..n_blocks).map(|b| double.value(b, size)).collect();
                checks::finite("magnitude", &values)?;
            }
            _ => return Err(FormatError::DoubleQuant),
        }
        Ok(Self { shape, scheme, codes, absmax })
    }

    /// Plain rounding, by the rule of bitsandbytes: weights times the reciprocal of their block's largest magnitude go to the nearest value.
    ///
    /// The mean magnitude of double quantization is summed in f64, so that it may differ from other tools' in the last bit.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds NaN or infinity.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: CodebookScheme,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        checks::finite("weight", weight)?;
        let mut codes = Vec::with_capacity(weight.len());
        let mut absmax = Vec::with_capacity(scheme.n_blocks(shape));
        for block in weight.chunks(scheme.block_size.get() as usize) {
            let (max, inverse) = magnitude(block);
            codes.extend(block.iter().map(|w| scheme.codebook.nearest(w * inverse)));
            absmax.push(max);
        }
        let absmax = match scheme.double_quant {
            None => Absmax::Plain(absmax),
            Some(size) => Absmax::Double(DoubleQuant::round_to_nearest(&absmax, size)),
        };
        Self::new(shape, scheme, codes, absmax)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Codebook and block sizes.
    pub fn scheme(&self) -> CodebookScheme {
        self.scheme
    }

    /// Codes, `(out_features, in_features)` row-major, one a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Magnitudes as they are stored.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// The magnitude of each block, decoded.
    pub fn magnitudes(&self) -> Cow<'_, [f32]> {
        match &self.absmax {
            Absmax::Plain(values) => Cow::Borrowed(values),
            Absmax::Double(_) => {
                (0..self.scheme.n_blocks(self.shape)).map(|block| self.magnitude(block)).collect()
            }
        }
    }

    fn magnitude(&self, block: usize) -> f32 {
        match (&self.absmax, self.scheme.double_quant) {
            (Absmax::Double(double), Some(size)) => double.value(block, size),
            (Absmax::Plain(values), _) => values[block],
            (Absmax::Double(_), None) => unreachable!("checked when the matrix was assembled"),
        }
    }

    /// Writes the values of one row.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, mut out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let (values, size) = (self.scheme.codebook.values(), self.scheme.block_size.get() as usize);
        let mut at = row * n;
        let mut codes = &self.codes[at..][..n];
        while !codes.is_empty() {
            // Up to the end of the block or the row.
            let run = codes.len().min(size - at % size);
            let magnitude = self.magnitude(at / size);
            let (block, rest) = out.split_at_mut(run);
            for (o, &c) in block.iter_mut().zip(&codes[..run]) {
                *o = values[usize::from(c)] * magnitude;
            }
            (codes, out, at) = (&codes[run..], rest, at + run);
        }
    }
}

impl DoubleQuant {
    /// The magnitude of a block, where `size` blocks share an outer magnitude.
    ///
    /// # Panics
    /// If there are not so many blocks.
    pub fn value(&self, block: usize, size: NonZeroU32) -> f32 {
        let absmax = self.absmax[block / size.get() as usize];
        self.map[usize::from(self.codes[block])] * absmax + self.offset
    }

    /// Magnitudes by the rule of bitsandbytes, `size` to an outer magnitude. The mean is summed in f64, so that it may differ from other tools' in the last
    /// bit.
    pub fn round_to_nearest(magnitudes: &[f32], size: NonZeroU32) -> Self {
        let count = magnitudes.len().max(1) as f64;
        let offset = (magnitudes.iter().map(|&m| f64::from(m)).sum::<f64>() / count) as f32;
        let rest: Vec<f32> = magnitudes.iter().map(|m| m - offset).collect();
        let map = dynamic_map();
        let mut codes = Vec::with_capacity(rest.len());
        let mut absmax = Vec::new();
        for block in rest.chunks(size.get() as usize) {
            let (max, inverse) = magnitude(block);
            codes.extend(block.iter().map(|r| {
                let x = r * inverse;
                map.windows(2).filter(|pair| x > (pair[0] + pair[1]) / 2.0).count() as u8
            }));
            absmax.push(max);
        }
        Self { codes, absmax, map, offset }
    }
}

/// The largest magnitude of a block and its reciprocal; of zeros that is finite too.
fn magnitude(block: &[f32]) -> (f32, f32) {
    let max = block.iter().fold(0f32, |max, w| max.max(w.abs()));
    (max, 1.0 / max.max(1e-38))
}

/// The 256 values of bitsandbytes' signed dynamic map, ascending: for each of seven decades, 1 to 64 evenly spaced values of either sign, and 0 and 1.
/// (Dettmers, 8-bit approximations for parallelism in deep learning, 2015.)
fn dynamic_map() -> Vec<f32> {
    /// Powers of ten from 10⁻⁶ to 1.
    const DECADES: [f32; 7] = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];
    let low = f64::from(0.1f32);
    let mut map = Vec::with_capacity(256);
    map.extend([0.0, 1.0]);
    for (decade, scale) in DECADES.into_iter().enumerate() {
        let n = 1u32 << decade;
        // As `torch.linspace`, from both ends, with a fused multiply-add: in f64 the product and sum are exact.
        let step = f64::from((1.0 - 0.1f32) / n as f32);
        let boundary = |k: u32| match k < n.div_ceil(2) {
            true => (step * f64::from(k) + low) as f32,
            false => (1.0 - step * f64::from(n - k)) as f32,
        };
        for k in 0..n {
            let value = scale * ((boundary(k) + boundary(k + 1)) / 2.0);
            map.extend([value, -value]);
        }
    }
    map.sort_unstable_by(f32::total_cmp);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(values: &[f32]) -> u32 {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        fewbit_testkit::crc32(&bytes)
    }

    #[test]
    fn tables_are_those_of_bitsandbytes() {
        assert_eq!(crc(Codebook::Nf4.values()), 0xc471_f81a);
        assert_eq!(crc(Codebook::Fp4.values()), 0x0967_dbc3);
        assert_eq!(crc(&dynamic_map()), 0x1b13_7aeb);
    }

    #[test]
    fn every_value_is_its_own_nearest_and_midpoints_fall_to_the_lower() {
        for book in Codebook::ALL {
            let values = book.values();
            let mut codes: Vec<u8> = (0..16).filter(|&c| book != Codebook::Fp4 || c != 8).collect();
            codes.sort_unstable_by(|&a, &b| {
                values[usize::from(a)].total_cmp(&values[usize::from(b)])
            });
            for pair in codes.windows(2) {
                let [low, high] = [pair[0], pair[1]].map(|c| values[usize::from(c)]);
                assert_eq!(book.nearest(low), pair[0]);
                let middle = (low + high) / 2.0;
                assert_eq!(book.nearest(middle), pair[0], "{book:?} {middle}");
                assert_eq!(book.nearest(middle.next_up()), pair[1], "{book:?} {middle}");
            }
            assert_eq!(values[usize::from(book.nearest(5.0))], 1.0);
            assert_eq!(values[usize::from(book.nearest(-5.0))], -1.0);
        }
    }
}
