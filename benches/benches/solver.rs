//! The GPTQ solver on one layer: seconds, rates, and shares of the rate of a plain matrix product on the same threads.
//!
//! `cargo bench -p fewbit-benches --bench solver [-- SIZE [ROWS [TOKENS]]]` (default 4096 4096 4096). Each figure is the best of three runs, or
//! of one for what takes longer than three seconds. faer serves as the yardstick for products and for the factorization.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::{hint::black_box, time::Instant};

use faer::{Accum, Mat, Par, Side, linalg::matmul::matmul};
use fewbit_format::{Bits, Granularity, IntGrid, IntScheme, MatrixShape, ScaleType, Symmetry};
use fewbit_gptq::{GptqSpec, Hessian, Prepared, quantize, round_to_nearest};
use fewbit_kernels::{Level, vectorize};
use fewbit_testkit::Random;

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    // `cargo test --benches` gives no `--bench`: it only wants to see that this runs.
    let default = if std::env::args().any(|a| a == "--bench") { 4096 } else { 128 };
    let size = |i: usize| sizes.get(i).copied().unwrap_or(default);
    let case = Case::new(size(0), size(1), size(2));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("{} inputs, {} rows, {} tokens", case.n, case.shape.out_features, case.tokens);
    for threads in if threads > 1 { vec![1, 2] } else { vec![1] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a thread pool").install(|| case.run(threads));
    }
}

struct Case {
    n: usize,
    tokens: usize,
    shape: MatrixShape,
    x: Vec<f32>,
    weight: Vec<f32>,
}

impl Case {
    /// Correlated activations of unequal size, weights with heavy tails.
    fn new(n: usize, rows: usize, tokens: usize) -> Self {
        let mut random = Random::new(1);
        let size: Vec<f32> = (0..n).map(|_| random.normal().exp() as f32).collect();
        let mut x = random.normals(tokens * n);
        for x in x.chunks_mut(n) {
            for i in 1..n {
                x[i] += 0.7 * x[i - 1];
            }
            for (x, size) in x.iter_mut().zip(&size) {
                *x *= size;
            }
        }
        let heavy = |r: &mut Random| 0.02 * (r.normal() * (0.5 * r.normal()).exp()) as f32;
        let weight = (0..rows * n).map(|_| heavy(&mut random)).collect();
        Self { n, tokens, shape: MatrixShape::new(rows, n), x, weight }
    }

    fn run(&self, threads: usize) {
        let (n, rows) = (self.n as f64, self.shape.out_features as f64);
        println!("\n{threads} thread(s)");
        let par = if threads == 1 { Par::Seq } else { Par::rayon(threads) };
        let single = product_rate::<f32>(self.n, par, |i| (i % 7) as f32);
        let double = product_rate::<f64>(self.n, par, |i| (i % 7) as f64);
        println!(
            "{:46} {:9.1} GFLOP/s in f32",
            "multiply-adds in registers",
            in_registers(threads)
        );
        println!(
            "{:46} {single:9.1} GFLOP/s in f32, {double:.1} in f64",
            "faer, product of two squares"
        );

        // Memory is touched first: a new one is zeros that no page holds yet. The mean is the same however often the tokens come.
        let mut hessian = Hessian::new(self.n);
        let mut add = || hessian.add(&self.x).expect("finite activations");
        add();
        let (seconds, ()) = best(add);
        line("Hessian, into sums that exist", seconds, self.tokens as f64 * n * n, single);
        let spec = |refine_passes| GptqSpec { refine_passes, ..GptqSpec::default() };
        let prepare = |passes| Prepared::new(&hessian, &spec(passes)).expect("a finite Hessian");
        let (seconds, gptq) = best(|| prepare(0));
        line("order and factor", seconds, n * n * n / 3.0, double);

        faer::set_global_parallelism(par);
        let damped = Mat::<f64>::from_fn(self.n, self.n, |i, j| {
            hessian.get(i, j) + f64::from(u8::from(i == j)) * 0.01 * hessian.get(0, 0)
        });
        let (seconds, _) = best(|| damped.llt(Side::Lower).expect("positive definite"));
        line("faer, Cholesky alone", seconds, n * n * n / 3.0, double);

        let granularity = Granularity::group(128);
        let scheme = IntScheme {
            bits: Bits::B4,
            symmetry: Symmetry::Symmetric,
            granularity,
            scale_type: ScaleType::F16,
        };
        let (plain, search) = (IntGrid::plain(scheme), IntGrid::new(scheme));
        let (seconds, _) = best(|| {
            round_to_nearest(&self.weight, self.shape, &hessian, &plain, granularity)
                .expect("finite weights")
        });
        // A loss, of the errors or of the weights themselves, multiplies by one triangle.
        let triangle = rows * n * n;
        line("plain rounding with its report", seconds, 2.0 * triangle, single);
        let two = prepare(2);
        let runs = [
            ("GPTQ w4 g128, min-max, no refinement", &gptq, &plain, 4.0),
            ("GPTQ w4 g128, search, no refinement", &gptq, &search, 4.0),
            ("GPTQ w4 g128, search, 2 passes (default)", &two, &search, 8.0),
        ];
        for (name, prepared, grid, triangles) in runs {
            let (seconds, solution) = best(|| {
                quantize(&self.weight, self.shape, prepared, grid, granularity)
                    .expect("finite weights")
            });
            line(name, seconds, triangles * triangle, single);
            let report = solution.report;
            let (before, after) = (report.relative_error_before, report.relative_error_after);
            println!("{:46} relative error {before:.3e} -> {after:.3e}", "");
        }
    }
}

/// The best time of three runs, and the last result.
fn best<R>(mut f: impl FnMut() -> R) -> (f64, R) {
    let mut least = f64::INFINITY;
    loop {
        for run in 0.. {
            let start = Instant::now();
            let result = f();
            least = least.min(start.elapsed().as_secs_f64());
            if run == 2 || least > 3.0 {
                return (least, result);
            }
        }
    }
}

fn line(name: &str, seconds: f64, operations: f64, roof: f64) {
    let rate = operations / seconds / 1e9;
    println!("{name:46} {seconds:8.3} s {rate:9.1} GFLOP/s {:5.0} %", 100.0 * rate / roof);
}

/// GFLOP/s of fused multiply-adds of numbers that stay in registers: what the machine can do at most.
fn in_registers(threads: usize) -> f64 {
    const STEPS: usize = 1 << 24;
    /// As many sums as hide the latency and fit in the registers of AVX2.
    const SUMS: usize = 96;
    let start = Instant::now();
    rayon::broadcast(|_| {
        vectorize(
            Level::detect(),
            #[inline(always)]
            || {
                let factors: [f32; 16] = black_box([0.5; 16]);
                // Unknown to the compiler, or one chain would do for all.
                let mut sums = black_box([[0.0f32; 16]; SUMS / 16]);
                for _ in 0..STEPS {
                    for sums in &mut sums {
                        for lane in 0..16 {
                            sums[lane] = factors[lane].mul_add(factors[lane], sums[lane]);
                        }
                    }
                }
                black_box(sums)
            },
        );
    });
    (2 * SUMS * STEPS * threads) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// GFLOP/s of a product of two squares.
fn product_rate<T: faer::traits::RealField + Copy>(n: usize, par: Par, f: fn(usize) -> T) -> f64 {
    let a = Mat::<T>::from_fn(n, n, |i, j| f(i + j));
    let mut c = Mat::<T>::zeros(n, n);
    let one = T::one_impl();
    let (seconds, ()) =
        best(|| matmul(c.as_mut(), Accum::Replace, a.as_ref(), a.as_ref(), one, par));
    2.0 * (n as f64).powi(3) / seconds / 1e9
}
