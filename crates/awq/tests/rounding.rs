//! Ranges chosen by the inputs.

use fewbit_awq::{AwqError, GroupMoments, Rounded, round_clipped, round_fitted};
use fewbit_format::{
    Bits, Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape, ScaleType, Symmetry,
};
use fewbit_testkit::Random;

fn grid(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> IntGrid {
    IntGrid::new(IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 })
}

/// Heavy-tailed weights, inputs that go together and some loud channels.
fn case(shape: MatrixShape, n_tokens: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut random = Random::new(seed);
    let weight = (0..shape.len()).map(|_| (0.02 * random.normal().powi(3)) as f32).collect();
    let n = shape.in_features;
    let inputs = (0..n_tokens).flat_map(|_| {
        let common = random.normal();
        let own = random.normals(n);
        (0..n).map(move |j| {
            let loud = if j % 17 == 5 { 12.0 } else { 1.0 };
            loud * (own[j] + common as f32)
        })
    });
    (weight, inputs.collect())
}

/// The loss of each group as it is defined, in f64.
fn group_losses(
    weight: &[f32],
    shape: MatrixShape,
    x: &[f32],
    grid: &IntGrid,
    rounded: &Rounded<IntParams>,
) -> Vec<f64> {
    let n = shape.in_features;
    let group_size = grid.scheme.granularity.group_size(n);
    let n_groups = grid.scheme.granularity.n_groups(n);
    (0..shape.out_features * n_groups)
        .map(|unit| {
            let (row, group) = (unit / n_groups, unit % n_groups);
            let columns = group * group_size..((group + 1) * group_size).min(n);
            let error = |c: usize| {
                let code = rounded.codes[row * n + c];
                let value = grid.decode(rounded.params[unit], c, code);
                f64::from(value) - f64::from(weight[row * n + c])
            };
            let change = |x: &[f32]| -> f64 {
                columns.clone().map(|c| error(c) * f64::from(x[c])).sum::<f64>().powi(2)
            };
            x.chunks(n).map(change).sum::<f64>() / (x.len() / n) as f64
        })
        .collect()
}

fn plain(weight: &[f32], shape: MatrixShape, grid: &IntGrid) -> Rounded<IntParams> {
    let group = grid.scheme.granularity.group_size(shape.in_features);
    let mut codes = Vec::new();
    let mut params = Vec::new();
    for row in weight.chunks(shape.in_features) {
        for w in row.chunks(group) {
            let p = grid.fit_plain(w);
            params.push(p);
            codes.extend(w.iter().map(|&w| grid.encode(p, 0, w)));
        }
    }
    Rounded { codes, params, loss_before: 0.0, loss_after: 0.0, groups_changed: 0 }
}

#[test]
fn no_group_is_worse_than_plain_rounding_and_most_are_better() {
    for (bits, symmetry, granularity, n) in [
        (Bits::B4, Symmetry::Affine, Granularity::group(32), 96),
        (Bits::B3, Symmetry::Symmetric, Granularity::group(128), 256),
        (Bits::B2, Symmetry::Affine, Granularity::group(16), 40),
        (Bits::B3, Symmetry::Affine, Granularity::Channel, 100),
    ] {
        let shape = MatrixShape::new(13, n);
        let grid = grid(bits, symmetry, granularity);
        let (weight, x) = case(shape, 300, n as u64);
        let mut moments = GroupMoments::new(n, granularity);
        moments.add(&x).unwrap();
        let rounded = round_clipped(&weight, shape, &moments, &grid, granularity).unwrap();
        let before = group_losses(&weight, shape, &x, &grid, &plain(&weight, shape, &grid));
        let after = group_losses(&weight, shape, &x, &grid, &rounded);
        for (unit, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(*after <= before * (1.0 + 1e-3) + 1e-12, "{unit}: {before} {after}");
        }
        let sum = |losses: &[f64]| losses.iter().sum::<f64>();
        assert!(sum(&after) < 0.8 * sum(&before), "{bits:?} {granularity:?}");
        assert!((rounded.loss_before / sum(&before) - 1.0).abs() < 1e-3);
        assert!((rounded.loss_after / sum(&after) - 1.0).abs() < 1e-3);
        assert!(rounded.groups_changed > before.len() / 2);
    }
}

#[test]
fn groups_wider_than_a_tile_are_measured_tile_by_tile() {
    let (n, granularity) = (300, Granularity::Channel);
    let shape = MatrixShape::new(9, n);
    let grid = grid(Bits::B3, Symmetry::Affine, granularity);
    let (weight, x) = case(shape, 200, 3);
    let mut moments = GroupMoments::new(n, granularity);
    moments.add(&x).unwrap();
    let rounded = round_clipped(&weight, shape, &moments, &grid, granularity).unwrap();
    assert!(rounded.loss_after < rounded.loss_before);
    assert_eq!((rounded.params.len(), rounded.codes.len()), (9, shape.len()));
}

#[test]
fn threads_do_not_change_a_bit() {
    let (shape, granularity) = (MatrixShape::new(70, 64), Granularity::group(32));
    let grid = grid(Bits::B3, Symmetry::Affine, granularity);
    let (weight, x) = case(shape, 100, 1);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut moments = GroupMoments::new(64, granularity);
            moments.add(&x).unwrap();
            round_clipped(&weight, shape, &moments, &grid, granularity).unwrap()
        })
    };
    let one = run(1);
    assert_eq!(one, run(3));
    assert_eq!(one, run(8));
}

#[test]
fn degenerate_cases_have_defined_outcomes() {
    let granularity = Granularity::group(4);
    let grid = grid(Bits::B2, Symmetry::Affine, granularity);
    // No tokens: every loss is zero, so plain rounding stays.
    let shape = MatrixShape::new(2, 6);
    let weight = [0.3, -0.1, 0.2, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
    let moments = GroupMoments::new(6, granularity);
    let rounded = round_clipped(&weight, shape, &moments, &grid, granularity).unwrap();
    assert_eq!((rounded.loss_before, rounded.groups_changed), (0.0, 0));
    assert_eq!(rounded.codes, plain(&weight, shape, &grid).codes);
    // One column; no rows.
    let mut moments = GroupMoments::new(1, granularity);
    moments.add(&[2.0]).unwrap();
    let one = round_clipped(&[0.7], MatrixShape::new(1, 1), &moments, &grid, granularity).unwrap();
    assert!(one.loss_after <= one.loss_before);
    let none = round_clipped(&[], MatrixShape::new(0, 1), &moments, &grid, granularity).unwrap();
    assert!(none.codes.is_empty());
    let error = round_clipped(&weight, shape, &moments, &grid, granularity).unwrap_err();
    assert_eq!(error, AwqError::Width { got: 1, expected: 6 });
    let bad = round_fitted(&[f32::NAN], MatrixShape::new(1, 1), None, &grid, granularity);
    assert!(matches!(bad.unwrap_err(), AwqError::NonFiniteWeight { row: 0, column: 0, .. }));
    // Rows that share parameters take the plain ones.
    let tensor = self::grid(Bits::B4, Symmetry::Symmetric, Granularity::Tensor);
    let mut moments = GroupMoments::new(6, Granularity::Tensor);
    moments.add(&[1.0; 12]).unwrap();
    let rounded = round_clipped(&weight, shape, &moments, &tensor, Granularity::Tensor).unwrap();
    assert_eq!(rounded.params, [tensor.fit_plain(&weight)]);
}
