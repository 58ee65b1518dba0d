//! Few-bit matrices in as many bits as a file has, decoded row by row.

use fewbit_format::{
    Absmax, CodebookMatrix, Float4, Float4Matrix, Float8, MatrixShape, Quantized,
    minifloat::{E2M1, decode_e8m0},
};

/// A few-bit matrix as it is stored. A product decodes some rows at a time, uses them and forgets them.
#[derive(Clone, Debug)]
pub struct StoredMatrix {
    shape: MatrixShape,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Grids that lie in memory as they lie in a file.
    Whole(Quantized),
    Nibbles(Nibbles),
}

/// 4-bit codes, two a byte, the first low; a row begins with a byte.
#[derive(Clone, Debug)]
struct Nibbles {
    /// (out_features, in_features / 2, rounded up).
    codes: Vec<u8>,
    /// The value of each code.
    values: [f32; 16],
    scales: Scales,
}

#[derive(Clone, Debug)]
enum Scales {
    /// One for so many weights of the flattened matrix.
    Flattened { block_size: usize, absmax: Absmax, nested_size: usize },
    /// One for so many columns of a row, as a code.
    Columns { group_size: usize, n_groups: usize, codes: Vec<u8>, values: Box<[f32; 256]> },
}

impl StoredMatrix {
    /// The shape.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Writes the values of one row: the same bits as `Quantized::dequantize_row_into`.
    ///
    /// # Panics
    /// If there is no such row or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        match &self.kind {
            Kind::Whole(matrix) => matrix.dequantize_row_into(row, out),
            Kind::Nibbles(nibbles) => {
                assert_eq!(out.len(), self.shape.in_features, "a row has in_features values");
                nibbles.decode_row(row, out);
            }
        }
    }

    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Whole(Quantized::Block(matrix)) => size_of_val(matrix.data()),
            Kind::Whole(Quantized::Float8(matrix)) => {
                size_of_val(matrix.codes()) + size_of_val(matrix.scales())
            }
            Kind::Whole(Quantized::LlmInt8(matrix)) => {
                size_of_val(matrix.codes()) + size_of_val(matrix.absmax())
            }
            Kind::Whole(other) => {
                (other.bits_per_weight() / 8.0 * self.shape.len() as f64) as usize
            }
            Kind::Nibbles(nibbles) => size_of_val(&*nibbles.codes) + nibbles.scales.bytes(),
        }
    }
}

impl From<Quantized> for StoredMatrix {
    fn from(matrix: Quantized) -> Self {
        match matrix {
            Quantized::Codebook(matrix) => Self::from(matrix),
            Quantized::Float4(matrix) => Self::from(matrix),
            other => Self { shape: other.shape(), kind: Kind::Whole(other) },
        }
    }
}

impl From<CodebookMatrix> for StoredMatrix {
    fn from(matrix: CodebookMatrix) -> Self {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        let scales = Scales::Flattened {
            block_size: scheme.block_size.get() as usize,
            absmax: matrix.absmax().clone(),
            nested_size: scheme.double_quant.map_or(1, |size| size.get() as usize),
        };
        Self::nibbles(shape, matrix.codes(), *scheme.codebook.values(), scales)
    }
}

impl From<Float4Matrix> for StoredMatrix {
    fn from(matrix: Float4Matrix) -> Self {
        let (shape, scheme, global_scale) =
            (matrix.shape(), matrix.scheme(), matrix.global_scale());
        let value = |code: usize| match scheme {
            Float4::Mxfp4 => decode_e8m0(code as u8),
            Float4::Nvfp4 => Float8::E4M3.decode(code as u8) / global_scale,
        };
        let scales = Scales::Columns {
            group_size: scheme.group_size(),
            n_groups: scheme.n_groups(shape.in_features),
            codes: matrix.scales().to_vec(),
            values: Box::new(std::array::from_fn(value)),
        };
        Self::nibbles(shape, matrix.codes(), E2M1, scales)
    }
}

impl StoredMatrix {
    fn nibbles(shape: MatrixShape, codes: &[u8], values: [f32; 16], scales: Scales) -> Self {
        let rows = codes.chunks(shape.in_features.max(1));
        let pairs = rows.flat_map(|row| row.chunks(2));
        let codes = pairs.map(|pair| pair[0] | pair.get(1).map_or(0, |high| high << 4)).collect();
        Self { shape, kind: Kind::Nibbles(Nibbles { codes, values, scales }) }
    }
}

impl Nibbles {
    fn decode_row(&self, row: usize, out: &mut [f32]) {
        let n = out.len();
        let codes = &self.codes[row * n.div_ceil(2)..][..n.div_ceil(2)];
        for (out, &byte) in out.chunks_mut(2).zip(codes) {
            for (out, code) in out.iter_mut().zip([byte & 15, byte >> 4]) {
                *out = self.values[usize::from(code)];
            }
        }
        match &self.scales {
            Scales::Columns { group_size, n_groups, codes, values } => {
                let scales = &codes[row * n_groups..][..*n_groups];
                for (out, &scale) in out.chunks_mut(*group_size).zip(scales) {
                    let scale = values[usize::from(scale)];
                    out.iter_mut().for_each(|value| *value *= scale);
                }
            }
            Scales::Flattened { block_size, absmax, nested_size } => {
                let mut at = row * n;
                let mut rest = out;
                while !rest.is_empty() {
                    // Up to the end of the block or the row.
                    let run = rest.len().min(block_size - at % block_size);
                    let (values, after) = rest.split_at_mut(run);
                    let scale = magnitude(absmax, at / block_size, *nested_size);
                    values.iter_mut().for_each(|value| *value *= scale);
                    (rest, at) = (after, at + run);
                }
            }
        }
    }
}

/// The largest magnitude of a block, of which `nested_size` share one of their own with double quantization.
fn magnitude(absmax: &Absmax, block: usize, nested_size: usize) -> f32 {
    match absmax {
        Absmax::Plain(values) => values[block],
        Absmax::Double(double) => {
            let code = usize::from(double.codes[block]);
            double.map[code] * double.absmax[block / nested_size] + double.offset
        }
    }
}

impl Scales {
    fn bytes(&self) -> usize {
        match self {
            Self::Flattened { absmax: Absmax::Plain(values), .. } => size_of_val(&**values),
            Self::Flattened { absmax: Absmax::Double(double), .. } => {
                size_of_val(&*double.codes)
                    + size_of_val(&*double.absmax)
                    + size_of_val(&*double.map)
            }
            Self::Columns { codes, values, .. } => size_of_val(&**codes) + size_of_val(&**values),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::{Codebook, CodebookScheme, ScaleType, Scheme};
    use fewbit_testkit::Random;

    #[test]
    fn nibbles_decode_to_the_same_bits_in_half_the_bytes() {
        let codebook = |double| {
            Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, 64, double, ScaleType::F16))
        };
        for scheme in [
            codebook(false),
            codebook(true),
            Scheme::Float4(Float4::Mxfp4),
            Scheme::Float4(Float4::Nvfp4),
        ] {
            // Rows that end within a byte, a group and a block.
            for in_features in [96, 64, 75] {
                let shape = MatrixShape::new(130, in_features);
                let weight = Random::new(3).normals(shape.len());
                let matrix = Quantized::round_to_nearest(&weight, shape, scheme).unwrap();
                let stored = StoredMatrix::from(matrix.clone());
                assert!(matches!(stored.kind, Kind::Nibbles(_)), "{scheme}");
                let mut got = vec![f32::NAN; shape.len()];
                for (row, out) in got.chunks_mut(in_features).enumerate() {
                    stored.dequantize_row_into(row, out);
                }
                assert_eq!(got, matrix.dequantize(), "{scheme}, rows of {in_features}");
                // The tables of values are what a file need not hold for each matrix, and odd rows end in half a byte.
                let bits = scheme.bits_per_weight(shape).unwrap();
                let file_bytes = (bits * shape.len() as f64 / 8.0) as usize;
                assert!(stored.bytes() <= file_bytes + 1024 + 130, "{scheme}");
            }
        }
    }
}
