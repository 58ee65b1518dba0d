//! Products whose activations have a scale for each token, or one from calibration, or stay floats where they are large.

mod common;

use common::{levels, oracle, random_quant};
use fewbit_format::{Bits, Granularity, LlmInt8Matrix, MatrixShape, Symmetry};
use fewbit_kernels::{ActivationScales, IntMatrix, LlmInt8Linear, Scratch};
use fewbit_testkit::Random;

/// What the activations of a token become.
fn quantized(x: &[f32], scale: f32, inverse: f32) -> Vec<f32> {
    x.iter().map(|x| (x * inverse).clamp(-127.0, 127.0).round_ties_even() * scale).collect()
}

fn absmax(x: &[f32]) -> f32 {
    x.iter().fold(1e-30, |most, x| most.max(x.abs()))
}

/// Within `(blocks · 3 + 8) · 2⁻²⁴ · Σ |x·w|` of the exact product of the quantized activations.
fn assert_near(got: &[f32], expected: &[(f64, f64)], columns: usize, what: &str) {
    for (i, (&got, &(expected, size))) in got.iter().zip(expected).enumerate() {
        let bound = (3.0 * columns.div_ceil(32) as f64 + 8.0) * 2f64.powi(-24) * size;
        let error = (f64::from(got) - expected).abs();
        assert!(error <= bound, "{what}: output {i} is {got}, expected {expected} ± {bound:e}");
    }
}

#[test]
fn one_scale_for_a_token_or_for_all() {
    let levels = levels();
    let mut seed = 0;
    for (bits, symmetry, granularity) in [
        (Bits::B8, Symmetry::Symmetric, Granularity::Channel),
        (Bits::B8, Symmetry::Affine, Granularity::group(64)),
        (Bits::B4, Symmetry::Symmetric, Granularity::group(32)),
    ] {
        for in_features in [1, 31, 64, 300, 512] {
            seed += 1;
            let shape = MatrixShape::new(21, in_features);
            let matrix = random_quant(seed, shape, bits, symmetry, granularity, false);
            let weight = matrix.dequantize();
            let prepared = IntMatrix::from_quant(&matrix).expect("whole groups");
            let mut random = Random::new(seed);
            for n_tokens in [1, 2, 7, 30] {
                let x = random.normals(n_tokens * in_features);
                for scales in [ActivationScales::PerToken, ActivationScales::Static(0.017)] {
                    let tokens = x.chunks(in_features).flat_map(|x| match scales {
                        ActivationScales::Static(scale) => quantized(x, scale, 1.0 / scale),
                        _ => quantized(x, absmax(x) / 127.0, 127.0 / absmax(x)),
                    });
                    let tokens: Vec<f32> = tokens.collect();
                    let expected = oracle(&tokens, n_tokens, &weight, shape);
                    for &level in &levels {
                        let mut out = vec![f32::NAN; n_tokens * 21];
                        let mut scratch = Scratch::default();
                        prepared.linear_scaled(level, &mut out, &x, n_tokens, scales, &mut scratch);
                        let what = format!("{level} {bits:?} {shape:?} {n_tokens} {scales:?}");
                        assert_near(&out, &expected, in_features, &what);
                    }
                }
            }
        }
    }
}

#[test]
fn static_scales_leave_what_is_not_finite_visible() {
    let shape = MatrixShape::new(3, 64);
    let matrix = random_quant(1, shape, Bits::B8, Symmetry::Symmetric, Granularity::Channel, false);
    let prepared = IntMatrix::from_quant(&matrix).unwrap();
    for level in levels() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = vec![1.0; 2 * 64];
            x[70] = bad;
            let mut out = [f32::NAN; 6];
            let scales = ActivationScales::Static(0.1);
            prepared.linear_scaled(level, &mut out, &x, 2, scales, &mut Scratch::default());
            assert!(out[..3].iter().all(|x| x.is_finite()) && out[3..].iter().all(|x| x.is_nan()));
        }
    }
}

#[test]
#[should_panic(expected = "a static scale is positive")]
fn static_scales_are_positive() {
    let shape = MatrixShape::new(1, 1);
    let matrix = random_quant(1, shape, Bits::B8, Symmetry::Symmetric, Granularity::Channel, false);
    let prepared = IntMatrix::from_quant(&matrix).unwrap();
    let scales = ActivationScales::Static(0.0);
    let level = fewbit_kernels::Level::SCALAR;
    prepared.linear_scaled(level, &mut [0.0], &[1.0], 1, scales, &mut Scratch::default());
}

#[test]
fn outliers_stay_floats() {
    let levels = levels();
    for (seed, in_features) in [(1, 0), (2, 1), (3, 31), (4, 64), (5, 300), (6, 512)] {
        for out_features in [1, 16, 37] {
            let shape = MatrixShape::new(out_features, in_features);
            let mut random = Random::new(seed);
            let weight = random.normals(shape.len());
            let matrix = LlmInt8Matrix::round_to_nearest(&weight, shape).unwrap();
            let linear = LlmInt8Linear::new(&matrix, LlmInt8Linear::THRESHOLD);
            let mut values = vec![0.0; shape.len()];
            for (row, values) in values.chunks_mut(in_features.max(1)).enumerate() {
                linear.dequantize_row_into(row, values);
                let mut expected = vec![0.0; in_features];
                matrix.dequantize_row_into(row, &mut expected);
                assert_eq!(values, expected);
            }
            for n_tokens in [1, 5, 14] {
                let mut x = random.normals(n_tokens * in_features);
                // The last token has no outliers.
                for (t, x) in x.chunks_mut(in_features.max(1)).take(n_tokens - 1).enumerate() {
                    x[7 * t % in_features] = 60.0 + t as f32;
                    x[13 % in_features] = -6.5;
                }
                let (mut small, mut large) = (Vec::new(), Vec::new());
                for x in x.chunks(in_features.max(1)) {
                    let split = |keep: bool| {
                        x.iter().map(|&x| if (x.abs() > 6.0) == keep { x } else { 0.0 }).collect()
                    };
                    let (inliers, outliers): (Vec<f32>, Vec<f32>) = (split(false), split(true));
                    let most = absmax(&inliers);
                    small.extend(quantized(&inliers, most / 127.0, 127.0 / most));
                    large.extend(outliers);
                }
                let both = oracle(&small, n_tokens, &values, shape).into_iter();
                let expected: Vec<_> = both
                    .zip(oracle(&large, n_tokens, &values, shape))
                    .map(|(a, b)| (a.0 + b.0, a.1 + b.1))
                    .collect();
                for &level in &levels {
                    let mut out = vec![f32::NAN; n_tokens * out_features];
                    linear.linear(level, &mut out, &x, n_tokens, &mut Scratch::default());
                    assert_near(&out, &expected, in_features, &format!("{level} {shape:?}"));
                }
            }
        }
    }
}
