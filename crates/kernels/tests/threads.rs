//! The number of threads, and among vector levels the level, changes no bit.
#![cfg(feature = "rayon")]

mod common;

use common::{levels, random_quant};
use fewbit_format::{Bits, Granularity, MatrixShape, Symmetry};
use fewbit_kernels::{Level, PackedMatrix, linear_f32};
use fewbit_testkit::Random;

/// Products large enough to be shared out, on both paths, for floats and codes.
fn products(level: Level) -> Vec<f32> {
    let shape = MatrixShape::new(1000, 520);
    let mut random = Random::new(4);
    let weight = random.normals(shape.len());
    let matrix = random_quant(4, shape, Bits::B4, Symmetry::Affine, Granularity::group(64), true);
    let packed = PackedMatrix::from_quant(&matrix);
    let mut all = vec![];
    for n_tokens in [1, 3, 600] {
        let x = random.normals(n_tokens * shape.in_features);
        let mut out = vec![f32::NAN; n_tokens * shape.out_features];
        linear_f32(level, &mut out, &x, n_tokens, &weight, shape);
        all.extend_from_slice(&out);
        packed.linear(level, &mut out, &x, n_tokens);
        all.extend_from_slice(&out);
    }
    all
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for level in levels() {
        let with = |n: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
            pool.install(|| products(level))
        };
        let one = with(1);
        assert!(one.iter().all(|x| x.is_finite()));
        assert_eq!(one, with(2), "{level}");
        assert_eq!(one, with(5), "{level}");
    }
}

#[test]
fn vector_levels_agree_to_the_bit() {
    let mut results = levels().into_iter().filter(|&l| l != Level::SCALAR).map(products);
    if let Some(first) = results.next() {
        for other in results {
            assert_eq!(first, other);
        }
    }
}
