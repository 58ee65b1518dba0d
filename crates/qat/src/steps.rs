//! Steps and offsets of the groups of a matrix: what of them is learned, and what a file stores.
//!
//! ```text
//! kind      scales             shifts              scale_factors, shift_factors     step s            offset o
//! integers  a step each        zero points z       –                                round(s)          levels from −z on
//! offsets   a step each        values of code 0    –                                round(s)          round(o)
//! blocks    codes of scales c  codes of minima m   d, dmin of each super-block      half(d)·round(c)  −half(dmin)·round(m)
//! tables    a step each        –                   –                                round(s)          none
//! ```
//!
//! `round` is the storage of the format, and counts as the identity when gradients pass.

use fewbit_format::{
    FormatError, Granularity, Grid, IntGrid, IntParams, MatrixShape, OffsetGrid, OffsetMatrix,
    OffsetParams, QuantMatrix, Quantized, ScaleType, Scheme, SuperFactors, SuperGrid, TableGrid,
    TableParams, TableParts,
};

use crate::{
    cells::{BySteps, Cells, NO_OFFSET},
    param::{ANY, Kind, Learn, Param},
};

/// Weights of a super-block.
const SUPER: usize = 256;

/// A grid whose parameters can be learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum StepGrid {
    Int(IntGrid),
    Offset(OffsetGrid),
    Super(SuperGrid),
    /// With the least and the largest of its values.
    Table(TableGrid, [f32; 2]),
}

/// Parameters of all groups.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps {
    pub(crate) grid: StepGrid,
    /// Weights of a group; of all rows where one step is shared by a whole matrix.
    pub(crate) group: usize,
    shared: bool,
    scales: Vec<f32>,
    shifts: Vec<f32>,
    scale_factors: Vec<f32>,
    shift_factors: Vec<f32>,
    /// Mean distance of neighbouring values at the beginning: what learning rates of weights are relative to.
    pub(crate) unit: f32,
}

/// A scheme that has no steps to learn.
#[derive(Debug)]
pub(crate) struct NoSteps;

impl Steps {
    /// Those of the least squared error. `least` is the least zero point.
    pub(crate) fn fit(
        weight: &[f32],
        shape: MatrixShape,
        scheme: Scheme,
        least: u8,
    ) -> Result<Self, NoSteps> {
        let groups = |size: usize| {
            weight.chunks(shape.in_features.max(1)).flat_map(move |row| row.chunks(size))
        };
        let whole = |size: usize| shape.in_features.is_multiple_of(size);
        match scheme.plain_layout() {
            Scheme::Int(scheme) => {
                let grid = IntGrid::new(scheme).with_least_zero_point(least);
                let params: Vec<_> = match scheme.granularity {
                    Granularity::Tensor => vec![grid.fit(weight, &[])],
                    other => groups(other.group_size(shape.in_features))
                        .map(|w| grid.fit(w, &[]))
                        .collect(),
                };
                Ok(Self::of_int(grid, shape, params.iter().copied()))
            }
            Scheme::Offset(scheme) => {
                let grid = OffsetGrid::new(scheme);
                let params = groups(scheme.group_size.get() as usize).map(|w| grid.fit(w, &[]));
                Ok(Self::of_offsets(grid, params))
            }
            Scheme::Block(block_type) if whole(SUPER) && SuperGrid::new(block_type).is_some() => {
                let grid = SuperGrid::new(block_type).ok_or(NoSteps)?;
                let factors = groups(SUPER).map(|w| grid.factors(&grid.fit(w, &[])));
                Ok(Self::of_super(grid, factors))
            }
            // One rounding gives a matrix of that table, of which the rest is known; its steps are then replaced.
            other => {
                let rounded =
                    Quantized::round_to_nearest(weight, shape, other).map_err(|_| NoSteps)?;
                let TableParts { grid, group, .. } =
                    TableGrid::take_apart(&rounded).ok_or(NoSteps)?;
                let params: Vec<_> = groups(group).map(|w| grid.fit(w, &[])).collect();
                Ok(Self::of_table(grid, group, &params))
            }
        }
    }

    /// Those of a quantized matrix, and its codes, `(out_features, in_features)`.
    pub(crate) fn of(matrix: &Quantized, least: u8) -> Result<(Self, Vec<u8>), NoSteps> {
        match matrix {
            Quantized::Int(matrix) if matrix.group_of_column().is_none() => {
                let grid = IntGrid::new(matrix.scheme()).with_least_zero_point(least);
                let middle = matrix.scheme().bits.middle();
                let zero = |i| matrix.zero_points().get(i).copied().unwrap_or(middle);
                let scales = matrix.scales().iter().enumerate();
                let params = scales.map(|(i, &scale)| IntParams { scale, zero_point: zero(i) });
                Ok((Self::of_int(grid, matrix.shape(), params), matrix.codes().to_vec()))
            }
            Quantized::Offset(matrix) => {
                let params = matrix.scales().iter().zip(matrix.offsets());
                let params = params.map(|(&scale, &offset)| OffsetParams { scale, offset });
                let steps = Self::of_offsets(OffsetGrid::new(matrix.scheme()), params);
                Ok((steps, matrix.codes().to_vec()))
            }
            Quantized::Block(matrix) if SuperGrid::new(matrix.block_type()).is_some() => {
                let grid = SuperGrid::new(matrix.block_type()).ok_or(NoSteps)?;
                let (codes, params) = grid.take_apart(matrix).ok_or(NoSteps)?;
                let factors = params.iter().map(|params| grid.factors(params));
                Ok((Self::of_super(grid, factors), codes))
            }
            other => {
                let TableParts { grid, group, codes, params } =
                    TableGrid::take_apart(other).ok_or(NoSteps)?;
                Ok((Self::of_table(grid, group, &params), codes))
            }
        }
    }

    fn of_int(
        grid: IntGrid,
        shape: MatrixShape,
        params: impl Iterator<Item = IntParams> + Clone,
    ) -> Self {
        let affine = grid.scheme.symmetry == fewbit_format::Symmetry::Affine;
        let zeros = params.clone().filter(|_| affine).map(|p| f32::from(p.zero_point));
        let granularity = grid.scheme.granularity;
        let group = granularity.group_size(shape.in_features).min(shape.in_features.max(1));
        Self {
            shared: granularity == Granularity::Tensor,
            ..Self::plain(StepGrid::Int(grid), group, params.map(|p| p.scale), zeros)
        }
    }

    fn of_offsets(grid: OffsetGrid, params: impl Iterator<Item = OffsetParams>) -> Self {
        let group = grid.scheme.group_size.get() as usize;
        let params: Vec<_> = params.collect();
        let (scales, offsets) = (params.iter().map(|p| p.scale), params.iter().map(|p| p.offset));
        Self::plain(StepGrid::Offset(grid), group, scales, offsets)
    }

    fn of_table(grid: TableGrid, group: usize, params: &[TableParams]) -> Self {
        let range = grid.value_range();
        let scales = params.iter().map(|p| p.scale);
        let mut steps =
            Self::plain(StepGrid::Table(grid, range), group, scales, std::iter::empty());
        // Sixteen values.
        steps.unit *= (range[1] - range[0]) / 15.0;
        steps
    }

    fn of_super(grid: SuperGrid, factors: impl Iterator<Item = SuperFactors>) -> Self {
        let n = SUPER / grid.group_size();
        let factors: Vec<SuperFactors> = factors.collect();
        let scales = factors.iter().flat_map(|f| f.scales[..n].iter().map(|&s| f32::from(s)));
        let shifts = factors.iter().flat_map(|f| f.minima[..n].iter().map(|&m| f32::from(m)));
        let minima = grid.max_minimum().is_some();
        let mut steps = Self::plain(
            StepGrid::Super(grid),
            grid.group_size(),
            scales,
            shifts.filter(|_| minima),
        );
        steps.scale_factors = factors.iter().map(|f| f.scale).collect();
        if minima {
            steps.shift_factors = factors.iter().map(|f| f.minimum).collect();
        }
        let levels = grid.level_range().map_or(TableGrid::iq4_nl().value_range()[1] / 8.0, |_| 1.0);
        let steps_of_groups = (0..steps.scales.len()).map(|i| steps.cells(i).scale);
        steps.unit = mean_magnitude(steps_of_groups) * levels;
        steps
    }

    fn plain(
        grid: StepGrid,
        group: usize,
        scales: impl Iterator<Item = f32>,
        shifts: impl Iterator<Item = f32>,
    ) -> Self {
        let (scales, shifts): (Vec<f32>, Vec<f32>) = (scales.collect(), shifts.collect());
        let unit = mean_magnitude(scales.iter().copied());
        let (scale_factors, shift_factors) = (Vec::new(), Vec::new());
        Self { grid, group, shared: false, scales, shifts, scale_factors, shift_factors, unit }
    }

    /// Groups along a row.
    pub(crate) fn n_groups(&self, in_features: usize) -> usize {
        in_features.div_ceil(self.group)
    }

    /// The cells of group `i` of the matrix, counted row by row.
    #[inline(always)]
    pub(crate) fn cells(&self, i: usize) -> Cells {
        let i = if self.shared { 0 } else { i };
        match self.grid {
            StepGrid::Int(grid) => {
                let IntParams { scale, zero_point } = self.int_params(&grid, i);
                let (zero, most) = (f32::from(zero_point), f32::from(grid.scheme.bits.max_code()));
                Cells::whole(scale, NO_OFFSET, [-zero, most - zero])
            }
            StepGrid::Offset(grid) => {
                let OffsetParams { scale, offset } = grid.stored(self.scales[i], self.shifts[i]);
                Cells::whole(scale, offset, [0.0, f32::from(grid.scheme.bits.max_code())])
            }
            StepGrid::Super(grid) => {
                let block = i / (SUPER / grid.group_size());
                let scale = half(self.scale_factors[block]) * scale_code(&grid, self.scales[i]);
                match grid.level_range() {
                    None => {
                        let table = TableGrid::iq4_nl();
                        Cells::table(scale, table, table.value_range())
                    }
                    Some(range) => {
                        let minimum = match self.shifts.get(i) {
                            None => 0.0,
                            Some(&m) => half(self.shift_factors[block]) * minimum_code(&grid, m),
                        };
                        Cells::whole(scale, -minimum, range)
                    }
                }
            }
            StepGrid::Table(grid, range) => {
                Cells::table(grid.stored(self.scales[i]).scale, grid, range)
            }
        }
    }

    #[inline(always)]
    fn int_params(&self, grid: &IntGrid, i: usize) -> IntParams {
        let (t, bits) = (grid.scheme.scale_type, grid.scheme.bits);
        let scale = self.scales[i];
        let scale = t.round(scale.abs()).clamp(t.min_positive(), t.max()).copysign(scale);
        let zero_point = match self.shifts.get(i) {
            None => bits.middle(),
            Some(zero) => {
                let least = f32::from(grid.least_zero_point);
                zero.round_ties_even().clamp(least, f32::from(bits.max_code())) as u8
            }
        };
        IntParams { scale, zero_point }
    }

    /// The matrix of some codes, `(out_features, in_features)`, in the layout of its grid.
    pub(crate) fn matrix(
        &self,
        shape: MatrixShape,
        codes: Vec<u8>,
        scheme: Scheme,
    ) -> Result<Quantized, FormatError> {
        let n = self.scales.len();
        Ok(match self.grid {
            StepGrid::Int(grid) => {
                let params: Vec<_> = (0..n).map(|i| self.int_params(&grid, i)).collect();
                QuantMatrix::from_params(shape, grid.scheme, codes, &params, None)?.into()
            }
            StepGrid::Offset(grid) => {
                let params = self.scales.iter().zip(&self.shifts);
                let params: Vec<_> = params.map(|(&s, &o)| grid.stored(s, o)).collect();
                OffsetMatrix::from_params(shape, grid.scheme, codes, &params)?.into()
            }
            StepGrid::Super(grid) => {
                let n = SUPER / grid.group_size();
                let params: Vec<_> = (0..self.scale_factors.len())
                    .map(|block| {
                        let mut factors = SuperFactors {
                            scale: half(self.scale_factors[block]),
                            minimum: self.shift_factors.get(block).map_or(0.0, |&m| half(m)),
                            ..SuperFactors::default()
                        };
                        for g in 0..n {
                            let i = block * n + g;
                            factors.scales[g] = scale_code(&grid, self.scales[i]) as i8;
                            if let Some(&m) = self.shifts.get(i) {
                                factors.minima[g] = minimum_code(&grid, m) as u8;
                            }
                        }
                        grid.params(&factors)
                    })
                    .collect();
                grid.matrix(shape, &codes, &params)?.into()
            }
            StepGrid::Table(grid, _) => {
                let params: Vec<_> = self.scales.iter().map(|&s| grid.stored(s)).collect();
                grid.matrix(shape, scheme, codes, &params)?
            }
        })
    }

    /// What is learned, in the order of [`gradients`](Self::gradients). Under fixed codes whole zero points are not.
    pub(crate) fn learned<'a>(
        &'a mut self,
        module: &str,
        learn: Learn,
        fixed: bool,
        out: &mut Vec<Param<'a>>,
    ) {
        let shifts = self.learns_shifts(learn, fixed);
        let unit = self.unit;
        let Self { grid, scales, shifts: own_shifts, scale_factors, shift_factors, .. } = self;
        let mut push = |on: bool, kind, unit, range, values: &'a mut Vec<f32>, name: &str| {
            if on && !values.is_empty() {
                out.push(Param {
                    name: format!("{module}.{name}"),
                    kind,
                    unit,
                    range,
                    matrix: None,
                    values,
                });
            }
        };
        match grid {
            StepGrid::Int(grid) => {
                let range =
                    [f32::from(grid.least_zero_point), f32::from(grid.scheme.bits.max_code())];
                push(learn.scales, Kind::Scale, unit, ANY, scales, "scales");
                push(shifts, Kind::ZeroPoint, 1.0, range, own_shifts, "zero_points");
            }
            StepGrid::Offset(_) => {
                push(learn.scales, Kind::Scale, unit, ANY, scales, "scales");
                push(shifts, Kind::ZeroPoint, unit, ANY, own_shifts, "offsets");
            }
            StepGrid::Super(grid) => {
                let [low, high] = grid.scale_codes();
                let codes = [f32::from(low), f32::from(high)];
                let mean = mean_magnitude(scales.iter().copied());
                push(learn.scales, Kind::Scale, mean, codes, scales, "scale_codes");
                let mean = mean_magnitude(shift_factors.iter().copied());
                let most = f32::from(grid.max_minimum().unwrap_or(0));
                // A step of the matrix, in codes of minima.
                let one = if mean > 0.0 { unit / mean } else { 1.0 };
                push(shifts, Kind::ZeroPoint, one, [0.0, most], own_shifts, "minimum_codes");
                let d = mean_magnitude(scale_factors.iter().copied());
                push(learn.scales, Kind::Scale, d, ANY, scale_factors, "scales");
                push(shifts, Kind::Scale, mean, ANY, shift_factors, "minima");
            }
            StepGrid::Table(_, range) => {
                let unit = unit * 15.0 / (range[1] - range[0]);
                push(learn.scales, Kind::Scale, unit, ANY, scales, "scales");
            }
        }
    }

    fn learns_shifts(&self, learn: Learn, fixed: bool) -> bool {
        let whole = matches!(self.grid, StepGrid::Int(_));
        learn.zero_points && !self.shifts.is_empty() && !(fixed && whole)
    }

    /// Gradients by what is learned, from those by step and offset of each group.
    pub(crate) fn gradients(
        &self,
        by: &[BySteps],
        learn: Learn,
        fixed: bool,
        out: &mut Vec<Vec<f32>>,
    ) {
        let shifts = self.learns_shifts(learn, fixed);
        let mut push = |on: bool, values: Vec<f32>| {
            if on && !values.is_empty() {
                out.push(values);
            }
        };
        match self.grid {
            StepGrid::Int(_) => {
                let zero = |i: usize| -self.cells(i).scale * by[i].offset;
                let by_scales = by.iter().map(|by| by.scale);
                if self.shared {
                    // In order, so that the sum is the same for any number of threads.
                    push(learn.scales, vec![by_scales.sum()]);
                    push(shifts, vec![(0..by.len()).map(zero).sum()]);
                } else {
                    push(learn.scales, by_scales.collect());
                    push(shifts, (0..by.len()).map(zero).collect());
                }
            }
            StepGrid::Offset(_) => {
                push(learn.scales, by.iter().map(|by| by.scale).collect());
                push(shifts, by.iter().map(|by| by.offset).collect());
            }
            StepGrid::Super(grid) => {
                let n = SUPER / grid.group_size();
                let block = |i: usize| i / n;
                let d = |i: usize| half(self.scale_factors[block(i)]);
                push(learn.scales, (0..by.len()).map(|i| by[i].scale * d(i)).collect());
                if shifts {
                    let d = |i: usize| half(self.shift_factors[block(i)]);
                    push(true, (0..by.len()).map(|i| -by[i].offset * d(i)).collect());
                }
                let sums = |term: &dyn Fn(usize) -> f32| -> Vec<f32> {
                    let blocks = 0..self.scale_factors.len();
                    blocks.map(|b| (b * n..(b + 1) * n).map(term).sum()).collect()
                };
                let term = |i: usize| by[i].scale * scale_code(&grid, self.scales[i]);
                push(learn.scales, sums(&term));
                if shifts {
                    let term = |i: usize| -by[i].offset * minimum_code(&grid, self.shifts[i]);
                    push(true, sums(&term));
                }
            }
            StepGrid::Table(..) => push(learn.scales, by.iter().map(|by| by.scale).collect()),
        }
    }
}

/// A finite number as an f16.
#[inline(always)]
fn half(value: f32) -> f32 {
    let most = ScaleType::F16.max();
    ScaleType::F16.round(value.clamp(-most, most))
}

#[inline(always)]
fn scale_code(grid: &SuperGrid, code: f32) -> f32 {
    let [low, high] = grid.scale_codes();
    code.round_ties_even().clamp(low.into(), high.into())
}

#[inline(always)]
fn minimum_code(grid: &SuperGrid, code: f32) -> f32 {
    code.round_ties_even().clamp(0.0, grid.max_minimum().unwrap_or(0).into())
}

fn mean_magnitude(values: impl Iterator<Item = f32>) -> f32 {
    let (mut sum, mut n) = (0.0f64, 0usize);
    for value in values {
        sum += f64::from(value.abs());
        n += 1;
    }
    (sum / n.max(1) as f64) as f32
}
