//! Block types: sizes and names, every code of every codebook, what encoding promises, and what is refused.

use fewbit_format::{
    BlockMatrix, BlockType, BlockView, FormatError, MatrixShape, Quantized, Scheme, f16,
};
use fewbit_testkit::Random;
use proptest::prelude::*;

/// Columns that every block divides.
const N: usize = 256;

/// `x` as rows of the length of `importance`, or of 256.
fn encode(t: BlockType, x: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, FormatError> {
    let n = importance.map_or(N, <[f32]>::len);
    let shape = MatrixShape::new(x.len() / n, n);
    BlockMatrix::round_to_nearest(x, shape, t, importance).map(BlockMatrix::into_data)
}

fn decode(t: BlockType, blocks: &[u8]) -> Vec<f32> {
    let shape = MatrixShape::new(1, blocks.len() / t.bytes() * t.weights());
    BlockView::new(shape, t, blocks).unwrap().dequantize()
}

/// The functions are inlined where they are called, so here once.
#[inline(never)]
fn encode_rows(
    t: BlockType,
    x: &[f32],
    n: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), FormatError> {
    t.encode_rows(x, n, importance, out)
}

#[inline(never)]
fn decode_into(t: BlockType, blocks: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
    t.decode(blocks, out)
}

#[test]
fn names_and_sizes() {
    for t in BlockType::ALL {
        assert_eq!(BlockType::from_name(t.name()), Some(t));
        assert_eq!(BlockType::from_name(&t.to_string().to_uppercase()), Some(t));
        assert_eq!(t.row_bytes(3 * N).unwrap(), 3 * N / t.weights() * t.bytes());
        assert_eq!(t.fallback(N), Some(t));
        let shape = MatrixShape::new(2, N);
        assert_eq!(Scheme::Block(t).bits_per_weight(shape), Some(t.bits_per_weight()));
    }
    assert_eq!(BlockType::from_name("q4_2"), None);
    let bits = [BlockType::Q4K, BlockType::Q6K, BlockType::Mxfp4].map(BlockType::bits_per_weight);
    assert_eq!(bits, [4.5, 6.5625, 4.25]);
}

#[test]
fn rows_that_do_not_divide_fall_back() {
    use BlockType::*;
    let fallbacks = [
        (Q2K, Q4_0),
        (Q3K, Q4_0),
        (Q4K, Q5_0),
        (Q5K, Q5_1),
        (Q6K, Q8_0),
        (Iq4Xs, Iq4Nl),
        (Tq1_0, Q4_0),
        (Tq2_0, Q4_0),
        (Q2_0, Q4_0),
    ];
    for (t, other) in fallbacks {
        assert_eq!(t.fallback(96), Some(other), "{t}");
        assert_eq!(t.fallback(97), None, "{t}");
        let refused = BlockView::new(MatrixShape::new(2, 96), t, &[]).unwrap_err();
        assert_eq!(
            refused,
            FormatError::RowLength { block_type: t, in_features: 96, fallback: Some(other) }
        );
        let text = refused.to_string();
        assert!(text.contains("96") && text.contains(other.name()), "{text}");
    }
    let refused = BlockMatrix::round_to_nearest(&[0.0; 97], MatrixShape::new(1, 97), Q4_0, None);
    assert!(refused.unwrap_err().to_string().contains("keep the matrix in f16"));
}

#[test]
fn wrong_lengths_are_refused() {
    for t in BlockType::ALL {
        let shape = MatrixShape::new(2, N);
        let bytes = 2 * t.row_bytes(N).unwrap();
        for got in [0, bytes - 1, bytes + 1] {
            let error = BlockMatrix::new(shape, t, vec![0; got]).unwrap_err();
            assert!(matches!(error, FormatError::Length { what: "blocks", .. }), "{error}");
            let (w, mut out) = (vec![0.0; 2 * N], vec![0; got]);
            let error = encode_rows(t, &w, N, None, &mut out).unwrap_err();
            assert!(matches!(error, FormatError::Length { what: "blocks", .. }), "{error}");
            assert!(decode_into(t, &out, &mut vec![0.0; 2 * N]).is_err());
        }
        let mut out = vec![0; bytes];
        for n in [0, N - 1, 2 * N - 1, 2 * N + 1] {
            assert!(encode_rows(t, &vec![0.0; n], N, None, &mut out).is_err(), "{n} weights");
            let error = BlockMatrix::round_to_nearest(&vec![0.0; n], shape, t, None).unwrap_err();
            assert!(matches!(error, FormatError::Length { what: "weight", .. }), "{error}");
        }
        let error = encode_rows(t, &[0.0; 2 * N], N, Some(&[1.0; N - 1]), &mut out).unwrap_err();
        assert!(matches!(error, FormatError::Length { what: "importance", .. }), "{error}");
        assert!(decode_into(t, &out[..1], &mut [0.0; 31]).is_err());
        // Sizes that overflow are no panic.
        assert!(t.row_bytes(usize::MAX / N * N).is_err() || t.bytes() <= t.weights());
        assert!(BlockView::new(MatrixShape::new(usize::MAX, N), t, &[]).is_err());
    }
}

#[test]
fn empty_matrices_have_no_values() {
    for t in BlockType::ALL {
        for shape in [MatrixShape::new(0, N), MatrixShape::new(3, 0), MatrixShape::new(0, 0)] {
            let matrix = BlockMatrix::round_to_nearest(&[], shape, t, None).unwrap();
            assert!(matrix.dequantize().is_empty() && matrix.data().is_empty());
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for t in BlockType::ALL {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for index in [0, 17, N - 1, N + 31] {
                let mut x = vec![0.5; 2 * N];
                x[index] = bad;
                let FormatError::NonFinite { what, index: at, .. } =
                    encode(t, &x, None).unwrap_err()
                else {
                    panic!("{t} accepts {bad}")
                };
                assert_eq!((what, at), ("weight", index));
            }
        }
        for bad in [f32::NAN, f32::INFINITY, -1.0] {
            let mut importance = [1.0; N];
            importance[9] = bad;
            let error = encode(t, &[0.5; N], Some(&importance)).unwrap_err();
            assert!(matches!(error, FormatError::Importance { index: 9, .. }), "{error}");
        }
    }
}

/// What a block cannot hold is an error, never an infinite scale and never silently something else.
#[test]
fn weights_beyond_the_scale_are_refused() {
    for (t, weighted) in BlockType::ALL.into_iter().flat_map(|t| [(t, false), (t, true)]) {
        let importance = weighted.then_some(&[1.0; N][..]);
        let mut limit = 0.0f32;
        for exponent in 0..128 {
            let largest = 2f32.powi(exponent);
            let mut x: Vec<f32> = Random::new(7).normals(2 * N).iter().map(|x| 0.01 * x).collect();
            x[N + 40] = largest;
            match encode(t, &x, importance) {
                Ok(blocks) => {
                    t.check(&blocks).unwrap();
                    let back = decode(t, &blocks);
                    assert!(back.iter().all(|v| v.is_finite()), "{t} at {largest}");
                    // The mean magnitude of q1_0 is far below its largest.
                    let kept = if t == BlockType::Q1_0 { 1.0 / 128.0 } else { 0.5 };
                    let value = back[N + 40];
                    assert!(value >= kept * largest, "{t}: {largest} became {value}");
                    limit = largest;
                }
                Err(FormatError::ScaleOverflow { block_type, index, .. }) => {
                    assert_eq!(block_type, t);
                    // Under importances, the square of the largest may overflow for the whole row.
                    let same_block = index / t.weights() == (N + 40) / t.weights();
                    assert!(same_block || weighted, "{t} at {largest}: {index}");
                }
                Err(error) => panic!("{t} at {largest}: {error}"),
            }
        }
        assert!(limit >= 1024.0, "{t} takes no more than {limit}");
        if t != BlockType::Mxfp4 {
            assert!(limit < 1e9, "{t} takes {limit}");
        }
    }
}

/// Far below the least scale, everything becomes zero.
#[test]
fn tiny_weights() {
    for t in BlockType::ALL {
        for exponent in (-149..-20).step_by(3) {
            let unit = f64::from(exponent).exp2();
            let x: Vec<f32> =
                Random::new(3).normals(N).iter().map(|x| (f64::from(*x) * unit) as f32).collect();
            let amax = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            for importance in [None, Some(&[1.0; N][..])] {
                let blocks = encode(t, &x, importance).unwrap();
                t.check(&blocks).unwrap();
                let back = decode(t, &blocks);
                // Scales may round up to the least f16, of which a code is at most 128 times.
                let bound = 2.0 * amax + 1e-5;
                assert!(back.iter().all(|v| v.abs() <= bound), "{t} at 2^{exponent}");
                if exponent < -60 && t != BlockType::Mxfp4 {
                    assert!(back.iter().all(|v| *v == 0.0), "{t} at 2^{exponent}");
                }
            }
        }
        for zero in [0.0, -0.0] {
            for importance in [None, Some(&[1.0; N][..]), Some(&[0.0; N])] {
                let back = decode(t, &encode(t, &[zero; N], importance).unwrap());
                assert!(back.iter().all(|v| *v == 0.0), "{t}");
            }
        }
    }
}

/// Decoded values are on the grid: encoding them again changes nothing, where the scale follows from the largest value alone.
#[test]
fn encoding_is_idempotent() {
    use BlockType::*;
    for t in [Q4_0, Q5_0, Q8_0, Mxfp4, Tq1_0, Tq2_0, Q2_0] {
        for seed in 0..20 {
            let blocks = encode(t, &Random::new(seed).normals(4 * N), None).unwrap();
            let back = decode(t, &blocks);
            assert_eq!(encode(t, &back, None).unwrap(), blocks, "{t}");
        }
    }
}

/// How far a weight may move, as a share of the largest magnitude of its block (or of the range, where there is a minimum).
#[test]
fn errors_stay_within_a_step() {
    use BlockType::*;
    let bounds = [(Q4_0, 8.0), (Q5_0, 16.0), (Q8_0, 254.0), (Q4_1, 30.0), (Q5_1, 62.0)];
    for (t, parts) in bounds {
        for seed in 0..50 {
            let x = Random::new(seed).normals(N);
            let back = decode(t, &encode(t, &x, None).unwrap());
            for (x, back) in x.chunks(t.weights()).zip(back.chunks(t.weights())) {
                let (low, high) =
                    x.iter().fold((f32::MAX, f32::MIN), |(a, b), &x| (a.min(x), b.max(x)));
                let affine = matches!(t, Q4_1 | Q5_1);
                let range = if affine { high - low } else { high.max(-low) };
                // Scales and minima are rounded to 11 bits.
                let bound = range / parts * 1.001 + (range + low.abs()) / 2048.0;
                for (x, back) in x.iter().zip(back) {
                    assert!((x - back).abs() <= bound, "{t}: {x} became {back}, bound {bound}");
                }
            }
        }
    }
}

#[test]
fn more_bits_err_less_and_importance_helps_where_it_matters() {
    use BlockType::*;
    let x = Random::new(11).normals(64 * N);
    let mut random = Random::new(12);
    let importance: Vec<f32> = (0..N).map(|_| (3.0 * random.normal()).exp() as f32).collect();
    // Σ w · error², for weights that repeat with every row.
    let error = |t: BlockType, importance: Option<&[f32]>, w: &[f32]| -> f64 {
        let back = decode(t, &encode(t, &x, importance).unwrap());
        let square = |(i, (a, b)): (usize, (&f32, &f32))| {
            f64::from(w[i % w.len()]) * f64::from(a - b).powi(2)
        };
        x.iter().zip(&back).enumerate().map(square).sum()
    };
    let plain = |t| error(t, None, &[1.0]);
    for order in [
        &[Q8_0, Q6K, Q5K, Q4K, Q3K, Q2K][..],
        &[Q8_0, Q5_1, Q4_1],
        &[Q8_0, Q5_0, Q4_0],
        &[Q5K, Iq4Xs, Q3K],
        &[Iq4Nl, Q4_0],
        &[Mxfp4, Q2K, Q1_0],
    ] {
        for pair in order.windows(2) {
            let (better, worse) = (plain(pair[0]), plain(pair[1]));
            assert!(better < worse, "{}: {better}, {}: {worse}", pair[0], pair[1]);
        }
    }
    assert_eq!(plain(Tq1_0), plain(Tq2_0));
    for t in BlockType::ALL {
        if t.uses_importance() {
            let before = error(t, None, &importance);
            let after = error(t, Some(&importance), &importance);
            assert!(after < before, "{t}: {after} with importances, {before} without");
        } else {
            let with = encode(t, &x, Some(&importance)).unwrap();
            assert_eq!(with, encode(t, &x, None).unwrap(), "{t}");
        }
    }
}

/// Rows are independent of each other and of how many are encoded at once.
#[test]
fn cutting_a_matrix_changes_nothing() {
    let (rows, n) = (5, 3 * N);
    let x = Random::new(5).normals(rows * n);
    let importance: Vec<f32> = Random::new(6).normals(n).iter().map(|x| x * x).collect();
    let shape = MatrixShape::new(rows, n);
    for t in BlockType::ALL {
        for importance in [None, Some(&importance[..])] {
            let matrix = BlockMatrix::round_to_nearest(&x, shape, t, importance).unwrap();
            let mut values = vec![0.0; n];
            for row in 0..rows {
                // A poisoned buffer: every byte has to be written.
                let mut part = vec![0xa5; t.row_bytes(n).unwrap()];
                encode_rows(t, &x[row * n..][..n], n, importance, &mut part).unwrap();
                assert_eq!(matrix.view().row(row), part, "{t}");
                matrix.dequantize_row_into(row, &mut values);
                assert_eq!(matrix.dequantize()[row * n..][..n], values, "{t}");
            }
            let any = Quantized::from(matrix.clone());
            any.dequantize_row_into(rows - 1, &mut values);
            assert_eq!(any.dequantize()[(rows - 1) * n..], values);
            assert_eq!((any.shape(), any.bits_per_weight()), (shape, t.bits_per_weight()));
            let again = BlockMatrix::new(shape, t, matrix.data().to_vec()).unwrap();
            assert_eq!(again, matrix);
        }
    }
}

/// A block of `t` whose f16 at `half` is 1 and whose other bytes are all `byte`.
fn uniform(t: BlockType, half: usize, byte: u8) -> Vec<u8> {
    let mut block = vec![byte; t.bytes()];
    block[half..half + 2].copy_from_slice(&f16::ONE.to_le_bytes());
    block
}

#[test]
fn every_code_of_every_codebook() {
    use BlockType::*;
    const E2M1: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    const IQ4: [f32; 16] = [
        -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0,
        69.0, 89.0, 113.0,
    ];
    let e2m1 = |code: u8| if code < 8 { E2M1[code as usize] } else { -E2M1[code as usize - 8] };
    for byte in 0..=255u8 {
        let (low, high) = (byte & 15, byte >> 4);
        let nibbles = |values: &[f32], value: &dyn Fn(u8) -> f32, n: usize| {
            for (i, v) in values.iter().enumerate() {
                assert_eq!(*v, value(if i % n < n / 2 { low } else { high }), "{byte:02x} at {i}");
            }
        };
        nibbles(&decode(Q4_0, &uniform(Q4_0, 0, byte)), &|q| f32::from(q) - 8.0, 32);
        nibbles(&decode(Iq4Nl, &uniform(Iq4Nl, 0, byte)), &|q| IQ4[q as usize], 32);
        let mut block = uniform(Q4_1, 0, byte);
        block[2..4].copy_from_slice(&f16::from_f32(-2.0).to_le_bytes());
        nibbles(&decode(Q4_1, &block), &|q| f32::from(q) - 2.0, 32);
        let mut block = uniform(Mxfp4, 1, byte);
        block[..3].copy_from_slice(&[130, byte, byte]);
        nibbles(&decode(Mxfp4, &block), &|q| 8.0 * e2m1(q), 32);
        let mut block = uniform(Nvfp4, 0, byte);
        block[..4].fill(0x40);
        nibbles(&decode(Nvfp4, &block), &|q| 2.0 * e2m1(q), 16);
        for (i, v) in decode(Q8_0, &uniform(Q8_0, 0, byte)).iter().enumerate() {
            assert_eq!(*v, f32::from(byte as i8), "{i}");
        }
        for (i, v) in decode(Q1_0, &uniform(Q1_0, 0, byte)).iter().enumerate() {
            assert_eq!(*v, if byte >> (i % 8) & 1 == 1 { 1.0 } else { -1.0 });
        }
        let pair = |shift: usize| f32::from(byte >> shift & 3) - 1.0;
        for (i, v) in decode(Q2_0, &uniform(Q2_0, 0, byte)).iter().enumerate() {
            assert_eq!(*v, pair(i % 4 * 2));
        }
        for (i, v) in decode(Tq2_0, &uniform(Tq2_0, 64, byte)).iter().enumerate() {
            assert_eq!(*v, pair(i / 32 % 4 * 2));
        }
        // The exponents of MXFP4, the scales of NVFP4.
        let mut block = [0x22; 17];
        block[0] = byte;
        let expected = f64::from(i32::from(byte) - 127).exp2() as f32;
        assert!(decode(Mxfp4, &block).iter().all(|v| *v == expected), "2^({byte} - 127)");
        let mut block = [0x22; 36];
        block[2] = byte;
        let (exponent, fraction) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
        let expected = match exponent {
            _ if byte == 0x7f => 0.0,
            0 => fraction * 2f32.powi(-9),
            e => (1.0 + fraction / 8.0) * 2f32.powi(e - 7),
        };
        assert!(decode(Nvfp4, &block)[32..48].iter().all(|v| *v == expected), "{byte:02x}");
    }
}

/// All combinations of five trits, and of four, at every place that holds them.
#[test]
fn every_trit() {
    let t = BlockType::Tq1_0;
    for number in 0..243 {
        let trit = |k: u32| (number / 3i32.pow(4 - k) % 3 - 1) as f32;
        let mut x = vec![0.0; N];
        for (i, x) in x.iter_mut().enumerate() {
            *x = trit(match i {
                0..160 => i / 32,
                160..240 => (i - 160) / 16,
                _ => (i - 240) / 4,
            } as u32);
        }
        // The scale follows from the largest magnitude.
        x[0] = if x[0] == 0.0 { 1.0 } else { x[0] };
        assert_eq!(decode(t, &encode(t, &x, None).unwrap()), x, "{number}");
    }
}

/// Every code of the K-quants at every place: each group spans the codes from first to last, so that its scale is a step.
#[test]
fn every_code_of_the_super_blocks() {
    use BlockType::*;
    for shift in 0..64usize {
        for (t, levels, zero) in
            [(Q2K, 4, 0.0), (Q3K, 8, 4.0), (Q4K, 16, 0.0), (Q5K, 32, 0.0), (Q6K, 64, 32.0)]
        {
            let group = if matches!(t, Q4K | Q5K) { 32 } else { 16 };
            let code = |i: usize| match i % group {
                0 => 0,
                1 => levels - 1,
                k => (k * 7 + i / group * 5 + shift) % levels,
            };
            let x: Vec<f32> = (0..N).map(|i| code(i) as f32 - zero).collect();
            let back = decode(t, &encode(t, &x, None).unwrap());
            let worst = x.iter().zip(&back).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
            // Below half a step everywhere: each code came back to its place.
            assert!(worst < 0.4, "{t}, shift {shift}: {worst}");
        }
    }
}

#[test]
fn damaged_scales_are_found() {
    for t in BlockType::ALL {
        let blocks = encode(t, &Random::new(1).normals(4 * N), None).unwrap();
        let n = blocks.len() / t.bytes();
        let at = match t {
            BlockType::Q2K => 82,
            BlockType::Q3K => 108,
            BlockType::Q6K => 208,
            BlockType::Tq1_0 => 52,
            BlockType::Tq2_0 => 64,
            BlockType::Q4_1 | BlockType::Q5_1 | BlockType::Q4K | BlockType::Q5K => 2,
            _ => 0,
        };
        let mut damaged = blocks;
        damaged[(n - 1) * t.bytes() + at..][..2].fill(0xff);
        if t == BlockType::Nvfp4 {
            // Every byte is a scale.
            t.check(&damaged).unwrap();
            continue;
        }
        let found = t.check(&damaged);
        assert_eq!(found, Err(FormatError::BlockScale { block_type: t, block: n - 1 }), "{t}");
        let matrix = BlockMatrix::new(MatrixShape::new(4, N), t, damaged).unwrap();
        assert!(matrix.view().check().is_err());
    }
}

proptest! {
    /// Decoding takes any bytes; values are finite wherever the scales are.
    #[test]
    fn any_bytes_decode(
        index in 0..BlockType::ALL.len(),
        bytes in prop::collection::vec(any::<u8>(), 420),
    ) {
        let t = BlockType::ALL[index];
        let blocks = &bytes[..bytes.len() / t.bytes() * t.bytes()];
        let values = decode(t, blocks);
        // The last exponents of MXFP4 reach beyond f32.
        if t.check(blocks).is_ok() && t != BlockType::Mxfp4 {
            prop_assert!(values.iter().all(|v| v.is_finite()));
        }
    }

    /// Encoding takes any finite floats, of any mixture of sizes, and any importances, or says why not.
    #[test]
    fn any_floats_encode(
        index in 0..BlockType::ALL.len(),
        bits in prop::collection::vec(any::<u32>(), N),
        importance in prop::option::of(prop::collection::vec(any::<u32>(), N)),
        largest in 0u32..255,
    ) {
        let t = BlockType::ALL[index];
        // Exponents up to a limit that differs from case to case, so that not all are refused.
        let float = |b: &u32, largest: u32| {
            let exponent = (b >> 23 & 0xff) * largest / 255;
            f32::from_bits(b & 0x807f_ffff | exponent << 23)
        };
        let x: Vec<f32> = bits.iter().map(|b| float(b, largest)).collect();
        let importance =
            importance.map(|d| d.iter().map(|b| float(b, 170).abs()).collect::<Vec<_>>());
        match encode(t, &x, importance.as_deref()) {
            Ok(blocks) => {
                t.check(&blocks).unwrap();
                prop_assert!(decode(t, &blocks).iter().all(|v| v.is_finite()));
            }
            Err(FormatError::ScaleOverflow { .. }) => {}
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
