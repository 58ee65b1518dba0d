//! Bytes of the reference implementation, uncontracted, for inputs that anybody can make.

use fewbit_format::BlockType;

/// The generator of all inputs: multiplicative, 32 bits.
fn states(seed: u32) -> impl Iterator<Item = u32> {
    core::iter::successors(Some(seed), |s| {
        Some(s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
    })
    .skip(1)
}

/// Weights in −1 ..< 1.
fn weights(n: usize) -> Vec<f32> {
    states(1).take(n).map(|s| ((s >> 8) as f32 - 8_388_608.0) / 8_388_608.0).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encode(block_type: BlockType, n: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; block_type.row_bytes(n).unwrap()];
    block_type.encode_rows(&weights(n), n, importance, &mut out).unwrap();
    out
}

#[test]
fn the_generator_is_the_reference_one() {
    let x = weights(512);
    assert_eq!(x[..4], [-0.527089, -0.261_458_75, 0.008_484_006, 0.409_766_44]);
    assert_eq!((x[255], x[511]), (-0.49284637, 0.322_046_52));
}

#[test]
fn one_block_of_32() {
    let vectors = [
        (BlockType::Q4_0, "bc2fe456b89b31161d5920ba94674acef43f"),
        (BlockType::Q4_1, "1d30bcbbd355a88b31151c5820ba946649bde33f"),
        (BlockType::Q5_0, "bc2bccb20d66c7ac6017713c29a2407538cd838be75f"),
        (BlockType::Q5_1, "f72bbcbbccb20d66b7ab5016613b28a1406428cd828ad75f"),
        (BlockType::Q8_0, "cc1fbbde01368ade480f8125beec1859ba7e5fd33008b5988fd09f3616e0c24271ab"),
        (BlockType::Mxfp4, "7c7edc5015effcf6d2ff543ecae3677ef7"),
    ];
    for (block_type, expected) in vectors {
        assert_eq!(hex(&encode(block_type, 32, None)), expected, "{block_type}");
    }
    assert_eq!(
        hex(&encode(BlockType::Nvfp4, 64, None)),
        "22212322fd4bd0a52f6bd671f75c25b1de6f7fed7c77ebb149e706e4b2f6ccef67ade63f"
    );
}
