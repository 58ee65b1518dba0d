//! Random operands, the oracle and its error bound.

#![allow(dead_code, reason = "each test file uses a part")]

use fewbit_format::{
    Bits, BlockMatrix, BlockType, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType,
    Symmetry, f16,
};
use fewbit_kernels::{LEVEL_NAMES, Level};
use fewbit_testkit::Random;

#[expect(clippy::print_stdout, reason = "a test run has to say what it did not cover")]
/// The levels of this machine; says which others there are.
pub(crate) fn levels() -> Vec<Level> {
    let levels: Vec<Level> = Level::available().collect();
    let absent: Vec<_> =
        LEVEL_NAMES.into_iter().filter(|&name| Level::named(name).is_none()).collect();
    println!("levels tested: {levels:?}; absent on this machine: {absent:?}");
    levels
}

/// `x · Wᵀ` in f64, with Σ|x·w| of each output.
pub(crate) fn oracle(
    x: &[f32],
    n_tokens: usize,
    weight: &[f32],
    shape: MatrixShape,
) -> Vec<(f64, f64)> {
    let MatrixShape { out_features, in_features } = shape;
    let mut out = Vec::new();
    for t in 0..n_tokens {
        for o in 0..out_features {
            let terms = (0..in_features).map(|k| {
                f64::from(x[t * in_features + k]) * f64::from(weight[o * in_features + k])
            });
            out.push(terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs())));
        }
    }
    out
}

/// Fails unless each value is within `(k + 16) · 2⁻²⁴ · size` of the oracle: a sum of `k` products in any order is off by at most `k`
/// roundings of the sum of magnitudes, to first order; padding to vectors and scales add a few.
pub(crate) fn assert_close(got: &[f32], oracle: &[(f64, f64)], k: usize, what: &str) {
    assert_eq!(got.len(), oracle.len(), "{what}");
    for (i, (&got, &(expected, size))) in got.iter().zip(oracle).enumerate() {
        let bound = (k + 16) as f64 * 2f64.powi(-24) * size;
        let error = (f64::from(got) - expected).abs();
        assert!(error <= bound, "{what}: output {i} is {got}, expected {expected} ± {bound:e}");
    }
}

/// A random matrix on a grid; `shuffled` gives it a random group map.
pub(crate) fn random_quant(
    seed: u64,
    shape: MatrixShape,
    bits: Bits,
    symmetry: Symmetry,
    granularity: Granularity,
    shuffled: bool,
) -> QuantMatrix {
    let mut random = Random::new(seed);
    let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
    let levels = usize::from(bits.max_code()) + 1;
    let codes = (0..shape.len()).map(|_| random.below(levels) as u8).collect();
    let n_scales = granularity.n_scales(shape);
    let scales = (0..n_scales)
        .map(|_| ScaleType::F16.round((0.01 + 0.1 * random.uniform()) as f32))
        .collect();
    let zeros = match symmetry {
        Symmetry::Symmetric => vec![],
        Symmetry::Affine => (0..n_scales).map(|_| random.below(levels) as u8).collect(),
    };
    let map = shuffled.then(|| {
        let n_groups = granularity.n_groups(shape.in_features);
        (0..shape.in_features).map(|_| random.below(n_groups) as u32).collect()
    });
    QuantMatrix::new(shape, scheme, codes, scales, zeros, map).unwrap()
}

/// Byte offsets of the half-precision numbers of a block.
fn halves(block_type: BlockType) -> &'static [usize] {
    match block_type {
        BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => &[0, 2],
        BlockType::Q2K => &[80, 82],
        BlockType::Q3K => &[108],
        BlockType::Q6K => &[208],
        BlockType::Tq1_0 => &[52],
        BlockType::Tq2_0 => &[64],
        BlockType::Mxfp4 | BlockType::Nvfp4 => &[],
        _ => &[0],
    }
}

/// Blocks of given bytes, with half-precision scales and minima that `scale` gives; the scales of MXFP4 are around 1.
pub(crate) fn blocks_of(
    shape: MatrixShape,
    block_type: BlockType,
    byte: &mut dyn FnMut(usize) -> u8,
    scale: impl Fn(&mut Random) -> f16,
) -> BlockMatrix {
    let mut random = Random::new(shape.len() as u64);
    let row = block_type.row_bytes(shape.in_features).unwrap();
    let mut data: Vec<u8> = (0..row * shape.out_features).map(byte).collect();
    for block in data.chunks_mut(block_type.bytes()) {
        for &at in halves(block_type) {
            block[at..at + 2].copy_from_slice(&scale(&mut random).to_le_bytes());
        }
        if block_type == BlockType::Mxfp4 {
            block[0] = 125 + block[0] % 5;
        }
    }
    BlockMatrix::new(shape, block_type, data).unwrap()
}
