//! Products of few-bit and float matrices: bytes per second with one token, against a plain read of as many bytes; operations per second with 512 tokens,
//! against multiplications in registers.
//!
//! `cargo bench -p fewbit-benches --bench kernels [-- LAYOUT … | --threads N | --level NAME | --repeats N]`. Each figure is the best of the repeats, which alternate with those of
//! what it is compared with. Matrices are random, 4096 × 14336 for one token, as many copies as exceed the caches, and 2048 × 4096 for 512.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::Instant;

use fewbit_format::{
    Bits, BlockMatrix, BlockType, Granularity, IntScheme, MatrixShape, QuantMatrix, ScaleType,
    Scheme, Symmetry, bf16, f16,
};
use fewbit_kernels::{
    IntMatrix, Level, PackedMatrix, Scratch, linear_bf16, linear_f16, linear_f32,
    probe::{Memory, multiply_in_registers},
};
use fewbit_testkit::Random;

/// Weights that one pass reads, in bytes.
const PASS: usize = 1 << 28;
const TOKENS: usize = 512;

fn main() {
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("the option has a value");
        match argument.as_str() {
            // `cargo test --benches` gives no `--bench`: it only wants to see that this runs.
            "--bench" => options.shapes = Shapes::FULL,
            "--threads" => options.threads = value().parse().expect("a number of threads"),
            "--repeats" => options.repeats = value().parse().expect("a number of repeats"),
            "--level" => {
                options.level = Level::named(&value()).expect("a level of this machine");
            }
            name => options.names.push(name.to_owned()),
        }
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    pool.expect("a thread pool").install(|| options.run());
}

struct Shapes {
    decode: MatrixShape,
    prefill: MatrixShape,
    pass: usize,
}

impl Shapes {
    const FULL: Self = Self {
        decode: MatrixShape::new(4096, 14336),
        prefill: MatrixShape::new(2048, 4096),
        pass: PASS,
    };
    const SMALL: Self = Self {
        decode: MatrixShape::new(64, 512),
        prefill: MatrixShape::new(64, 512),
        pass: 1 << 16,
    };
}

struct Options {
    names: Vec<String>,
    threads: usize,
    repeats: usize,
    level: Level,
    shapes: Shapes,
}

impl Default for Options {
    fn default() -> Self {
        let level = Level::detect();
        Self { names: vec![], threads: 1, repeats: 7, level, shapes: Shapes::SMALL }
    }
}

/// Weights in some layout.
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

    fn copy(&self) -> Self {
        match self {
            Self::F32(weight) => Self::F32(weight.clone()),
            Self::F16(weight) => Self::F16(weight.clone()),
            Self::BF16(weight) => Self::BF16(weight.clone()),
            Self::Packed(matrix) => Self::Packed(matrix.clone()),
            Self::Int(matrix) => Self::Int(matrix.clone()),
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
    let mut layouts: Vec<(String, Layout)> = vec![
        ("f32".into(), Layout::F32),
        ("f16".into(), Layout::F16),
        ("bf16".into(), Layout::BF16),
    ];
    let int = |bits, symmetry, granularity| {
        Layout::Int(IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 })
    };
    let group = Granularity::group;
    layouts.push(("int4-g128-float".into(), Layout::Float4));
    layouts.push(("int8-channel".into(), int(Bits::B8, Symmetry::Symmetric, Granularity::Channel)));
    layouts.push(("int8-g128".into(), int(Bits::B8, Symmetry::Symmetric, group(128))));
    layouts.push(("int4-channel".into(), int(Bits::B4, Symmetry::Symmetric, Granularity::Channel)));
    layouts.push(("int4-g128".into(), int(Bits::B4, Symmetry::Symmetric, group(128))));
    layouts.push(("int4-g128-affine".into(), int(Bits::B4, Symmetry::Affine, group(128))));
    layouts.push(("int4-g64".into(), int(Bits::B4, Symmetry::Symmetric, group(64))));
    layouts.push(("int4-g32".into(), int(Bits::B4, Symmetry::Symmetric, group(32))));
    layouts.push(("int4-g32-affine".into(), int(Bits::B4, Symmetry::Affine, group(32))));
    layouts.push(("int3-g128".into(), int(Bits::B3, Symmetry::Symmetric, group(128))));
    layouts.push(("int2-g128".into(), int(Bits::B2, Symmetry::Symmetric, group(128))));
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
    /// The 4-bit symmetric grid with groups of 128, multiplied as floats.
    Float4,
    Int(IntScheme),
    Block(BlockType),
}

impl Layout {
    fn random(&self, shape: MatrixShape) -> Weights {
        let mut random = Random::new(1);
        let floats = |random: &mut Random| -> Vec<f32> {
            (0..shape.len()).map(|_| random.uniform() as f32 - 0.5).collect()
        };
        let int = |random: &mut Random, scheme: IntScheme| {
            let levels = usize::from(scheme.bits.max_code()) + 1;
            let codes = (0..shape.len()).map(|_| random.below(levels) as u8).collect();
            let n = scheme.granularity.n_scales(shape);
            let zeros = match scheme.symmetry {
                Symmetry::Symmetric => vec![],
                Symmetry::Affine => vec![7; n],
            };
            QuantMatrix::new(shape, scheme, codes, vec![0.0078125; n], zeros, None).expect("valid")
        };
        match self {
            Self::F32 => Weights::F32(floats(&mut random)),
            Self::F16 => Weights::F16(floats(&mut random).into_iter().map(f16::from_f32).collect()),
            Self::BF16 => {
                Weights::BF16(floats(&mut random).into_iter().map(bf16::from_f32).collect())
            }
            Self::Float4 => {
                let scheme = IntScheme {
                    bits: Bits::B4,
                    symmetry: Symmetry::Symmetric,
                    granularity: Granularity::group(128),
                    scale_type: ScaleType::F16,
                };
                Weights::Packed(PackedMatrix::from_quant(&int(&mut random, scheme)))
            }
            Self::Int(scheme) => {
                let matrix = int(&mut random, *scheme);
                Weights::Int(IntMatrix::from_quant(&matrix).expect("a supported grid"))
            }
            Self::Block(block_type) => {
                let row = block_type.row_bytes(shape.in_features).expect("whole blocks");
                // Any two bytes below 0x70 are a finite half-precision number.
                let data =
                    (0..row * shape.out_features).map(|_| random.below(0x70) as u8).collect();
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

impl Options {
    fn run(&self) {
        let level = self.level;
        println!(
            "{level}, {} thread(s); one token: {:?}, 512: {:?}",
            self.threads, self.shapes.decode, self.shapes.prefill
        );
        println!(
            "{:18} {:>6} | {:>8} {:>8} {:>6} | {:>8} {:>8} {:>6}",
            "layout", "bits", "GB/s", "read", "share", "GOP/s", "peak", "share"
        );
        for (name, layout) in layouts() {
            if !self.names.is_empty() && !self.names.contains(&name) {
                continue;
            }
            let (bits, decode, read) = self.decode(&layout);
            let (prefill, peak) = self.prefill(&layout);
            println!(
                "{name:18} {bits:6.3} | {decode:8.2} {read:8.2} {:5.0}% | {prefill:8.1} {peak:8.1} {:5.0}%",
                100.0 * decode / read,
                100.0 * prefill / peak
            );
        }
    }

    /// Bits of a weight; 10⁹ bytes per second of the product with one token and of a plain read.
    fn decode(&self, layout: &Layout) -> (f64, f64, f64) {
        let shape = self.shapes.decode;
        let first = layout.random(shape);
        let bytes = first.bytes();
        let copies = self.shapes.pass.div_ceil(bytes);
        let mut matrices = vec![first];
        while matrices.len() < copies {
            matrices.push(matrices[0].copy());
        }
        let memories: Vec<Memory> = (0..copies).map(|_| Memory::new(bytes)).collect();
        let x = Random::new(2).normals(shape.in_features);
        let mut out = vec![0.0; shape.out_features];
        let mut scratch = Scratch::default();
        let (mut product, mut read) = (f64::MAX, f64::MAX);
        for _ in 0..self.repeats {
            for (matrix, memory) in matrices.iter().zip(&memories) {
                product = product.min(time(|| {
                    matrix.linear(self.level, &mut out, &x, shape, &mut scratch);
                }));
                read = read.min(time(|| memory.read(self.level)));
            }
        }
        let bits = 8.0 * bytes as f64 / shape.len() as f64;
        (bits, bytes as f64 / product / 1e9, bytes as f64 / read / 1e9)
    }

    /// 10⁹ operations per second of the product with 512 tokens and of multiplications in registers.
    fn prefill(&self, layout: &Layout) -> (f64, f64) {
        let shape = self.shapes.prefill;
        let matrix = layout.random(shape);
        let x = Random::new(3).normals(TOKENS * shape.in_features);
        let mut out = vec![0.0; TOKENS * shape.out_features];
        let mut scratch = Scratch::default();
        let (mut product, mut peak) = (f64::MAX, 0f64);
        for _ in 0..self.repeats {
            product = product.min(time(|| {
                matrix.linear(self.level, &mut out, &x, shape, &mut scratch);
            }));
            let mut count = 0;
            let seconds = time(|| count = multiply_in_registers(self.level, 1 << 31));
            peak = peak.max(2.0 * count as f64 / seconds / 1e9);
        }
        let operations = 2.0 * (shape.len() * TOKENS) as f64;
        (operations / product / 1e9, peak * self.threads as f64)
    }
}
