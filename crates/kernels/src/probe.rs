//! What the machine can do at most, for comparison: how fast it reads memory, and how fast it multiplies small integers.

use core::hint::black_box;

use crate::{
    IntMatrix, Level,
    int::{Codes, Line, Lines, Plain, Width, simd::IntSimd},
    level::Kernel,
    parallel::for_each_index,
};

/// Memory to read.
#[derive(Clone, Debug)]
pub struct Memory(Lines);

impl Memory {
    /// That many bytes, at least, of ones: in huge pages where the system gives them, as prepared matrices are.
    pub fn new(bytes: usize) -> Self {
        Self::ones(Lines::zeros(bytes.div_ceil(Line::BYTES)))
    }

    /// As [`new`](Self::new), in pages of the usual size.
    pub fn in_small_pages(bytes: usize) -> Self {
        Self::ones(Lines::in_small_pages(bytes.div_ceil(Line::BYTES)))
    }

    fn ones(mut lines: Lines) -> Self {
        lines.fill(Line([1; Line::BYTES]));
        Self(lines)
    }

    /// How many bytes there are.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// Reads all of it with plain vector loads, in rayon's current pool if the crate has threads.
    pub fn read(&self, level: Level) {
        read(level, &self.0);
    }
}

/// Reads all of a prepared matrix with plain vector loads, in rayon's current pool if the crate has threads: what a product with one token has to do at least.
pub fn read_matrix(level: Level, matrix: &IntMatrix) {
    read(level, matrix.lines());
}

fn read(level: Level, lines: &[Line]) {
    /// Lines that a thread reads at a time, a megabyte.
    const PIECE: usize = 1 << 14;
    for_each_index(lines.len().div_ceil(PIECE), true, |i| {
        let lines = &lines[i * PIECE..lines.len().min((i + 1) * PIECE)];
        black_box(level.dispatch(Read(lines)));
    });
}

struct Read<'a>(&'a [Line]);

impl Kernel for Read<'_> {
    type Output = i32;

    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) -> i32 {
        let (groups, rest) = self.0.as_chunks::<8>();
        let mut bits = [simd.field(simd.bytes(&Line::ZERO), 0, 0); 8];
        for lines in groups {
            for (bits, line) in bits.iter_mut().zip(lines) {
                *bits = simd.join(*bits, simd.bytes(line));
            }
        }
        for (bits, line) in bits.iter_mut().zip(rest) {
            *bits = simd.join(*bits, simd.bytes(line));
        }
        let mut all = bits[0];
        for bits in bits {
            all = simd.join(all, bits);
        }
        // Something that depends on every byte.
        let sums = simd.dot::<Plain<8>, 0>(
            simd.begin(simd.splat_int(0)),
            all,
            simd.quad(&[0x0101_0101; 4]),
        );
        let mut lanes = [0.0; 16];
        simd.store(simd.to_floats(simd.end(sums)), &mut lanes);
        lanes.iter().sum::<f32>() as i32
    }
}

/// Multiplies 8-bit integers and adds the products, in registers alone, and returns how many multiplications that were: at least `at_least`. Two operations each.
pub fn multiply_in_registers(level: Level, at_least: u64) -> u64 {
    level.dispatch(Multiply(at_least))
}

struct Multiply(u64);

impl Kernel for Multiply {
    type Output = u64;

    #[inline(always)]
    fn run<S: IntSimd>(self, simd: S) -> u64 {
        // As many sums as the products of a tile have; 64 products a step. Each sum has activations of its own, or the compiler would multiply once for all.
        const SUMS: usize = 12;
        let line = black_box(&[Line([3; Line::BYTES])]);
        let mut x = [[0x0102_0304; 4]; SUMS];
        let mut sums = [simd.begin(simd.splat_int(0)); SUMS];
        let rounds = self.0.div_ceil(4 * 64 * SUMS as u64);
        for _ in 0..rounds {
            let x = black_box(&mut x);
            simd.dot_half::<Nibbles, SUMS>(&mut sums, line, 0, each_quad(simd, x));
        }
        for token in 0..SUMS {
            let mut lanes = [0.0; 16];
            simd.store(simd.to_floats(simd.end_token(&sums, token)), &mut lanes);
            black_box(lanes);
        }
        rounds * 4 * 64 * SUMS as u64
    }
}

/// Codes of 4 bits, each in a byte of its own: ready to be multiplied, and the same in every step.
struct Nibbles;

impl Width for Nibbles {
    const BITS: u32 = 4;
}

impl Codes for Nibbles {
    const LINES: usize = 1;

    #[inline(always)]
    fn step<S: IntSimd>(simd: S, block: &[Line], _: usize) -> S::Bytes {
        simd.bytes(&block[0])
    }
}

/// All of them, ready.
#[inline(always)]
fn each_quad<S: IntSimd, const T: usize>(simd: S, x: &[[i32; 4]; T]) -> [S::Quad<'_>; T] {
    let mut quads = [simd.quad(&x[0]); T];
    for (quad, x) in quads.iter_mut().zip(x) {
        *quad = simd.quad(x);
    }
    quads
}
