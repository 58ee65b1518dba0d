//! Cases and the textbook formulas that tests compare with, all in f64.
#![allow(dead_code, unreachable_pub)]

use fewbit_format::{
    Bits, Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape, ScaleType, Symmetry,
};
use fewbit_gptq::{Hessian, Solution};
use fewbit_testkit::Random;

pub fn scheme(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 }
}

/// Correlated activations of unequal size: each feature mixes the one before it and a shared direction.
pub fn activations(random: &mut Random, tokens: usize, n: usize, correlation: f32) -> Vec<f32> {
    let size: Vec<f32> = (0..n).map(|_| (0.7 * random.normal()).exp() as f32).collect();
    let mut x = random.normals(tokens * n);
    for x in x.chunks_mut(n) {
        let shared = random.normal() as f32;
        for i in 0..n {
            let before = if i > 0 { x[i - 1] } else { 0.0 };
            x[i] += correlation * (before + shared);
        }
        for (x, size) in x.iter_mut().zip(&size) {
            *x *= size;
        }
    }
    x
}

/// Weights with heavy tails.
pub fn weights(random: &mut Random, len: usize) -> Vec<f32> {
    (0..len).map(|_| 0.02 * (random.normal() * (0.8 * random.normal()).exp()) as f32).collect()
}

pub fn hessian(x: &[f32], n: usize) -> Hessian {
    let mut hessian = Hessian::new(n);
    hessian.add(x).expect("finite activations");
    hessian
}

pub fn dense(hessian: &Hessian) -> Vec<Vec<f64>> {
    let n = hessian.in_features();
    (0..n).map(|i| (0..n).map(|j| hessian.get(i, j)).collect()).collect()
}

/// `e·H·eᵀ`.
pub fn quadratic(h: &[Vec<f64>], e: &[f64]) -> f64 {
    let row = |r: &[f64]| r.iter().zip(e).map(|(h, e)| h * e).sum::<f64>();
    h.iter().zip(e).map(|(r, e)| row(r) * e).sum()
}

pub fn value(
    solution: &Solution<IntParams>,
    grid: &IntGrid,
    shape: MatrixShape,
    row: usize,
    column: usize,
) -> f32 {
    let n = shape.in_features;
    let granularity = grid.scheme.granularity;
    let group = match &solution.group_of_column {
        Some(map) => map[column] as usize,
        None => column / granularity.group_size(n),
    };
    let at =
        if granularity == Granularity::Tensor { 0 } else { row * granularity.n_groups(n) + group };
    grid.decode(solution.params[at], 0, solution.codes[row * n + column])
}

/// Loss of each row, in f64 from what a file would hold.
pub fn row_losses(
    weight: &[f32],
    shape: MatrixShape,
    solution: &Solution<IntParams>,
    grid: &IntGrid,
    h: &[Vec<f64>],
) -> Vec<f64> {
    let n = shape.in_features;
    let error = |row: usize, c: usize| {
        f64::from(value(solution, grid, shape, row, c)) - f64::from(weight[row * n + c])
    };
    (0..shape.out_features)
        .map(|row| quadratic(h, &(0..n).map(|c| error(row, c)).collect::<Vec<_>>()))
        .collect()
}

/// Lower Cholesky factor.
pub fn cholesky(a: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = a.len();
    let mut l = vec![vec![0.0; n]; n];
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| l[i][k] * l[j][k]).sum();
            l[i][j] = if i == j { (a[i][i] - sum).sqrt() } else { (a[i][j] - sum) / l[j][j] };
        }
    }
    l
}

pub fn inverse(a: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let n = a.len();
    let l = cholesky(a);
    let mut inverse = vec![vec![0.0; n]; n];
    for column in 0..n {
        let mut y = vec![0.0; n];
        for i in 0..n {
            let sum: f64 = (0..i).map(|k| l[i][k] * y[k]).sum();
            y[i] = (f64::from(i == column) - sum) / l[i][i];
        }
        for i in (0..n).rev() {
            let sum: f64 = (i + 1..n).map(|k| l[k][i] * inverse[k][column]).sum();
            inverse[i][column] = (y[i] - sum) / l[i][i];
        }
    }
    inverse
}

/// GPTQ as its paper has it, in f64: the inverse of the damped Hessian, its upper Cholesky factor, and after each column an update of all
/// later ones. `quantize(column, value)` is the code and its value. Returns codes by column, and the least distance of a target from a rounding
/// boundary as `margin(column, value)` has it.
pub fn classical(
    w: &[f64],
    h: &[Vec<f64>],
    damping: f64,
    order: &[usize],
    quantize: impl Fn(usize, f64) -> (u8, f64),
    margin: impl Fn(usize, f64) -> f64,
) -> (Vec<u8>, f64) {
    let n = w.len();
    let lambda = damping * (0..n).map(|i| h[i][i]).sum::<f64>() / n as f64;
    let permuted: Vec<Vec<f64>> = (0..n)
        .map(|i| {
            (0..n).map(|j| h[order[i]][order[j]] + if i == j { lambda } else { 0.0 }).collect()
        })
        .collect();
    // H⁻¹ = UᵀU, so U is the transpose of the lower factor.
    let l = cholesky(&inverse(&permuted));
    let mut targets: Vec<f64> = order.iter().map(|&c| w[c]).collect();
    let mut codes = vec![0; n];
    let mut least = f64::INFINITY;
    for k in 0..n {
        least = least.min(margin(order[k], targets[k]));
        let (code, value) = quantize(order[k], targets[k]);
        codes[order[k]] = code;
        let error = (targets[k] - value) / l[k][k];
        for j in k + 1..n {
            targets[j] -= error * l[j][k];
        }
    }
    (codes, least)
}
