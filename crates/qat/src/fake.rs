//! A matrix that is rounded on the way: fake quantization with straight-through gradients and learned step sizes.
//!
//! Each group of weights has [`Cells`], made of [`Steps`] as a file stores them, so that what is multiplied is at every moment what a file would decode to.
//! `cells.rs` has the rules by which gradients pass, `steps.rs` what is learned of the steps.

use fewbit_format::{MatrixShape, Misfit, Quantized, Scheme};
use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::{
    QatError,
    cells::{BySteps, Cells},
    param::{ANY, Kind, Learn, Param},
    steps::Steps,
};

/// A matrix on a grid whose weights, rounding, step sizes and offsets can be learned.
#[derive(Clone, Debug, PartialEq)]
pub struct FakeMatrix {
    module: String,
    shape: MatrixShape,
    scheme: Scheme,
    steps: Steps,
    /// `(out_features, in_features)`, before rounding.
    weight: Vec<f32>,
    /// The same shape, in −0.5..=0.5; empty where it is not learned.
    rounding: Vec<f32>,
    /// Whether the codes stay as they are; `weight` then holds levels.
    frozen: bool,
}

impl FakeMatrix {
    /// Begins with ranges of the least squared error, each weight nearest to its value. `module` is for messages; zero points begin with `least`.
    ///
    /// # Errors
    /// [`QatError::Grid`] for a grid that cannot be trained: floats of 8 bits, LLM.int8(), double quantization, ternary blocks, and blocks that do not
    /// divide a row.
    ///
    /// # Panics
    /// If `weight` is not `(out_features, in_features)`.
    pub fn fit(
        module: &str,
        weight: &[f32],
        shape: MatrixShape,
        scheme: Scheme,
        least: u8,
    ) -> Result<Self, QatError> {
        assert_eq!(weight.len(), shape.len(), "weight is (out_features, in_features)");
        let steps = Steps::fit(weight, shape, scheme, least)
            .map_err(|_| Self::refused(module, scheme.to_string()))?;
        Ok(Self::new(module, shape, scheme, steps, weight.to_vec()))
    }

    /// Begins with a quantized matrix. Its codes and steps are the first ones to the bit; each weight starts as near to `weight` as its code allows.
    ///
    /// # Errors
    /// [`QatError::Grid`] as for [`fit`](Self::fit), and for groups that follow a map.
    ///
    /// # Panics
    /// If `weight` is not `(out_features, in_features)`.
    pub fn start(
        module: &str,
        weight: &[f32],
        matrix: &Quantized,
        least: u8,
    ) -> Result<Self, QatError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        assert_eq!(weight.len(), shape.len(), "weight is (out_features, in_features)");
        if matrix.group_of_column().is_some() {
            let grid = format!("{scheme} in groups that follow a map (act-order)");
            return Err(Self::refused(module, grid));
        }
        let refused = |_| Self::refused(module, scheme.to_string());
        // Simple blocks are integers in another layout.
        let plain = match matrix.relay(&scheme.plain_layout()) {
            Ok(plain) => plain,
            Err(Misfit::Format(error)) => return Err(QatError::format(module)(error)),
            Err(_) => return Err(Self::refused(module, scheme.to_string())),
        };
        let (steps, codes) = Steps::of(&plain, least).map_err(refused)?;
        let mut fake = Self::new(module, shape, scheme, steps, weight.to_vec());
        let mut start = std::mem::take(&mut fake.weight);
        start.par_iter_mut().zip(&codes).enumerate().for_each(|(i, (w, &code))| {
            let cells = fake.cells_of(i);
            *w = cells.within(*w, cells.level_of_code(code));
        });
        fake.weight = start;
        Ok(fake)
    }

    fn refused(module: &str, grid: String) -> QatError {
        QatError::Grid { module: module.to_owned(), grid }
    }

    fn new(
        module: &str,
        shape: MatrixShape,
        scheme: Scheme,
        steps: Steps,
        weight: Vec<f32>,
    ) -> Self {
        let (module, rounding, frozen) = (module.to_owned(), Vec::new(), false);
        Self { module, shape, scheme, steps, weight, rounding, frozen }
    }

    /// Begins to learn which way each weight is rounded, from the nearest.
    pub(crate) fn learn_rounding(&mut self) {
        self.rounding = vec![0.0; self.weight.len()];
    }

    /// Fixes the codes, under which step sizes can then be learned: `∂ŵ/∂s` is the level.
    pub(crate) fn freeze_codes(&mut self) {
        if self.frozen {
            return;
        }
        self.weight = (0..self.weight.len()).into_par_iter().map(|i| self.level(i)).collect();
        self.rounding.clear();
        self.frozen = true;
    }

    /// The cells of a weight's group.
    fn cells_of(&self, i: usize) -> Cells {
        let width = self.shape.in_features;
        self.steps.cells(i / width * self.n_groups() + i % width / self.steps.group)
    }

    /// The level of a weight.
    fn level(&self, i: usize) -> f32 {
        let v = self.rounding.get(i).copied().unwrap_or(0.0);
        if self.frozen { self.weight[i] } else { self.cells_of(i).level_of(self.weight[i], v) }
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
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The grid, for fingerprints.
    pub(crate) fn scheme_text(&self) -> String {
        format!("{} {} {:?} {}", self.module, self.scheme, self.steps.grid, self.frozen)
    }

    fn n_groups(&self) -> usize {
        self.steps.n_groups(self.shape.in_features)
    }

    /// The rounded values, `(out_features, in_features)`.
    pub fn rounded(&self) -> Vec<f32> {
        let mut out = vec![0.0; self.weight.len()];
        self.round_into(&mut out);
        out
    }

    /// Writes the rounded values.
    pub(crate) fn round_into(&self, out: &mut [f32]) {
        let (level, width, size) = (Level::detect(), self.shape.in_features, self.steps.group);
        let rows = out.par_chunks_mut(width).enumerate().with_min_len(8);
        rows.for_each(|(row, out)| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (g, out) in out.chunks_mut(size).enumerate() {
                        let cells = self.steps.cells(row * self.n_groups() + g);
                        let at = row * width + g * size;
                        let w = &self.weight[at..][..out.len()];
                        if self.frozen {
                            for (out, w) in out.iter_mut().zip(w) {
                                *out = cells.value(*w);
                            }
                        } else if self.rounding.is_empty() {
                            for (out, w) in out.iter_mut().zip(w) {
                                *out = cells.value(cells.level_of(*w, 0.0));
                            }
                        } else {
                            let v = &self.rounding[at..][..out.len()];
                            for ((out, w), v) in out.iter_mut().zip(w).zip(v) {
                                *out = cells.value(cells.level_of(*w, *v));
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
    pub fn quantized(&self) -> Result<Quantized, QatError> {
        let weights = (0..self.weight.len()).into_par_iter();
        let codes = weights.map(|i| self.cells_of(i).code(self.level(i))).collect();
        let format = |error| QatError::format(&self.module)(error);
        let plain = self.steps.matrix(self.shape, codes, self.scheme).map_err(format)?;
        match plain.relay(&self.scheme) {
            Ok(matrix) => Ok(matrix),
            Err(Misfit::Format(error)) => Err(format(error)),
            Err(_) => Err(Self::refused(&self.module, self.scheme.to_string())),
        }
    }

    /// What is learned, in the order of [`backward`](Self::backward).
    pub(crate) fn learned<'a>(&'a mut self, learn: Learn, out: &mut Vec<Param<'a>>) {
        let Self { module, steps, weight, rounding, frozen, .. } = self;
        let unit = steps.unit;
        if learn.weights && !*frozen {
            let name = format!("{module}.weight");
            out.push(Param {
                name,
                kind: Kind::Weight,
                unit,
                range: ANY,
                matrix: None,
                values: weight,
            });
        }
        if learn.rounding && !rounding.is_empty() {
            let (name, range) = (format!("{module}.rounding"), [-0.5, 0.5]);
            out.push(Param {
                name,
                kind: Kind::Rounding,
                unit: 1.0,
                range,
                matrix: None,
                values: rounding,
            });
        }
        steps.learned(module, learn, *frozen, out);
    }

    /// Gradients by what is learned, from that by the rounded values, `d_rounded`.
    pub(crate) fn backward(&self, mut d_rounded: Vec<f32>, learn: Learn, out: &mut Vec<Vec<f32>>) {
        let (level, width, size) = (Level::detect(), self.shape.in_features, self.steps.group);
        let n_groups = self.n_groups();
        let mut by_steps = vec![BySteps::default(); self.shape.out_features * n_groups];
        let learns_rounding = learn.rounding && !self.rounding.is_empty();
        let rows = d_rounded.par_chunks_mut(width).zip(by_steps.par_chunks_mut(n_groups));
        rows.enumerate().with_min_len(8).for_each(|(row, (d, by_steps))| {
            vectorize(
                level,
                #[inline(always)]
                || {
                    for (g, d) in d.chunks_mut(size).enumerate() {
                        let at = row * width + g * size;
                        let w = &self.weight[at..][..d.len()];
                        by_steps[g] = if self.frozen {
                            Cells::backward_fixed(d, w)
                        } else {
                            let v = self.rounding.get(at..at + d.len());
                            let cells = self.steps.cells(row * n_groups + g);
                            cells.backward(d, w, v, learns_rounding)
                        };
                    }
                },
            );
        });
        if learns_rounding || learn.weights && !self.frozen {
            out.push(d_rounded);
        }
        self.steps.gradients(&by_steps, learn, self.frozen, out);
    }
}

#[cfg(test)]
impl FakeMatrix {
    pub(crate) fn set_weights(&mut self, weight: &[f32]) {
        self.weight.copy_from_slice(weight);
    }

    /// The cells of a group.
    pub(crate) fn cells(&self, group: usize) -> Cells {
        self.steps.cells(group)
    }

    pub(crate) fn weights(&self) -> &[f32] {
        &self.weight
    }

    pub(crate) fn without_rounding(self) -> Self {
        Self { rounding: Vec::new(), ..self }
    }
}
