//! Products of candle, gemm, faer and rten beside ours: one token, and 512, at the shapes of a Llama-3.2-1B.
//!
//!     RAYON_NUM_THREADS=1 RTEN_NUM_THREADS=1 RUSTFLAGS="-C target-cpu=native" cargo run --release -- [REPEATS]
//!
//! candle has its best kernels only in native builds, so all is built natively. What is compared takes turns; a pass with one token reads as many copies of the weights as
//! exceed the caches. Medians of the passes. Weights are random, blocks are candle's own bytes, and every product is compared with ours before it is timed.

use std::{hint::black_box, mem::MaybeUninit, time::Instant};

use candle_core::{
    Device, Module, Tensor,
    quantized::{GgmlDType, QMatMul, QTensor},
};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use fewbit_format::{
    Bits, BlockMatrix, BlockType, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType,
    Symmetry,
};
use fewbit_kernels::{IntMatrix, Level, Scratch, linear_f32};
use gemm::Parallelism;
use rten_gemm::{
    BlockQuantizedGemm, BlockQuantizedMatrix, ComputeMode, GemmExecutor, GemmInputA, GemmInputB,
    GemmOptions, PackedBMatrix,
};
use rten_tensor::{Contiguous, NdTensor, NdTensorView, prelude::*};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Outputs × inputs.
const SHAPES: [(usize, usize); 3] = [(2048, 2048), (8192, 2048), (2048, 8192)];
/// Bytes of weights that a pass with one token reads at least.
const PASS: usize = 1 << 28;

/// One way of multiplying: a product with copy `i` of the weights.
struct Way<'a> {
    name: &'static str,
    run: Box<dyn FnMut(usize, &mut [f32]) -> Result<()> + 'a>,
}

fn main() -> Result<()> {
    let repeats: usize = std::env::args().nth(1).map_or(Ok(7), |x| x.parse())?;
    // Inside the pool, so that no product waits for a thread to wake up.
    let mut result = Ok(());
    rayon::in_place_scope(|scope| {
        scope.spawn(|_| result = run(repeats).map_err(|error| error.to_string()))
    });
    Ok(result?)
}

fn run(repeats: usize) -> Result<()> {
    let threads = rayon::current_num_threads();
    println!("threads {threads}, {}, {repeats} passes", Level::detect());
    println!(
        "| weights | shape | tokens | product | 10⁹ weights/s | GOP/s | ours, times as fast |"
    );
    println!("|---|---|---|---|---|---|---|");
    for (rows, columns) in SHAPES {
        for tokens in [1, 512] {
            let mut random = Random(7);
            let weight: Vec<f32> = (0..rows * columns).map(|_| random.next()).collect();
            let x: Vec<f32> = (0..tokens * columns).map(|_| random.next()).collect();
            let case = Case { rows, columns, tokens, threads, repeats, weight, x };
            case.floats()?;
            for (name, candle, ours) in [
                ("Q4_0", GgmlDType::Q4_0, BlockType::Q4_0),
                ("Q8_0", GgmlDType::Q8_0, BlockType::Q8_0),
                ("Q4_K", GgmlDType::Q4K, BlockType::Q4K),
                ("Q6_K", GgmlDType::Q6K, BlockType::Q6K),
            ] {
                case.blocks(name, candle, ours)?;
            }
            case.four_bits()?;
            case.eight_bits()?;
        }
    }
    Ok(())
}

/// Uniform numbers between −1 and 1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

struct Case {
    rows: usize,
    columns: usize,
    tokens: usize,
    threads: usize,
    repeats: usize,
    weight: Vec<f32>,
    x: Vec<f32>,
}

impl Case {
    /// How many copies of weights of so many bits a pass needs.
    fn copies(&self, bits: usize) -> usize {
        let bytes = self.weight.len() * bits / 8;
        if self.tokens == 1 { PASS.div_ceil(bytes) } else { 1 }
    }

    fn shape(&self) -> MatrixShape {
        MatrixShape::new(self.rows, self.columns)
    }

    fn tensor(&self) -> Result<Tensor> {
        Ok(Tensor::from_slice(&self.x, (self.tokens, self.columns), &Device::Cpu)?)
    }

    fn floats(&self) -> Result<()> {
        let n = self.copies(32);
        let Self { rows, columns, tokens, .. } = *self;
        let weights: Vec<_> = (0..n).map(|_| self.weight.clone()).collect();
        let tensors: Vec<Tensor> = weights
            .iter()
            .map(|w| Tensor::from_slice(w, (rows, columns), &Device::Cpu)?.t())
            .collect::<candle_core::Result<_>>()?;
        let x = self.tensor()?;
        let executor = GemmExecutor::<f32>::new();
        let packed: Vec<PackedBMatrix<f32>> = weights
            .iter()
            .map(|w| {
                let w = NdTensorView::from_data([rows, columns], &w[..]);
                executor.prepack_b(w.transposed())
            })
            .collect();
        let level = Level::detect();
        let par =
            |rayon| if self.threads == 1 { Parallelism::None } else { Parallelism::Rayon(rayon) };
        let faer_par = if self.threads == 1 { Par::Seq } else { Par::rayon(self.threads) };
        let ways = vec![
            Way {
                name: "ours",
                run: Box::new(|i, out| {
                    linear_f32(level, out, &self.x, tokens, &weights[i], self.shape());
                    Ok(())
                }),
            },
            Way {
                name: "candle",
                run: Box::new(|i, out| {
                    let product = x.matmul(&tensors[i])?;
                    keep(&product, out)
                }),
            },
            Way {
                name: "gemm",
                run: Box::new(|i, out| {
                    // SAFETY: pointers and strides are those of (tokens, columns), (rows, columns) and (tokens, rows).
                    unsafe {
                        gemm::gemm(
                            tokens,
                            rows,
                            columns,
                            out.as_mut_ptr(),
                            1,
                            rows as isize,
                            false,
                            self.x.as_ptr(),
                            1,
                            columns as isize,
                            weights[i].as_ptr(),
                            columns as isize,
                            1,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            par(self.threads),
                        );
                    }
                    Ok(())
                }),
            },
            Way {
                name: "faer",
                run: Box::new(|i, out| {
                    let out = MatMut::from_row_major_slice_mut(out, tokens, rows);
                    let x = MatRef::from_row_major_slice(&self.x, tokens, columns);
                    let w = MatRef::from_row_major_slice(&weights[i], rows, columns);
                    matmul(out, Accum::Replace, x, w.transpose(), 1.0f32, faer_par);
                    Ok(())
                }),
            },
            Way {
                name: "rten",
                run: Box::new(|i, out| {
                    let x = NdTensorView::from_data([tokens, columns], &self.x[..]);
                    let (a, b) = (GemmInputA::Unpacked(x), GemmInputB::Packed(&packed[i]));
                    executor.gemm(out, a, b, GemmOptions::default())?;
                    Ok(())
                }),
            },
        ];
        self.time("f32", n, 1e-3, ways)
    }

    fn blocks(&self, name: &str, candle: GgmlDType, ours: BlockType) -> Result<()> {
        let n = self.copies(4);
        let weight = Tensor::from_slice(&self.weight, (self.rows, self.columns), &Device::Cpu)?;
        let mut theirs = Vec::new();
        let mut prepared = Vec::new();
        for _ in 0..n {
            // Candle shares nothing between tensors that were read anew.
            let tensor = QTensor::quantize(&weight, candle)?;
            if prepared.is_empty() {
                let matrix = BlockMatrix::new(self.shape(), ours, tensor.data()?.into_owned())?;
                prepared.push(
                    IntMatrix::from_blocks(matrix.view()).ok_or("a type with integer products")?,
                );
            } else {
                prepared.push(prepared[0].clone());
            }
            theirs.push(QMatMul::from_qtensor(tensor)?);
        }
        let x = self.tensor()?;
        let ways = vec![
            self.ours(&prepared),
            Way { name: "candle", run: Box::new(|i, out| keep(&theirs[i].forward(&x)?, out)) },
        ];
        self.time(name, n, 0.05, ways)
    }

    /// Our product with activations that are rounded on the way.
    fn ours<'a>(&'a self, prepared: &'a [IntMatrix]) -> Way<'a> {
        let mut scratch = Scratch::default();
        let run = move |i: usize, out: &mut [f32]| {
            prepared[i].linear(Level::detect(), out, &self.x, self.tokens, &mut scratch);
            Ok(())
        };
        Way { name: "ours", run: Box::new(run) }
    }

    /// Integers of 4 bits under a scale for 32, as ONNX has them.
    fn four_bits(&self) -> Result<()> {
        let n = self.copies(4);
        let (rows, columns) = (self.rows, self.columns);
        let scheme = IntScheme {
            bits: Bits::B4,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::group(32),
            scale_type: ScaleType::F32,
        };
        let codes: Vec<u8> = self.weight.iter().map(|w| (w * 7.0 + 8.0).round() as u8).collect();
        let scales = vec![1.0 / 7.0; rows * columns / 32];
        let matrix =
            QuantMatrix::new(self.shape(), scheme, codes.clone(), scales.clone(), vec![], None)?;
        let prepared = IntMatrix::from_quant(&matrix).ok_or("groups of whole blocks")?;
        let prepared: Vec<_> = (0..n).map(|_| prepared.clone()).collect();
        let bytes: Vec<u8> = codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect();
        let theirs: Vec<(NdTensor<u8, 3>, NdTensor<f32, 2>)> = (0..n)
            .map(|_| {
                let codes = NdTensor::from_data([rows, columns / 32, 16], bytes.clone());
                (codes, NdTensor::from_data([rows, columns / 32], scales.clone()))
            })
            .collect();
        let rten = BlockQuantizedGemm::new().with_compute(ComputeMode::Int8);
        let executor = GemmExecutor::<f32>::new();
        let ways = vec![
            self.ours(&prepared),
            Way {
                name: "rten",
                run: Box::new(|i, out| {
                    let (codes, scales) = &theirs[i];
                    let codes = Contiguous::new(codes.view()).ok_or("contiguous")?;
                    let scales = Contiguous::new(scales.view()).ok_or("contiguous")?;
                    let weight = BlockQuantizedMatrix::new(codes, scales, 4)?;
                    if self.tokens == 1 {
                        let x = NdTensorView::from_data([1, 1, columns], &self.x[..]);
                        // SAFETY: floats that have values are also floats that may have none.
                        let out =
                            unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
                        rten.batched_gemm_uninit(out, x, weight)?;
                    } else {
                        let x = NdTensorView::from_data([self.tokens, columns], &self.x[..]);
                        let (a, b) = (GemmInputA::Unpacked(x), GemmInputB::BlockQuantized(weight));
                        executor.gemm(out, a, b, GemmOptions::default())?;
                    }
                    Ok(())
                }),
            },
        ];
        self.time("int4-g32", n, 0.05, ways)
    }

    /// Bytes under a scale for each row; inputs are rounded on the way, by rten's before.
    fn eight_bits(&self) -> Result<()> {
        let n = self.copies(8);
        let (rows, columns, tokens) = (self.rows, self.columns, self.tokens);
        let scheme = IntScheme {
            bits: Bits::B8,
            symmetry: Symmetry::Symmetric,
            granularity: Granularity::Channel,
            scale_type: ScaleType::F32,
        };
        let signed: Vec<i8> = self.weight.iter().map(|w| (w * 127.0).round() as i8).collect();
        let codes = signed.iter().map(|code| code.cast_unsigned() ^ 0x80).collect();
        let scales = vec![1.0 / 127.0; rows];
        let matrix = QuantMatrix::new(self.shape(), scheme, codes, scales, vec![], None)?;
        let prepared = IntMatrix::from_quant(&matrix).ok_or("one group")?;
        let prepared: Vec<_> = (0..n).map(|_| prepared.clone()).collect();
        let executor = GemmExecutor::<u8, i8, i32>::new();
        let theirs: Vec<PackedBMatrix<i8>> = (0..n)
            .map(|_| {
                let weight = NdTensorView::from_data([rows, columns], &signed[..]);
                executor.prepack_b(weight.transposed())
            })
            .collect();
        let (mut bytes, mut sums) = (vec![0u8; tokens * columns], vec![0i32; tokens * rows]);
        let zero_points = vec![128u8; tokens];
        let ways = vec![
            self.ours(&prepared),
            Way {
                name: "rten",
                run: Box::new(|i, out| {
                    for (byte, x) in bytes.iter_mut().zip(&self.x) {
                        *byte = (x * 127.0 + 128.0).round() as u8;
                    }
                    let x = NdTensorView::from_data([tokens, columns], &bytes[..]);
                    let options = GemmOptions {
                        a_quant: Some(rten_gemm::QuantParams { zero_point: &zero_points }),
                        ..Default::default()
                    };
                    let (a, b) = (GemmInputA::Unpacked(x), GemmInputB::Packed(&theirs[i]));
                    executor.gemm(&mut sums, a, b, options)?;
                    for (out, sum) in out.iter_mut().zip(&sums) {
                        *out = *sum as f32 * (1.0 / (127.0 * 127.0));
                    }
                    Ok(())
                }),
            },
        ];
        self.time("int8, a scale a row", n, 0.05, ways)
    }

    /// Compares all with the first, which is ours, and times them in turns.
    fn time(
        &self,
        weights: &str,
        copies: usize,
        tolerance: f32,
        mut ways: Vec<Way<'_>>,
    ) -> Result<()> {
        let mut expected = vec![0.0; self.tokens * self.rows];
        let mut out = vec![0.0; self.tokens * self.rows];
        (ways[0].run)(0, &mut expected)?;
        let size = (expected.iter().map(|x| x * x).sum::<f32>() / expected.len() as f32).sqrt();
        for way in &mut ways {
            (way.run)(0, &mut out)?;
            let squares: f32 = out.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum();
            let error = (squares / out.len() as f32).sqrt() / size;
            if error > tolerance {
                return Err(
                    format!("{weights}: {} differs by {error} of the outputs", way.name).into()
                );
            }
        }
        // What a crate rearranges when it first meets a matrix is not timed.
        for way in &mut ways {
            (0..copies).try_for_each(|copy| (way.run)(copy, &mut out))?;
        }
        let mut times = vec![vec![]; ways.len()];
        for _ in 0..self.repeats {
            for (way, times) in ways.iter_mut().zip(&mut times) {
                let began = Instant::now();
                for copy in 0..copies {
                    (way.run)(copy, &mut out)?;
                    black_box(&out);
                }
                times.push(began.elapsed().as_secs_f64() / copies as f64);
            }
        }
        let medians: Vec<f64> = times
            .iter_mut()
            .map(|times| {
                times.sort_by(f64::total_cmp);
                times[times.len() / 2]
            })
            .collect();
        let Self { rows, columns, tokens, .. } = *self;
        for (way, time) in ways.iter().zip(&medians) {
            let speed = (rows * columns) as f64 / time / 1e9;
            let ratio = time / medians[0];
            println!(
                "| {weights} | {rows} × {columns} | {tokens} | {} | {:.1} | {:.0} | {ratio:.2} |",
                way.name,
                speed * if tokens == 1 { 1.0 } else { tokens as f64 },
                2.0 * speed * tokens as f64
            );
        }
        Ok(())
    }
}

/// Brings a tensor's values into `out`.
fn keep(tensor: &Tensor, out: &mut [f32]) -> Result<()> {
    let (storage, _) = tensor.storage_and_layout();
    let candle_core::Storage::Cpu(storage) = &*storage else { return Err("on the CPU".into()) };
    out.copy_from_slice(storage.as_slice()?);
    Ok(())
}
