//! Tests of what callers cannot see.

use fewbit_format::{Bits, Granularity, IntGrid, IntScheme, MatrixShape, ScaleType, Symmetry};
use fewbit_kernels::Level;
use fewbit_testkit::Random;

use crate::{
    FitFrom, GptqSpec, Groups, Hessian, Order, Prepared, cholesky,
    problem::Problem,
    quantize::quantize_blocked,
    solve::{Blocking, solve},
    strips::{LANES, Lower},
};

fn correlated(random: &mut Random, tokens: usize, n: usize) -> Hessian {
    let mut x = random.normals(tokens * n);
    for x in x.chunks_mut(n) {
        for i in 1..n {
            x[i] += 0.8 * x[i - 1];
        }
    }
    let mut hessian = Hessian::new(n);
    hessian.add(&x).unwrap();
    hessian
}

fn grid(bits: Bits, symmetry: Symmetry, group: u32) -> IntGrid {
    let granularity = Granularity::group(group);
    IntGrid::new(IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 })
}

#[test]
fn factor_times_its_transpose_is_the_matrix() {
    let mut random = Random::new(21);
    for n in [1, 2, 15, 16, 17, 63, 64, 65, 130, 200] {
        let rows = random.normals(n * (n + 5));
        let element = |i: usize, j: usize| {
            let row = |i: usize| rows[i * (n + 5)..][..n + 5].iter().map(|&v| f64::from(v));
            row(i).zip(row(j)).map(|(a, b)| a * b).sum::<f64>()
        };
        let mut a = Lower::<f64>::new(n);
        for (s, strip) in a.strips_mut().into_iter().enumerate() {
            for (j, lanes) in strip.iter_mut().enumerate() {
                for (i, value) in (s * LANES..).zip(lanes) {
                    *value = if i < n && j < n { element(i, j) } else { f64::from(i == j) };
                }
            }
        }
        for level in Level::available() {
            let mut l = a.clone();
            assert!(cholesky::factor(&mut l, level));
            for i in 0..n {
                for j in 0..=i {
                    let product: f64 = (0..=j).map(|k| l.get(i, k) * l.get(j, k)).sum();
                    let bound = 1e-13 * n as f64 * (a.get(i, i) * a.get(j, j)).sqrt();
                    let error = (product - a.get(i, j)).abs();
                    assert!(error <= bound, "{n}, {level}: off by {error} at {i}, {j}");
                }
                for j in i + 1..(i / LANES + 1) * LANES {
                    assert_eq!(l.get(i, j), 0.0);
                }
            }
        }
    }
}

#[test]
fn indefinite_matrices_are_refused() {
    for bad in [0, 40, 99] {
        let mut a = Lower::<f64>::new(100);
        for (s, strip) in a.strips_mut().into_iter().enumerate() {
            for lane in 0..LANES {
                let i = s * LANES + lane;
                strip[i][lane] = if i == bad { -1.0 } else { 1.0 };
            }
        }
        assert!(!cholesky::factor(&mut a, Level::detect()));
    }
}

/// `Σ_k D_k·η_k²` is the damped loss: the identity behind the LDLQ form.
#[test]
fn pivots_and_residuals_give_the_loss() {
    let mut random = Random::new(22);
    for order in [Order::Natural, Order::ActOrder] {
        let n = 70;
        let hessian = correlated(&mut random, 300, n);
        let spec = GptqSpec { order, refine_passes: 0, ..GptqSpec::default() };
        let prepared = Prepared::new(&hessian, &spec).unwrap();
        let factor = prepared.factor().unwrap();
        for _ in 0..50 {
            let e: Vec<f64> = (0..n).map(|_| random.normal()).collect();
            let ordered: Vec<f64> = prepared.order().iter().map(|&c| e[c]).collect();
            let residual = |k: usize| {
                let earlier = (0..k).map(|j| ordered[j] * f64::from(factor.feedback.get(k, j)));
                ordered[k] + earlier.sum::<f64>()
            };
            let ours: f64 = (0..n).map(|k| factor.pivots[k] * residual(k).powi(2)).sum();
            let product = |i: usize| (0..n).map(|j| hessian.get(i, j) * e[j]).sum::<f64>();
            let loss: f64 = (0..n).map(|i| e[i] * (product(i) + prepared.lambda() * e[i])).sum();
            assert!((ours / loss - 1.0).abs() < 1e-6, "{ours} for {loss}");
        }
    }
}

/// Sizes of panels and tasks must not change a bit; groups of 32 in panels of 16 to 256 show it for parameters fitted on the way.
#[test]
fn blocking_changes_nothing() {
    let mut random = Random::new(23);
    let n = 200;
    let hessian = correlated(&mut random, 400, n);
    let shape = MatrixShape::new(90, n);
    let w: Vec<f32> = random.normals(shape.len());
    let grid = grid(Bits::B3, Symmetry::Affine, 32);
    for fit in [FitFrom::Original, FitFrom::Updated] {
        for groups in [Groups::Static, Groups::Ordered] {
            for order in [Order::Natural, Order::ActOrder] {
                let spec = GptqSpec { order, groups, fit, ..GptqSpec::default() };
                let prepared = Prepared::new(&hessian, &spec).unwrap();
                let run = |panel, rows| {
                    let blocking = Blocking { panel, rows };
                    let granularity = grid.scheme.granularity;
                    quantize_blocked(&w, shape, &prepared, &grid, granularity, blocking).unwrap()
                };
                let reference = run(128, 64);
                for (panel, rows) in [(16, 16), (32, 48), (48, 64), (256, 128)] {
                    assert!(run(panel, rows) == reference, "panel {panel}, rows {rows}, {spec:?}");
                }
            }
        }
    }
}

/// Each row, after each pass.
#[test]
fn refinement_never_raises_the_damped_loss() {
    let mut random = Random::new(24);
    let n = 100;
    let hessian = correlated(&mut random, 150, n);
    let shape = MatrixShape::new(40, n);
    let w: Vec<f32> = random.normals(shape.len());
    let spec = GptqSpec::default();
    let prepared = Prepared::new(&hessian, &spec).unwrap();
    for (bits, group) in [(Bits::B2, 16), (Bits::B3, 24), (Bits::B4, 100), (Bits::B4, 7)] {
        let grid = grid(bits, Symmetry::Symmetric, group);
        let granularity = grid.scheme.granularity;
        let problem =
            Problem::new(&w, shape, n, &grid, granularity, prepared.order(), spec.groups).unwrap();
        let mut candidate =
            solve(&problem, &prepared, problem.fit(prepared.importance()), Blocking::default());
        let loss = |candidate: &_, row: usize| {
            let mut e = vec![0.0; n];
            problem.errors(candidate, row, &mut e);
            let product = |i: usize| (0..n).map(|j| hessian.get(i, j) * e[j]).sum::<f64>();
            (0..n).map(|i| e[i] * (product(i) + prepared.lambda() * e[i])).sum::<f64>()
        };
        let mut before: Vec<f64> = (0..40).map(|row| loss(&candidate, row)).collect();
        let first: f64 = before.iter().sum();
        for pass in 0..3 {
            let changed = crate::refine::refine(&problem, &prepared, &mut candidate, 1);
            for row in 0..40 {
                let after = loss(&candidate, row);
                assert!(
                    after <= before[row] * (1.0 + 1e-6),
                    "pass {pass}, row {row}: {after} after {}",
                    before[row]
                );
                assert!(changed[row] || after == before[row]);
                before[row] = after;
            }
        }
        let last: f64 = before.iter().sum();
        assert!(last < 0.999 * first, "three passes gained nothing: {last} after {first}");
    }
}

/// Solutions are the same bits at every level that this machine has, the plain one included.
#[test]
fn levels_agree() {
    let mut random = Random::new(25);
    let n = 70;
    let hessian = correlated(&mut random, 200, n);
    let shape = MatrixShape::new(20, n);
    let w: Vec<f32> = random.normals(shape.len());
    let spec = GptqSpec::default();
    let prepared = Prepared::new(&hessian, &spec).unwrap();
    let grid = grid(Bits::B3, Symmetry::Affine, 16);
    let granularity = grid.scheme.granularity;
    let run = |level| {
        let order = prepared.order();
        let mut problem =
            Problem::new(&w, shape, n, &grid, granularity, order, spec.groups).unwrap();
        problem.level = level;
        let params = problem.fit(prepared.importance());
        let mut candidate = solve(&problem, &prepared, params, Blocking::default());
        crate::refine::refine(&problem, &prepared, &mut candidate, 2);
        (candidate.codes, candidate.params)
    };
    let plain = run(Level::SCALAR);
    for level in Level::available() {
        assert!(run(level) == plain, "{level} gives other bits");
    }
}
