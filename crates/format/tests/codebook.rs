//! NF4, FP4 and LLM.int8(): the vectors of bitsandbytes 0.49.2, hard blocks, and what is refused.

use std::num::NonZeroU32;

use fewbit_format::{
    Absmax, Codebook, CodebookMatrix, CodebookScheme, DoubleQuant, FormatError, LlmInt8Matrix,
    MatrixShape, Quantized, ScaleType, f16,
};
use fewbit_testkit::{Random, crc32};
use proptest::prelude::*;

/// The input of all vectors: a linear congruential sequence between −1 and 1.
fn sequence(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 - 8_388_608.0) / 8_388_608.0
    };
    (0..n).map(|_| next()).collect()
}

fn crc_f32(values: &[f32]) -> u32 {
    // The sign of a zero is nothing that a file stores.
    let bytes: Vec<u8> = values.iter().flat_map(|v| (v + 0.0).to_le_bytes()).collect();
    crc32(&bytes)
}

/// As bitsandbytes packs: the first code in the high nibble.
fn packed(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

const SHAPE: MatrixShape = MatrixShape::new(4, 64);

fn rounded(codebook: Codebook, double: bool) -> CodebookMatrix {
    let scheme = CodebookScheme::new(codebook, 64, double, ScaleType::F32);
    CodebookMatrix::round_to_nearest(&sequence(256), SHAPE, scheme).unwrap()
}

fn values(matrix: impl Into<Quantized>) -> Vec<f32> {
    matrix.into().dequantize()
}

#[test]
fn nf4_and_fp4_vectors() {
    for (book, first, crc, decoded) in [
        (Codebook::Nf4, "247c04d80a259e2fe3b821031c942df1", 0xc080_3974, 0x486b_41c0),
        (Codebook::Fp4, "df14bf56b7de62d32c41dabca56fd53a", 0x57b1_ccfe, 0x0adf_ac71),
    ] {
        let matrix = rounded(book, false);
        let bytes = packed(matrix.codes());
        let hex: String = bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, first);
        assert_eq!(crc32(&bytes), crc);
        assert_eq!(matrix.magnitudes()[..], [0.988_678_6, 0.996_797_8, 0.973_611_24, 0.996_879_8]);
        assert_eq!(crc_f32(&values(matrix)), decoded);
    }
}

#[test]
fn double_quantization_vector() {
    let matrix = rounded(Codebook::Nf4, true);
    let Absmax::Double(double) = matrix.absmax() else { panic!("double quantization") };
    assert_eq!(double.codes, [92, 219, 0, 220]);
    assert_eq!(double.absmax, [0.015_380_621]);
    assert_eq!(f64::from(double.offset), 0.988_991_856_575_012_2);
    assert_eq!(crc_f32(&values(matrix)), 0xed02_a396);
}

/// The same codes under the table of another build of bitsandbytes decode to what that build decodes.
#[test]
fn a_stored_map_is_used_as_it_is() {
    let matrix = rounded(Codebook::Nf4, true);
    let Absmax::Double(double) = matrix.absmax() else { panic!("double quantization") };
    let mut other = double.clone();
    other.map[92] = -0.25;
    let changed = CodebookMatrix::new(
        SHAPE,
        matrix.scheme(),
        matrix.codes().to_vec(),
        Absmax::Double(other.clone()),
    )
    .unwrap();
    assert_eq!(changed.magnitudes()[0], -0.25 * other.absmax[0] + other.offset);
    assert_eq!(changed.magnitudes()[1..], matrix.magnitudes()[1..]);
}

#[test]
fn blocks_run_over_the_ends_of_rows() {
    let mut random = Random::new(1);
    for (out, n, block) in [(3, 50, 64), (5, 7, 32), (1, 1, 64), (7, 96, 64), (2, 200, 32)] {
        let shape = MatrixShape::new(out, n);
        let weight = random.normals(shape.len());
        for book in Codebook::ALL {
            for double in [false, true] {
                let scheme = CodebookScheme::new(book, block, double, ScaleType::BF16);
                let matrix = CodebookMatrix::round_to_nearest(&weight, shape, scheme).unwrap();
                let magnitudes = matrix.magnitudes();
                assert_eq!(magnitudes.len(), shape.len().div_ceil(block as usize));
                let expected: Vec<f32> = matrix
                    .codes()
                    .iter()
                    .enumerate()
                    .map(|(i, &c)| book.values()[usize::from(c)] * magnitudes[i / block as usize])
                    .collect();
                assert_eq!(values(matrix), expected);
            }
        }
    }
}

#[test]
fn blocks_of_zeros_and_outliers() {
    let scheme = CodebookScheme::new(Codebook::Nf4, 32, false, ScaleType::F32);
    let shape = MatrixShape::new(2, 64);
    let mut weight = vec![0.0; 128];
    weight[40] = 1e30;
    weight[41] = -1.0;
    weight[70] = f32::MIN_POSITIVE / 4.0;
    weight[100] = -0.0;
    let matrix = CodebookMatrix::round_to_nearest(&weight, shape, scheme).unwrap();
    let back = values(matrix.clone());
    assert!(back[..40].iter().all(|&v| v == 0.0));
    assert_eq!(back[40], 1e30);
    assert_eq!(back[41], 0.0);
    assert!(back.iter().all(|v| v.is_finite()));
    assert!(back[64..].iter().all(|v| v.abs() <= f32::MIN_POSITIVE));
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        weight[77] = bad;
        let error = CodebookMatrix::round_to_nearest(&weight, shape, scheme).unwrap_err();
        assert!(
            matches!(error, FormatError::NonFinite { what: "weight", index: 77, .. }),
            "{error}"
        );
    }
}

#[test]
fn codebook_parts_that_do_not_fit_are_refused() {
    let plain = CodebookScheme::new(Codebook::Fp4, 64, false, ScaleType::F32);
    let double = CodebookScheme { double_quant: NonZeroU32::new(256), ..plain };
    let magnitudes = || Absmax::Plain(vec![1.0; 4]);
    let nested =
        || DoubleQuant { codes: vec![0; 4], absmax: vec![1.0], map: vec![0.5; 256], offset: 0.0 };
    let assemble = |scheme, codes, absmax| CodebookMatrix::new(SHAPE, scheme, codes, absmax);
    let codes = vec![15u8; 256];
    assemble(plain, codes.clone(), magnitudes()).unwrap();
    assemble(double, codes.clone(), Absmax::Double(nested())).unwrap();

    let refused = |scheme, codes, absmax| assemble(scheme, codes, absmax).unwrap_err();
    let mut wrong = codes.clone();
    wrong[3] = 16;
    assert_eq!(
        refused(plain, wrong, magnitudes()),
        FormatError::CodeRange { what: "code", index: 3, value: 16, max: 15, bits: 4 }
    );
    assert!(matches!(
        refused(plain, vec![0; 255], magnitudes()),
        FormatError::Length { what: "codes", .. }
    ));
    assert!(matches!(
        refused(plain, codes.clone(), Absmax::Plain(vec![1.0; 5])),
        FormatError::Length { what: "magnitudes", .. }
    ));
    assert!(matches!(
        refused(plain, codes.clone(), Absmax::Plain(vec![1.0, 1.0, f32::NAN, 1.0])),
        FormatError::NonFinite { what: "magnitude", index: 2, .. }
    ));
    assert_eq!(refused(double, codes.clone(), magnitudes()), FormatError::DoubleQuant);
    assert_eq!(refused(plain, codes.clone(), Absmax::Double(nested())), FormatError::DoubleQuant);
    for (name, broken) in [
        ("magnitude codes", DoubleQuant { codes: vec![0; 3], ..nested() }),
        ("nested magnitudes", DoubleQuant { absmax: vec![], ..nested() }),
        ("map of magnitudes", DoubleQuant { map: vec![0.0; 255], ..nested() }),
    ] {
        let error = refused(double, codes.clone(), Absmax::Double(broken));
        assert!(matches!(error, FormatError::Length { what, .. } if what == name), "{error}");
    }
    for broken in [
        DoubleQuant { absmax: vec![f32::INFINITY], ..nested() },
        DoubleQuant { map: vec![f32::NAN; 256], ..nested() },
        DoubleQuant { offset: f32::NEG_INFINITY, ..nested() },
    ] {
        let error = refused(double, codes.clone(), Absmax::Double(broken));
        assert!(matches!(error, FormatError::NonFinite { .. }), "{error}");
    }
}

#[test]
fn codebook_sizes() {
    let shape = MatrixShape::new(64, 256);
    let plain = CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::F32);
    assert_eq!(plain.storage_bits(shape), 64 * 256 * 4 + 256 * 32);
    let double = CodebookScheme::new(Codebook::Nf4, 64, true, ScaleType::F32);
    assert_eq!(double.storage_bits(shape), 64 * 256 * 4 + 256 * 8 + 32 + 32);
}

#[test]
fn llm_int8_vector() {
    let matrix = LlmInt8Matrix::round_to_nearest(&sequence(256), SHAPE).unwrap();
    assert_eq!(matrix.codes()[..8], [-68, -34, 1, 53, -115, -34, 71, 14]);
    let bytes: Vec<u8> = matrix.codes().iter().map(|c| c.cast_unsigned()).collect();
    assert_eq!(crc32(&bytes), 0x85a6_29d2);
    let first = sequence(64).into_iter().fold(0f32, |max, w| max.max(w.abs()));
    assert_eq!(matrix.absmax()[0], f16::from_f32(first).to_f32());
    let c = f32::from(matrix.codes()[4]);
    assert_eq!(values(matrix.clone())[4], c * matrix.absmax()[0] * 7.874_016e-3);
    assert_eq!(LlmInt8Matrix::storage_bits(SHAPE), 256 * 8 + 4 * 32);
}

#[test]
fn llm_int8_hard_rows() {
    let weight = [0.0, 0.0, -0.0, 1.0, -1.0, 0.5, 60_000.0, 1.0, -2.0];
    let shape = MatrixShape::new(3, 3);
    let matrix = LlmInt8Matrix::round_to_nearest(&weight, shape).unwrap();
    // 63.5 rounds to the even 64.
    assert_eq!(matrix.codes(), [0, 0, 0, 127, -127, 64, 127, 0, 0]);
    assert_eq!(matrix.absmax(), [0.0, 1.0, 60_000.0]);
    for bad in [f32::NAN, f32::INFINITY, 70_000.0] {
        let mut weight = weight;
        weight[5] = bad;
        let error = LlmInt8Matrix::round_to_nearest(&weight, shape).unwrap_err();
        assert!(matches!(error, FormatError::NonFinite { index: 5, .. }), "{error}");
    }
    let empty = LlmInt8Matrix::round_to_nearest(&[], MatrixShape::new(3, 0)).unwrap();
    assert_eq!(empty.absmax(), [0.0; 3]);
    assert!(LlmInt8Matrix::new(shape, vec![0; 9], vec![1.0; 2]).is_err());
    assert!(LlmInt8Matrix::new(shape, vec![0; 8], vec![1.0; 3]).is_err());
    assert!(LlmInt8Matrix::new(shape, vec![0; 9], vec![1.0, f32::NAN, 1.0]).is_err());
}

proptest! {
    /// No value of the table is nearer to a weight than the one it got, but for rounding.
    #[test]
    fn weights_take_their_nearest_value(seed: u64, n in 1usize..200, fp4: bool) {
        let book = if fp4 { Codebook::Fp4 } else { Codebook::Nf4 };
        let weight = Random::new(seed).normals(n);
        let shape = MatrixShape::new(1, n);
        let scheme = CodebookScheme::new(book, 32, false, ScaleType::F32);
        let matrix = CodebookMatrix::round_to_nearest(&weight, shape, scheme).unwrap();
        let magnitudes = matrix.magnitudes().into_owned();
        for (i, (w, back)) in weight.iter().zip(values(matrix)).enumerate() {
            let best = book.values().iter().map(|v| (v * magnitudes[i / 32] - w).abs()).fold(f32::MAX, f32::min);
            prop_assert!((back - w).abs() <= best + 4.0 * f32::EPSILON * magnitudes[i / 32]);
        }
    }
}
