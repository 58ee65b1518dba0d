//! Integers with float offsets: what the search promises, hard groups, and the parts of a matrix.

use fewbit_format::{
    Bits, Granularity, Grid, IntGrid, IntScheme, MatrixShape, OffsetGrid, OffsetMatrix,
    OffsetParams, OffsetScheme, ScaleType, Symmetry,
};
use fewbit_testkit::Random;
use proptest::prelude::*;

const TYPES: [ScaleType; 3] = [ScaleType::F16, ScaleType::BF16, ScaleType::F32];

/// Σ d·(nearest(w) − w)² in f64.
fn loss<G: Grid>(grid: &G, params: G::Params, weights: &[f32], importance: &[f32]) -> f64 {
    let error = |w: f32| f64::from(grid.nearest(params, 0, w)) - f64::from(w);
    weights.iter().zip(importance).map(|(&w, &d)| f64::from(d) * error(w).powi(2)).sum()
}

#[test]
fn a_fit_beats_plain_rounding_and_zero_points() {
    let mut random = Random::new(11);
    for bits in Bits::ALL {
        let grid = OffsetGrid::new(OffsetScheme::new(bits, 64, ScaleType::F16));
        let int = IntGrid::new(IntScheme {
            bits,
            symmetry: Symmetry::Affine,
            granularity: Granularity::group(64),
            scale_type: ScaleType::F16,
        });
        let (mut ours, mut plain, mut zeros) = (0.0, 0.0, 0.0);
        for _ in 0..50 {
            let weights: Vec<f32> = random.normals(64).iter().map(|w| w * 0.1 + 0.05).collect();
            let importance: Vec<f32> = random.normals(64).iter().map(|d| d * d + 0.01).collect();
            let at = |params| loss(&grid, params, &weights, &importance);
            let (fitted, rule) = (grid.fit(&weights, &importance), grid.fit_plain(&weights));
            assert!(at(fitted) <= at(rule) * (1.0 + 1e-6), "{bits:?}");
            ours += at(fitted);
            plain += at(rule);
            zeros += loss(&int, int.fit(&weights, &importance), &weights, &importance);
        }
        assert!(ours < 0.95 * plain, "{bits:?}: {ours} of {plain}");
        // At 8 bits the rounding of an offset to f16 costs more than its freedom gains.
        assert!(ours < zeros || bits == Bits::B8, "{bits:?}: {ours} of {zeros}");
    }
}

#[test]
fn no_importance_counts_as_all_alike() {
    let grid = OffsetGrid::new(OffsetScheme::new(Bits::B3, 32, ScaleType::BF16));
    let weights = Random::new(2).normals(32);
    assert_eq!(grid.fit(&weights, &[0.0; 32]), grid.fit(&weights, &[1.0; 32]));
}

#[test]
fn a_group_on_the_grid_is_found() {
    // Of 8 bits, 64 weights do not have every code.
    for bits in Bits::ALL.into_iter().filter(|&bits| bits < Bits::B8) {
        let grid = OffsetGrid::new(OffsetScheme::new(bits, 64, ScaleType::F16));
        let (scale, offset) = (0.125f32, -0.3125f32);
        let top = u32::from(bits.max_code());
        let weights: Vec<f32> =
            (0..64u32).map(|i| (i * 7 % (top + 1)) as f32 * scale + offset).collect();
        let params = grid.fit(&weights, &[1.0; 64]);
        for (i, &w) in weights.iter().enumerate() {
            assert_eq!(grid.nearest(params, 0, w), w, "{bits:?} at {i}");
        }
    }
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (shape, scheme) =
        (MatrixShape::new(2, 40), OffsetScheme::new(Bits::B4, 32, ScaleType::F16));
    let build = |codes: usize, scales: Vec<f32>, offsets: Vec<f32>, code: u8| {
        let mut codes = vec![3; codes];
        codes[1] = code;
        OffsetMatrix::new(shape, scheme, codes, scales, offsets).map_err(|e| e.to_string())
    };
    assert!(build(80, vec![1.0; 4], vec![0.0; 4], 15).is_ok());
    assert!(build(79, vec![1.0; 4], vec![0.0; 4], 15).is_err());
    assert!(build(80, vec![1.0; 3], vec![0.0; 4], 15).is_err());
    assert!(build(80, vec![1.0; 4], vec![0.0; 5], 15).is_err());
    assert!(build(80, vec![1.0; 4], vec![0.0; 4], 16).unwrap_err().contains("16"));
    assert!(build(80, vec![1.0, 2.0, 1.0e-9, 1.0], vec![0.0; 4], 15).is_err());
    assert!(build(80, vec![1.0; 4], vec![0.0, f32::NAN, 0.0, 0.0], 15).is_err());
    for wrong in [f32::NAN, f32::INFINITY] {
        let mut weight = vec![0.5; 80];
        weight[77] = wrong;
        assert!(OffsetMatrix::round_to_nearest(&weight, shape, scheme).is_err());
    }
}

/// Weights as files have them: ordinary ones, zeros of either sign, subnormals, outliers, groups of one value.
fn group() -> impl Strategy<Value = Vec<f32>> {
    let weight = prop_oneof![
        8 => -1.0f32..1.0,
        1 => Just(0.0f32),
        1 => Just(-0.0f32),
        1 => Just(1e-40f32),
        1 => -3e4f32..3e4,
    ];
    let constant = (-10.0f32..10.0, 1usize..64).prop_map(|(w, n)| vec![w; n]);
    prop_oneof![3 => prop::collection::vec(weight, 1..64), 1 => constant]
}

proptest! {
    #[test]
    fn parameters_are_stored_values_and_codes_are_nearest(
        weights in group(), bits in 0usize..6, stored in 0usize..3, ratio in -2.0f32..2.0,
    ) {
        let (bits, value_type) = (Bits::ALL[bits], TYPES[stored]);
        let grid = OffsetGrid::new(OffsetScheme::new(bits, 64, value_type));
        let ones = vec![1.0; weights.len()];
        let fitted = grid.fit(&weights, &ones);
        for params in [fitted, grid.fit_plain(&weights), grid.scaled(fitted, ratio)] {
            let OffsetParams { scale, offset } = params;
            prop_assert!(scale != 0.0 && scale.is_finite() && offset.is_finite(), "{params:?}");
            prop_assert!(value_type.round(scale) == scale && value_type.round(offset) == offset);
            for &w in &weights {
                let code = grid.encode(params, 0, w);
                let error = |code| {
                    f64::from(scale) * f64::from(code) + f64::from(offset) - f64::from(w)
                };
                let least = (0..=bits.max_code()).map(|c| error(c).abs()).fold(f64::MAX, f64::min);
                // Up to the rounding of the division.
                let slack = 1e-5 * (f64::from(scale).abs() + f64::from(w).abs());
                prop_assert!(error(code).abs() <= least + slack, "{w} {params:?}");
            }
        }
        let (fit, plain) = (fitted, grid.fit_plain(&weights));
        prop_assert!(
            loss(&grid, fit, &weights, &ones) <= loss(&grid, plain, &weights, &ones) * 1.001 + 1e-12
        );
    }

    #[test]
    fn a_matrix_is_its_codes_times_scale_plus_offset(
        rows in 1usize..4, columns in 1usize..90, group in 1u32..70, seed: u64,
    ) {
        let shape = MatrixShape::new(rows, columns);
        let scheme = OffsetScheme::new(Bits::B5, group, ScaleType::F16);
        let weight = Random::new(seed).normals(shape.len());
        let matrix = OffsetMatrix::round_to_nearest(&weight, shape, scheme).unwrap();
        let mut row = vec![0.0; columns];
        for r in 0..rows {
            matrix.dequantize_row_into(r, &mut row);
            for (c, &value) in row.iter().enumerate() {
                let g = r * scheme.n_groups(columns) + c / group as usize;
                let code = f32::from(matrix.codes()[r * columns + c]);
                prop_assert_eq!(value, code * matrix.scales()[g] + matrix.offsets()[g]);
                let step = matrix.scales()[g].abs();
                // The rule moves the far end by up to half a step.
                prop_assert!((value - weight[r * columns + c]).abs() <= 1.01 * step + 0.02);
            }
        }
    }
}
