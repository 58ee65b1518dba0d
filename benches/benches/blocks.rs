//! GGML blocks on one thread: encoding with and without importance weights, decoding, and decoding as a share of a memory copy.
//!
//! `cargo bench -p fewbit-benches --bench blocks [-- TYPE ... LEVEL ...]` (default: every type, the best level of the CPU). Each figure is the best of
//! several runs over a matrix of 4096 inputs. `tools/goldens/blocks.py --time` takes the same figures of GGML's C functions.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use fewbit_format::BlockType;
use fewbit_kernels::{Level, vectorize};
use fewbit_testkit::Random;

/// Columns of the matrix.
const IN_FEATURES: usize = 4096;
/// Time that a figure takes, its runs together.
const PATIENCE: Duration = Duration::from_millis(600);

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` gives no `--bench`: it only wants to see that this runs.
    let (rows, patience) =
        if names.iter().any(|n| n == "--bench") { (2048, PATIENCE) } else { (1, Duration::ZERO) };
    let mut types: Vec<BlockType> = names.iter().filter_map(|n| BlockType::from_name(n)).collect();
    if types.is_empty() {
        types.extend(BlockType::ALL);
    }
    let mut levels: Vec<Level> = names.iter().filter_map(|n| Level::named(n)).collect();
    if levels.is_empty() {
        levels.push(Level::detect());
    }
    let mut random = Random::new(1);
    let n = rows * IN_FEATURES;
    let weights: Vec<f32> =
        (0..n).map(|_| 0.02 * (random.normal() * (0.5 * random.normal()).exp()) as f32).collect();
    let importance: Vec<f32> =
        (0..IN_FEATURES).map(|_| random.normal().powi(2) as f32 + 1e-3).collect();

    let mut values = vec![0.0f32; n];
    let copy = best(patience, || black_box(&mut values).copy_from_slice(black_box(&weights)));
    println!(
        "{rows} rows of {IN_FEATURES}; a copy of the f32 matrix moves {:.1} GB/s of it",
        gbs(n, copy)
    );
    println!(
        "{:8} {:8} {:>22} {:>22} {:>26}",
        "type", "level", "encode", "with importance", "decode"
    );
    for level in levels {
        for &block_type in &types {
            let mut blocks = vec![0; n / block_type.weights() * block_type.bytes()];
            // Few enough that a run ends before the scheduler takes the core away.
            let few = n.min(8 * IN_FEATURES);
            let bytes = few / block_type.weights() * block_type.bytes();
            let mut encode = |importance: Option<&[f32]>| {
                best(patience, || {
                    vectorize(
                        level,
                        #[inline(always)]
                        || {
                            let out = &mut blocks[..bytes];
                            block_type.encode_rows(&weights[..few], IN_FEATURES, importance, out)
                        },
                    )
                    .expect("finite weights");
                })
            };
            let (weighted, plain) = (encode(Some(&importance)), encode(None));
            let mut oracle = vec![0; bytes];
            vectorize(Level::SCALAR, || {
                block_type.encode_rows(&weights[..few], IN_FEATURES, None, &mut oracle)
            })
            .expect("finite weights");
            assert!(blocks[..bytes] == oracle, "{block_type} differs between levels");
            for i in (bytes..blocks.len()).step_by(bytes) {
                blocks.copy_within(..bytes, i);
            }
            let decode = best(patience, || {
                vectorize(
                    level,
                    #[inline(always)]
                    || block_type.decode(black_box(&blocks), black_box(&mut values)),
                )
                .expect("lengths match");
            });
            let rate = |seconds: f64| few as f64 / seconds / 1e6;
            println!(
                "{block_type:8} {:8} {:8.1} M weights/s {:8.1} M weights/s {:6.1} GB/s, {:3.0} % of a copy",
                level.name(),
                rate(plain),
                rate(weighted),
                gbs(n, decode),
                100.0 * copy / decode
            );
        }
    }
}

/// Bytes of `n` floats over time, in 10^9.
fn gbs(n: usize, seconds: f64) -> f64 {
    4.0 * n as f64 / seconds / 1e9
}

/// Seconds of the fastest run.
fn best(patience: Duration, mut run: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    loop {
        let run_start = Instant::now();
        run();
        best = best.min(run_start.elapsed().as_secs_f64());
        if start.elapsed() >= patience {
            return best;
        }
    }
}
