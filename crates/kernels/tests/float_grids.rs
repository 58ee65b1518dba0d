//! Products of codebooks and small floats with float activations, at every level.

mod common;

use std::num::NonZeroU32;

use common::{assert_close, levels, oracle};
use fewbit_format::{
    Codebook, CodebookScheme, Float4, Float8, Float8Matrix, Float8Scheme, MatrixShape, Quantized,
    ScaleTile, ScaleType, Scheme,
};
use fewbit_kernels::PackedMatrix;
use fewbit_testkit::Random;

fn schemes() -> Vec<Scheme> {
    let mut schemes = vec![Scheme::Float4(Float4::Mxfp4), Scheme::Float4(Float4::Nvfp4)];
    for codebook in Codebook::ALL {
        for (size, double) in [(64, true), (32, false), (16, false), (4096, true)] {
            let scheme = CodebookScheme::new(codebook, size, double, ScaleType::F32);
            schemes.push(Scheme::Codebook(scheme));
        }
    }
    for element in Float8::ALL {
        for tile in [
            ScaleTile::Tensor,
            ScaleTile::Channel,
            ScaleTile::block(1, 128),
            ScaleTile::block(3, 32),
            ScaleTile::block(2, 20),
        ] {
            schemes.push(Scheme::Float8(Float8Scheme {
                element,
                tile,
                scale_type: ScaleType::F32,
            }));
        }
    }
    schemes
}

#[test]
fn packed_products_of_every_float_grid() {
    let levels = levels();
    let mut random = Random::new(1);
    for scheme in schemes() {
        for in_features in [0, 1, 16, 31, 48, 64, 65, 192, 320] {
            let shape = MatrixShape::new(7, in_features);
            let weight = random.normals(shape.len());
            let Ok(matrix) = Quantized::round_to_nearest(&weight, shape, scheme) else {
                continue;
            };
            let Some(packed) = PackedMatrix::from_quantized(&matrix) else {
                // Only blocks of a codebook that begin within a row are refused.
                let Scheme::Codebook(CodebookScheme { block_size, .. }) = scheme else {
                    panic!("{scheme:?} has no product");
                };
                let (size, n) = (block_size.get() as usize, in_features);
                assert!(n % size != 0 && (n == 0 || size % n != 0), "{scheme:?} {shape:?}");
                continue;
            };
            check(
                &levels,
                &packed,
                &matrix.dequantize(),
                &mut random,
                &format!("{scheme:?} {shape:?}"),
            );
        }
    }
}

#[test]
fn every_byte_is_decoded() {
    // One column a step, so that all codes, subnormal ones among them, stand in every field of a word.
    let levels = levels();
    for element in Float8::ALL {
        let finite: Vec<u8> =
            (0..=255).filter(|&c| element.values()[usize::from(c)].is_finite()).collect();
        let scheme = Float8Scheme { element, tile: ScaleTile::Tensor, scale_type: ScaleType::F32 };
        for shift in 0..5 {
            let codes: Vec<u8> =
                (0..4 * 260).map(|i| finite[(i + 16 * shift) % finite.len()]).collect();
            let shape = MatrixShape::new(4, 260);
            let matrix = Float8Matrix::new(shape, scheme, codes, vec![0.75]).unwrap().into();
            let packed = PackedMatrix::from_quantized(&matrix).unwrap();
            let what = format!("{} from {shift}", element.name());
            check(&levels, &packed, &matrix.dequantize(), &mut Random::new(2), &what);
        }
    }
}

#[test]
fn what_has_no_float_product_is_said() {
    let weight = Random::new(3).normals(6 * 48);
    for scheme in [
        Scheme::LlmInt8,
        Scheme::Block(fewbit_format::BlockType::Q4_0),
        Scheme::Codebook(CodebookScheme {
            block_size: NonZeroU32::new(36).unwrap(),
            ..CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::F32)
        }),
    ] {
        let shape = if let Scheme::Block(_) = scheme {
            MatrixShape::new(3, 96)
        } else {
            MatrixShape::new(6, 48)
        };
        let matrix = Quantized::round_to_nearest(&weight, shape, scheme).unwrap();
        assert!(PackedMatrix::from_quantized(&matrix).is_none(), "{scheme:?}");
    }
}

fn check(
    levels: &[fewbit_kernels::Level],
    packed: &PackedMatrix,
    weight: &[f32],
    random: &mut Random,
    what: &str,
) {
    let shape = packed.shape();
    for (row, expected) in weight.chunks(shape.in_features.max(1)).enumerate() {
        for &level in levels {
            let mut values = vec![f32::NAN; shape.in_features];
            packed.dequantize_row_into(level, row, &mut values);
            assert_eq!(values, expected, "{level} {what}");
        }
    }
    for n_tokens in [1, 3, 4, 17] {
        let x = random.normals(n_tokens * shape.in_features);
        let expected = oracle(&x, n_tokens, weight, shape);
        let mut first: Option<Vec<f32>> = None;
        for &level in levels {
            let mut out = vec![f32::NAN; n_tokens * shape.out_features];
            packed.linear(level, &mut out, &x, n_tokens);
            let what = format!("{level} {n_tokens} tokens {what}");
            assert_close(&out, &expected, shape.in_features, &what);
            if level != fewbit_kernels::Level::SCALAR {
                assert_eq!(first.get_or_insert_with(|| out.clone()), &out, "{what}");
            }
        }
    }
}
