//! Rounding to nearest, with the range of each group chosen by what its errors do to the output.

use fewbit_format::{Granularity, Grid, MatrixShape};
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    AwqError, GroupMoments, checks,
    lanes::{LANES, ROWS, quadratic},
};

/// Steps by which a range is shrunk, in twentieths: AutoAWQ's grid.
const SHRINKS: u32 = 9;
/// Changes of the scale that are tried last.
const SCALES: [f32; 4] = [0.92, 0.96, 1.04, 1.08];
/// Rows of a parallel task.
const TASK: usize = 4 * ROWS;

/// Codes and parameters of a matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded<P> {
    /// Codes, `(out_features, in_features)` row-major.
    pub codes: Vec<u8>,
    /// Parameters, `(out_features, n_groups)` row-major, or one for [`Granularity::Tensor`].
    pub params: Vec<P>,
    /// Loss of plain rounding: mean over the tokens of the squared change of the output by each group alone, summed over groups and outputs.
    pub loss_before: f64,
    /// The same of the parameters chosen; never more, in any group.
    pub loss_after: f64,
    /// Groups whose parameters are not those of plain rounding.
    pub groups_changed: usize,
}

/// Rounds to nearest under the best parameters of each group: plain ones, plain ones of weights clipped to 0.95, 0.9, … 0.55 of the largest, those that the
/// grid fits under the mean squares of the inputs, and some scales about these. The measure is `e·M·eᵀ`, `e` the errors of a group and `M` its
/// [`GroupMoments`].
///
/// On [`Granularity::Tensor`], where rows share parameters, these are the plain ones.
///
/// # Errors
/// If `weight` is not `shape`, holds NaN or infinity, or the moments have another width or other groups.
pub fn round_clipped<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    moments: &GroupMoments,
    grid: &G,
    granularity: Granularity,
) -> Result<Rounded<G::Params>, AwqError> {
    let n = shape.in_features;
    checks::weight(weight, shape)?;
    checks::width(moments.in_features(), n)?;
    checks::width(moments.group_size(), granularity.group_size(n))?;
    let whole = (granularity == Granularity::Tensor).then(|| grid.fit_plain(weight));
    let search = Search {
        grid,
        group_size: granularity.group_size(n),
        importance: &moments.diagonal(),
        tiles: &moments.means(),
        whole,
    };
    let n_groups = granularity.n_groups(n);
    let mut codes = vec![0; weight.len()];
    let level = Level::detect();
    let tasks = codes.par_chunks_mut((TASK * n).max(1)).zip(weight.par_chunks((TASK * n).max(1)));
    let parts: Vec<Part<G::Params>> = tasks
        .map(|(codes, weight)| {
            vectorize(
                level,
                #[inline(always)]
                || search.rows(weight, codes, n, n_groups),
            )
        })
        .collect();
    let mut rounded = Rounded {
        codes,
        params: Vec::with_capacity(shape.out_features * n_groups),
        loss_before: 0.0,
        loss_after: 0.0,
        groups_changed: 0,
    };
    for part in parts {
        rounded.params.extend(part.params);
        rounded.loss_before += part.loss_before;
        rounded.loss_after += part.loss_after;
        rounded.groups_changed += part.changed;
    }
    if whole.is_some() {
        rounded.params.truncate(1);
    }
    Ok(rounded)
}

/// The values of plain rounding, or under parameters that the grid fits under `importance`: what a scale search compares, cheaper than
/// [`round_clipped`].
///
/// # Errors
/// If `weight` is not `shape`, or holds NaN or infinity; or the importances have another width.
pub fn round_fitted<G: Grid>(
    weight: &[f32],
    shape: MatrixShape,
    importance: Option<&[f32]>,
    grid: &G,
    granularity: Granularity,
) -> Result<Vec<f32>, AwqError> {
    let n = shape.in_features;
    checks::weight(weight, shape)?;
    if let Some(importance) = importance {
        checks::width(importance.len(), n)?;
    }
    let group_size = granularity.group_size(n);
    let whole = (granularity == Granularity::Tensor).then(|| grid.fit_plain(weight));
    let mut values = weight.to_vec();
    let level = Level::detect();
    values.par_chunks_mut((TASK * n).max(1)).for_each(|values| {
        vectorize(
            level,
            #[inline(always)]
            || {
                for row in values.chunks_mut(n.max(1)) {
                    for (group, w) in row.chunks_mut(group_size).enumerate() {
                        let params = match (whole, importance) {
                            (Some(params), _) => params,
                            (None, None) => grid.fit_plain(w),
                            (None, Some(d)) => grid.fit(w, &d[group * group_size..][..w.len()]),
                        };
                        for (index, w) in w.iter_mut().enumerate() {
                            *w = grid.nearest(params, index, *w);
                        }
                    }
                }
            },
        );
    });
    Ok(values)
}

struct Search<'a, G: Grid> {
    grid: &'a G,
    group_size: usize,
    importance: &'a [f32],
    tiles: &'a [(usize, usize, Vec<f32>)],
    /// Parameters that all rows share.
    whole: Option<G::Params>,
}

/// What a task found.
struct Part<P> {
    params: Vec<P>,
    loss_before: f64,
    loss_after: f64,
    changed: usize,
}

/// The errors of some rows in one tile, padded.
type Errors = [Vec<[f32; LANES]>; ROWS];

impl<G: Grid> Search<'_, G> {
    #[inline(always)]
    fn rows(&self, weight: &[f32], codes: &mut [u8], n: usize, n_groups: usize) -> Part<G::Params> {
        let mut part = Part { params: Vec::new(), loss_before: 0.0, loss_after: 0.0, changed: 0 };
        let mut errors: Errors = Default::default();
        for (weight, codes) in weight.chunks(ROWS * n).zip(codes.chunks_mut(ROWS * n)) {
            let rows: Vec<&[f32]> = weight.chunks(n).collect();
            let mut chosen = vec![Vec::with_capacity(n_groups); rows.len()];
            let mut tiles = self.tiles;
            for start in (0..n).step_by(self.group_size) {
                let end = (start + self.group_size).min(n);
                let own = tiles.iter().take_while(|(first, ..)| *first < end).count();
                let (here, rest) = tiles.split_at(own);
                tiles = rest;
                let groups: Vec<&[f32]> = rows.iter().map(|row| &row[start..end]).collect();
                let best = self.group(start, &groups, here, &mut errors);
                for (row, best) in best.into_iter().enumerate() {
                    part.loss_before += f64::from(best.plain_loss);
                    part.loss_after += f64::from(best.loss);
                    part.changed += usize::from(best.params != best.plain);
                    let codes = &mut codes[row * n..][start..end];
                    for (index, (code, &w)) in codes.iter_mut().zip(groups[row]).enumerate() {
                        *code = self.grid.encode(best.params, index, w);
                    }
                    chosen[row].push(best.params);
                }
            }
            part.params.extend(chosen.into_iter().flatten());
        }
        part
    }

    /// The best parameters of one group in some rows.
    #[inline(always)]
    fn group(
        &self,
        start: usize,
        rows: &[&[f32]],
        tiles: &[(usize, usize, Vec<f32>)],
        errors: &mut Errors,
    ) -> Vec<Best<G::Params>> {
        let plain: Vec<G::Params> =
            rows.iter().map(|w| self.whole.unwrap_or_else(|| self.grid.fit_plain(w))).collect();
        let losses = self.losses(start, rows, &plain, tiles, errors);
        let mut best: Vec<Best<G::Params>> = plain
            .iter()
            .zip(losses)
            .map(|(&params, loss)| Best { params, loss, plain: params, plain_loss: loss })
            .collect();
        if self.whole.is_some() {
            return best;
        }
        let mut clipped = Vec::new();
        for shrink in 1..=SHRINKS {
            let keep = 1.0 - shrink as f32 / 20.0;
            let params = rows.iter().map(|w| {
                let limit = keep * w.iter().fold(0.0f32, |m, w| m.max(w.abs()));
                clipped.clear();
                clipped.extend(w.iter().map(|w| w.clamp(-limit, limit)));
                self.grid.fit_plain(&clipped)
            });
            let params: Vec<_> = params.collect();
            self.consider(start, rows, &params, tiles, errors, &mut best);
        }
        let importance = &self.importance[start..][..rows.first().map_or(0, |w| w.len())];
        let fitted: Vec<_> = rows.iter().map(|w| self.grid.fit(w, importance)).collect();
        self.consider(start, rows, &fitted, tiles, errors, &mut best);
        let center: Vec<_> = best.iter().map(|b| b.params).collect();
        for ratio in SCALES {
            let params: Vec<_> = center.iter().map(|&p| self.grid.scaled(p, ratio)).collect();
            self.consider(start, rows, &params, tiles, errors, &mut best);
        }
        best
    }

    #[inline(always)]
    fn consider(
        &self,
        start: usize,
        rows: &[&[f32]],
        params: &[G::Params],
        tiles: &[(usize, usize, Vec<f32>)],
        errors: &mut Errors,
        best: &mut [Best<G::Params>],
    ) {
        let losses = self.losses(start, rows, params, tiles, errors);
        for ((best, &params), loss) in best.iter_mut().zip(params).zip(losses) {
            if loss < best.loss {
                (best.params, best.loss) = (params, loss);
            }
        }
    }

    /// Loss of each row under its parameters.
    #[inline(always)]
    fn losses(
        &self,
        start: usize,
        rows: &[&[f32]],
        params: &[G::Params],
        tiles: &[(usize, usize, Vec<f32>)],
        errors: &mut Errors,
    ) -> [f32; ROWS] {
        let mut losses = [0.0; ROWS];
        for (first, width, matrix) in tiles {
            let first = first - start;
            for (row, errors) in errors.iter_mut().enumerate() {
                errors.clear();
                errors.resize(width.div_ceil(LANES), [0.0; LANES]);
                let Some(w) = rows.get(row) else { continue };
                let own = w[first..][..*width].iter().enumerate();
                for ((i, &w), error) in own.zip(errors.as_flattened_mut()) {
                    *error = self.grid.nearest(params[row], first + i, w) - w;
                }
            }
            for (loss, more) in losses.iter_mut().zip(quadratic(matrix, *width, errors)) {
                *loss += more;
            }
        }
        losses
    }
}

struct Best<P> {
    params: P,
    loss: f32,
    plain: P,
    plain_loss: f32,
}
