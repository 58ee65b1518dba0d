//! Lossless changes of grid: values equal to the bit, or a refusal.

use fewbit_format::{
    Bits, BlockMatrix, BlockType, Codebook, CodebookScheme, Float4, Float4Matrix, Float8,
    Float8Scheme, Granularity, IntGrid, IntScheme, MatrixShape, Misfit, QuantMatrix, Quantized,
    ScaleTile, ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::Random;

const SHAPE: MatrixShape = MatrixShape::new(5, 256);

fn scheme(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 }
}

fn weight() -> Vec<f32> {
    Random::new(3).normals(SHAPE.len())
}

fn int_matrix(scheme: IntScheme) -> QuantMatrix {
    QuantMatrix::round_to_nearest(&weight(), SHAPE, scheme).unwrap()
}

fn int(scheme: IntScheme) -> Quantized {
    int_matrix(scheme).into()
}

fn bits(matrix: &Quantized) -> Vec<u32> {
    matrix.dequantize().iter().map(|v| v.to_bits()).collect()
}

/// Values; zeros may differ in sign where a minimum is added.
fn same_values(a: &Quantized, b: &Quantized) -> bool {
    a.dequantize() == b.dequantize()
}

#[test]
fn simple_blocks_and_symmetric_integers_are_the_same_grid() {
    let pairs =
        [(BlockType::Q4_0, Bits::B4), (BlockType::Q5_0, Bits::B5), (BlockType::Q8_0, Bits::B8)];
    for (block_type, width) in pairs {
        let grid = Scheme::Int(scheme(width, Symmetry::Symmetric, Granularity::group(32)));
        let blocks: Quantized =
            BlockMatrix::round_to_nearest(&weight(), SHAPE, block_type, None).unwrap().into();
        let there = blocks.relay(&grid).unwrap();
        assert_eq!(bits(&there), bits(&blocks), "{}", block_type.name());
        assert_eq!(
            there.relay(&Scheme::Block(block_type)).unwrap(),
            blocks,
            "and back, to the byte"
        );

        for granularity in [Granularity::group(128), Granularity::group(32), Granularity::Channel] {
            let matrix = int(scheme(width, Symmetry::Symmetric, granularity));
            let blocks = matrix.relay(&Scheme::Block(block_type)).unwrap();
            assert_eq!(bits(&blocks), bits(&matrix), "{} from {granularity:?}", block_type.name());
        }
    }
}

#[test]
fn a_minimum_of_whole_steps_is_a_zero_point() {
    for (block_type, width) in [(BlockType::Q4_1, Bits::B4), (BlockType::Q5_1, Bits::B5)] {
        // Scales that are powers of two, so that scale · zero point is an f16.
        let affine = scheme(width, Symmetry::Affine, Granularity::group(64));
        let matrix = int_matrix(affine);
        let scales: Vec<f32> = matrix.scales().iter().map(|s| s.log2().round().exp2()).collect();
        let (codes, zeros) = (matrix.codes().to_vec(), matrix.zero_points().to_vec());
        let matrix: Quantized =
            QuantMatrix::new(SHAPE, affine, codes, scales, zeros, None).unwrap().into();
        let blocks = matrix.relay(&Scheme::Block(block_type)).unwrap();
        assert!(same_values(&blocks, &matrix), "{}", block_type.name());
        let grid = Scheme::Int(scheme(width, Symmetry::Affine, Granularity::group(32)));
        assert!(same_values(&blocks.relay(&grid).unwrap(), &matrix), "{}", block_type.name());
    }
    // The encoder's own minima lie anywhere.
    let blocks: Quantized =
        BlockMatrix::round_to_nearest(&weight(), SHAPE, BlockType::Q4_1, None).unwrap().into();
    let grid = Scheme::Int(scheme(Bits::B4, Symmetry::Affine, Granularity::group(32)));
    assert!(matches!(blocks.relay(&grid), Err(Misfit::Minimum { block: 0, .. })));
}

#[test]
fn integers_move_to_any_grid_that_has_their_values() {
    let all = [
        (Bits::B4, Symmetry::Symmetric, Bits::B4, Symmetry::Affine),
        (Bits::B4, Symmetry::Affine, Bits::B8, Symmetry::Symmetric),
        (Bits::B2, Symmetry::Affine, Bits::B4, Symmetry::Symmetric),
        (Bits::B3, Symmetry::Symmetric, Bits::B8, Symmetry::Affine),
        (Bits::B8, Symmetry::Affine, Bits::B8, Symmetry::Affine),
    ];
    for (from, symmetry, to, other) in all {
        let matrix = int(scheme(from, symmetry, Granularity::group(128)));
        let target =
            IntScheme { scale_type: ScaleType::F32, ..scheme(to, other, Granularity::group(64)) };
        let there = matrix.relay(&Scheme::Int(target)).unwrap();
        assert_eq!(there.scheme(), Scheme::Int(target));
        assert_eq!(bits(&there), bits(&matrix), "{from:?} {symmetry:?} to {to:?} {other:?}");
    }
    let per_tensor = int(scheme(Bits::B8, Symmetry::Symmetric, Granularity::Tensor));
    let there = per_tensor
        .relay(&Scheme::Int(scheme(Bits::B8, Symmetry::Symmetric, Granularity::Channel)))
        .unwrap();
    assert_eq!(bits(&there), bits(&per_tensor));
}

#[test]
fn what_has_no_place_is_refused() {
    let (sym, affine) = (Symmetry::Symmetric, Symmetry::Affine);
    let g = Granularity::group;
    let to = |matrix: &Quantized, b, s, g| matrix.relay(&Scheme::Int(scheme(b, s, g)));

    let matrix = int(scheme(Bits::B4, affine, g(32)));
    assert!(matches!(
        to(&matrix, Bits::B4, affine, g(64)),
        Err(Misfit::Groups { from: 32, to: 64 })
    ));
    assert!(matches!(
        to(&matrix, Bits::B4, affine, g(24)),
        Err(Misfit::Groups { from: 32, to: 24 })
    ));
    assert!(matches!(
        to(&matrix, Bits::B4, affine, Granularity::Tensor),
        Err(Misfit::Groups { .. })
    ));
    assert!(matches!(to(&matrix, Bits::B3, affine, g(32)), Err(Misfit::Range { bits: 3, .. })));
    assert!(matches!(to(&matrix, Bits::B4, sym, g(32)), Err(Misfit::Range { bits: 4, .. })));
    for block_type in [BlockType::Q4_0, BlockType::Q4_1] {
        assert!(matrix.relay(&Scheme::Block(block_type)).is_err());
    }
    assert!(matches!(matrix.relay(&Scheme::Block(BlockType::Q4K)), Err(Misfit::Grids { .. })));

    let bf16 = IntScheme { scale_type: ScaleType::BF16, ..scheme(Bits::B4, sym, g(32)) };
    let error = int(scheme(Bits::B4, sym, g(32))).relay(&Scheme::Int(bf16)).unwrap_err();
    assert!(matches!(error, Misfit::Scale { row: 0, group: 0, .. }), "{error}");

    // Act-order: the map is kept where the groups stay, and refused elsewhere.
    let ordered = scheme(Bits::B4, sym, g(64));
    let matrix = int_matrix(ordered);
    let map = (0..256u32).map(|c| c % 4).collect();
    let (codes, scales) = (matrix.codes().to_vec(), matrix.scales().to_vec());
    let matrix: Quantized =
        QuantMatrix::new(SHAPE, ordered, codes, scales, vec![], Some(map)).unwrap().into();
    let there = to(&matrix, Bits::B8, affine, g(64)).unwrap();
    assert_eq!(bits(&there), bits(&matrix));
    assert_eq!(there.group_of_column(), matrix.group_of_column());
    assert_eq!(to(&matrix, Bits::B4, sym, g(32)), Err(Misfit::GroupMap));
    assert_eq!(matrix.relay(&Scheme::Block(BlockType::Q4_0)), Err(Misfit::GroupMap));

    let odd = MatrixShape::new(1, 48);
    let grid = IntGrid::plain(scheme(Bits::B4, sym, Granularity::Channel));
    let matrix: Quantized =
        QuantMatrix::round_to_nearest_on(&weight()[..48], odd, &grid).unwrap().into();
    assert!(matches!(matrix.relay(&Scheme::Block(BlockType::Q4_0)), Err(Misfit::Format(_))));
}

#[test]
fn four_bit_floats_are_the_blocks_of_their_name() {
    for (block_type, scheme) in
        [(BlockType::Mxfp4, Float4::Mxfp4), (BlockType::Nvfp4, Float4::Nvfp4)]
    {
        let blocks: Quantized =
            BlockMatrix::round_to_nearest(&weight(), SHAPE, block_type, None).unwrap().into();
        let there = blocks.relay(&Scheme::Float4(scheme)).unwrap();
        assert!(same_values(&there, &blocks), "{scheme:?}");
        assert_eq!(
            there.relay(&Scheme::Block(block_type)).unwrap(),
            blocks,
            "and back, to the byte"
        );
        let other = if scheme == Float4::Mxfp4 { Float4::Nvfp4 } else { Float4::Mxfp4 };
        assert!(matches!(blocks.relay(&Scheme::Float4(other)), Err(Misfit::Grids { .. })));
        assert!(matches!(there.relay(&Scheme::Block(BlockType::Q4_0)), Err(Misfit::Grids { .. })));
    }
    // Any codes and scales: what is no number in E4M3 is zero in a block.
    let data = (0..SHAPE.len() / 64 * 36).map(|i| (i * 89 % 256) as u8).collect();
    let blocks: Quantized = BlockMatrix::new(SHAPE, BlockType::Nvfp4, data).unwrap().into();
    let there = blocks.relay(&Scheme::Float4(Float4::Nvfp4)).unwrap();
    assert!(same_values(&there, &blocks));
    // A scale of the whole matrix, or of the other sign, has no place in a block.
    let rounded = Float4Matrix::round_to_nearest(&weight(), SHAPE, Float4::Nvfp4).unwrap();
    let refused = Quantized::from(rounded).relay(&Scheme::Block(BlockType::Nvfp4));
    assert!(matches!(refused, Err(Misfit::Grids { .. })));
    let scales = vec![0x81; SHAPE.len() / 16];
    let signed = Float4Matrix::new(SHAPE, Float4::Nvfp4, vec![1; SHAPE.len()], scales, 1.0);
    let refused = Quantized::from(signed.unwrap()).relay(&Scheme::Block(BlockType::Nvfp4));
    assert!(matches!(refused, Err(Misfit::Grids { .. })));
}

#[test]
fn tiles_of_eight_bit_floats() {
    let scheme =
        |tile, scale_type| Scheme::Float8(Float8Scheme { element: Float8::E4M3, tile, scale_type });
    let round = |scheme| Quantized::round_to_nearest(&weight(), SHAPE, scheme).unwrap();
    let wide = [ScaleTile::Tensor, ScaleTile::Channel, ScaleTile::block(4, 128)];
    let narrow = [ScaleTile::block(1, 64), ScaleTile::block(1, 100), ScaleTile::block(2, 128)];
    let fits = [[true, true, true], [true, true, false], [true, false, true]];
    for (from, fits) in wide.into_iter().zip(fits) {
        let matrix = round(scheme(from, ScaleType::BF16));
        for (to, fits) in narrow.into_iter().zip(fits) {
            match matrix.relay(&scheme(to, ScaleType::F32)) {
                Ok(there) => assert!(fits && bits(&there) == bits(&matrix), "{from:?} {to:?}"),
                Err(Misfit::Groups { .. }) => assert!(!fits, "{from:?} {to:?}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
    let matrix = round(scheme(ScaleTile::Channel, ScaleType::F32));
    assert!(matches!(
        matrix.relay(&scheme(ScaleTile::Channel, ScaleType::BF16)),
        Err(Misfit::Scale { scale_type: "bf16", .. })
    ));
    assert!(matches!(
        matrix.relay(&scheme(ScaleTile::Tensor, ScaleType::F32)),
        Err(Misfit::Groups { .. })
    ));
    let (tile, scale_type) = (ScaleTile::Channel, ScaleType::F32);
    let other = Float8Scheme { element: Float8::E5M2, tile, scale_type };
    assert!(matches!(matrix.relay(&Scheme::Float8(other)), Err(Misfit::Grids { .. })));
}

#[test]
fn codebooks_under_plainer_magnitudes() {
    let scheme = |book, block, double, float| {
        Scheme::Codebook(CodebookScheme::new(book, block, double, float))
    };
    let nf4 = |block, double| scheme(Codebook::Nf4, block, double, ScaleType::F16);
    let double = Quantized::round_to_nearest(&weight(), SHAPE, nf4(64, true)).unwrap();
    for target in [nf4(64, false), nf4(32, false), scheme(Codebook::Nf4, 64, true, ScaleType::BF16)]
    {
        let there = double.relay(&target).unwrap();
        assert_eq!(there.scheme(), target);
        assert_eq!(bits(&there), bits(&double), "{target}");
    }
    assert!(matches!(double.relay(&nf4(32, true)), Err(Misfit::Groups { from: 64, to: 32 })));
    assert!(matches!(double.relay(&nf4(128, false)), Err(Misfit::Groups { from: 64, to: 128 })));
    let plain = double.relay(&nf4(64, false)).unwrap();
    assert!(matches!(plain.relay(&nf4(64, true)), Err(Misfit::Grids { .. })));
    let fp4 = scheme(Codebook::Fp4, 64, false, ScaleType::F16);
    assert!(matches!(plain.relay(&fp4), Err(Misfit::Grids { from: "nf4", to: "fp4" })));
}
