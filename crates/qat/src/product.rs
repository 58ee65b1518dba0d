//! The three matrix products of a linear layer, on the kernels of the runtime.
//!
//! ```text
//! y  = x · Wᵀ      (n, out) = (n, in) · (in, out)
//! dx = dy · W      (n, in)  = (n, out) · (out, in)
//! dW = dyᵀ · x     (out, in) = (out, n) · (n, in)
//! ```
//!
//! The kernel multiplies by a transposed matrix, so the two products of the backward pass transpose their operands first, which costs one pass over memory
//! where the product takes hundreds.

use fewbit_format::MatrixShape;
use fewbit_kernels::{Level, linear_f32, vectorize};
use rayon::prelude::*;

use crate::pool::Pool;

/// `y (n, out_features) = x (n, in_features) · Wᵀ`.
pub(crate) fn forward(y: &mut [f32], x: &[f32], weight: &[f32], shape: MatrixShape) {
    let n = x.len() / shape.in_features;
    linear_f32(Level::detect(), y, x, n, weight, shape);
}

/// `dx (n, in_features) = dy (n, out_features) · W`.
pub(crate) fn grad_input(
    dx: &mut [f32],
    dy: &[f32],
    weight: &[f32],
    shape: MatrixShape,
    pool: &mut Pool,
) {
    let MatrixShape { out_features, in_features } = shape;
    let mut transposed = pool.take(weight.len());
    transpose(&mut transposed, weight, out_features, in_features);
    let n = dy.len() / out_features;
    let shape = MatrixShape::new(in_features, out_features);
    linear_f32(Level::detect(), dx, dy, n, &transposed, shape);
    pool.give(transposed);
}

/// `dW (out_features, in_features) = dyᵀ · x`.
pub(crate) fn grad_weight(
    dw: &mut [f32],
    dy: &[f32],
    x: &[f32],
    shape: MatrixShape,
    pool: &mut Pool,
) {
    let MatrixShape { out_features, in_features } = shape;
    let n = x.len() / in_features;
    let (mut dy_t, mut x_t) = (pool.take(dy.len()), pool.take(x.len()));
    transpose(&mut dy_t, dy, n, out_features);
    transpose(&mut x_t, x, n, in_features);
    let shape = MatrixShape::new(in_features, n);
    linear_f32(Level::detect(), dw, &dy_t, out_features, &x_t, shape);
    pool.give(dy_t);
    pool.give(x_t);
}

/// Sums of the columns of `dy (n, width)`: the gradient of a bias.
pub(crate) fn grad_bias(db: &mut [f32], dy: &[f32]) {
    db.fill(0.0);
    for row in dy.chunks_exact(db.len()) {
        add(db, row);
    }
}

/// Adds a bias to every row.
pub(crate) fn add_bias(y: &mut [f32], bias: &[f32]) {
    y.par_chunks_mut(bias.len()).with_min_len(64).for_each(|row| add(row, bias));
}

/// `a += b`.
pub(crate) fn add(a: &mut [f32], b: &[f32]) {
    vectorize(
        Level::detect(),
        #[inline(always)]
        || {
            for (a, b) in a.iter_mut().zip(b) {
                *a += b;
            }
        },
    );
}

/// `a += b`, in threads.
pub(crate) fn add_parallel(a: &mut [f32], b: &[f32]) {
    const PIECE: usize = 1 << 14;
    a.par_chunks_mut(PIECE).zip(b.par_chunks(PIECE)).for_each(|(a, b)| add(a, b));
}

/// Rows and columns that are copied at a time.
const TILE: usize = 16;

/// `out (columns, rows) = xᵀ` for `x (rows, columns)`.
pub(crate) fn transpose(out: &mut [f32], x: &[f32], rows: usize, columns: usize) {
    let level = Level::detect();
    let strip = |(i, out): (usize, &mut [f32])| {
        vectorize(
            level,
            #[inline(always)]
            || {
                let first = i * TILE;
                let width = TILE.min(columns - first);
                for start in (0..rows).step_by(TILE) {
                    let height = TILE.min(rows - start);
                    if width == TILE && height == TILE {
                        let mut tile = [[0.0f32; TILE]; TILE];
                        for (r, tile) in tile.iter_mut().enumerate() {
                            let from = (start + r) * columns + first;
                            tile.copy_from_slice(&x[from..from + TILE]);
                        }
                        for c in 0..TILE {
                            let to = &mut out[c * rows + start..][..TILE];
                            for r in 0..TILE {
                                to[r] = tile[r][c];
                            }
                        }
                    } else {
                        for c in 0..width {
                            for r in 0..height {
                                out[c * rows + start + r] = x[(start + r) * columns + first + c];
                            }
                        }
                    }
                }
            },
        );
    };
    if x.len() < 1 << 15 {
        out.chunks_mut(TILE * rows).enumerate().for_each(strip);
    } else {
        out.par_chunks_mut(TILE * rows).enumerate().for_each(strip);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_testkit::Random;

    #[test]
    fn products_equal_their_definitions() {
        let mut random = Random::new(1);
        for (n, out, inn) in [(33, 17, 40), (5, 64, 16), (70, 3, 1)] {
            let shape = MatrixShape::new(out, inn);
            let (x, w, dy) =
                (random.normals(n * inn), random.normals(out * inn), random.normals(n * out));
            let mut pool = Pool::default();
            let (mut dx, mut dw) = (vec![f32::NAN; n * inn], vec![f32::NAN; out * inn]);
            grad_input(&mut dx, &dy, &w, shape, &mut pool);
            grad_weight(&mut dw, &dy, &x, shape, &mut pool);
            for t in 0..n {
                for i in 0..inn {
                    let expected: f64 =
                        (0..out).map(|o| f64::from(dy[t * out + o] * w[o * inn + i])).sum();
                    assert!((f64::from(dx[t * inn + i]) - expected).abs() < 1e-4);
                }
            }
            for o in 0..out {
                for i in 0..inn {
                    let expected: f64 =
                        (0..n).map(|t| f64::from(dy[t * out + o] * x[t * inn + i])).sum();
                    assert!((f64::from(dw[o * inn + i]) - expected).abs() < 1e-4);
                }
            }
        }
    }
}
