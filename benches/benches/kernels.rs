//! Products of few-bit and float matrices at the shapes of Llama-3.2-1B: bytes per second with one token, against a plain read of the same bytes; operations per
//! second with 512 tokens, against multiplications in registers.
//!
//! `cargo bench -p fewbit-benches --bench kernels [-- LAYOUT … | --shape 2048x2048 | --threads N | --level NAME | --repeats N]`. Weights are random; with one token, passes over
//! as many copies as exceed the caches alternate with passes of what they are compared with. Figures are medians of the passes.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Instant;

use fewbit_format::{
    Bits, BlockMatrix, BlockType, Codebook, CodebookScheme, Float8, Float8Scheme, Granularity,
    IntScheme, MatrixShape, QuantMatrix, Quantized, ScaleTile, ScaleType, Scheme, Symmetry, bf16,
    f16,
};
use fewbit_kernels::{
    IntMatrix, Level, PackedMatrix, Scratch, linear_bf16, linear_f16, linear_f32,
    probe::{Memory, multiply_in_registers, read_matrix},
};
use fewbit_testkit::Random;

/// Output and input features of the attention and MLP layers and the output layer.
const SHAPES: [MatrixShape; 4] = [
    MatrixShape::new(2048, 2048),
    MatrixShape::new(8192, 2048),
    MatrixShape::new(2048, 8192),
    MatrixShape::new(128_256, 2048),
];
/// Bytes that a pass reads.
const PASS: usize = 1 << 28;
const TOKENS: usize = 512;

fn main() {
    let mut options = Options::default();
    let mut shape = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            // `cargo test --benches` gives no `--bench`: it only wants to see that this runs.
            "--bench" => {
                (options.shapes, options.pass) = (SHAPES.to_vec(), PASS);
            }
            "--shape" => {
                let value = value();
                let (rows, columns) = value.split_once('x').expect("ROWSxCOLUMNS");
                let number = |x: &str| x.parse().expect("a number of features");
                shape = Some(MatrixShape::new(number(rows), number(columns)));
            }
            "--threads" => options.threads = value().parse().expect("a number of threads"),
            "--repeats" => options.repeats = value().parse().expect("a number of repeats"),
            "--level" => {
                options.level = Level::named(&value()).expect("a level of this machine");
            }
            name => options.names.push(name.to_owned()),
        }
    }
    // Cargo's `--bench` comes last.
    options.shapes = shape.map_or(options.shapes, |shape| vec![shape]);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    pool.expect("a thread pool").install(|| options.run());
}

struct Options {
    names: Vec<String>,
    shapes: Vec<MatrixShape>,
    pass: usize,
    threads: usize,
    repeats: usize,
    level: Level,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            names: vec![],
            shapes: vec![MatrixShape::new(64, 512)],
            pass: 1 << 16,
            threads: 1,
            repeats: 7,
            level: Level::detect(),
        }
    }
}

/// Weights in some layout.
#[derive(Clone)]
enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    Packed(PackedMatrix),
    Int(IntMatrix),
}

impl Weights {
    fn bytes(&self) -> usize {
        match self {
            Self::F32(weight) => size_of_val(&**weight),
            Self::F16(weight) => size_of_val(&**weight),
            Self::BF16(weight) => size_of_val(&**weight),
            Self::Packed(matrix) => matrix.packed_bytes(),
            Self::Int(matrix) => matrix.packed_bytes(),
        }
    }

    fn linear(
        &self,
        level: Level,
        out: &mut [f32],
        x: &[f32],
        shape: MatrixShape,
        scratch: &mut Scratch,
    ) {
        let n_tokens = x.len() / shape.in_features;
        match self {
            Self::F32(weight) => linear_f32(level, out, x, n_tokens, weight, shape),
            Self::F16(weight) => linear_f16(level, out, x, n_tokens, weight, shape),
            Self::BF16(weight) => linear_bf16(level, out, x, n_tokens, weight, shape),
            Self::Packed(matrix) => matrix.linear(level, out, x, n_tokens),
            Self::Int(matrix) => matrix.linear(level, out, x, n_tokens, scratch),
        }
    }
}

/// What is measured, in this order.
fn layouts() -> Vec<(String, Layout)> {
    let int = |bits, symmetry, granularity| {
        let scale_type = ScaleType::F16;
        Layout::Int(IntScheme { bits, symmetry, granularity, scale_type })
    };
    let int4_g128 = IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::group(128),
        scale_type: ScaleType::F16,
    };
    let (sym, affine) = (Symmetry::Symmetric, Symmetry::Affine);
    let (group, channel) = (Granularity::group, Granularity::Channel);
    let nf4 = CodebookScheme::new(Codebook::Nf4, 64, true, ScaleType::BF16);
    let fp8 = Float8Scheme {
        element: Float8::E4M3,
        tile: ScaleTile::Channel,
        scale_type: ScaleType::F32,
    };
    let mut layouts: Vec<(String, Layout)> = vec![
        ("f32".into(), Layout::F32),
        ("f16".into(), Layout::F16),
        ("bf16".into(), Layout::BF16),
        ("int4-g128-float".into(), Layout::Float(int4_g128.into())),
        ("nf4-float".into(), Layout::Float(Scheme::Codebook(nf4))),
        ("fp8-float".into(), Layout::Float(Scheme::Float8(fp8))),
        ("int8-channel".into(), int(Bits::B8, sym, channel)),
        ("int8-g128".into(), int(Bits::B8, sym, group(128))),
        ("int4-channel".into(), int(Bits::B4, sym, channel)),
        ("int4-g128".into(), Layout::Int(int4_g128)),
        ("int4-g128-affine".into(), int(Bits::B4, affine, group(128))),
        ("int4-g64".into(), int(Bits::B4, sym, group(64))),
        ("int4-g32".into(), int(Bits::B4, sym, group(32))),
        ("int4-g32-affine".into(), int(Bits::B4, affine, group(32))),
        ("int3-g128".into(), int(Bits::B3, sym, group(128))),
        ("int2-g128".into(), int(Bits::B2, sym, group(128))),
    ];
    for block_type in BlockType::ALL {
        if IntMatrix::supports(&Scheme::Block(block_type)) {
            layouts.push((block_type.name().into(), Layout::Block(block_type)));
        }
    }
    layouts
}

enum Layout {
    F32,
    F16,
    BF16,
    /// A grid multiplied as floats.
    Float(Scheme),
    Int(IntScheme),
    Block(BlockType),
}

/// `n` numbers, in which the same 2¹⁶ random ones follow one another: more would only take longer to make.
fn repeated<T: Copy>(n: usize, mut number: impl FnMut() -> T) -> Vec<T> {
    let period: Vec<T> = (0..n.min(1 << 16)).map(|_| number()).collect();
    period.into_iter().cycle().take(n).collect()
}

impl Layout {
    fn random(&self, shape: MatrixShape) -> Weights {
        let mut random = Random::new(1);
        let mut uniform = || random.uniform() as f32 - 0.5;
        match self {
            Self::F32 => Weights::F32(repeated(shape.len(), uniform)),
            Self::F16 => Weights::F16(repeated(shape.len(), || f16::from_f32(uniform()))),
            Self::BF16 => Weights::BF16(repeated(shape.len(), || bf16::from_f32(uniform()))),
            Self::Float(scheme) => {
                let weight = repeated(shape.len(), uniform);
                let matrix = Quantized::round_to_nearest(&weight, shape, *scheme);
                let packed = PackedMatrix::from_quantized(&matrix.expect("whole blocks"));
                Weights::Packed(packed.expect("a grid with a float product"))
            }
            Self::Int(scheme) => {
                let levels = usize::from(scheme.bits.max_code()) + 1;
                let codes = repeated(shape.len(), || random.below(levels) as u8);
                let n = scheme.granularity.n_scales(shape);
                let zeros = match scheme.symmetry {
                    Symmetry::Symmetric => vec![],
                    Symmetry::Affine => vec![7; n],
                };
                let matrix =
                    QuantMatrix::new(shape, *scheme, codes, vec![0.0078125; n], zeros, None);
                let prepared = IntMatrix::from_quant(&matrix.expect("valid"));
                Weights::Int(prepared.expect("a supported grid"))
            }
            Self::Block(block_type) => {
                let row = block_type.row_bytes(shape.in_features).expect("whole blocks");
                // Any two bytes below 0x70 are a finite half-precision number.
                let data = repeated(row * shape.out_features, || random.below(0x70) as u8);
                let matrix = BlockMatrix::new(shape, *block_type, data).expect("whole blocks");
                Weights::Int(IntMatrix::from_blocks(matrix.view()).expect("a supported type"))
            }
        }
    }
}

/// Seconds that a call takes.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Options {
    fn run(&self) {
        println!("{}, {} thread(s), medians of {}", self.level, self.threads, self.repeats);
        self.pages();
        println!(
            "{:16} {:>12} {:>6} | {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6}",
            "layout", "shape", "bits", "GB/s", "read", "share", "GOP/s", "peak", "share"
        );
        for (name, layout) in layouts() {
            if !self.names.is_empty() && !self.names.contains(&name) {
                continue;
            }
            for &shape in &self.shapes {
                let first = layout.random(shape);
                let bits = 8.0 * first.bytes() as f64 / shape.len() as f64;
                let (prefill, peak) = self.prefill(&first, shape);
                let (decode, read) = self.decode(first, shape);
                let shape = format!("{}x{}", shape.out_features, shape.in_features);
                println!(
                    "{name:16} {shape:>12} {bits:6.3} | {decode:8.2} {read:8.2} {:5.0}% | {prefill:8.1} {peak:8.1} {:5.0}%",
                    100.0 * decode / read,
                    100.0 * prefill / peak
                );
            }
        }
    }

    /// What huge pages are worth to a plain read.
    fn pages(&self) {
        let bytes = self.pass / 2;
        let memories = [Memory::new(bytes), Memory::in_small_pages(bytes)];
        let mut seconds = [vec![], vec![]];
        for repeat in 0..self.repeats {
            for i in 0..2 {
                let i = i ^ (repeat % 2);
                seconds[i].push(time(|| memories[i].read(self.level)));
            }
        }
        let [huge, small] = seconds.map(|seconds| bytes as f64 / median(seconds) / 1e9);
        println!("plain read: {huge:.1} GB/s in huge pages, {small:.1} in small ones");
    }

    /// 10⁹ bytes per second of the product with one token and of a plain read.
    fn decode(&self, first: Weights, shape: MatrixShape) -> (f64, f64) {
        let bytes = first.bytes();
        let copies = self.pass.div_ceil(bytes);
        let mut matrices = vec![first];
        while matrices.len() < copies {
            matrices.push(matrices[0].clone());
        }
        // Where the product reads what a plain read can read too, that is compared; else other memory of the same kind.
        let memories: Vec<Option<Memory>> = matrices
            .iter()
            .map(|m| (!matches!(m, Weights::Int(_))).then(|| Memory::in_small_pages(bytes)))
            .collect();
        let x = Random::new(2).normals(shape.in_features);
        let mut out = vec![0.0; shape.out_features];
        let mut scratch = Scratch::default();
        let (mut product, mut read) = (vec![], vec![]);
        for repeat in 0..self.repeats {
            for i in 0..2 {
                if i == repeat % 2 {
                    product.push(time(|| {
                        for matrix in &matrices {
                            matrix.linear(self.level, &mut out, &x, shape, &mut scratch);
                        }
                    }));
                } else {
                    read.push(time(|| {
                        for (matrix, memory) in matrices.iter().zip(&memories) {
                            match (matrix, memory) {
                                (Weights::Int(matrix), _) => read_matrix(self.level, matrix),
                                (_, Some(memory)) => memory.read(self.level),
                                _ => unreachable!("made above"),
                            }
                        }
                    }));
                }
            }
        }
        let total = (copies * bytes) as f64 / 1e9;
        (total / median(product), total / median(read))
    }

    /// 10⁹ operations per second of the product with 512 tokens and of multiplications in registers.
    fn prefill(&self, matrix: &Weights, shape: MatrixShape) -> (f64, f64) {
        let x = Random::new(3).normals(TOKENS * shape.in_features);
        let mut out = vec![0.0; TOKENS * shape.out_features];
        let mut scratch = Scratch::default();
        let (mut product, mut peak) = (vec![], vec![]);
        for _ in 0..self.repeats.min(5) {
            product.push(time(|| {
                matrix.linear(self.level, &mut out, &x, shape, &mut scratch);
            }));
            let mut count = 0;
            let seconds = time(|| count = multiply_in_registers(self.level, 1 << 30));
            peak.push(seconds / (2.0 * count as f64));
        }
        let operations = 2.0 * (shape.len() * TOKENS) as f64 / 1e9;
        (operations / median(product), self.threads as f64 / median(peak) / 1e9)
    }
}
