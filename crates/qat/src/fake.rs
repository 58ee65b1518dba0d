//! A matrix that is rounded on the way: fake quantization with straight-through gradients and learned step sizes.
//!
//! ```text
//! u = w/s + v      c = clamp(round(u) + z, 0, max)      ŵ = (c − z)·s
//! ```
//!
//! with the step `s` as it is stored (f16) and the zero point `z` rounded to an integer, so that `ŵ` is at every moment what a file would decode to.
//! Rounding counts as the identity when gradients pass (straight-through, Bengio et al., 2013), for `u`, `z` and the storage of `s`:
//!
//! ```text
//!            inside the range     clipped
//! ∂ŵ/∂w      1                    0
//! ∂ŵ/∂v      s                    0
//! ∂ŵ/∂s      round(u) − w/s       c − z           LSQ (Esser et al., arXiv 1902.08153)
//! ∂ŵ/∂z      0                    −s              LSQ+ (Bhalgat et al., arXiv 2004.09576), with offset −z·s
//! ```
//!
//! LSQ's factor `1/√(N·max)` on the gradient of `s` is left out: the optimizers here do not depend on the scale of a gradient.

use fewbit_format::{
    Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape, QuantMatrix, Symmetry,
};
use fewbit_kernels::{Level, vectorize};
use fewbit_model::math::dot;
use rayon::prelude::*;

use crate::{
    QatError,
    param::{ANY, Kind, Learn, Param},
};

/// A matrix on an integer grid whose weights, rounding, step sizes and zero points can be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeMatrix {
    module: String,
    shape: MatrixShape,
    grid: IntGrid,
    group: usize,
    /// `(out_features, in_features)`, before rounding.
    weight: Vec<f32>,
    /// The same shape, in −0.5..=0.5; empty where it is not learned.
    rounding: Vec<f32>,
    /// `(out_features, n_groups)`, before they are rounded to their storage type.
    scales: Vec<f32>,
    /// The same shape, before they are rounded; empty on a symmetric grid.
    zero_points: Vec<f32>,
    /// Mean step at the beginning: what learning rates of weights and steps are relative to.
    unit: f32,
    /// Whether the codes stay as they are; `weight` then holds `code − zero_point`.
    frozen: bool,
}

/// How near the border of its cell a weight may lie at the beginning, in codes.
const CELL: f32 = 0.49;

impl FakeMatrix {
    /// Begins with ranges of the least squared error, each weight nearest to its value. `module` is for messages.
    ///
    /// # Errors
    /// [`QatError::Grid`] for one scale for a whole matrix.
    ///
    /// # Panics
    /// If `weight` is not `(out_features, in_features)`.
    pub fn fit(
        module: &str,
        weight: &[f32],
        shape: MatrixShape,
        grid: IntGrid,
    ) -> Result<Self, QatError> {
        assert_eq!(weight.len(), shape.len(), "weight is (out_features, in_features)");
        let group = Self::group_of(module, shape, grid.scheme)?;
        let rows = weight.par_chunks(shape.in_features);
        let params: Vec<IntParams> =
            rows.flat_map_iter(|row| row.chunks(group).map(|w| grid.fit(w, &[]))).collect();
        Ok(Self::new(module, shape, grid, group, weight.to_vec(), &params))
    }

    /// Begins with a quantized matrix. Its codes and scales are the first ones to the bit; each weight starts as near to `weight` as its code allows.
    ///
    /// # Errors
    /// [`QatError::Grid`] for one scale for a whole matrix, and for groups that follow a map.
    ///
    /// # Panics
    /// If `weight` is not `(out_features, in_features)`.
    pub fn start(
        module: &str,
        weight: &[f32],
        matrix: &QuantMatrix,
        least_zero_point: u8,
    ) -> Result<Self, QatError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        assert_eq!(weight.len(), shape.len(), "weight is (out_features, in_features)");
        let group = Self::group_of(module, shape, scheme)?;
        if matrix.group_of_column().is_some() {
            let grid = format!("{} in groups that follow a map (act-order)", scheme_name(scheme));
            return Err(QatError::Grid { module: module.into(), grid });
        }
        let middle = scheme.bits.middle();
        let zero = |i| matrix.zero_points().get(i).copied().unwrap_or(middle);
        let scales = matrix.scales().iter().enumerate();
        let params: Vec<_> =
            scales.map(|(i, &scale)| IntParams { scale, zero_point: zero(i) }).collect();
        let n_groups = shape.in_features.div_ceil(group);
        let mut start = weight.to_vec();
        for (i, (w, &code)) in start.iter_mut().zip(matrix.codes()).enumerate() {
            let (row, column) = (i / shape.in_features, i % shape.in_features);
            let p = params[row * n_groups + column / group];
            let center = f32::from(code) - f32::from(p.zero_point);
            let u = *w / p.scale;
            // What rounds to its code already stays as it is, to the bit.
            if u.round_ties_even() != center {
                *w = u.clamp(center - CELL, center + CELL) * p.scale;
            }
        }
        let grid = IntGrid::new(scheme).with_least_zero_point(least_zero_point);
        Ok(Self::new(module, shape, grid, group, start, &params))
    }

    fn group_of(module: &str, shape: MatrixShape, scheme: IntScheme) -> Result<usize, QatError> {
        if scheme.granularity == Granularity::Tensor {
            let (module, grid) = (module.to_owned(), scheme_name(scheme));
            return Err(QatError::Grid { module, grid });
        }
        Ok(scheme.granularity.group_size(shape.in_features).min(shape.in_features.max(1)))
    }

    fn new(
        module: &str,
        shape: MatrixShape,
        grid: IntGrid,
        group: usize,
        weight: Vec<f32>,
        params: &[IntParams],
    ) -> Self {
        let scales: Vec<f32> = params.iter().map(|p| p.scale).collect();
        let zero_points = match grid.scheme.symmetry {
            Symmetry::Symmetric => Vec::new(),
            Symmetry::Affine => params.iter().map(|p| f32::from(p.zero_point)).collect(),
        };
        let sum: f64 = scales.iter().map(|s| f64::from(s.abs())).sum();
        let unit = (sum / scales.len().max(1) as f64) as f32;
        let module = module.to_owned();
        let (rounding, frozen) = (Vec::new(), false);
        Self { module, shape, grid, group, weight, rounding, scales, zero_points, unit, frozen }
    }

    /// Begins to learn which way each weight is rounded, from the nearest.
    pub(crate) fn learn_rounding(&mut self) {
        self.rounding = vec![0.0; self.weight.len()];
    }

    /// Fixes the codes, under which step sizes can then be learned: `∂ŵ/∂s = c − z`.
    pub(crate) fn freeze_codes(&mut self) {
        if self.frozen {
            return;
        }
        let (width, n_groups) = (self.shape.in_features, self.n_groups());
        let mut weight = std::mem::take(&mut self.weight);
        for (i, w) in weight.iter_mut().enumerate() {
            let p = self.params(i / width * n_groups + i % width / self.group);
            let v = self.rounding.get(i).copied().unwrap_or(0.0);
            *w = Cells::new(p, &self.grid).code(*w / p.scale + v);
        }
        self.weight = weight;
        self.rounding.clear();
        self.frozen = true;
    }

    /// Its module name.
    pub fn module(&self) -> &str {
        &self.module
    }

    /// Its shape.
    pub fn shape(&self) -> MatrixShape {
        self.shape
    }

    /// Its grid.
    pub fn scheme(&self) -> IntScheme {
        self.grid.scheme
    }

    /// The grid, for fingerprints.
    pub(crate) fn scheme_text(&self) -> String {
        format!("{} {:?} {}", self.module, self.grid, self.frozen)
    }

    fn n_groups(&self) -> usize {
        self.shape.in_features.div_ceil(self.group)
    }

    /// The parameters of a group as they are stored.
    #[inline(always)]
    fn params(&self, i: usize) -> IntParams {
        let t = self.grid.scheme.scale_type;
        let scale = self.scales[i];
        let scale = t.round(scale.abs()).clamp(t.min_positive(), t.max()).copysign(scale);
        let bits = self.grid.scheme.bits;
        let zero_point = match self.zero_points.get(i) {
            None => bits.middle(),
            Some(zero) => {
                let least = f32::from(self.grid.least_zero_point);
                zero.round_ties_even().clamp(least, f32::from(bits.max_code())) as u8
            }
        };
        IntParams { scale, zero_point }
    }

    /// The rounded values, `(out_features, in_features)`.
    pub fn rounded(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.weight.len()];
        self.round_into(&mut out);
        out
    }

    /// Writes the rounded values.
    pub(crate) fn round_into(&self, out: &mut [f32]) {
        let (level, width) = (Level::detect(), self.shape.in_features);
        let rows = out.par_chunks_mut(width).enumerate().with_min_len(8);
        rows.for_each(|(row, out)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (g, out) in out.chunks_mut(self.group).enumerate() {
                        let cells = Cells::new(self.params(row * self.n_groups() + g), &self.grid);
                        let at = row * width + g * self.group;
                        let w = &self.weight[at..][..out.len()];
                        if self.frozen {
                            for (out, w) in out.iter_mut().zip(w) {
                                *out = w * cells.scale;
                            }
                        } else if self.rounding.is_empty() {
                            for (out, w) in out.iter_mut().zip(w) {
                                *out = cells.code(w / cells.scale) * cells.scale;
                            }
                        } else {
                            let v = &self.rounding[at..][..out.len()];
                            for ((out, w), v) in out.iter_mut().zip(w).zip(v) {
                                *out = cells.code(w / cells.scale + v) * cells.scale;
                            }
                        }
                    }
                },
            );
        });
    }

    /// The matrix as a container stores it: decodes to [`rounded`](Self::rounded).
    ///
    /// # Errors
    /// If a value is NaN.
    pub fn quantized(&self) -> Result<QuantMatrix, QatError> {
        let width = self.shape.in_features;
        let mut codes = Vec::with_capacity(self.weight.len());
        let n_groups = self.n_groups();
        let params: Vec<_> = (0..self.scales.len()).map(|i| self.params(i)).collect();
        for (i, w) in self.weight.iter().enumerate() {
            let p = params[i / width * n_groups + i % width / self.group];
            let cells = Cells::new(p, &self.grid);
            let v = self.rounding.get(i).copied().unwrap_or(0.0);
            let code = if self.frozen { *w } else { cells.code(w / cells.scale + v) };
            codes.push((code - cells.low) as u8);
        }
        QuantMatrix::from_params(self.shape, self.grid.scheme, codes, &params, None)
            .map_err(QatError::format(&self.module))
    }

    /// What is learned, in the order of [`backward`](Self::backward).
    pub(crate) fn learned<'a>(&'a mut self, learn: Learn, out: &mut Vec<Param<'a>>) {
        let Self { module, unit, weight, rounding, scales, zero_points, grid, frozen, .. } = self;
        let mut push = |on: bool, kind, unit, range, values: &'a mut Vec<f32>, name: &str| {
            if on && !values.is_empty() {
                out.push(Param { name: format!("{module}.{name}"), kind, unit, range, values });
            }
        };
        let most = f32::from(grid.scheme.bits.max_code());
        let least = f32::from(grid.least_zero_point);
        push(learn.weights && !*frozen, Kind::Weight, *unit, ANY, weight, "weight");
        push(learn.rounding, Kind::Rounding, 1.0, [-0.5, 0.5], rounding, "rounding");
        push(learn.scales, Kind::Scale, *unit, ANY, scales, "scales");
        push(
            learn.zero_points && !*frozen,
            Kind::ZeroPoint,
            1.0,
            [least, most],
            zero_points,
            "zero_points",
        );
    }

    /// Gradients by what is learned, from that by the rounded values, `d_rounded`.
    pub(crate) fn backward(&self, mut d_rounded: Vec<f32>, learn: Learn, out: &mut Vec<Vec<f32>>) {
        let (level, width, n_groups) = (Level::detect(), self.shape.in_features, self.n_groups());
        let mut d_scales = vec![0.0f32; self.scales.len()];
        let mut d_zeros = vec![0.0f32; self.scales.len()];
        let learns_rounding = learn.rounding && !self.rounding.is_empty();
        let rows = d_rounded.par_chunks_mut(width).zip(d_scales.par_chunks_mut(n_groups));
        let rows = rows.zip(d_zeros.par_chunks_mut(n_groups)).enumerate().with_min_len(8);
        rows.for_each(|(row, ((d, d_scales), d_zeros))| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (g, d) in d.chunks_mut(self.group).enumerate() {
                        let cells = Cells::new(self.params(row * n_groups + g), &self.grid);
                        let at = row * width + g * self.group;
                        let w = &self.weight[at..][..d.len()];
                        if self.frozen {
                            d_scales[g] = dot(d, w);
                            continue;
                        }
                        let v = self.rounding.get(at..at + d.len());
                        let (ds, dz) = cells.backward(d, w, v, learns_rounding);
                        d_scales[g] = ds;
                        d_zeros[g] = dz;
                    }
                },
            );
        });
        if learns_rounding || learn.weights && !self.frozen {
            out.push(d_rounded);
        }
        if learn.scales {
            out.push(d_scales);
        }
        if learn.zero_points && !self.zero_points.is_empty() && !self.frozen {
            out.push(d_zeros);
        }
    }
}

#[cfg(test)]
impl FakeMatrix {
    pub(crate) fn set_weights(&mut self, weight: &[f32]) {
        self.weight.copy_from_slice(weight);
    }

    /// Step and zero point of a group.
    pub(crate) fn params_f64(&self, group: usize) -> (f64, f64) {
        let params = self.params(group);
        (params.scale.into(), params.zero_point.into())
    }

    pub(crate) fn without_rounding(self) -> Self {
        Self { rounding: Vec::new(), ..self }
    }
}

fn scheme_name(scheme: IntScheme) -> String {
    fewbit_format::Scheme::Int(scheme).to_string()
}

/// The cells of one group.
#[derive(Clone, Copy)]
struct Cells {
    scale: f32,
    /// Least `code − zero_point`.
    low: f32,
    /// Largest `code − zero_point`.
    high: f32,
}

impl Cells {
    #[inline(always)]
    fn new(params: IntParams, grid: &IntGrid) -> Self {
        let zero = f32::from(params.zero_point);
        let most = f32::from(grid.scheme.bits.max_code());
        Self { scale: params.scale, low: -zero, high: most - zero }
    }

    /// `code − zero_point` of `u`, by the rule of [`IntGrid`]: clamped, then rounded, ties to even.
    #[inline(always)]
    fn code(self, u: f32) -> f32 {
        /// Adding it leaves no fraction bits, and clamped values are small.
        const ROUND: f32 = 12_582_912.0;
        (u.clamp(self.low, self.high) + ROUND) - ROUND
    }

    /// Gradients by step and zero point; `d` becomes that by the weights, or by the rounding.
    #[inline(always)]
    fn backward(
        self,
        d: &mut [f32],
        w: &[f32],
        v: Option<&[f32]>,
        by_rounding: bool,
    ) -> (f32, f32) {
        const LANES: usize = 16;
        let (mut scale, mut zero) = ([0.0f32; LANES], [0.0f32; LANES]);
        let factor = if by_rounding { self.scale } else { 1.0 };
        let mut lane = |d: &mut f32, w: f32, v: f32, lane: usize| {
            let ratio = w / self.scale;
            let u = ratio + v;
            let code = self.code(u);
            // Rounds to a code of the range without clamping.
            let inside = u >= self.low - 0.5 && u <= self.high + 0.5;
            scale[lane] += *d * if inside { code - ratio } else { code };
            zero[lane] -= if inside { 0.0 } else { *d * self.scale };
            *d = if inside { *d * factor } else { 0.0 };
        };
        match v {
            None => {
                for (d, w) in d.chunks_mut(LANES).zip(w.chunks(LANES)) {
                    for (i, (d, w)) in d.iter_mut().zip(w).enumerate() {
                        lane(d, *w, 0.0, i);
                    }
                }
            }
            Some(v) => {
                let pieces = d.chunks_mut(LANES).zip(w.chunks(LANES)).zip(v.chunks(LANES));
                for ((d, w), v) in pieces {
                    for (i, ((d, w), v)) in d.iter_mut().zip(w).zip(v).enumerate() {
                        lane(d, *w, *v, i);
                    }
                }
            }
        }
        (scale.iter().sum(), zero.iter().sum())
    }
}
