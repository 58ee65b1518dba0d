//! Cholesky factorization, in place, in f64.
//!
//! Left-looking by panels of 64 columns: the diagonal block is updated by all finished columns, factored and inverted by plain code; every strip
//! below is updated the same way and multiplied by the inverse, in parallel. Each strip is written by one task, so the result does not depend on
//! the number of threads.

use fewbit_kernels::{Level, vectorize};
use rayon::prelude::*;

use crate::strips::{Column, LANES, Lower, Product, multiply};

/// Strips of a panel.
const STRIPS: usize = 4;
/// Columns of a panel.
const PANEL: usize = STRIPS * LANES;
/// Strips of a parallel task.
const TASK: usize = 4;
/// A pivot below this fraction of its diagonal entry is rounding noise: the matrix is singular.
const SINGULAR: f64 = 1e-9;

type Block = [[f64; PANEL]; PANEL];

/// Replaces a positive definite matrix by its factor `L`, `A = L·Lᵀ`, zeros above the diagonal. Rows beyond its size must be those of the
/// identity. False (with the matrix destroyed) if a pivot is not positive.
#[must_use]
pub(crate) fn factor(matrix: &mut Lower<f64>, level: Level) -> bool {
    let mut strips = matrix.strips_mut();
    for first in (0..strips.len()).step_by(STRIPS) {
        let after = (first + STRIPS).min(strips.len());
        let (above, below) = strips.split_at_mut(after);
        let panel = &mut above[first..];
        let Some(inverse) = vectorize(
            level,
            #[inline(always)]
            || factor_diagonal(first * LANES, panel),
        ) else {
            return false;
        };
        let panel: Vec<&[Column<f64>]> = panel.iter().map(|strip| &**strip).collect();
        below.par_chunks_mut(TASK).for_each(|strips| {
            vectorize(
                level,
                #[inline(always)]
                || solve_below(first * LANES, &panel, &inverse, strips),
            );
        });
    }
    true
}

/// Updates and factors the block of a panel on the diagonal; returns the inverse of its factor.
#[inline(always)]
fn factor_diagonal(start: usize, panel: &mut [&mut [Column<f64>]]) -> Option<Vec<Column<f64>>> {
    let size = panel.len() * LANES;
    // Rows of the block hold columns of the lower triangle: the factor's transpose is made in place.
    let mut block: Box<Block> = Box::new([[0.0; PANEL]; PANEL]);
    {
        let finished: Vec<&[Column<f64>]> = panel.iter().map(|strip| &**strip).collect();
        let mut updates = vec![[0.0; LANES]; PANEL];
        for (s, strip) in finished.iter().enumerate() {
            updates.fill([0.0; LANES]);
            multiply(&finished, 0..start, &mut [(*strip, &mut updates)]);
            for column in 0..(s + 1) * LANES {
                for lane in 0..LANES {
                    block[column][s * LANES + lane] =
                        strip[start + column][lane] - updates[column][lane];
                }
            }
        }
    }
    let mut floor = [0.0; PANEL];
    for s in 0..panel.len() {
        for lane in 0..LANES {
            floor[s * LANES + lane] = panel[s][start + s * LANES + lane][lane] * SINGULAR;
        }
    }
    for j in 0..size {
        let (done, rest) = block.split_at_mut(j + 1);
        let row = &mut done[j];
        if row[j] <= floor[j] || row[j].is_nan() {
            return None;
        }
        let pivot = row[j].sqrt();
        for value in &mut row[j..] {
            *value /= pivot;
        }
        for (i, other) in (j + 1..size).zip(rest) {
            let factor = -row[i];
            for (o, r) in other[i..].iter_mut().zip(&row[i..]) {
                *o = factor.mul_add(*r, *o);
            }
        }
    }
    for (s, strip) in panel.iter_mut().enumerate() {
        for column in 0..(s + 1) * LANES {
            for lane in 0..LANES {
                let row = s * LANES + lane;
                strip[start + column][lane] = if column <= row { block[column][row] } else { 0.0 };
            }
        }
    }
    Some(invert(&block, size))
}

/// The inverse of a lower triangular factor, in strips of its rows: strip `t` is `[t·PANEL..][..PANEL]`.
#[inline(always)]
fn invert(transposed: &Block, size: usize) -> Vec<Column<f64>> {
    let mut inverse: Box<Block> = Box::new([[0.0; PANEL]; PANEL]);
    for i in 0..size {
        let (done, rest) = inverse.split_at_mut(i);
        let row = &mut rest[0];
        row[i] = 1.0;
        for (j, other) in done.iter().enumerate() {
            let factor = -transposed[j][i];
            for (r, o) in row[..=j].iter_mut().zip(other) {
                *r = factor.mul_add(*o, *r);
            }
        }
        for value in &mut row[..=i] {
            *value /= transposed[i][i];
        }
    }
    let mut strips = vec![[0.0; LANES]; STRIPS * PANEL];
    for i in 0..size {
        for j in 0..=i {
            strips[i / LANES * PANEL + j][i % LANES] = inverse[i][j];
        }
    }
    strips
}

/// The panel's columns of the strips below: `(A − finished) · L⁻ᵀ`.
#[inline(always)]
fn solve_below(
    start: usize,
    panel: &[&[Column<f64>]],
    inverse: &[Column<f64>],
    strips: &mut [&mut [Column<f64>]],
) {
    let inverse: Vec<&[Column<f64>]> = inverse.chunks_exact(PANEL).collect();
    let mut updates = vec![[[0.0; LANES]; PANEL]; strips.len()];
    let mut products: Vec<Product<'_, f64>> =
        strips.iter().map(|s| &**s).zip(updates.iter_mut().map(|u| u.as_mut_slice())).collect();
    multiply(panel, 0..start, &mut products);
    for (strip, updates) in strips.iter_mut().zip(&mut updates) {
        let columns = &mut strip[start..][..PANEL];
        for (update, column) in updates.iter_mut().zip(columns.iter()) {
            for lane in 0..LANES {
                update[lane] = column[lane] - update[lane];
            }
        }
        columns.fill([0.0; LANES]);
        multiply(&inverse, 0..PANEL, &mut [(&updates[..], columns)]);
    }
}
