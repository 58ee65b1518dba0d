//! Broken, degenerate and adversarial inputs; the guarantee; threads.

mod common;

use common::*;
use fewbit_format::{Bits, Granularity, Grid, IntGrid, IntParams, MatrixShape, Symmetry};
use fewbit_gptq::{
    FitFrom, GptqError, GptqSpec, Groups, Hessian, Order, Prepared, Solution, quantize,
    round_to_nearest,
};
use fewbit_testkit::Random;

fn specs() -> Vec<GptqSpec> {
    let mut specs = Vec::new();
    for order in [Order::Natural, Order::ActOrder] {
        for groups in [Groups::Static, Groups::Ordered] {
            for fit in [FitFrom::Original, FitFrom::Updated] {
                for refine_passes in [0, 2] {
                    specs.push(GptqSpec {
                        order,
                        groups,
                        fit,
                        refine_passes,
                        ..GptqSpec::default()
                    });
                }
            }
        }
    }
    specs
}

/// Plain rounding with the groups of a solution.
fn plain_in_ordered_groups(
    w: &[f32],
    shape: MatrixShape,
    prepared: &Prepared<'_>,
    grid: &IntGrid,
    solution: &Solution<IntParams>,
) -> Solution<IntParams> {
    let mut plain = solution.clone();
    plain.params.clear();
    for (row, codes) in plain.codes.chunks_mut(shape.in_features).enumerate() {
        let w = &w[row * shape.in_features..][..shape.in_features];
        for columns in prepared.order().chunks(grid.scheme.granularity.group_size(w.len())) {
            let members: Vec<f32> = columns.iter().map(|&c| w[c]).collect();
            let params = grid.fit_plain(&members);
            for &c in columns {
                codes[c] = grid.encode(params, 0, w[c]);
            }
            plain.params.push(params);
        }
    }
    plain
}

/// Row by row, in f64, from the codes: not above plain rounding, whatever the input; and the reported sums are right.
#[track_caller]
fn check_guarantee(
    name: &str,
    w: &[f32],
    shape: MatrixShape,
    hessian: &Hessian,
    spec: &GptqSpec,
    grid: &IntGrid,
) {
    let granularity = grid.scheme.granularity;
    let h = dense(hessian);
    let prepared = Prepared::new(hessian, spec).unwrap();
    let solution = quantize(w, shape, &prepared, grid, granularity).unwrap();
    let mut plain = round_to_nearest(w, shape, hessian, grid, granularity).unwrap();
    assert_eq!(plain.report.loss_before, plain.report.loss_after);
    if solution.group_of_column.is_some() {
        plain = plain_in_ordered_groups(w, shape, &prepared, grid, &solution);
    } else {
        assert_eq!(plain.report.loss_before, solution.report.loss_before);
    }
    let ours = row_losses(w, shape, &solution, grid, &h);
    let theirs = row_losses(w, shape, &plain, grid, &h);
    let context = format!("{name}, {spec:?}, {:?}", grid.scheme);
    for (row, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        // The sums here and there differ in their order: rounding errors of f64.
        let noise = 1e-12 * theirs + 1e-300;
        assert!(
            *ours <= theirs + noise,
            "row {row}: {ours} above plain rounding's {theirs} ({context})"
        );
    }
    let report = &solution.report;
    let close =
        |a: f64, b: f64| (a - b).abs() <= 2e-4 * a.max(b) + 1e-12 * theirs.iter().sum::<f64>();
    assert!(close(report.loss_before, theirs.iter().sum()), "{report:?} {context}");
    assert!(
        close(report.loss_after, ours.iter().sum()),
        "{report:?}, sum {} {context}",
        ours.iter().sum::<f64>()
    );
    let power: f64 = w
        .chunks(shape.in_features)
        .map(|w| quadratic(&h, &w.iter().map(|&w| w.into()).collect::<Vec<_>>()))
        .sum();
    if power > 0.0 {
        assert!(
            close(report.relative_error_after * power, report.loss_after),
            "{report:?} {context}"
        );
    }
    let clipped = |c: &&u8| **c == 0 || **c == grid.scheme.bits.max_code();
    assert_eq!(report.clipped_codes, solution.codes.iter().filter(clipped).count());
    assert!(solution.codes.iter().all(|&c| c <= grid.scheme.bits.max_code()));
    assert_eq!(solution.codes.len(), w.len());
    assert_eq!(solution.params.len(), granularity.n_scales(shape));
}

#[test]
fn no_row_is_worse_than_plain_rounding() {
    let mut random = Random::new(11);
    for spec in specs() {
        for bits in [Bits::B2, Bits::B3, Bits::B4] {
            let n = 8 + random.below(60);
            let granularity = match random.below(4) {
                0 => Granularity::Channel,
                1 => Granularity::Tensor,
                _ => Granularity::group(4 + random.below(20) as u32),
            };
            let symmetry = [Symmetry::Symmetric, Symmetry::Affine][random.below(2)];
            let grid = IntGrid::new(scheme(bits, symmetry, granularity));
            let tokens = 4 + random.below(2 * n);
            let hessian = hessian(&activations(&mut random, tokens, n, 1.0), n);
            let shape = MatrixShape::new(1 + random.below(40), n);
            let w = weights(&mut random, shape.len());
            check_guarantee("random", &w, shape, &hessian, &spec, &grid);
        }
    }
}

#[test]
fn guarantee_on_hard_cases() {
    let mut random = Random::new(12);
    let n = 33;
    let shape = MatrixShape::new(20, n);
    let granularity = Granularity::group(16);
    let one_direction: Vec<f32> = random.normals(n);
    let x_rank_one: Vec<f32> =
        (0..50).flat_map(|t| one_direction.iter().map(move |d| d * (t as f32 - 20.0))).collect();
    let mut x_outlier = activations(&mut random, 200, n, 1.0);
    for x in x_outlier.chunks_mut(n) {
        x[7] += 1e4 * x[3];
    }
    let mut x_dead = activations(&mut random, 100, n, 1.0);
    for x in x_dead.chunks_mut(n) {
        for c in [0, 5, 32] {
            x[c] = 0.0;
        }
    }
    let x_few = activations(&mut random, 3, n, 1.0);
    let x_tiny: Vec<f32> =
        activations(&mut random, 100, n, 1.0).iter().map(|x| x * 1e-18).collect();
    let mut on_grid = vec![0.0; shape.len()];
    for (i, w) in on_grid.iter_mut().enumerate() {
        *w = 0.25 * ((i * 7 % 16) as f32 - 8.0);
    }
    let mut zero_row = weights(&mut random, shape.len());
    zero_row[..n].fill(0.0);
    zero_row[n..2 * n].fill(1e-30);
    zero_row[2 * n] = 1e3;
    let matrices = [("on the grid", on_grid), ("zero row", zero_row)];
    let inputs = [
        ("rank one", x_rank_one),
        ("outlier", x_outlier),
        ("dead columns", x_dead),
        ("few tokens", x_few),
        ("tiny", x_tiny),
        ("all zero", vec![0.0; 2 * n]),
        ("no tokens", Vec::new()),
    ];
    for (x_name, x) in &inputs {
        let hessian = hessian(x, n);
        for (w_name, w) in &matrices {
            for damping in [0.0, 0.01, 1.0] {
                for refine_passes in [0, 2] {
                    let spec = GptqSpec { damping, refine_passes, ..GptqSpec::default() };
                    let grid = IntGrid::new(scheme(Bits::B4, Symmetry::Symmetric, granularity));
                    let name = format!("{x_name}, {w_name}");
                    check_guarantee(&name, w, shape, &hessian, &spec, &grid);
                }
            }
        }
    }
}

#[test]
fn damping_rises_until_the_hessian_can_be_factored() {
    let mut random = Random::new(13);
    let n = 40;
    // Fewer tokens than columns: singular without damping.
    let hessian = hessian(&activations(&mut random, 10, n, 0.5), n);
    let spec = GptqSpec { damping: 0.0, ..GptqSpec::default() };
    let prepared = Prepared::new(&hessian, &spec).unwrap();
    assert!(prepared.damping() > 0.0 && prepared.damping() <= 0.01, "{}", prepared.damping());
    assert!(prepared.pivots().is_some());
    let enough = GptqSpec { damping: 0.02, ..GptqSpec::default() };
    assert_eq!(Prepared::new(&hessian, &enough).unwrap().damping(), 0.02);
}

#[test]
fn repairs_are_reported() {
    let mut random = Random::new(14);
    let n = 24;
    let mut x = activations(&mut random, 100, n, 0.5);
    for x in x.chunks_mut(n) {
        x[4] = 0.0;
        x[9] = 0.0;
    }
    let live = hessian(&x, n);
    let granularity = Granularity::group(8);
    let grid = IntGrid::new(scheme(Bits::B4, Symmetry::Affine, granularity));
    let shape = MatrixShape::new(16, n);
    let w = weights(&mut random, shape.len());
    let prepared = Prepared::new(&live, &GptqSpec::default()).unwrap();
    let report = quantize(&w, shape, &prepared, &grid, granularity).unwrap().report;
    assert_eq!((report.dead_columns, report.diagonal_only), (2, false));
    assert!(report.rows_refined > 0 && report.loss_after < report.loss_before);
    assert!(report.relative_error_after < report.relative_error_before);

    let dead = hessian(&vec![0.0; 5 * n], n);
    let prepared = Prepared::new(&dead, &GptqSpec::default()).unwrap();
    let report = quantize(&w, shape, &prepared, &grid, granularity).unwrap().report;
    assert_eq!((report.dead_columns, report.diagonal_only), (n, true));
    assert_eq!((report.loss_after, report.relative_error_after), (0.0, 0.0));
}

#[test]
fn refuses_what_it_cannot_take() {
    let mut hessian = Hessian::new(3);
    let got = hessian.add(&[1.0; 7]);
    assert_eq!(got, Err(GptqError::ActivationLength { got: 7, in_features: 3 }));
    let Err(GptqError::NonFiniteActivation { token: 1, column: 2, value }) =
        hessian.add(&[0.0, 0.0, 0.0, 1.0, 1.0, f32::NAN])
    else {
        panic!("a NaN was added")
    };
    assert!(value.is_nan());
    assert_eq!(hessian.n_tokens(), 0);
    hessian.add(&[1.0, 2.0, 3.0, -1.0, 0.0, 2.0]).unwrap();
    for damping in [-0.1, 1.5, f64::NAN] {
        let spec = GptqSpec { damping, ..GptqSpec::default() };
        assert!(matches!(Prepared::new(&hessian, &spec), Err(GptqError::Damping { .. })));
    }
    let prepared = Prepared::new(&hessian, &GptqSpec::default()).unwrap();
    let granularity = Granularity::Channel;
    let grid = IntGrid::new(scheme(Bits::B4, Symmetry::Affine, granularity));
    let run = |w: &[f32], shape| quantize(w, shape, &prepared, &grid, granularity).map(|s| s.codes);
    let got = run(&[1.0; 8], MatrixShape::new(2, 4));
    assert_eq!(got, Err(GptqError::Width { hessian: 3, in_features: 4 }));
    let got = run(&[1.0; 5], MatrixShape::new(2, 3));
    assert_eq!(got, Err(GptqError::WeightLength { got: 5, out_features: 2, in_features: 3 }));
    let got = run(&[1.0, 1.0, 1.0, 1.0, f32::INFINITY, 1.0], MatrixShape::new(2, 3));
    let value = f32::INFINITY;
    assert_eq!(got, Err(GptqError::NonFiniteWeight { row: 1, column: 1, value }));
    assert_eq!(run(&[], MatrixShape::new(0, 3)), Ok(Vec::new()));

    // Finite activations whose squares overflow.
    let mut huge = Hessian::new(20);
    let mut x = vec![1.0; 20];
    x[17] = 1e30;
    huge.add(&x).unwrap();
    let got = Prepared::new(&huge, &GptqSpec::default()).map(|_| ());
    assert_eq!(got, Err(GptqError::NonFiniteHessian { column: 17, value: f64::INFINITY }));
}

#[test]
fn same_bits_for_any_number_of_threads() {
    let mut random = Random::new(15);
    let (n, tokens) = (200, 1300);
    let shape = MatrixShape::new(150, n);
    let x = activations(&mut random, tokens, n, 0.8);
    let w = weights(&mut random, shape.len());
    let granularity = Granularity::group(32);
    let grid = IntGrid::new(scheme(Bits::B3, Symmetry::Affine, granularity));
    let run = || {
        let hessian = hessian(&x, n);
        let prepared = Prepared::new(&hessian, &GptqSpec::default()).unwrap();
        let pivots = prepared.pivots().map(<[f64]>::to_vec);
        (dense(&hessian), pivots, quantize(&w, shape, &prepared, &grid, granularity).unwrap())
    };
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let one = pool(1).install(run);
    for threads in [2, 3] {
        assert!(pool(threads).install(run) == one, "{threads} threads give other bits");
    }
}
