//! Integers over a float: `value = scale · code + offset`.

use alloc::{vec, vec::Vec};
use core::num::NonZeroU32;

use crate::{Bits, FormatError, Grid, MatrixShape, ScaleType, checks, round::round_ties_even};

/// An integer grid whose groups store where they begin as a float, not as a whole number of steps (MLX's "affine").
///
/// The range of a group then fits its weights at both ends; zero need not be one of its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetScheme {
    /// Width of a code.
    pub bits: Bits,
    /// Columns that share scale and offset; the last group of a row may be shorter.
    pub group_size: NonZeroU32,
    /// How scales and offsets are stored.
    pub value_type: ScaleType,
}

impl OffsetScheme {
    /// A scheme with groups of `group_size` columns.
    ///
    /// # Panics
    /// If `group_size` is 0.
    pub const fn new(bits: Bits, group_size: u32, value_type: ScaleType) -> Self {
        let group_size = NonZeroU32::new(group_size).expect("a group holds at least one column");
        Self { bits, group_size, value_type }
    }

    /// Groups along a row.
    pub const fn n_groups(&self, in_features: usize) -> usize {
        in_features.div_ceil(self.group_size.get() as usize)
    }

    /// Bits that a matrix of this shape takes: codes, scales and offsets.
    pub const fn storage_bits(&self, shape: MatrixShape) -> u64 {
        let n_groups = shape.out_features * self.n_groups(shape.in_features);
        shape.len() as u64 * self.bits.get() as u64
            + n_groups as u64 * 2 * self.value_type.bits() as u64
    }
}

/// Parameters of one group.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OffsetParams {
    /// Step between neighbouring values, as stored. Of either sign, never zero.
    pub scale: f32,
    /// Value of code 0, as stored.
    pub offset: f32,
}

/// The grid of [`OffsetScheme`], with parameters by weighted least squares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetGrid {
    /// Width and storage. The group size is the caller's business: a grid sees one group at a time.
    pub scheme: OffsetScheme,
}

/// Ranges that the search tries, evenly spaced between [`SHRINK`] and the whole range of the weights.
const RANGES: u32 = 16;
/// The most that a range is shrunk.
const SHRINK: f32 = 0.4;
/// The least scale of MLX's rule.
const LEAST_SCALE: f32 = 1e-7;

impl OffsetGrid {
    /// The grid of a scheme.
    pub const fn new(scheme: OffsetScheme) -> Self {
        Self { scheme }
    }

    /// Parameters as storage holds them. A scale that would become zero is the least that does not.
    #[inline(always)]
    pub fn stored(&self, scale: f32, offset: f32) -> OffsetParams {
        let t = self.scheme.value_type;
        // Small scales stay, as MLX keeps them: only zero would make its codes meaningless.
        let size = match t.round(scale.abs()) {
            0.0 => t.min_positive(),
            size => size.min(t.max()),
        };
        OffsetParams {
            scale: size.copysign(scale),
            offset: t.round(offset).clamp(-t.max(), t.max()),
        }
    }

    /// MLX's rule, before storage rounds it: the range of the weights from its larger end, moved so that zero is a value.
    fn plain(&self, weights: &[f32]) -> (f32, f32) {
        let (low, high) = extremes(weights);
        let size = ((high - low) / f32::from(self.max_code())).max(LEAST_SCALE);
        let (edge, scale) = if low.abs() > high.abs() { (low, size) } else { (high, -size) };
        match round_ties_even(edge / scale) {
            0.0 => (scale, 0.0),
            steps => (edge / steps, edge),
        }
    }

    /// Σ dᵢ·(wᵢ − nearest(wᵢ))², and the sums of least squares for its codes.
    #[inline(always)]
    fn sums(&self, weights: &[f32], importance: &[f32], params: OffsetParams) -> Sums {
        let (inverse, top) = (params.scale.recip(), f32::from(self.max_code()));
        let mut sums = Sums::default();
        for (&w, &d) in weights.iter().zip(importance) {
            let q = round_ties_even(((w - params.offset) * inverse).clamp(0.0, top));
            let error = w - (q * params.scale + params.offset);
            sums.loss += d * error * error;
            sums.d += d;
            sums.q += d * q;
            sums.qq += d * q * q;
            sums.e += d * error;
            sums.qe += d * q * error;
        }
        sums
    }

    fn search(&self, weights: &[f32], importance: &[f32]) -> OffsetParams {
        let plain = self.fit_plain(weights);
        let (low, high) = extremes(weights);
        let mut best = (plain, self.sums(weights, importance, plain).loss);
        let middle = 0.5 * (low + high);
        for i in 0..RANGES {
            let share = 1.0 - (1.0 - SHRINK) * i as f32 / (RANGES - 1) as f32;
            let scale = (high - low) * share / f32::from(self.max_code());
            let start = middle - 0.5 * (high - low) * share;
            // Codes of these parameters, parameters of these codes, and once more: codes move little after that.
            let mut params = self.stored(scale, start);
            for _ in 0..2 {
                let sums = self.sums(weights, importance, params);
                if sums.loss < best.1 {
                    best = (params, sums.loss);
                }
                let Some((scale, offset)) = sums.solve(params) else { break };
                params = self.stored(scale, offset);
            }
            let loss = self.sums(weights, importance, params).loss;
            if loss < best.1 {
                best = (params, loss);
            }
        }
        best.0
    }
}

/// Weighted sums over a group.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    loss: f32,
    d: f32,
    q: f32,
    qq: f32,
    e: f32,
    qe: f32,
}

impl Sums {
    /// Scale and offset of least squares for the codes of some parameters; `None` if all codes are one. From the errors, which are small, so that
    /// little is lost to rounding.
    fn solve(&self, params: OffsetParams) -> Option<(f32, f32)> {
        let determinant = self.d * self.qq - self.q * self.q;
        if determinant <= f32::EPSILON * self.d * self.qq {
            return None;
        }
        let scale = params.scale + (self.d * self.qe - self.q * self.e) / determinant;
        let offset = params.offset + (self.qq * self.e - self.q * self.qe) / determinant;
        (scale != 0.0 && scale.is_finite() && offset.is_finite()).then_some((scale, offset))
    }
}

impl Grid for OffsetGrid {
    type Params = OffsetParams;

    fn fit(&self, weights: &[f32], importance: &[f32]) -> OffsetParams {
        if importance.iter().all(|&d| d == 0.0) {
            return self.search(weights, &vec![1.0; weights.len()]);
        }
        self.search(weights, importance)
    }

    fn fit_plain(&self, weights: &[f32]) -> OffsetParams {
        let (scale, offset) = self.plain(weights);
        self.stored(scale, offset)
    }

    #[inline(always)]
    fn encode(&self, params: OffsetParams, _index: usize, value: f32) -> u8 {
        let top = f32::from(self.max_code());
        round_ties_even(((value - params.offset) / params.scale).clamp(0.0, top)) as u8
    }

    #[inline(always)]
    fn decode(&self, params: OffsetParams, _index: usize, code: u8) -> f32 {
        f32::from(code) * params.scale + params.offset
    }

    fn scaled(&self, params: OffsetParams, ratio: f32) -> OffsetParams {
        let scaled = self.stored(params.scale * ratio, params.offset * ratio);
        let sound = ratio != 0.0 && (params.scale * ratio).is_finite();
        if sound { scaled } else { params }
    }

    fn max_code(&self) -> u8 {
        self.scheme.bits.max_code()
    }
}

/// A weight matrix on the grid of an [`OffsetScheme`].
#[derive(Clone, Debug, PartialEq)]
pub struct OffsetMatrix {
    shape: MatrixShape,
    scheme: OffsetScheme,
    /// (out_features, in_features), one code a byte.
    codes: Vec<u8>,
    /// (out_features, n_groups).
    scales: Vec<f32>,
    /// Like `scales`.
    offsets: Vec<f32>,
}

impl OffsetMatrix {
    /// Assembles a matrix from its parts: `codes` `(out_features, in_features)` row-major, `scales` and `offsets` `(out_features, n_groups)`.
    ///
    /// # Errors
    /// If a length does not follow from the shape, a code exceeds the width, or a scale or offset is not a finite value of the storage type.
    pub fn new(
        shape: MatrixShape,
        scheme: OffsetScheme,
        codes: Vec<u8>,
        scales: Vec<f32>,
        offsets: Vec<f32>,
    ) -> Result<Self, FormatError> {
        let n_groups = shape.out_features * scheme.n_groups(shape.in_features);
        checks::length(shape, "codes", codes.len(), shape.len())?;
        checks::length(shape, "scales", scales.len(), n_groups)?;
        checks::length(shape, "offsets", offsets.len(), n_groups)?;
        checks::codes("code", &codes, scheme.bits.max_code(), scheme.bits.get())?;
        checks::scales(&scales, scheme.value_type)?;
        checks::scales(&offsets, scheme.value_type)?;
        Ok(Self { shape, scheme, codes, scales, offsets })
    }

    /// Assembles a matrix from codes and the parameters of the groups, `(out_features, n_groups)` row-major.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_params(
        shape: MatrixShape,
        scheme: OffsetScheme,
        codes: Vec<u8>,
        params: &[OffsetParams],
    ) -> Result<Self, FormatError> {
        let (scales, offsets) = params.iter().map(|p| (p.scale, p.offset)).unzip();
        Self::new(shape, scheme, codes, scales, offsets)
    }

    /// Plain rounding, by the rule of MLX: codes under the parameters before these are rounded to their storage type.
    ///
    /// # Errors
    /// If `weight` is not `(out_features, in_features)` or holds NaN or infinity.
    pub fn round_to_nearest(
        weight: &[f32],
        shape: MatrixShape,
        scheme: OffsetScheme,
    ) -> Result<Self, FormatError> {
        checks::length(shape, "weight", weight.len(), shape.len())?;
        checks::finite("weight", weight)?;
        let grid = OffsetGrid::new(scheme);
        let top = f32::from(grid.max_code());
        let mut codes = Vec::with_capacity(weight.len());
        let mut params = Vec::new();
        for row in weight.chunks(shape.in_features.max(1)) {
            for group in row.chunks(scheme.group_size.get() as usize) {
                let (scale, offset) = grid.plain(group);
                let code = |w: &f32| round_ties_even((w - offset) / scale).clamp(0.0, top) as u8;
                codes.extend(group.iter().map(code));
                params.push(grid.stored(scale, offset));
            }
        }
        Self::from_params(shape, scheme, codes, &params)
    }

    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// The grid it lies on.
    pub fn scheme(&self) -> OffsetScheme {
        self.scheme
    }

    /// Codes, `(out_features, in_features)` row-major, one a byte.
    pub fn codes(&self) -> &[u8] {
        &self.codes
    }

    /// Scales, `(out_features, n_groups)` row-major.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    /// Values of code 0, laid out like the scales.
    pub fn offsets(&self) -> &[f32] {
        &self.offsets
    }

    /// Writes the values of one row: a product and a sum, each rounded.
    ///
    /// # Panics
    /// If `row` is out of range or `out` is not `in_features` long.
    pub fn dequantize_row_into(&self, row: usize, out: &mut [f32]) {
        let n = self.shape.in_features;
        assert_eq!(out.len(), n, "a row has in_features values");
        let (size, first) = (self.scheme.group_size.get() as usize, row * self.scheme.n_groups(n));
        let codes = &self.codes[row * n..][..n];
        for (g, (out, codes)) in out.chunks_mut(size).zip(codes.chunks(size)).enumerate() {
            let (scale, offset) = (self.scales[first + g], self.offsets[first + g]);
            for (o, &code) in out.iter_mut().zip(codes) {
                *o = f32::from(code) * scale + offset;
            }
        }
    }
}

/// Smallest and largest weight.
fn extremes(weights: &[f32]) -> (f32, f32) {
    let whole = (f32::INFINITY, f32::NEG_INFINITY);
    weights.iter().fold(whole, |(low, high), &w| (w.min(low), w.max(high)))
}
