//! Super-blocks as a grid that solvers stand on: scales found first and kept, codes in any order.

use alloc::{vec, vec::Vec};

use super::{
    BlockMatrix, BlockType,
    codec::{Codec, half, map, put_half},
    iq4::{Iq4Xs, VALUES, nearest_index},
    kquant::{Q2K, Q3K, Q4K, Q5K, Q6K},
};
use crate::{FormatError, Grid, MatrixShape, checks, round::round_ties_even};

/// Weights of a super-block.
const W: usize = 256;
/// The most groups of a super-block.
const GROUPS: usize = 16;
/// The most bytes of a super-block that are no codes.
const HEADER: usize = 20;

/// A super-block taken apart: what its groups are multiplied by, and its codes.
pub(super) trait Super<const B: usize>: Codec<W, B> {
    /// Where bytes lie that are no codes, as begin and length.
    const HEADER: &'static [(usize, usize)];

    /// The numbers of which scales and minima are products.
    fn factors(block: &[u8; B]) -> SuperFactors;

    /// Writes these numbers over those of a block.
    fn put_factors(block: &mut [u8; B], factors: &SuperFactors);

    /// Scale and minimum of each group: a weight is `scale · level − minimum`.
    #[inline(always)]
    fn groups(block: &[u8; B]) -> Groups {
        let SuperFactors { scale, minimum, scales, minima } = Self::factors(block);
        Groups {
            scales: map(&scales, |s| scale * f32::from(s)),
            minima: map(&minima, |m| minimum * f32::from(m)),
        }
    }

    /// The codes, one a byte.
    fn codes(block: &[u8; B]) -> [u8; W];

    /// Writes codes, one a byte, over those of a block.
    fn put_codes(block: &mut [u8; B], codes: &[u8; W]);
}

/// The numbers that a super-block stores beside its codes: group `g` has the scale `scale · scales[g]` and the minimum `minimum · minima[g]`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SuperFactors {
    /// Scale of the scales, an f16.
    pub scale: f32,
    /// Scale of the minima, an f16; 0 where there are none.
    pub minimum: f32,
    /// Codes of the scales, within [`SuperGrid::scale_codes`]; those past the last group are 0.
    pub scales: [i8; GROUPS],
    /// Codes of the minima, at most [`SuperGrid::max_minimum`]; those past the last group are 0.
    pub minima: [u8; GROUPS],
}

/// Scales and minima of the groups of a super-block, those past the last 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Groups {
    pub(super) scales: [f32; GROUPS],
    pub(super) minima: [f32; GROUPS],
}

/// Parameters of one super-block: the scales of its groups, as stored and as used.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuperParams {
    /// The bytes of the block that are no codes, one after another.
    header: [u8; HEADER],
    groups: Groups,
}

/// A GGML super-block type (q2_k to q6_k, iq4_xs) as a [`Grid`]: a group is a super-block of 256 weights, its parameters are the scales and minima of the
/// groups within, which are codes themselves. Fitting follows the reference's search under importance weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SuperGrid {
    block_type: BlockType,
    /// Weights that share a scale.
    group: usize,
    /// Code of the level 0; `None` where levels are a table.
    centre: Option<f32>,
    max_code: u8,
}

/// Evaluates an expression with the codec of a super-block type.
macro_rules! with_codec {
    ($type:expr, $function:ident($($argument:expr),*)) => {
        match $type {
            BlockType::Q2K => $function::<84, Q2K>($($argument),*),
            BlockType::Q3K => $function::<110, Q3K>($($argument),*),
            BlockType::Q4K => $function::<144, Q4K>($($argument),*),
            BlockType::Q5K => $function::<176, Q5K>($($argument),*),
            BlockType::Q6K => $function::<210, Q6K>($($argument),*),
            _ => $function::<136, Iq4Xs>($($argument),*),
        }
    };
}

impl SuperGrid {
    /// The grid of a type; `None` if its blocks are no super-blocks.
    pub const fn new(block_type: BlockType) -> Option<Self> {
        let (group, centre, max_code) = match block_type {
            BlockType::Q2K => (16, Some(0.0), 3),
            BlockType::Q3K => (16, Some(4.0), 7),
            BlockType::Q4K => (32, Some(0.0), 15),
            BlockType::Q5K => (32, Some(0.0), 31),
            BlockType::Q6K => (16, Some(32.0), 63),
            BlockType::Iq4Xs => (32, None, 15),
            _ => return None,
        };
        Some(Self { block_type, group, centre, max_code })
    }

    /// Weights that share a scale.
    pub const fn group_size(&self) -> usize {
        self.group
    }

    /// Least and largest code of a group's scale.
    pub const fn scale_codes(&self) -> [i8; 2] {
        match self.block_type {
            BlockType::Q2K => [0, 15],
            BlockType::Q4K | BlockType::Q5K => [0, 63],
            BlockType::Q6K => [i8::MIN, i8::MAX],
            _ => [-32, 31],
        }
    }

    /// Largest code of a group's minimum; `None` where a type has no minima.
    pub const fn max_minimum(&self) -> Option<u8> {
        match self.block_type {
            BlockType::Q2K => Some(15),
            BlockType::Q4K | BlockType::Q5K => Some(63),
            _ => None,
        }
    }

    /// Least and largest level, where levels are whole numbers; `None` where they are a table.
    pub fn level_range(&self) -> Option<[f32; 2]> {
        self.centre.map(|centre| [-centre, f32::from(self.max_code) - centre])
    }

    /// The numbers that parameters are made of.
    pub fn factors(&self, params: &SuperParams) -> SuperFactors {
        with_codec!(self.block_type, factors(params))
    }

    /// Parameters of these numbers. Scales are rounded to f16, codes of a group cut to their range.
    pub fn params(&self, factors: &SuperFactors) -> SuperParams {
        let n = W / self.group;
        let [least, most] = self.scale_codes();
        let mut sound = SuperFactors { scale: factors.scale, ..SuperFactors::default() };
        for g in 0..n {
            sound.scales[g] = factors.scales[g].clamp(least, most);
        }
        if let Some(most) = self.max_minimum() {
            sound.minimum = factors.minimum;
            for g in 0..n {
                sound.minima[g] = factors.minima[g].min(most);
            }
        }
        with_codec!(self.block_type, of_factors(&sound))
    }

    /// Codes, one a byte, and the parameters of the super-blocks of a matrix; `None` if it is of another type.
    pub fn take_apart(&self, matrix: &BlockMatrix) -> Option<(Vec<u8>, Vec<SuperParams>)> {
        let same = matrix.block_type() == self.block_type;
        same.then(|| with_codec!(self.block_type, take_apart(matrix.data())))
    }

    /// Assembles a matrix from codes, `(out_features, in_features)` row-major, one a byte, and the parameters of its super-blocks, `(out_features, in_features / 256)`.
    ///
    /// # Errors
    /// If a row is not a whole number of super-blocks, a length does not follow from the shape, a code exceeds the type's, or a scale is not finite.
    pub fn matrix(
        &self,
        shape: MatrixShape,
        codes: &[u8],
        params: &[SuperParams],
    ) -> Result<BlockMatrix, FormatError> {
        let row_bytes = self.block_type.row_bytes(shape.in_features)?;
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "super-blocks", params.len(), shape.len() / W)?;
        checks::codes("code", codes, self.max_code, u8::BITS - self.max_code.leading_zeros())?;
        let mut data = vec![0; row_bytes * shape.out_features];
        with_codec!(self.block_type, assemble(params, codes, &mut data));
        self.block_type.check(&data)?;
        BlockMatrix::new(shape, self.block_type, data)
    }

    /// The level of a code, in steps of a scale.
    #[inline(always)]
    fn level(&self, code: u8) -> f32 {
        match self.centre {
            Some(centre) => f32::from(code) - centre,
            None => f32::from(VALUES[usize::from(code & 15)]),
        }
    }

    #[inline(always)]
    fn encoded(&self, weights: &[f32], importance: Option<&[f32]>) -> SuperParams {
        let array = |x: &[f32]| -> [f32; W] {
            let mut all = [0.0; W];
            let n = x.len().min(W);
            all[..n].copy_from_slice(&x[..n]);
            all
        };
        let (weights, importance) = (array(weights), importance.map(array));
        with_codec!(self.block_type, encode(&weights, importance.as_ref()))
    }
}

impl Grid for SuperGrid {
    type Params = SuperParams;

    fn fit(&self, weights: &[f32], importance: &[f32]) -> SuperParams {
        let any = importance.iter().any(|&d| d > 0.0);
        self.encoded(weights, any.then_some(importance))
    }

    fn fit_plain(&self, weights: &[f32]) -> SuperParams {
        self.encoded(weights, None)
    }

    #[inline(always)]
    fn encode(&self, params: SuperParams, index: usize, value: f32) -> u8 {
        let group = index / self.group % GROUPS;
        let (scale, minimum) = (params.groups.scales[group], params.groups.minima[group]);
        if scale == 0.0 {
            return 0;
        }
        let steps = (value + minimum) / scale;
        match self.centre {
            Some(centre) => {
                round_ties_even((steps + centre).clamp(0.0, f32::from(self.max_code))) as u8
            }
            None => nearest_index(steps),
        }
    }

    #[inline(always)]
    fn decode(&self, params: SuperParams, index: usize, code: u8) -> f32 {
        let group = index / self.group % GROUPS;
        params.groups.scales[group] * self.level(code) - params.groups.minima[group]
    }

    fn scaled(&self, params: SuperParams, ratio: f32) -> SuperParams {
        with_codec!(self.block_type, scaled(params, ratio))
    }

    fn max_code(&self) -> u8 {
        self.max_code
    }
}

fn params<const B: usize, C: Super<B>>(block: &[u8; B]) -> SuperParams {
    let mut header = [0; HEADER];
    let mut at = 0;
    for &(begin, length) in C::HEADER {
        header[at..at + length].copy_from_slice(&block[begin..begin + length]);
        at += length;
    }
    SuperParams { header, groups: C::groups(block) }
}

/// A block of these parameters; its codes are 0 bits.
fn block<const B: usize, C: Super<B>>(params: &SuperParams) -> [u8; B] {
    let mut block = [0; B];
    let mut at = 0;
    for &(begin, length) in C::HEADER {
        block[begin..begin + length].copy_from_slice(&params.header[at..at + length]);
        at += length;
    }
    block
}

fn factors<const B: usize, C: Super<B>>(params: &SuperParams) -> SuperFactors {
    C::factors(&block::<B, C>(params))
}

fn of_factors<const B: usize, C: Super<B>>(factors: &SuperFactors) -> SuperParams {
    let mut block = [0; B];
    C::put_factors(&mut block, factors);
    params::<B, C>(&block)
}

fn take_apart<const B: usize, C: Super<B>>(data: &[u8]) -> (Vec<u8>, Vec<SuperParams>) {
    let blocks = data.as_chunks::<B>().0;
    let codes = blocks.iter().flat_map(C::codes).collect();
    (codes, blocks.iter().map(params::<B, C>).collect())
}

#[inline(always)]
fn encode<const B: usize, C: Super<B>>(
    weights: &[f32; W],
    importance: Option<&[f32; W]>,
) -> SuperParams {
    let mut block = [0; B];
    match importance {
        Some(importance) => {
            let mean_square = weights.iter().map(|x| x * x).sum::<f32>() / W as f32;
            C::encode_weighted(weights, importance, mean_square, &mut block);
        }
        None => C::encode(weights, &mut block),
    }
    params::<B, C>(&block)
}

fn scaled<const B: usize, C: Super<B>>(before: SuperParams, ratio: f32) -> SuperParams {
    let mut block = block::<B, C>(&before);
    for &at in C::HALVES {
        let value = half(&block, at) * ratio;
        put_half(&mut block, at, value);
    }
    let after = params::<B, C>(&block);
    let lost = C::HALVES.iter().any(|&at| half(&block, at) == 0.0);
    if C::is_sound(&block) && !lost { after } else { before }
}

fn assemble<const B: usize, C: Super<B>>(params: &[SuperParams], codes: &[u8], data: &mut [u8]) {
    let blocks = data.as_chunks_mut::<B>().0.iter_mut();
    for ((out, params), codes) in blocks.zip(params).zip(codes.as_chunks::<W>().0) {
        *out = block::<B, C>(params);
        C::put_codes(out, codes);
    }
}

#[cfg(test)]
mod tests {
    use fewbit_testkit::Random;

    use super::*;

    fn grids() -> impl Iterator<Item = SuperGrid> {
        BlockType::ALL.into_iter().filter_map(SuperGrid::new)
    }

    #[test]
    fn there_are_six() {
        assert_eq!(grids().count(), 6);
    }

    /// A matrix of parameters and codes decodes as the grid decodes them, to the bit.
    #[test]
    fn blocks_decode_as_the_grid_does() {
        let mut random = Random::new(3);
        for grid in grids() {
            let shape = MatrixShape::new(3, 512);
            let weights = random.normals(shape.len());
            let importance: Vec<f32> = random.normals(W).iter().map(|d| d * d).collect();
            let params: Vec<_> = (weights.chunks(W).enumerate())
                .map(|(i, w)| match i % 3 {
                    0 => grid.fit_plain(w),
                    1 => grid.fit(w, &importance),
                    _ => grid.scaled(grid.fit(w, &[0.0; W]), 0.9),
                })
                .collect();
            let codes: Vec<u8> = (0..shape.len())
                .map(|_| random.below(usize::from(grid.max_code()) + 1) as u8)
                .collect();
            let matrix = grid.matrix(shape, &codes, &params).unwrap();
            for (i, value) in matrix.dequantize().into_iter().enumerate() {
                let expected = grid.decode(params[i / W], i % W, codes[i]);
                assert_eq!(value.to_bits(), expected.to_bits(), "{} {i}", grid.block_type);
            }
        }
    }

    /// Parameters and codes that are taken from plain rounding give its bytes again, where codes are the nearest.
    #[test]
    fn plain_parameters_are_those_of_the_encoder() {
        let mut random = Random::new(5);
        for grid in grids() {
            let weights = random.normals(W);
            let shape = MatrixShape::new(1, W);
            let encoded =
                BlockMatrix::round_to_nearest(&weights, shape, grid.block_type, None).unwrap();
            let params = grid.fit_plain(&weights);
            let codes: Vec<u8> =
                weights.iter().enumerate().map(|(i, &w)| grid.encode(params, i, w)).collect();
            let ours = grid.matrix(shape, &codes, &[params]).unwrap();
            let same = ours.data().iter().zip(encoded.data()).filter(|(a, b)| a == b).count();
            assert!(same + 8 >= ours.data().len(), "{}: {same}", grid.block_type);
            let error = |m: &BlockMatrix| -> f64 {
                m.dequantize().iter().zip(&weights).map(|(a, b)| f64::from(a - b).powi(2)).sum()
            };
            assert!(error(&ours) <= error(&encoded) * 1.0001, "{}", grid.block_type);
        }
    }

    /// What is taken apart and put together again is the same, and factors stay in their ranges.
    #[test]
    fn parts_are_the_whole() {
        let mut random = Random::new(11);
        for grid in grids() {
            let shape = MatrixShape::new(2, 512);
            let weights = random.normals(shape.len());
            let matrix =
                BlockMatrix::round_to_nearest(&weights, shape, grid.block_type, None).unwrap();
            let (codes, params) = grid.take_apart(&matrix).unwrap();
            assert_eq!(grid.matrix(shape, &codes, &params).unwrap(), matrix);
            for params in params {
                assert_eq!(grid.params(&grid.factors(&params)), params, "{}", grid.block_type);
            }
            let wild =
                SuperFactors { scale: 0.5, minimum: 0.25, scales: [-128; 16], minima: [255; 16] };
            let tamed = grid.factors(&grid.params(&wild));
            let n = W / grid.group_size();
            assert_eq!(tamed.scales[..n], [grid.scale_codes()[0]; 16][..n]);
            assert_eq!(tamed.minima[..n], [grid.max_minimum().unwrap_or(0); 16][..n]);
            assert_eq!(tamed.scale, 0.5);
            let other = BlockMatrix::new(MatrixShape::new(0, 256), BlockType::Q8_0, Vec::new());
            assert!(grid.take_apart(&other.unwrap()).is_none());
        }
    }

    #[test]
    fn codes_are_nearest() {
        let mut random = Random::new(9);
        for grid in grids() {
            let weights = random.normals(W);
            let params = grid.fit(&weights, &[1.0; W]);
            for (i, w) in random.normals(W).into_iter().enumerate() {
                let error = |code| (grid.decode(params, i, code) - w).abs();
                let code = grid.encode(params, i, w);
                let least = (0..=grid.max_code()).map(error).fold(f32::MAX, f32::min);
                assert!(error(code) <= least * 1.001 + 1e-6, "{} {i}", grid.block_type);
            }
        }
    }

    #[test]
    fn groups_of_nothing_and_huge_weights_do_no_harm() {
        for grid in grids() {
            let zeros = grid.fit(&[0.0; W], &[1.0; W]);
            assert_eq!(grid.nearest(zeros, 17, 0.0), 0.0);
            let shape = MatrixShape::new(1, W);
            let codes = vec![0; W];
            assert!(grid.matrix(shape, &codes, &[zeros]).is_ok());
            let huge = grid.fit(&[1e30; W], &[1.0; W]);
            assert!(grid.matrix(shape, &codes, &[huge]).is_err(), "{}", grid.block_type);
            assert!(grid.matrix(MatrixShape::new(1, 128), &codes[..128], &[zeros]).is_err());
            assert!(grid.matrix(shape, &[255; W], &[zeros]).is_err());
            assert!(grid.matrix(shape, &codes, &[]).is_err());
        }
    }
}
