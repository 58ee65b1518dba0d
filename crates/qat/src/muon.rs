//! Muon (Jordan et al., 2024): momentum whose update is made orthogonal, for the matrices inside blocks.

use fewbit_format::MatrixShape;

use crate::{
    pool::Pool,
    product::{forward, transpose},
};

/// Factors of the polynomials that bring all singular values towards one, step by step (Amsel et al., "The Polar Express", arXiv 2505.16932).
const POLYNOMIALS: [[f32; 3]; 4] = [
    [8.287_212, -23.595_887, 17.300_387],
    [4.107_059, -2.947_85, 0.544_843_1],
    [3.948_691, -2.908_902_2, 0.551_819_14],
    [3.318_419_7, -2.488_488, 0.510_048_9],
];

/// Moves a matrix by `rate` against an orthogonal matrix near its momentum, times the root of rows by columns where it is tall, so that outputs change
/// alike in every layer. `momentum` is the share of the past, in 0..1; `decay` multiplies the values first.
pub(crate) fn step(
    values: &mut [f32],
    shape: MatrixShape,
    gradient: &[f32],
    mean: &mut [f32],
    [momentum, factor, rate, decay]: [f32; 4],
    pool: &mut Pool,
) {
    let mut update = pool.take(values.len());
    for ((update, mean), gradient) in update.iter_mut().zip(mean).zip(gradient) {
        let gradient = gradient * factor;
        *mean += (1.0 - momentum) * (gradient - *mean);
        // Nesterov's look ahead.
        *update = gradient + momentum * (*mean - gradient);
    }
    let MatrixShape { out_features: rows, in_features: columns } = shape;
    if rows > columns {
        let mut wide = pool.take(update.len());
        transpose(&mut wide, &update, rows, columns);
        orthogonalize(&mut wide, columns, rows, pool);
        transpose(&mut update, &wide, columns, rows);
        pool.give(wide);
    } else {
        orthogonalize(&mut update, rows, columns, pool);
    }
    let rate = rate * (rows as f32 / columns as f32).max(1.0).sqrt();
    for (value, update) in values.iter_mut().zip(&update) {
        *value = *value * decay - rate * update;
    }
    pool.give(update);
}

/// About the nearest matrix with orthonormal rows, for `x (rows, columns)` with `rows ≤ columns`.
fn orthogonalize(x: &mut [f32], rows: usize, columns: usize, pool: &mut Pool) {
    let squares: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    // All singular values have to be at most one to begin with.
    let factor = (1.0 / (1.01 * squares.sqrt() + 1e-30)) as f32;
    x.iter_mut().for_each(|x| *x *= factor);
    let (square, wide) = (MatrixShape::new(rows, rows), MatrixShape::new(rows, columns));
    let [mut gram, mut polynomial] = [(); 2].map(|()| pool.take(rows * rows));
    let [mut transposed, mut product] = [(); 2].map(|()| pool.take(x.len()));
    for [a, b, c] in POLYNOMIALS {
        // x ← a·x + (b·G + c·G²)·x with G = x·xᵀ, which is symmetric.
        forward(&mut gram, x, x, wide);
        forward(&mut polynomial, &gram, &gram, square);
        for (p, g) in polynomial.iter_mut().zip(&gram) {
            *p = b * g + c * *p;
        }
        transpose(&mut transposed, x, rows, columns);
        forward(&mut product, &polynomial, &transposed, MatrixShape::new(columns, rows));
        for (x, product) in x.iter_mut().zip(&product) {
            *x = a * *x + product;
        }
    }
    [gram, polynomial, transposed, product].into_iter().for_each(|buffer| pool.give(buffer));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// Rows of the update are orthonormal up to what four steps leave, on the side of the momentum, for wide and tall matrices.
    #[test]
    fn updates_are_orthogonal() {
        for (rows, columns) in [(1, 7), (24, 40), (40, 24), (32, 32)] {
            let n = rows * columns;
            let gradient: Vec<f32> =
                (0..n as u64).map(|i| random::normal(3, i) as f32 * 1e-4).collect();
            let (mut values, mut mean) = (vec![0.0; n], vec![0.0; n]);
            let shape = MatrixShape::new(rows, columns);
            let mut pool = Pool::default();
            step(&mut values, shape, &gradient, &mut mean, [0.95, 1.0, 1.0, 1.0], &mut pool);
            let agreement: f32 = values.iter().zip(&gradient).map(|(v, g)| -v * g).sum();
            assert!(agreement > 0.0);
            // Mean of the squared singular values without the tall factor; four steps leave those that were not tiny between 0.4 and 1.6.
            let short = rows.min(columns) as f32;
            let tall = (rows as f32 / columns as f32).max(1.0);
            let squares: f32 = values.iter().map(|v| v * v).sum::<f32>() / (short * tall);
            assert!((0.16..2.56).contains(&squares), "{rows} x {columns}: {squares}");
            let still = [0.95, 1.0, 0.0, 1.0];
            let before = values.clone();
            step(&mut values, shape, &gradient, &mut mean, still, &mut pool);
            assert_eq!(values, before);
        }
    }
}
