//! Every level against the oracle.

mod common;

use common::{assert_close, levels, oracle, random_quant};
use fewbit_format::{Bits, Granularity, MatrixShape, Symmetry, bf16, f16};
use fewbit_kernels::{PackedMatrix, linear_bf16, linear_f16, linear_f32, linear_f32_strided};
use fewbit_testkit::Random;

#[test]
fn float_products_of_every_shape() {
    let levels = levels();
    let mut random = Random::new(1);
    // Columns from none to four vectors and one, then past the depth of a tile; rows past its height; tokens on both paths.
    let widths = (0..=65).chain([255, 256, 257, 600]);
    for in_features in widths {
        for (out_features, n_tokens) in
            [(1, 1), (5, 2), (3, 3), (7, 4), (13, 5), (1, 16), (50, 17), (6, 33), (0, 2), (3, 0)]
        {
            let shape = MatrixShape::new(out_features, in_features);
            let x = random.normals(n_tokens * in_features);
            let weight = random.normals(shape.len());
            let half: Vec<f16> = weight.iter().map(|&w| f16::from_f32(w)).collect();
            let brain: Vec<bf16> = weight.iter().map(|&w| bf16::from_f32(w)).collect();
            let half_wide: Vec<f32> = half.iter().map(|w| w.to_f32()).collect();
            let brain_wide: Vec<f32> = brain.iter().map(|w| w.to_f32()).collect();
            for &level in &levels {
                let what = format!("{level} {n_tokens} tokens {out_features}x{in_features}");
                let check = |weight: &[f32], product: &dyn Fn(&mut [f32])| {
                    let mut out = vec![f32::NAN; n_tokens * out_features];
                    product(&mut out);
                    assert_close(&out, &oracle(&x, n_tokens, weight, shape), in_features, &what);
                };
                check(&weight, &|out| linear_f32(level, out, &x, n_tokens, &weight, shape));
                check(&half_wide, &|out| linear_f16(level, out, &x, n_tokens, &half, shape));
                check(&brain_wide, &|out| linear_bf16(level, out, &x, n_tokens, &brain, shape));
            }
        }
    }
}

#[test]
fn rows_may_lie_apart() {
    let shape = MatrixShape::new(9, 20);
    let stride = 37;
    let mut random = Random::new(2);
    let wide = random.normals(8 * stride + 20);
    let narrow: Vec<f32> = wide.chunks(stride).flat_map(|row| row[..20].to_vec()).collect();
    for level in levels() {
        for n_tokens in [1, 6] {
            let x = random.normals(n_tokens * 20);
            let (mut a, mut b) = (vec![f32::NAN; n_tokens * 9], vec![f32::NAN; n_tokens * 9]);
            linear_f32_strided(level, &mut a, &x, n_tokens, &wide, shape, stride);
            linear_f32(level, &mut b, &x, n_tokens, &narrow, shape);
            assert_eq!(a, b, "{level}");
        }
    }
}

#[test]
fn every_half_is_widened_exactly() {
    // One column, activation 1: the product is the weight itself.
    let every: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).filter(|w| !w.is_nan()).collect();
    let wide: Vec<f32> = every.iter().map(|w| w.to_f32()).collect();
    for level in levels() {
        for n_tokens in [1, 5] {
            // Sixteen columns, so that whole vectors are converted; only one is not multiplied by zero, so infinities stay out.
            let finite: Vec<_> = every.iter().copied().filter(|w| w.is_finite()).collect();
            let shape = MatrixShape::new(finite.len() / 16, 16);
            for column in 0..16 {
                let mut x = vec![0.0; n_tokens * 16];
                x.chunks_mut(16).for_each(|x| x[column] = 1.0);
                let mut out = vec![f32::NAN; n_tokens * shape.out_features];
                linear_f16(level, &mut out, &x, n_tokens, &finite[..shape.len()], shape);
                for (row, got) in out[..shape.out_features].iter().enumerate() {
                    assert_eq!(*got, finite[row * 16 + column].to_f32(), "{level}");
                }
            }
            let shape = MatrixShape::new(every.len(), 1);
            let mut out = vec![f32::NAN; n_tokens * every.len()];
            linear_f16(level, &mut out, &vec![1.0; n_tokens], n_tokens, &every, shape);
            assert_eq!(&out[..every.len()], wide, "{level}");
        }
    }
}

#[test]
fn packed_products_of_every_scheme() {
    let levels = levels();
    let mut seed = 0;
    let group = Granularity::group;
    for bits in Bits::ALL {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for granularity in [
                Granularity::Tensor,
                Granularity::Channel,
                group(128),
                group(32),
                group(64),
                group(20),
                group(1),
            ] {
                for in_features in [0, 1, 16, 31, 64, 172, 256, 300] {
                    let shape = MatrixShape::new(7, in_features);
                    let may_shuffle =
                        matches!(granularity, Granularity::Group(_)) && in_features > 0;
                    for shuffled in [false, true].into_iter().take(1 + usize::from(may_shuffle)) {
                        seed += 1;
                        let matrix =
                            random_quant(seed, shape, bits, symmetry, granularity, shuffled);
                        let what = format!(
                            "{bits:?} {symmetry:?} {granularity:?} {in_features} columns, shuffled {shuffled}, seed {seed}"
                        );
                        check_packed(&levels, &matrix, seed, &what);
                    }
                }
            }
        }
    }
}

fn check_packed(
    levels: &[fewbit_kernels::Level],
    matrix: &fewbit_format::QuantMatrix,
    seed: u64,
    what: &str,
) {
    let shape = matrix.shape();
    let packed = PackedMatrix::from_quant(matrix);
    assert_eq!(packed.shape(), shape);
    let weight = matrix.dequantize();
    // The bound counts code − middle and middle − zero_point apart, because they are multiplied apart.
    let middle = f32::from(matrix.scheme().bits.middle());
    let mut sizes = weight.clone();
    for row in 0..shape.out_features {
        for column in 0..shape.in_features {
            let i = row * shape.in_features + column;
            let p = matrix.params(row, matrix.group(column));
            let (code, zero) = (f32::from(matrix.codes()[i]), f32::from(p.zero_point));
            sizes[i] = ((code - middle).abs() + (middle - zero).abs()) * p.scale;
        }
    }
    for (row, expected) in weight.chunks(shape.in_features.max(1)).enumerate() {
        for &level in levels {
            let mut values = vec![f32::NAN; shape.in_features];
            packed.dequantize_row_into(level, row, &mut values);
            assert_eq!(values, expected, "{level} {what}");
        }
    }
    let mut random = Random::new(seed);
    for n_tokens in [1, 2, 3, 4, 5, 17] {
        let x = random.normals(n_tokens * shape.in_features);
        let mut expected = oracle(&x, n_tokens, &weight, shape);
        for (e, (_, size)) in expected.iter_mut().zip(oracle(&x, n_tokens, &sizes, shape)) {
            e.1 = size;
        }
        for &level in levels {
            let mut out = vec![f32::NAN; n_tokens * shape.out_features];
            packed.linear(level, &mut out, &x, n_tokens);
            let what = format!("{level} {n_tokens} tokens {what}");
            assert_close(&out, &expected, shape.in_features, &what);
        }
    }
}

#[test]
fn many_tokens_see_exactly_the_dequantized_values() {
    // Groups in natural order keep the columns where they are, so the sums are the same in the same order up to the tile depth.
    let shape = MatrixShape::new(61, 256);
    let mut random = Random::new(9);
    let x = random.normals(40 * 256);
    for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
        let matrix = random_quant(9, shape, Bits::B4, symmetry, Granularity::group(32), false);
        let packed = PackedMatrix::from_quant(&matrix);
        for level in levels() {
            let (mut a, mut b) = (vec![f32::NAN; 40 * 61], vec![f32::NAN; 40 * 61]);
            packed.linear(level, &mut a, &x, 40);
            linear_f32(level, &mut b, &x, 40, &matrix.dequantize(), shape);
            assert_eq!(a, b, "{level}");
        }
    }
}

#[test]
fn packed_matrices_are_small() {
    let shape = MatrixShape::new(256, 1024);
    let bytes = |bits, granularity| {
        let matrix = random_quant(3, shape, bits, Symmetry::Symmetric, granularity, false);
        PackedMatrix::from_quant(&matrix).packed_bytes() as f64 * 8.0 / shape.len() as f64
    };
    let group = Granularity::group(128);
    for (bits, most) in [
        (Bits::B2, 2.3),
        (Bits::B3, 3.8),
        (Bits::B4, 4.3),
        (Bits::B5, 5.9),
        (Bits::B6, 6.9),
        (Bits::B8, 8.3),
    ] {
        assert!(bytes(bits, group) < most, "{bits:?}: {} bits a weight", bytes(bits, group));
    }
}

#[test]
#[should_panic(expected = "x is (n_tokens, in_features)")]
fn wrong_lengths_are_refused() {
    let shape = MatrixShape::new(2, 3);
    linear_f32(fewbit_kernels::Level::detect(), &mut [0.0; 2], &[0.0; 4], 1, &[0.0; 6], shape);
}
