//! A matrix to be rounded, and a candidate for it.

use fewbit_format::{Granularity, Grid, MatrixShape};
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{GptqError, Groups, order::Layout, strips::first_non_finite};

/// Rows of a parallel task that looks at single rows.
const ROWS: usize = 16;

/// A matrix, checked, and the grid it is to lie on.
pub(crate) struct Problem<'a, G> {
    pub(crate) weight: &'a [f32],
    pub(crate) shape: MatrixShape,
    pub(crate) grid: &'a G,
    pub(crate) layout: Layout,
    pub(crate) level: Level,
}

/// Codes and parameters. Parameters are `(out_features, n_groups)` even if all rows share them.
#[derive(Clone)]
pub(crate) struct Candidate<P> {
    pub(crate) codes: Vec<u8>,
    pub(crate) params: Vec<P>,
}

impl<'a, G: Grid> Problem<'a, G> {
    pub(crate) fn new(
        weight: &'a [f32],
        shape: MatrixShape,
        width: usize,
        grid: &'a G,
        granularity: Granularity,
        order: &[usize],
        groups: Groups,
    ) -> Result<Self, GptqError> {
        let MatrixShape { out_features, in_features } = shape;
        if width != in_features {
            return Err(GptqError::Width { hessian: width, in_features });
        }
        if weight.len() != shape.len() {
            return Err(GptqError::WeightLength { got: weight.len(), out_features, in_features });
        }
        if let Some(i) = first_non_finite(weight) {
            let (row, column) = (i / in_features, i % in_features);
            return Err(GptqError::NonFiniteWeight { row, column, value: weight[i] });
        }
        let layout = Layout::new(granularity, order, groups);
        Ok(Self { weight, shape, grid, layout, level: Level::detect() })
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.weight[row * self.shape.in_features..][..self.shape.in_features]
    }

    /// Parameters of plain rounding.
    pub(crate) fn fit_plain(&self) -> Vec<G::Params> {
        if self.layout.whole_tensor {
            return vec![self.grid.fit_plain(self.weight); self.shape.out_features];
        }
        self.fit_groups(|weights, _| self.grid.fit_plain(weights))
    }

    /// Parameters fitted under the importance of each column.
    pub(crate) fn fit(&self, importance: &[f32]) -> Vec<G::Params> {
        if self.layout.whole_tensor {
            // Rows that fall back to plain rounding must be able to share the parameters.
            return self.fit_plain();
        }
        let importance: Vec<f32> = self.layout.members.iter().map(|&c| importance[c]).collect();
        let group_size = self.layout.group_size;
        self.fit_groups(|weights, group| {
            self.grid.fit(weights, &importance[group * group_size..][..weights.len()])
        })
    }

    fn fit_groups(&self, fit: impl Fn(&[f32], usize) -> G::Params + Sync) -> Vec<G::Params> {
        let rows = (0..self.shape.out_features).into_par_iter().with_max_len(ROWS);
        rows.flat_map_iter(|row| {
            vectorize(
                self.level,
                #[inline(always)]
                || {
                    let row = self.row(row);
                    let weights: Vec<f32> = self.layout.members.iter().map(|&c| row[c]).collect();
                    let groups = weights.chunks(self.layout.group_size).enumerate();
                    groups.map(|(group, weights)| fit(weights, group)).collect::<Vec<_>>()
                },
            )
        })
        .collect()
    }

    /// The nearest code of every weight.
    pub(crate) fn round(&self, params: Vec<G::Params>) -> Candidate<G::Params> {
        let Self { layout, grid, .. } = self;
        let n = self.shape.in_features;
        let mut codes = vec![0; self.weight.len()];
        codes.par_chunks_mut(n.max(1)).enumerate().for_each(|(row, codes)| {
            vectorize(
                self.level,
                #[inline(always)]
                || {
                    let weights = self.row(row);
                    for (group, &p) in
                        params[row * layout.n_groups..][..layout.n_groups].iter().enumerate()
                    {
                        for (index, &column) in layout.group(group).iter().enumerate() {
                            codes[column] = grid.encode(p, index, weights[column]);
                        }
                    }
                },
            );
        });
        Candidate { codes, params }
    }

    /// What rounding changes each weight of a row by.
    #[inline(always)]
    pub(crate) fn errors(&self, candidate: &Candidate<G::Params>, row: usize, out: &mut [f64]) {
        let Self { layout, grid, .. } = self;
        let weights = self.row(row);
        let codes = &candidate.codes[row * weights.len()..][..weights.len()];
        let params = &candidate.params[row * layout.n_groups..][..layout.n_groups];
        for (group, &p) in params.iter().enumerate() {
            for (index, &column) in layout.group(group).iter().enumerate() {
                let value = grid.decode(p, index, codes[column]);
                out[column] = f64::from(value) - f64::from(weights[column]);
            }
        }
    }
}
