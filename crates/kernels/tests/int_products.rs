//! Integer products of every layout, at every level.

mod common;

use common::{blocks_of, levels, random_quant};
use fewbit_format::{
    Bits, BlockType, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType, Scheme, Symmetry,
    f16,
};
use fewbit_kernels::{IntMatrix, Level, Scratch};
use fewbit_testkit::Random;

/// A prepared matrix and its weights.
struct Case {
    what: String,
    matrix: IntMatrix,
    weight: Vec<f32>,
    /// |scale · (code − centre)| + |offset|, or |scale · code| + |minimum|: what the error of a product is relative to, at most.
    sizes: Vec<f32>,
}

fn int_case(matrix: &QuantMatrix, what: String) -> Option<Case> {
    let prepared = IntMatrix::from_quant(matrix)?;
    let weight = matrix.dequantize();
    let sizes = weight.iter().map(|w| w.abs()).collect();
    Some(Case { what, matrix: prepared, weight, sizes })
}

fn block_case(
    seed: u64,
    shape: MatrixShape,
    block_type: BlockType,
    scale: impl Fn(&mut Random) -> f16,
) -> Case {
    let mut random = Random::new(seed);
    block_case_of(shape, block_type, &mut |_| random.below(256) as u8, scale)
}

/// A case of given bytes but for the half-precision parameters.
fn block_case_of(
    shape: MatrixShape,
    block_type: BlockType,
    byte: &mut dyn FnMut(usize) -> u8,
    scale: impl Fn(&mut Random) -> f16,
) -> Case {
    let matrix = blocks_of(shape, block_type, byte, scale);
    let weight = matrix.dequantize();
    // Minima are at most 63 · dmin or m, here all below 1/4, and what is added to them no more than that and the weight.
    let minima = match block_type {
        BlockType::Q4_1 | BlockType::Q5_1 => 0.5,
        BlockType::Q2K | BlockType::Q4K | BlockType::Q5K => 0.5 * 63.0,
        _ => 0.0,
    };
    let sizes = weight.iter().map(|w| w.abs() + minima).collect();
    let what = format!("{block_type} {shape:?}");
    let prepared = IntMatrix::from_blocks(matrix.view()).expect("a supported type");
    Case { what, matrix: prepared, weight, sizes }
}

/// Types with integer products.
fn block_types() -> impl Iterator<Item = BlockType> {
    BlockType::ALL.into_iter().filter(|&t| IntMatrix::supports(&Scheme::Block(t)))
}

/// The rule by which activations are quantized: (codes, scales), each of every column. `order` are the columns in the order of their groups.
fn quantized(x: &[f32], block: usize, order: &[usize]) -> Vec<(i32, f32)> {
    let mut result = vec![(0, 0.0); x.len()];
    for columns in order.chunks(block) {
        let largest = columns.iter().fold(0f32, |most, &c| most.max(x[c].abs()));
        let largest = largest.max(1e-30);
        for &c in columns {
            result[c] = ((x[c] * (127.0 / largest)).round_ties_even() as i32, largest / 127.0);
        }
    }
    result
}

#[test]
fn products_of_small_numbers_are_exact() {
    // Scales are powers of two and activations small integers, one of them 127 in every block: no product or sum is rounded.
    let levels = levels();
    let scale = |random: &mut Random| f16::from_f32([1.0, -1.0][random.below(2)]);
    for (i, shape) in shapes().into_iter().enumerate() {
        let mut seed = 1000 * shape.in_features as u64 + shape.out_features as u64;
        for block_type in block_types() {
            if shape.in_features.is_multiple_of(block_type.weights()) {
                seed += 1;
                let case = block_case(seed, shape, block_type, scale);
                check_exact(&levels, &case, shape, 63, seed);
            }
        }
        // Every scheme meets a sixth of the shapes, always another.
        for scheme in schemes().into_iter().skip(i % 6).step_by(6) {
            seed += 1;
            let matrix = exact_quant(seed, shape, scheme);
            let what = format!("{scheme:?} {shape:?} seed {seed}");
            let case = int_case(&matrix, what).expect("groups of whole blocks");
            check_exact(&levels, &case, shape, 63, seed);
        }
    }
}

#[test]
fn products_of_wide_rows_are_exact() {
    // Several strips of columns, the last of them shorter, and two groups of tiles and a half.
    let shape = MatrixShape::new(150, 2816);
    let levels = levels();
    let scale = |random: &mut Random| f16::from_f32([1.0, -1.0][random.below(2)]);
    for (i, block_type) in block_types().enumerate() {
        let case = block_case(100 + i as u64, shape, block_type, scale);
        check_exact(&levels, &case, shape, 7, i as u64);
        check_rows(&case, shape);
    }
    for (i, scheme) in schemes().into_iter().step_by(5).enumerate() {
        let matrix = exact_quant(100 + i as u64, shape, scheme);
        let case = int_case(&matrix, format!("{scheme:?}")).expect("groups of whole blocks");
        check_exact(&levels, &case, shape, 7, i as u64);
        check_rows(&case, shape);
    }
}

/// The first row, one in the middle and the last are the weights to the bit.
fn check_rows(case: &Case, shape: MatrixShape) {
    let mut row = vec![f32::NAN; shape.in_features];
    for index in [0, 77, shape.out_features - 1] {
        case.matrix.dequantize_row_into(index, &mut row);
        let weight = &case.weight[index * shape.in_features..][..shape.in_features];
        assert!(row.iter().zip(weight).all(|(a, b)| a == b), "row {index} of {}", case.what);
    }
}

/// Rows from one to more than two tiles, columns from none to four vectors and one, then whole super-blocks and more than one chunk.
fn shapes() -> Vec<MatrixShape> {
    let rows = [1, 16, 50, 17, 5, 33, 2, 15];
    let columns = (0..=65).chain([96, 127, 128, 129, 160, 255, 256, 257, 300, 512, 768]);
    columns
        .enumerate()
        .map(|(i, columns)| MatrixShape::new(rows[i % rows.len()], columns))
        .collect()
}

fn schemes() -> Vec<IntScheme> {
    let mut schemes = vec![];
    let scale_types = [ScaleType::F16, ScaleType::BF16, ScaleType::F32];
    for bits in Bits::ALL {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for granularity in [
                Granularity::Tensor,
                Granularity::Channel,
                Granularity::group(32),
                Granularity::group(64),
                Granularity::group(96),
                Granularity::group(128),
                Granularity::group(256),
                Granularity::group(30),
            ] {
                let scale_type = scale_types[schemes.len() % 3];
                schemes.push(IntScheme { bits, symmetry, granularity, scale_type });
            }
        }
    }
    schemes
}

/// Random codes and zero points under scales that are powers of two.
fn exact_quant(seed: u64, shape: MatrixShape, scheme: IntScheme) -> QuantMatrix {
    let mut random = Random::new(seed);
    let IntScheme { bits, symmetry, granularity, .. } = scheme;
    let levels = usize::from(bits.max_code()) + 1;
    let codes = (0..shape.len()).map(|_| random.below(levels) as u8).collect();
    let n = granularity.n_scales(shape);
    let scales = (0..n).map(|_| [1.0, 2.0][random.below(2)]).collect();
    let zeros = match symmetry {
        Symmetry::Symmetric => vec![],
        Symmetry::Affine => (0..n).map(|_| random.below(levels) as u8).collect(),
    };
    QuantMatrix::new(shape, scheme, codes, scales, zeros, None).unwrap()
}

/// Products with activations of at most `most`, but for one of 127 in every block, are right to the bit.
fn check_exact(levels: &[Level], case: &Case, shape: MatrixShape, most: usize, seed: u64) {
    let MatrixShape { out_features, in_features } = shape;
    let mut random = Random::new(seed);
    let mut scratch = Scratch::default();
    for n_tokens in [1, 7, 12, 53] {
        let mut x = Vec::new();
        for _ in 0..n_tokens {
            let mut token: Vec<f32> =
                (0..in_features).map(|_| random.below(2 * most + 1) as f32 - most as f32).collect();
            // Wherever an activation block may begin.
            for (column, x) in token.iter_mut().enumerate() {
                if column % 30 == 0 || column % 32 == 0 {
                    *x = [127.0, -127.0][random.below(2)];
                }
            }
            x.extend(token);
        }
        let mut expected = Vec::new();
        for t in 0..n_tokens {
            let x = &x[t * in_features..][..in_features];
            for row in 0..out_features {
                let weight = &case.weight[row * in_features..][..in_features];
                let products = x.iter().zip(weight).map(|(x, w)| f64::from(*x) * f64::from(*w));
                let product: f64 = products.sum();
                assert!(
                    product.abs() < 0.75 * 2f64.powi(24),
                    "not exact in f32: {product}, {}",
                    case.what
                );
                expected.push(product as f32);
            }
        }
        for &level in levels {
            let mut out = vec![f32::NAN; n_tokens * out_features];
            case.matrix.linear(level, &mut out, &x, n_tokens, &mut scratch);
            if let Some(i) = out.iter().zip(&expected).position(|(a, b)| a != b) {
                panic!(
                    "{level}, {}: token {} of {n_tokens}, row {}: {} instead of {}",
                    case.what,
                    i / out_features,
                    i % out_features,
                    out[i],
                    expected[i]
                );
            }
        }
    }
}

#[test]
fn the_largest_sums_do_not_overflow() {
    // Equal codes and activations make the largest sums that there are, all of them multiples of a power of two that leaves them exact.
    let levels = levels();
    let shape = MatrixShape::new(16, 256);
    let mut cases = vec![];
    for byte in [0x00, 0x7f, 0x80, 0xff] {
        for block_type in block_types() {
            let case = block_case_of(shape, block_type, &mut |_| byte, |_| f16::ONE);
            cases.push(case);
        }
        for scheme in schemes() {
            let n = scheme.granularity.n_scales(shape);
            let code = byte & scheme.bits.max_code();
            let zeros = match scheme.symmetry {
                Symmetry::Symmetric => vec![],
                Symmetry::Affine => vec![scheme.bits.max_code() - code; n],
            };
            let codes = vec![code; shape.len()];
            let matrix = QuantMatrix::new(shape, scheme, codes, vec![1.0; n], zeros, None).unwrap();
            cases.extend(int_case(&matrix, format!("{scheme:?} code {code}")));
        }
    }
    for case in cases {
        for x in [127.0, -127.0] {
            let expected: f64 = case.weight[..256].iter().map(|w| f64::from(*w) * x).sum();
            for &level in &levels {
                for n_tokens in [1, 12] {
                    let mut out = vec![f32::NAN; n_tokens * 16];
                    let x = vec![x as f32; n_tokens * 256];
                    case.matrix.linear(level, &mut out, &x, n_tokens, &mut Scratch::default());
                    for got in out {
                        assert_eq!(f64::from(got), expected, "{level}, {}", case.what);
                    }
                }
            }
        }
    }
}

#[test]
fn products_of_any_numbers_are_within_their_bound() {
    let levels = levels();
    let scale = |random: &mut Random| f16::from_f32((random.uniform() as f32 - 0.5) / 2.0);
    let mut seed = 0;
    for shape in [MatrixShape::new(37, 768), MatrixShape::new(16, 256), MatrixShape::new(3, 512)] {
        for block_type in block_types() {
            seed += 1;
            check_bound(&levels, &block_case(seed, shape, block_type, scale), shape, None, seed);
        }
    }
    let group = Granularity::group;
    for bits in Bits::ALL {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for granularity in [Granularity::Channel, group(32), group(128), group(512)] {
                for columns in [172, 300, 640] {
                    seed += 1;
                    let shape = MatrixShape::new(21, columns);
                    let matrix = random_quant(seed, shape, bits, symmetry, granularity, false);
                    let what =
                        format!("{bits:?} {symmetry:?} {granularity:?} {columns} seed {seed}");
                    let case = int_case(&matrix, what).expect("groups of whole blocks");
                    check_bound(&levels, &case, shape, None, seed);
                }
            }
        }
    }
}

#[test]
fn group_maps_are_followed() {
    let levels = levels();
    for (seed, size, columns) in [(1, 32, 256), (2, 64, 300), (3, 128, 512), (4, 32, 100)] {
        let shape = MatrixShape::new(19, columns);
        let plain =
            random_quant(seed, shape, Bits::B4, Symmetry::Affine, Granularity::group(size), false);
        // Groups of equal size, as act-order makes them, but for the last.
        let mut order: Vec<usize> = (0..columns).collect();
        let mut random = Random::new(seed);
        for i in (1..columns).rev() {
            order.swap(i, random.below(i + 1));
        }
        let mut map = vec![0; columns];
        for (place, &column) in order.iter().enumerate() {
            map[column] = (place / size as usize) as u32;
        }
        let (codes, scales) = (plain.codes().to_vec(), plain.scales().to_vec());
        let zeros = plain.zero_points().to_vec();
        let matrix =
            QuantMatrix::new(shape, plain.scheme(), codes, scales, zeros, Some(map.clone()))
                .unwrap();
        let what = format!("act-order, groups of {size}, {columns} columns");
        let case = int_case(&matrix, what).expect("even groups");
        order.sort_by_key(|&column| (map[column], column));
        check_bound(&levels, &case, shape, Some(&order), seed);
    }
}

/// Each output within `(parts · 3 + 8) · 2⁻²⁴ · Σ |x·w|` of the exact product with the quantized activations, at every level; and all but the scalar one equal.
fn check_bound(
    levels: &[Level],
    case: &Case,
    shape: MatrixShape,
    order: Option<&[usize]>,
    seed: u64,
) {
    let MatrixShape { out_features, in_features } = shape;
    let natural: Vec<usize> = (0..in_features).collect();
    let order = order.unwrap_or(&natural);
    let mut values = vec![f32::NAN; in_features];
    for (row, weight) in case.weight.chunks(in_features).enumerate() {
        case.matrix.dequantize_row_into(row, &mut values);
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&values), bits(weight), "{}", case.what);
    }
    let mut random = Random::new(seed);
    let mut scratch = Scratch::default();
    for n_tokens in [1, 2, 7, 30] {
        let x = random.normals(n_tokens * in_features);
        let mut first: Option<Vec<f32>> = None;
        for &level in levels {
            let mut out = vec![f32::NAN; n_tokens * out_features];
            case.matrix.linear(level, &mut out, &x, n_tokens, &mut scratch);
            for (t, out) in out.chunks(out_features).enumerate() {
                let x = quantized(
                    &x[t * in_features..][..in_features],
                    case.matrix.activation_block(),
                    order,
                );
                for (row, got) in out.iter().enumerate() {
                    let (mut expected, mut size) = (0.0, 0.0);
                    for (column, (code, scale)) in x.iter().enumerate() {
                        let x = f64::from(*code) * f64::from(*scale);
                        expected += x * f64::from(case.weight[row * in_features + column]);
                        size += x.abs() * f64::from(case.sizes[row * in_features + column]);
                    }
                    let parts = in_features.div_ceil(16) as f64;
                    let bound = (3.0 * parts + 8.0) * 2f64.powi(-24) * size;
                    let error = (f64::from(*got) - expected).abs();
                    assert!(
                        error <= bound,
                        "{level}, {}, token {t} of {n_tokens}, row {row}: {got} instead of {expected} ± {bound:e}",
                        case.what
                    );
                }
            }
            if level != Level::SCALAR {
                match &first {
                    None => first = Some(out),
                    Some(first) => assert_eq!(first, &out, "{level}, {}", case.what),
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_in_their_token() {
    let shape = MatrixShape::new(20, 256);
    let case = block_case(5, shape, BlockType::Q4_0, |_| f16::from_f32(0.5));
    let good = Random::new(5).normals(3 * 256);
    for level in levels() {
        let linear = |x: &[f32]| {
            let mut out = vec![f32::NAN; 60];
            case.matrix.linear(level, &mut out, x, 3, &mut Scratch::default());
            out
        };
        let expected = linear(&good);
        assert!(expected.iter().all(|x| x.is_finite()));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = good.clone();
            x[256 + 77] = bad;
            let out = linear(&x);
            assert_eq!((&out[..20], &out[40..]), (&expected[..20], &expected[40..]));
            assert!(out[20..40].iter().all(|x| x.is_nan()), "{level}");
        }
        assert!(linear(&[0.0; 3 * 256]).iter().all(|&x| x == 0.0));
        let tiny = linear(&[f32::MIN_POSITIVE; 3 * 256]);
        assert!(tiny.iter().all(|x| x.abs() < 1e-27), "{level} {tiny:?}");
    }
}

#[test]
fn prepared_matrices_take_what_files_take() {
    let shape = MatrixShape::new(256, 4096);
    for block_type in block_types() {
        let case = block_case(3, shape, block_type, |_| f16::from_f32(0.5));
        let file = shape.len() as f64 * block_type.bits_per_weight() / 8.0;
        let share = case.matrix.packed_bytes() as f64 / file;
        // The 6-bit scales of q3_k take bytes, as do those of q4_k, q5_k and iq4_xs.
        let most = if block_type == BlockType::Q3K { 1.055 } else { 1.03 };
        assert!((0.999..most).contains(&share), "{block_type}: {share}");
    }
    for scheme in schemes() {
        if scheme.granularity == Granularity::group(30) {
            continue;
        }
        let matrix = exact_quant(1, shape, scheme);
        let bytes = IntMatrix::from_quant(&matrix).unwrap().packed_bytes() as f64;
        let share = bytes / (scheme.storage_bits(shape) as f64 / 8.0);
        // Zero points take bytes.
        let most = if scheme.symmetry == Symmetry::Affine { 1.0 + 0.5 / 2.0 / 2.5 } else { 1.03 };
        assert!((0.999..most).contains(&share), "{scheme:?}: {share}");
    }
}

#[test]
fn what_is_supported_is_said() {
    for t in [BlockType::Tq1_0, BlockType::Q1_0, BlockType::Nvfp4] {
        assert!(!IntMatrix::supports(&Scheme::Block(t)));
        let matrix = blocks_of(MatrixShape::new(2, 256), t, &mut |_| 1, |_| f16::ONE);
        assert!(IntMatrix::from_blocks(matrix.view()).is_none());
    }
    let scheme = |size| IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::group(size),
        scale_type: ScaleType::F16,
    };
    for (size, supported) in
        [(1, false), (20, false), (26, true), (32, true), (33, false), (100, false), (104, true)]
    {
        assert_eq!(IntMatrix::supports(&scheme(size).into()), supported, "{size}");
        let matrix = exact_quant(1, MatrixShape::new(2, 300), scheme(size));
        assert_eq!(IntMatrix::from_quant(&matrix).is_some(), supported, "{size}");
    }
}
