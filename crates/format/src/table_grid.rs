//! Tables of 16 values under a scale for each group, as a grid that solvers stand on: NF4, FP4, MXFP4, NVFP4 and GGML's iq4_nl.

use alloc::vec::Vec;

use crate::{
    Absmax, BlockMatrix, BlockType, Codebook, CodebookMatrix, CodebookScheme, Float4, Float4Matrix,
    FormatError, Grid, MatrixShape, Quantized, ScaleType, Scheme,
    block::{IQ4_VALUES, nearest_iq4},
    float4::{mx_scale, nv_scale, scale_value},
    minifloat::{E2M1, Float8, encode_e2m1},
};

/// A table and how its scales are stored. The group size is the caller's business: a grid sees one group at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableGrid(Kind);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Scales are f32, and positive.
    Codebook(Codebook),
    /// Scales are numbers of 8 bits; those of NVFP4 are divided by one number for the whole matrix.
    Float4(Float4, f32),
    /// Scales are f16 of either sign.
    Iq4Nl,
}

/// Parameters of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TableParams {
    /// What values of the table are multiplied by, as stored.
    pub scale: f32,
    /// How a scale of 8 bits is stored; 0 where scales are floats.
    pub code: u8,
}

/// A matrix on a table, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct TableParts {
    /// Its grid.
    pub grid: TableGrid,
    /// Columns that share a scale.
    pub group: usize,
    /// `(out_features, in_features)` row-major, one a byte.
    pub codes: Vec<u8>,
    /// `(out_features, in_features / group)` row-major.
    pub params: Vec<TableParams>,
}

/// Scales that the search tries, evenly spaced shares of the plain one.
const SCALES: u32 = 20;
/// The least and the largest of these shares.
const SHARES: [f32; 2] = [0.55, 1.2];

impl TableGrid {
    /// The grid of a codebook whose magnitudes are stored as they are.
    pub const fn codebook(codebook: Codebook) -> Self {
        Self(Kind::Codebook(codebook))
    }

    /// The grid of 4-bit floats. `global_scale` is [`Float4::global_scale`] of the matrix.
    pub const fn float4(float4: Float4, global_scale: f32) -> Self {
        Self(Kind::Float4(float4, global_scale))
    }

    /// The grid of GGML's iq4_nl, in groups of 32.
    pub const fn iq4_nl() -> Self {
        Self(Kind::Iq4Nl)
    }

    /// Assembles a matrix of a codebook from codes, `(out_features, in_features)` row-major, and the parameters of groups of the scheme's block size,
    /// which has to divide a row.
    ///
    /// # Errors
    /// If a length does not follow from the shape, or the scheme has double quantization.
    pub fn codebook_matrix(
        shape: MatrixShape,
        scheme: CodebookScheme,
        codes: Vec<u8>,
        params: &[TableParams],
    ) -> Result<CodebookMatrix, FormatError> {
        let magnitudes = params.iter().map(|p| p.scale).collect();
        CodebookMatrix::new(shape, scheme, codes, Absmax::Plain(magnitudes))
    }

    /// Assembles a matrix of 4-bit floats from codes, `(out_features, in_features)` row-major, and the parameters of its groups.
    ///
    /// # Errors
    /// If a length does not follow from the shape.
    pub fn float4_matrix(
        shape: MatrixShape,
        float4: Float4,
        global_scale: f32,
        codes: Vec<u8>,
        params: &[TableParams],
    ) -> Result<Float4Matrix, FormatError> {
        let scales = params.iter().map(|p| p.code).collect();
        Float4Matrix::new(shape, float4, codes, scales, global_scale)
    }

    /// Assembles iq4_nl blocks from codes, `(out_features, in_features)` row-major, and the parameters of groups of 32.
    ///
    /// # Errors
    /// If a row is not a whole number of blocks, or a scale is not finite.
    ///
    /// # Panics
    /// If there are not as many codes and parameters as the shape says.
    pub fn iq4_nl_matrix(
        shape: MatrixShape,
        codes: &[u8],
        params: &[TableParams],
    ) -> Result<BlockMatrix, FormatError> {
        let row_bytes = BlockType::Iq4Nl.row_bytes(shape.in_features)?;
        assert_eq!((codes.len(), params.len()), (shape.len(), shape.len() / 32));
        let mut data = Vec::with_capacity(row_bytes * shape.out_features);
        for (params, codes) in params.iter().zip(codes.as_chunks::<32>().0) {
            data.extend(half::f16::from_f32(params.scale).to_le_bytes());
            let (low, high) = codes.split_at(16);
            data.extend(low.iter().zip(high).map(|(low, high)| low | high << 4));
        }
        BlockMatrix::new(shape, BlockType::Iq4Nl, data)
    }

    /// Assembles a matrix of a scheme from codes, `(out_features, in_features)` row-major, and the parameters of its groups.
    ///
    /// # Errors
    /// If the scheme is not of this table, a length does not follow from the shape, or the scheme has double quantization.
    pub fn matrix(
        &self,
        shape: MatrixShape,
        scheme: Scheme,
        codes: Vec<u8>,
        params: &[TableParams],
    ) -> Result<Quantized, FormatError> {
        match (self.0, scheme.plain_layout()) {
            (Kind::Codebook(book), Scheme::Codebook(scheme)) if scheme.codebook == book => {
                Self::codebook_matrix(shape, scheme, codes, params).map(Into::into)
            }
            (Kind::Float4(own, global), Scheme::Float4(scheme)) if own == scheme => {
                Self::float4_matrix(shape, scheme, global, codes, params).map(Into::into)
            }
            (Kind::Iq4Nl, Scheme::Block(BlockType::Iq4Nl)) => {
                Self::iq4_nl_matrix(shape, &codes, params).map(Into::into)
            }
            (_, other) => Err(FormatError::NoGrid { scheme: other.name() }),
        }
    }

    /// A matrix on a table, taken apart; `None` for other matrices, for double quantization, and where groups run on from row to row.
    pub fn take_apart(matrix: &Quantized) -> Option<TableParts> {
        let plain = |&scale: &f32| TableParams { scale, code: 0 };
        let (grid, group, codes, params) = match matrix {
            Quantized::Codebook(matrix) => {
                let Absmax::Plain(magnitudes) = matrix.absmax() else { return None };
                let scheme = matrix.scheme();
                let params = magnitudes.iter().map(plain).collect();
                let group = scheme.block_size.get() as usize;
                (Self::codebook(scheme.codebook), group, matrix.codes().to_vec(), params)
            }
            Quantized::Float4(matrix) => {
                let (scheme, global) = (matrix.scheme(), matrix.global_scale());
                let params = matrix.scales().iter().map(|&code| {
                    let scale = scale_value(scheme, code, global);
                    TableParams { scale, code }
                });
                let (grid, group) = (Self::float4(scheme, global), scheme.group_size());
                (grid, group, matrix.codes().to_vec(), params.collect())
            }
            Quantized::Block(matrix) if matrix.block_type() == BlockType::Iq4Nl => {
                let blocks = matrix.data().as_chunks::<18>().0;
                let half = |b: &[u8; 18]| half::f16::from_le_bytes([b[0], b[1]]).to_f32();
                let params = blocks.iter().map(|block| plain(&half(block))).collect();
                let codes = blocks.iter().flat_map(|block| {
                    let packed = &block[2..];
                    packed.iter().map(|b| b & 15).chain(packed.iter().map(|b| b >> 4))
                });
                (Self::iq4_nl(), 32, codes.collect(), params)
            }
            _ => return None,
        };
        let whole = matrix.shape().in_features.is_multiple_of(group);
        whole.then_some(TableParts { grid, group, codes, params })
    }

    /// The least and the largest value of the table.
    pub fn value_range(&self) -> [f32; 2] {
        let values = (0..16).map(|code| self.value(code));
        values.fold([f32::MAX, f32::MIN], |[low, high], v| [low.min(v), high.max(v)])
    }

    /// The value of a code before it is scaled.
    #[inline(always)]
    pub fn value(&self, code: u8) -> f32 {
        let code = usize::from(code & 15);
        match self.0 {
            Kind::Codebook(codebook) => codebook.values()[code],
            Kind::Float4(..) => E2M1[code],
            Kind::Iq4Nl => f32::from(IQ4_VALUES[code]),
        }
    }

    /// The code whose value is nearest.
    #[inline(always)]
    pub fn nearest_code(&self, value: f32) -> u8 {
        match self.0 {
            Kind::Codebook(codebook) => codebook.nearest(value),
            Kind::Float4(..) => encode_e2m1(value),
            Kind::Iq4Nl => nearest_iq4(value),
        }
    }

    /// A scale as storage holds it.
    #[inline(always)]
    pub fn stored(&self, scale: f32) -> TableParams {
        let plain = |scale| TableParams { scale, code: 0 };
        match self.0 {
            Kind::Codebook(_) => plain(scale.abs()),
            Kind::Iq4Nl => plain(ScaleType::F16.round(scale)),
            Kind::Float4(scheme, global) => {
                let code = match scheme {
                    Float4::Mxfp4 => nearest_e8m0(scale.abs()),
                    Float4::Nvfp4 => {
                        Float8::E4M3.encode((scale.abs() * global).min(Float8::E4M3.max()))
                    }
                };
                TableParams { scale: scale_value(scheme, code, global), code }
            }
        }
    }

    /// Σ dᵢ·(wᵢ − nearest(wᵢ))² under a scale, and the scale of least squares for its codes.
    #[inline(always)]
    fn loss(&self, weights: &[f32], importance: &[f32], params: TableParams) -> (f32, f32) {
        let inverse = params.scale.recip();
        let (mut loss, mut wv, mut vv) = (0.0, 0.0, 0.0);
        for (&w, &d) in weights.iter().zip(importance) {
            let v = self.value(self.nearest_code(w * inverse));
            let error = w - v * params.scale;
            loss += d * error * error;
            wv += d * w * v;
            vv += d * v * v;
        }
        (loss, if vv > 0.0 { wv / vv } else { params.scale })
    }

    fn search(&self, weights: &[f32], importance: &[f32]) -> TableParams {
        let plain = self.fit_plain(weights);
        if plain.scale == 0.0 || !plain.scale.is_finite() {
            return plain;
        }
        let mut best = (plain, self.loss(weights, importance, plain).0);
        let mut last = None;
        let signs: &[f32] = if self.0 == Kind::Iq4Nl { &[1.0, -1.0] } else { &[1.0] };
        let [least, most] = SHARES;
        for i in 0..SCALES * signs.len() as u32 {
            let share = least + (most - least) * (i % SCALES) as f32 / (SCALES - 1) as f32;
            let mut params = self.stored(plain.scale * share * signs[(i / SCALES) as usize]);
            // The scale of these codes, and once more: codes move little after that.
            for _ in 0..2 {
                if params.scale == 0.0 || !params.scale.is_finite() || last == Some(params) {
                    break;
                }
                last = Some(params);
                let (loss, refit) = self.loss(weights, importance, params);
                if loss < best.1 {
                    best = (params, loss);
                }
                params = self.stored(refit);
            }
        }
        best.0
    }
}

impl Grid for TableGrid {
    type Params = TableParams;

    fn fit(&self, weights: &[f32], importance: &[f32]) -> TableParams {
        if importance.iter().all(|&d| d == 0.0) {
            return self.search(weights, &alloc::vec![1.0; weights.len()]);
        }
        self.search(weights, importance)
    }

    fn fit_plain(&self, weights: &[f32]) -> TableParams {
        // Of the first of the largest, with its sign.
        let signed = weights.iter().fold(0f32, |max, &w| if w.abs() > max.abs() { w } else { max });
        match self.0 {
            Kind::Codebook(_) => self.stored(signed),
            // Its largest value in magnitude is the first.
            Kind::Iq4Nl => self.stored(signed / f32::from(IQ4_VALUES[0])),
            Kind::Float4(scheme, global) => {
                let code = match scheme {
                    Float4::Mxfp4 => mx_scale(signed.abs()),
                    Float4::Nvfp4 => nv_scale(signed.abs(), global),
                };
                TableParams { scale: scale_value(scheme, code, global), code }
            }
        }
    }

    #[inline(always)]
    fn encode(&self, params: TableParams, _index: usize, value: f32) -> u8 {
        if params.scale == 0.0 {
            return self.nearest_code(0.0);
        }
        self.nearest_code(value / params.scale)
    }

    #[inline(always)]
    fn decode(&self, params: TableParams, _index: usize, code: u8) -> f32 {
        self.value(code) * params.scale
    }

    fn scaled(&self, params: TableParams, ratio: f32) -> TableParams {
        let scaled = self.stored(params.scale * ratio);
        if scaled.scale != 0.0 && scaled.scale.is_finite() { scaled } else { params }
    }

    fn max_code(&self) -> u8 {
        15
    }
}

/// The E8M0 code nearest to a scale, by ratio.
fn nearest_e8m0(scale: f32) -> u8 {
    // From √2 on the next power of two is nearer.
    let bits = scale.max(f32::MIN_POSITIVE).to_bits();
    let (exponent, fraction) = (bits >> 23, bits & 0x7f_ffff);
    (exponent + u32::from(fraction > 0x35_04f3)).min(252) as u8
}

#[cfg(test)]
mod tests {
    use fewbit_testkit::Random;

    use super::*;

    fn grids() -> [(TableGrid, usize); 5] {
        [
            (TableGrid::codebook(Codebook::Nf4), 64),
            (TableGrid::codebook(Codebook::Fp4), 64),
            (TableGrid::float4(Float4::Mxfp4, 1.0), 32),
            (TableGrid::float4(Float4::Nvfp4, 700.0), 16),
            (TableGrid::iq4_nl(), 32),
        ]
    }

    fn matrix(
        grid: TableGrid,
        group: usize,
        shape: MatrixShape,
        codes: &[u8],
        params: &[TableParams],
    ) -> Quantized {
        match grid.0 {
            Kind::Codebook(book) => {
                let scheme = CodebookScheme::new(book, group as u32, false, ScaleType::BF16);
                TableGrid::codebook_matrix(shape, scheme, codes.to_vec(), params).unwrap().into()
            }
            Kind::Float4(scheme, global) => {
                TableGrid::float4_matrix(shape, scheme, global, codes.to_vec(), params)
                    .unwrap()
                    .into()
            }
            Kind::Iq4Nl => TableGrid::iq4_nl_matrix(shape, codes, params).unwrap().into(),
        }
    }

    /// A matrix of parameters and codes decodes as the grid decodes them, to the bit.
    #[test]
    fn matrices_decode_as_the_grid_does() {
        let mut random = Random::new(3);
        for (grid, group) in grids() {
            let shape = MatrixShape::new(3, 128);
            let weights = random.normals(shape.len());
            let importance: Vec<f32> = random.normals(group).iter().map(|d| d * d).collect();
            let params: Vec<_> = (weights.chunks(group).enumerate())
                .map(|(i, w)| match i % 3 {
                    0 => grid.fit_plain(w),
                    1 => grid.fit(w, &importance),
                    _ => grid.scaled(grid.fit(w, &[0.0; 64][..w.len()]), 0.9),
                })
                .collect();
            let codes: Vec<u8> = (0..shape.len()).map(|_| random.below(16) as u8).collect();
            let matrix = matrix(grid, group, shape, &codes, &params);
            for (i, value) in matrix.dequantize().into_iter().enumerate() {
                let expected = grid.decode(params[i / group], i % group, codes[i]);
                assert_eq!(value.to_bits(), expected.to_bits(), "{grid:?} {i}");
            }
            let parts = TableGrid::take_apart(&matrix).unwrap();
            assert_eq!(parts, TableParts { grid, group, codes, params });
        }
    }

    #[test]
    fn codes_are_nearest_and_a_fit_beats_the_plain_one() {
        let mut random = Random::new(9);
        for (grid, group) in grids() {
            for _ in 0..20 {
                let weights = random.normals(group);
                let importance: Vec<f32> = random.normals(group).iter().map(|d| d * d).collect();
                let loss = |params| -> f32 {
                    let terms = weights.iter().zip(&importance).enumerate();
                    terms.map(|(i, (&w, d))| d * (w - grid.nearest(params, i, w)).powi(2)).sum()
                };
                let (plain, fit) = (grid.fit_plain(&weights), grid.fit(&weights, &importance));
                assert!(loss(fit) <= loss(plain), "{grid:?}");
                for (i, &w) in weights.iter().enumerate() {
                    let error = |code| (grid.decode(fit, i, code) - w).abs();
                    let least = (0..16).map(error).fold(f32::MAX, f32::min);
                    assert!(error(grid.encode(fit, i, w)) <= least * 1.001 + 1e-6, "{grid:?} {i}");
                }
            }
        }
    }

    /// Plain parameters and nearest codes are what the formats' own encoders choose.
    #[test]
    fn plain_rounding_is_that_of_the_formats() {
        let mut random = Random::new(5);
        let shape = MatrixShape::new(4, 256);
        let weights: Vec<f32> = random.normals(shape.len()).iter().map(|w| 0.02 * w).collect();
        let global = Float4::Nvfp4.global_scale(&weights);
        for (grid, group) in grids() {
            let grid = match grid.0 {
                Kind::Float4(Float4::Nvfp4, _) => TableGrid::float4(Float4::Nvfp4, global),
                _ => grid,
            };
            let theirs: Quantized = match grid.0 {
                Kind::Codebook(book) => {
                    let scheme = CodebookScheme::new(book, group as u32, false, ScaleType::BF16);
                    CodebookMatrix::round_to_nearest(&weights, shape, scheme).unwrap().into()
                }
                Kind::Float4(scheme, _) => {
                    Float4Matrix::round_to_nearest(&weights, shape, scheme).unwrap().into()
                }
                // Its own encoder searches.
                Kind::Iq4Nl => continue,
            };
            let params: Vec<_> = weights.chunks(group).map(|w| grid.fit_plain(w)).collect();
            let code = |(i, &w): (usize, &f32)| grid.encode(params[i / group], i % group, w);
            let codes: Vec<u8> = weights.iter().enumerate().map(code).collect();
            let ours = matrix(grid, group, shape, &codes, &params).dequantize();
            let other = ours.iter().zip(theirs.dequantize()).filter(|(a, b)| **a != *b).count();
            // A reciprocal in place of a division may move a weight that lies between two values.
            assert!(other <= 2, "{grid:?}: {other} of {}", ours.len());
        }
    }

    #[test]
    fn groups_of_nothing_do_no_harm() {
        for (grid, group) in grids() {
            let zeros = vec![0.0; group];
            let params = grid.fit(&zeros, &vec![1.0; group]);
            assert_eq!(grid.nearest(params, 0, 0.0), 0.0, "{grid:?}");
        }
    }

    #[test]
    fn powers_of_two_are_nearest_by_ratio() {
        for (scale, exponent) in [(1.0, 127), (1.4, 127), (1.42, 128), (0.5, 126), (0.71, 127)] {
            assert_eq!(nearest_e8m0(scale), exponent, "{scale}");
        }
        assert_eq!(nearest_e8m0(f32::MAX), 252);
    }
}
