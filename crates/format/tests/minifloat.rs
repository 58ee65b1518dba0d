//! FP8, MXFP4 and NVFP4: every code, exact rounding, the vectors of torch 2.6 and compressed-tensors 0.13, and what is refused.

use fewbit_format::{
    Float4, Float4Matrix, Float8, Float8Matrix, Float8Scheme, FormatError, MatrixShape, Quantized,
    ScaleTile, ScaleType,
    minifloat::{E2M1, decode_e8m0, encode_e2m1},
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

const SHAPE: MatrixShape = MatrixShape::new(4, 64);

/// Finite values of a float8, as torch decodes them, and codes of 4096 values over 42 binades, as torch rounds them.
#[test]
fn float8_as_torch() {
    for (element, decoded, rounded) in
        [(Float8::E4M3, 0xbcca_99f4, 0x58b2_68b4), (Float8::E5M2, 0x3e8a_d98c, 0x8fda_0b28)]
    {
        let values: Vec<u8> = element
            .values()
            .iter()
            .flat_map(|v| if v.is_finite() { *v } else { 0.0 }.to_le_bytes())
            .collect();
        assert_eq!(crc32(&values), decoded, "{element:?}");
        let codes: Vec<u8> = sequence(4096)
            .into_iter()
            .enumerate()
            .map(|(i, x)| element.encode(x * f32::powi(2.0, i as i32 % 42 - 25)))
            .collect();
        assert_eq!(crc32(&codes), rounded, "{element:?}");
    }
}

#[test]
fn float8_special_codes() {
    for (code, e4m3, e5m2) in [
        (0x7e, 448.0, f32::NAN),
        (0x7f, f32::NAN, f32::NAN),
        (0xff, f32::NAN, f32::NAN),
        (0x7b, 352.0, 57344.0),
        (0x7c, 384.0, f32::INFINITY),
        (0xfc, -384.0, f32::NEG_INFINITY),
        (0x01, 1.0 / 512.0, 1.0 / 65536.0),
        (0x18, 0.0625, 1.0 / 512.0),
    ] {
        for (element, expected) in [(Float8::E4M3, e4m3), (Float8::E5M2, e5m2)] {
            let value = element.decode(code);
            assert!(value == expected || value.is_nan() && expected.is_nan(), "{code:#x} {value}");
        }
    }
    assert_eq!(Float8::E4M3.encode(-0.0), 0x80);
    assert_eq!(Float8::E4M3.encode(1.0 / 1024.0), 0);
    assert_eq!(Float8::E4M3.encode(1e9), 0x7e);
    assert_eq!(Float8::E4M3.encode(f32::NEG_INFINITY), 0xfe);
    assert_eq!(Float8::E5M2.encode(1e9), 0x7b);
}

/// Every finite code comes back, and midpoints go to even codes.
#[test]
fn float8_nearest_with_ties_to_even() {
    for element in Float8::ALL {
        for code in 0..=255 {
            let value = element.decode(code);
            if value.is_finite() {
                assert_eq!(element.encode(value), code);
            }
            let next = element.decode(code.wrapping_add(1));
            if code & 0x7f == 0x7f || !value.is_finite() || !next.is_finite() {
                continue;
            }
            let middle = (value + next) / 2.0;
            let (away, toward) = match code < 0x80 {
                true => (middle.next_up(), middle.next_down()),
                false => (middle.next_down(), middle.next_up()),
            };
            assert_eq!(element.encode(middle), code + code % 2, "{element:?} {middle}");
            assert_eq!(element.encode(away), code + 1, "{element:?} {middle}");
            assert_eq!(element.encode(toward), code, "{element:?} {middle}");
        }
    }
}

#[test]
fn e2m1_and_e8m0() {
    for code in 0..16u8 {
        let expected = if code == 8 { 0 } else { code };
        assert_eq!(encode_e2m1(E2M1[usize::from(code)]), expected);
    }
    for (code, pair) in E2M1[..8].windows(2).enumerate() {
        let (code, middle) = (code as u8, (pair[0] + pair[1]) / 2.0);
        assert_eq!(encode_e2m1(middle), code + code % 2);
        assert_eq!(encode_e2m1(middle.next_up()), code + 1);
        assert_eq!(encode_e2m1(-middle.next_up()), code + 9);
        assert_eq!(encode_e2m1(middle.next_down()), code);
    }
    assert_eq!([encode_e2m1(-1e-9), encode_e2m1(1e30), encode_e2m1(-1e30)], [8, 7, 15]);
    for code in 0..255 {
        assert_eq!(f64::from(decode_e8m0(code)), 2f64.powi(i32::from(code) - 127));
    }
    assert!(decode_e8m0(255).is_nan());
}

#[test]
fn float8_matrices_as_compressed_tensors() {
    for (tile, codes, scales, decoded) in [
        (ScaleTile::Tensor, 0xcf86_fc4d, 0x0503_57f8, 0x2423_eb36),
        (ScaleTile::Channel, 0x233e_456b, 0x014a_0658, 0x18e8_5b0a),
        (ScaleTile::block(2, 32), 0x08ff_3091, 0x8174_35a3, 0x0645_0812),
    ] {
        let scheme = Float8Scheme { element: Float8::E4M3, tile, scale_type: ScaleType::F32 };
        let matrix = Float8Matrix::round_to_nearest(&sequence(256), SHAPE, scheme).unwrap();
        assert_eq!(crc32(matrix.codes()), codes, "{tile:?}");
        assert_eq!(crc_f32(matrix.scales()), scales, "{tile:?}");
        assert_eq!(crc_f32(&Quantized::from(matrix).dequantize()), decoded, "{tile:?}");
    }
}

#[test]
fn tiles_at_the_edges_are_smaller() {
    let shape = MatrixShape::new(5, 7);
    let tile = ScaleTile::block(2, 3);
    assert_eq!(tile.count(shape), [3, 3]);
    let scheme = Float8Scheme { element: Float8::E5M2, tile, scale_type: ScaleType::BF16 };
    let scales: Vec<f32> = (0..9).map(|i| f32::powi(2.0, i)).collect();
    let codes = vec![Float8::E5M2.encode(1.0); 35];
    let matrix = Float8Matrix::new(shape, scheme, codes, scales).unwrap();
    let values = Quantized::from(matrix).dequantize();
    for (i, value) in values.into_iter().enumerate() {
        let tile = i / 7 / 2 * 3 + i % 7 / 3;
        assert_eq!(value, f32::powi(2.0, tile as i32), "{i}");
    }
    assert_eq!(ScaleTile::block(1, 8).name(), "group");
}

#[test]
fn float8_parts_that_do_not_fit_are_refused() {
    let (tile, scale_type) = (ScaleTile::Channel, ScaleType::BF16);
    let scheme = Float8Scheme { element: Float8::E4M3, tile, scale_type };
    let assemble = |codes, scales| Float8Matrix::new(SHAPE, scheme, codes, scales);
    assemble(vec![0x7e; 256], vec![1.0; 4]).unwrap();
    let mut codes = vec![0; 256];
    codes[9] = 0xff;
    assert_eq!(
        assemble(codes, vec![1.0; 4]).unwrap_err(),
        FormatError::NotANumber { what: "fp8 e4m3", index: 9, code: 0xff }
    );
    let error = assemble(vec![0; 256], vec![1.0; 3]).unwrap_err();
    assert!(matches!(error, FormatError::Length { what: "scales", .. }), "{error}");
    let error = assemble(vec![0; 255], vec![1.0; 4]).unwrap_err();
    assert!(matches!(error, FormatError::Length { what: "codes", .. }), "{error}");
    let error = assemble(vec![0; 256], vec![1.001; 4]).unwrap_err();
    assert!(matches!(error, FormatError::ScaleNotStored { .. }), "{error}");
    let error = assemble(vec![0; 256], vec![f32::INFINITY; 4]).unwrap_err();
    assert!(matches!(error, FormatError::NonFinite { .. }), "{error}");
    let mut weight = sequence(256);
    weight[200] = f32::NAN;
    let error = Float8Matrix::round_to_nearest(&weight, SHAPE, scheme).unwrap_err();
    assert!(matches!(error, FormatError::NonFinite { index: 200, .. }), "{error}");
}

#[test]
fn zero_tiles_and_tiny_weights() {
    for tile in [ScaleTile::Tensor, ScaleTile::Channel, ScaleTile::block(1, 16)] {
        for scale_type in [ScaleType::F16, ScaleType::BF16, ScaleType::F32] {
            let scheme = Float8Scheme { element: Float8::E4M3, tile, scale_type };
            let mut weight = vec![0.0; 256];
            let matrix = Float8Matrix::round_to_nearest(&weight, SHAPE, scheme).unwrap();
            assert!(matrix.scales().iter().all(|&scale| scale == 1.0));
            weight[0] = f32::MIN_POSITIVE / 64.0;
            weight[255] = f32::MAX;
            let matrix = Float8Matrix::round_to_nearest(&weight, SHAPE, scheme).unwrap();
            let values = Quantized::from(matrix).dequantize();
            assert!(values.iter().all(|v| v.is_finite()), "{scheme:?}");
        }
    }
    for scheme in Float4::ALL {
        let mut weight = vec![0.0; 256];
        let zero = Float4Matrix::round_to_nearest(&weight, SHAPE, scheme).unwrap();
        assert!(Quantized::from(zero).dequantize().iter().all(|&v| v == 0.0));
        weight[7] = 1e-44;
        weight[200] = -3e38;
        let matrix = Float4Matrix::round_to_nearest(&weight, SHAPE, scheme).unwrap();
        let values = Quantized::from(matrix).dequantize();
        assert!(values.iter().all(|v| v.is_finite()), "{scheme:?}");
        assert!((values[200] / -3e38 - 1.0).abs() < 0.2, "{scheme:?} {}", values[200]);
    }
}

fn nibbles(codes: &[u8]) -> Vec<u8> {
    codes.chunks(2).map(|pair| pair[0] | pair[1] << 4).collect()
}

#[test]
fn float4_matrices_as_compressed_tensors() {
    let nv = Float4Matrix::round_to_nearest(&sequence(256), SHAPE, Float4::Nvfp4).unwrap();
    assert_eq!(nv.global_scale(), 2_696.413_3);
    let scales = "7e7c7e7e7e7d7e7e7d7d7e7e7e7e7c7e";
    let hex: String = nv.scales().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, scales);
    assert_eq!(crc32(&nibbles(nv.codes())), 0x11d2_755d);
    assert_eq!(crc_f32(&Quantized::from(nv).dequantize()), 0xd2c4_f7e3);

    let mx = Float4Matrix::round_to_nearest(&sequence(256), SHAPE, Float4::Mxfp4).unwrap();
    assert_eq!(mx.scales(), [125; 8]);
    assert_eq!(crc32(&nibbles(mx.codes())), 0xf3c2_e621);
    assert_eq!(crc_f32(&Quantized::from(mx).dequantize()), 0x21a6_15dc);
    assert_eq!(Float4::Mxfp4.storage_bits(SHAPE), 256 * 4 + 8 * 8);
    assert_eq!(Float4::Nvfp4.storage_bits(SHAPE), 256 * 4 + 16 * 8 + 32);
}

#[test]
fn float4_parts_that_do_not_fit_are_refused() {
    let assemble = |scheme: Float4, codes, scale, n: usize, global| {
        Float4Matrix::new(SHAPE, scheme, codes, vec![scale; n], global)
    };
    let codes = vec![15; 256];
    assemble(Float4::Mxfp4, codes.clone(), 254, 8, 1.0).unwrap();
    assemble(Float4::Nvfp4, codes.clone(), 0x7e, 16, 0.5).unwrap();
    let mut wrong = codes.clone();
    wrong[1] = 16;
    assert!(assemble(Float4::Mxfp4, wrong, 127, 8, 1.0).is_err());
    assert!(assemble(Float4::Mxfp4, codes.clone(), 127, 16, 1.0).is_err());
    assert_eq!(
        assemble(Float4::Mxfp4, codes.clone(), 255, 8, 1.0).unwrap_err(),
        FormatError::NotANumber { what: "e8m0 scale", index: 0, code: 255 }
    );
    assert_eq!(
        assemble(Float4::Nvfp4, codes.clone(), 0xff, 16, 1.0).unwrap_err(),
        FormatError::NotANumber { what: "e4m3 scale", index: 0, code: 255 }
    );
    for global in [0.0, f32::INFINITY, f32::NAN] {
        let error = assemble(Float4::Nvfp4, codes.clone(), 1, 16, global).unwrap_err();
        assert!(matches!(error, FormatError::GlobalScale { scheme: "nvfp4", .. }), "{error}");
    }
    assert!(assemble(Float4::Mxfp4, codes, 127, 8, 2.0).is_err());
}

proptest! {
    /// Scaled to a tile, no value of the encoding is nearer to a weight than the one it got, but for rounding.
    #[test]
    fn float8_weights_take_their_nearest_value(seed: u64, e5m2: bool) {
        let element = if e5m2 { Float8::E5M2 } else { Float8::E4M3 };
        let weight = Random::new(seed).normals(35);
        let (tile, scale_type) = (ScaleTile::block(2, 3), ScaleType::F16);
        let scheme = Float8Scheme { element, tile, scale_type };
        let matrix = Float8Matrix::round_to_nearest(&weight, MatrixShape::new(5, 7), scheme).unwrap();
        let scales = matrix.scales().to_vec();
        for (i, (w, back)) in weight.iter().zip(Quantized::from(matrix).dequantize()).enumerate() {
            let scale = scales[i / 7 / 2 * 3 + i % 7 / 3];
            let finite = element.values().iter().filter(|v| v.is_finite());
            let best = finite.map(|v| (v * scale - w).abs()).fold(f32::MAX, f32::min);
            prop_assert!((back - w).abs() <= best + 4.0 * f32::EPSILON * w.abs());
        }
    }
}
