//! Measures of importance by their definitions, rules of choice, calibration.

use fewbit_planner::{
    PlannerError, Tier, factors_from_sums,
    importance::{BlockInfluence, InputStatistics, WeightStatistics, output_error, weighted_error},
    tiers,
};
use fewbit_testkit::Random;

#[test]
fn weights_of_known_distributions() {
    let normal = WeightStatistics::of(&Random::new(1).normals(200_000));
    assert!(normal.kurtosis.abs() < 0.05 && (normal.deviation - 1.0).abs() < 0.01, "{normal:?}");
    assert_eq!(normal.outliers, 0.0);
    assert!((4.0..6.0).contains(&normal.range()));
    let two = WeightStatistics::of(&[-1.0, 1.0, -1.0, 1.0]);
    assert_eq!((two.kurtosis, two.deviation, two.range()), (-2.0, 1.0, 1.0));
    let mut spike = vec![0.0; 999];
    spike.push(1000.0);
    let spike = WeightStatistics::of(&spike);
    assert_eq!((spike.outliers, spike.min, spike.max), (0.001, 0.0, 1000.0));
    // n for a single spike among n: (n − 1)³ + 1 over n (n − 1), less 3.
    assert!((spike.kurtosis - (998.001_001 - 3.0)).abs() < 1e-5, "{spike:?}");
    let flat = WeightStatistics::of(&[2.0; 5]);
    assert_eq!((flat.kurtosis, flat.range(), flat.outliers), (0.0, 0.0, 0.0));
    assert_eq!(WeightStatistics::of(&[]), WeightStatistics::default());
}

#[test]
fn inputs_with_an_outlier_channel() {
    let mut squares = vec![1.0; 200];
    squares[17] = 100.0;
    squares[18] = 36.0;
    let s = InputStatistics::of_mean_squares(&squares);
    assert_eq!((s.dynamic_range, s.outlier_channels), (10.0, 1));
    assert!((s.top_share - 136.0 / 334.0).abs() < 1e-12);
    assert_eq!(InputStatistics::of_mean_squares(&[]), InputStatistics::default());
    assert_eq!(InputStatistics::of_mean_squares(&[0.0; 4]).dynamic_range, 0.0);
}

#[test]
fn influence_is_one_less_the_mean_cosine() {
    let mut influence = BlockInfluence::default();
    assert_eq!(influence.value(), 0.0);
    influence.add(&[1.0, 0.0, 1.0, 0.0], &[3.0, 0.0, 0.0, 5.0], 2);
    assert_eq!(influence.value(), 0.5);
    influence.add(&[1.0, 1.0, 0.0, 0.0], &[-2.0, -2.0, 0.0, 0.0], 2);
    // Cosines 1, 0, −1, and a dead token.
    assert!((influence.value() - 0.75).abs() < 1e-12);
}

/// `tr(E·H·Eᵀ)` with `H` the mean of `x·xᵀ` is the mean squared change of the outputs.
#[test]
fn errors_are_those_of_the_outputs() {
    let (out, n, tokens) = (3, 5, 40);
    let mut random = Random::new(3);
    let (w, x) = (random.normals(out * n), random.normals(tokens * n));
    let r: Vec<f32> = w.iter().map(|w| (4.0 * w).round() / 4.0).collect();
    let mut hessian = vec![0.0; n * n];
    for x in x.chunks(n) {
        for i in 0..n {
            for j in 0..n {
                hessian[i * n + j] += f64::from(x[i]) * f64::from(x[j]) / tokens as f64;
            }
        }
    }
    let (mut error, mut energy) = (0.0, 0.0);
    for x in x.chunks(n) {
        for (w, r) in w.chunks(n).zip(r.chunks(n)) {
            let dot = |a: &[f32]| -> f64 {
                a.iter().zip(x).map(|(a, x)| f64::from(*a) * f64::from(*x)).sum()
            };
            error += (dot(r) - dot(w)).powi(2);
            energy += dot(w).powi(2);
        }
    }
    let got = output_error(&w, &r, &hessian, n).unwrap();
    assert!((got - error / energy).abs() < 1e-12 * got, "{got} against {}", error / energy);

    let diagonal: Vec<f64> = (0..n).map(|i| hessian[i * n + i]).collect();
    let mut only = vec![0.0; n * n];
    (0..n).for_each(|i| only[i * n + i] = diagonal[i]);
    let (a, b) =
        (weighted_error(&w, &r, &diagonal).unwrap(), output_error(&w, &r, &only, n).unwrap());
    assert!((a - b).abs() < 1e-12 * a);
    assert_eq!(weighted_error(&w, &w, &diagonal), Ok(0.0));
    assert!(matches!(weighted_error(&w, &r[1..], &diagonal), Err(PlannerError::Length { .. })));
    assert!(output_error(&w, &r, &hessian[1..], n).is_err());
    assert!(output_error(&w, &r, &[], 0).is_err());
}

#[test]
fn tiers_by_importance() {
    let importance = [0.1, 0.9, 0.5, 0.5, 0.7, 0.2, 0.3, 0.4, 0.6, 0.8];
    let tier = |fraction, choice| Tier { fraction, choice };
    let rule = [tier(0.3, 32), tier(0.3, 8), tier(0.4, 4)];
    let expected = [4, 32, 8, 8, 32, 4, 4, 4, 8, 32];
    assert_eq!(tiers(&importance, &rule).unwrap(), expected);
    assert_eq!(tiers(&[1.0, 2.0], &[tier(0.5, 0), tier(0.5, 1)]).unwrap(), [1, 0]);
    assert_eq!(tiers(&[1.0], &[tier(0.0, 0), tier(1.0, 1)]).unwrap(), [1]);
    assert_eq!(tiers(&[], &rule).unwrap(), [0usize; 0]);
    assert!(matches!(tiers(&importance, &rule[..2]), Err(PlannerError::Tiers { .. })));
    assert!(tiers(&importance, &[tier(-0.5, 0), tier(1.5, 1)]).is_err());
    assert!(tiers(&importance, &[tier(f64::NAN, 0)]).is_err());
    assert!(tiers(&[f64::NAN], &[tier(1.0, 0)]).is_err());
}

/// Losses that are a product of a factor per row and one per column are found again.
#[test]
fn factors_of_rows_and_columns() {
    let (rows, columns) = (5, 3);
    let mut random = Random::new(9);
    let mut positive = |n: usize| (0..n).map(|_| random.normal().exp()).collect::<Vec<f64>>();
    let (by_row, by_column, errors) = (positive(rows), positive(columns), positive(rows * columns));
    let loss = |r: usize, c: usize| by_row[r] * by_column[c] * errors[r * columns + c];
    let row_losses: Vec<f64> = (0..rows).map(|r| (0..columns).map(|c| loss(r, c)).sum()).collect();
    let column_losses: Vec<f64> =
        (0..columns).map(|c| (0..rows).map(|r| loss(r, c)).sum()).collect();
    let factors = factors_from_sums(&errors, &row_losses, &column_losses).unwrap();
    for (i, f) in factors.iter().enumerate() {
        let expected = by_row[i / columns] * by_column[i % columns];
        assert!((f / expected - 1.0).abs() < 1e-6, "{f} against {expected}");
    }
    assert!(factors_from_sums(&errors[1..], &row_losses, &column_losses).is_err());
    // Noise below zero and rows without errors do no harm.
    let odd = factors_from_sums(&[0.0, 0.0, 1.0, 1.0], &[-1.0, 2.0], &[1.0, 1.0]).unwrap();
    assert!(odd.iter().all(|f| f.is_finite()) && (odd[2] - 1.0).abs() < 1e-3, "{odd:?}");
}
