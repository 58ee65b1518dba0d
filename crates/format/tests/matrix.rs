//! The neutral matrix: what it refuses, and its values under every granularity.

use fewbit_format::{
    Bits, FormatError, Granularity, IntParams, IntScheme, MatrixShape, Plan, QuantMatrix,
    ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::Random;

const SHAPE: MatrixShape = MatrixShape::new(2, 10);

fn scheme(symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits: Bits::B3, symmetry, granularity, scale_type: ScaleType::F16 }
}

/// Two rows of groups of 4, 4 and 2 columns.
fn ragged() -> IntScheme {
    scheme(Symmetry::Affine, Granularity::group(4))
}

fn assemble(
    codes: Vec<u8>,
    scales: Vec<f32>,
    zeros: Vec<u8>,
    map: Option<Vec<u32>>,
) -> Result<QuantMatrix, FormatError> {
    QuantMatrix::new(SHAPE, ragged(), codes, scales, zeros, map)
}

#[test]
fn parts_that_do_not_fit_are_refused() {
    let (codes, scales, zeros) = (vec![0; 20], vec![1.0; 6], vec![0; 6]);
    assert!(assemble(codes.clone(), scales.clone(), zeros.clone(), None).is_ok());
    let length = |result: Result<QuantMatrix, FormatError>, name| {
        let FormatError::Length { what, .. } = result.unwrap_err() else {
            panic!("no length error")
        };
        assert_eq!(what, name);
    };
    length(assemble(vec![0; 19], scales.clone(), zeros.clone(), None), "codes");
    length(assemble(codes.clone(), vec![1.0; 4], zeros.clone(), None), "scales");
    length(assemble(codes.clone(), scales.clone(), Vec::new(), None), "zero points");
    length(assemble(codes.clone(), scales.clone(), zeros.clone(), Some(vec![0; 9])), "group map");
    let symmetric = scheme(Symmetry::Symmetric, Granularity::group(4));
    let extra =
        QuantMatrix::new(SHAPE, symmetric, codes.clone(), scales.clone(), zeros.clone(), None);
    length(extra, "zero points");

    let mut wrong = codes.clone();
    wrong[7] = 8;
    assert_eq!(
        assemble(wrong, scales.clone(), zeros.clone(), None).unwrap_err(),
        FormatError::CodeRange { what: "code", index: 7, value: 8, max: 7, bits: 3 }
    );
    let mut wrong = zeros.clone();
    wrong[5] = 9;
    assert_eq!(
        assemble(codes.clone(), scales.clone(), wrong, None).unwrap_err(),
        FormatError::CodeRange { what: "zero point", index: 5, value: 9, max: 7, bits: 3 }
    );
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut wrong = scales.clone();
        wrong[3] = bad;
        let error = assemble(codes.clone(), wrong, zeros.clone(), None).unwrap_err();
        assert!(matches!(error, FormatError::NonFinite { what: "scale", index: 3, .. }), "{error}");
    }
    let mut wrong = scales.clone();
    wrong[2] = 0.1;
    let error = assemble(codes.clone(), wrong, zeros.clone(), None).unwrap_err();
    assert!(matches!(error, FormatError::ScaleNotStored { index: 2, .. }), "{error}");

    let mut map = vec![0; 10];
    map[4] = 3;
    assert_eq!(
        assemble(codes.clone(), scales, zeros, Some(map)).unwrap_err(),
        FormatError::GroupRange { column: 4, group: 3, n_groups: 3 }
    );
    let channel = scheme(Symmetry::Symmetric, Granularity::Channel);
    assert_eq!(
        QuantMatrix::new(SHAPE, channel, codes, vec![1.0; 2], Vec::new(), Some(vec![0; 10]))
            .unwrap_err(),
        FormatError::GroupMapWithoutGroups { granularity: "channel" }
    );
}

#[test]
fn only_finite_weights_are_rounded() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut weight = vec![1.0; 20];
        weight[13] = bad;
        let error = QuantMatrix::round_to_nearest(&weight, SHAPE, ragged()).unwrap_err();
        assert!(matches!(error, FormatError::NonFinite { what: "weight", index: 13, .. }));
    }
    let error = QuantMatrix::round_to_nearest(&[1.0; 19], SHAPE, ragged()).unwrap_err();
    assert!(matches!(error, FormatError::Length { what: "weight", got: 19, expected: 20, .. }));
}

#[test]
fn values_by_hand() {
    let codes = (0..20).map(|i| i % 8).collect();
    let scales = vec![0.5, 1.0, 2.0, -0.25, 4.0, 8.0];
    let zeros = vec![0, 1, 2, 3, 4, 5];
    let plain = assemble(Vec::clone(&codes), scales.clone(), zeros.clone(), None).unwrap();
    #[rustfmt::skip]
    let expected = [
        0.0, 0.5, 1.0, 1.5, 3.0, 4.0, 5.0, 6.0, -4.0, -2.0,
        0.25, 0.0, -0.25, -0.5, 8.0, 12.0, -16.0, -12.0, -24.0, -16.0,
    ];
    assert_eq!(plain.dequantize(), expected);
    assert_eq!(plain.params(1, 2), IntParams { scale: 8.0, zero_point: 5 });
    assert_eq!((plain.n_groups(), plain.group(9)), (3, 2));
    assert_eq!(plain.bits_per_weight(), 3.0 + 6.0 * 19.0 / 20.0);

    // The map turns the groups around.
    let map = vec![2, 2, 1, 1, 1, 1, 0, 0, 0, 0];
    let mapped = assemble(codes, scales, zeros, Some(map)).unwrap();
    #[rustfmt::skip]
    let expected = [
        -4.0, -2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 3.5, 0.0, 0.5,
        -24.0, -16.0, 0.0, 4.0, 8.0, 12.0, 0.75, 0.5, 0.25, 0.0,
    ];
    assert_eq!(mapped.dequantize(), expected);
    assert_eq!(mapped.group(0), 2);
}

#[test]
fn rounding_stays_within_half_a_step_for_every_granularity() {
    let shape = MatrixShape::new(7, 45);
    let weight = Random::new(3).normals(shape.len());
    for bits in Bits::ALL {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for granularity in [
                Granularity::Tensor,
                Granularity::Channel,
                Granularity::group(16),
                Granularity::group(64),
            ] {
                let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F32 };
                let matrix = QuantMatrix::round_to_nearest(&weight, shape, scheme).unwrap();
                assert_eq!(matrix.scales().len(), granularity.n_scales(shape));
                let back = matrix.dequantize();
                for (i, (w, b)) in weight.iter().zip(&back).enumerate() {
                    let (row, column) = (i / 45, i % 45);
                    let scale = matrix.params(row, matrix.group(column)).scale;
                    // A symmetric range ends half a step inside the extreme; an affine one loses up to half a step to the zero point.
                    let bound =
                        scale * if symmetry == Symmetry::Affine { 1.0 } else { 0.5 } * 1.0001;
                    assert!(
                        (w - b).abs() <= bound,
                        "{scheme:?} at {row}, {column}: {w} became {b}"
                    );
                }
                let params: Vec<_> = (0..matrix.scales().len())
                    .map(|i| match granularity {
                        Granularity::Tensor => matrix.params(0, 0),
                        _ => matrix.params(i / matrix.n_groups(), i % matrix.n_groups()),
                    })
                    .collect();
                let again =
                    QuantMatrix::from_params(shape, scheme, matrix.codes().to_vec(), &params, None);
                assert_eq!(again.unwrap(), matrix);
            }
        }
    }
}

#[test]
fn empty_matrices_have_no_values() {
    for (out, n) in [(0, 5), (5, 0), (0, 0)] {
        for granularity in [Granularity::Tensor, Granularity::Channel, Granularity::group(4)] {
            let scheme = scheme(Symmetry::Affine, granularity);
            let matrix =
                QuantMatrix::round_to_nearest(&[], MatrixShape::new(out, n), scheme).unwrap();
            assert!(matrix.dequantize().is_empty());
            assert_eq!(matrix.bits_per_weight(), 0.0);
        }
    }
}

#[test]
fn widths_and_plans() {
    for bits in Bits::ALL {
        assert_eq!(Bits::try_from(bits.get()), Ok(bits));
        assert_eq!(u32::from(bits.max_code()) + 1, 1 << bits.get());
    }
    for bits in [0, 1, 7, 9, 32] {
        assert_eq!(Bits::try_from(bits), Err(FormatError::UnsupportedBits { bits }));
    }
    let plan = Plan::uniform(Scheme::Int(ragged())).with("head", Scheme::Float);
    assert_eq!(plan.scheme("head"), Scheme::Float);
    assert_eq!(plan.scheme("other"), plan.default_scheme());
    assert_eq!(plan.overrides().collect::<Vec<_>>(), [("head", Scheme::Float)]);
}
