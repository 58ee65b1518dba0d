//! Bytes of the reference implementation, uncontracted, for inputs that anybody can make.

use fewbit_format::{BlockMatrix, BlockType, MatrixShape};
use fewbit_testkit::crc32;

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

/// Importances of 1 to 256.
fn importance(n: usize) -> Vec<f32> {
    states(7).take(n).map(|s| ((s >> 24) + 1) as f32).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn encode(block_type: BlockType, n: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let shape = MatrixShape::new(1, n);
    BlockMatrix::round_to_nearest(&weights(n), shape, block_type, importance).unwrap().into_data()
}

#[test]
fn the_generator_is_the_reference_one() {
    let x = weights(512);
    assert_eq!(x[..4], [-0.527089, -0.261_458_75, 0.008_484_006, 0.409_766_44]);
    assert_eq!(importance(4), [62.0, 234.0, 157.0, 238.0]);
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

/// The bytes of one super-block of 256 without importances.
#[test]
fn super_blocks() {
    let vectors = [
        (
            BlockType::Q2K,
            0x566a_81f4,
            concat!(
                "ffccbcdcdeeeebffffeceeccdccdcb5ae5fd868af46d1e5aec3e61555ac3b5a3abed6642dca4bc51a412f6f1",
                "1d5693087a5979156442ebd22eca89867bd56aa61618788e1fac545fa1b9d1a2c32945388f292f2c",
            ),
        ),
        (
            BlockType::Q3K,
            0x70b1_4cc8,
            concat!(
                "fab8ffbfca907515f83122b7f50ffadbfecf0c51db0d6f592d006c2d7784e88366933431c1a306d87151ae84",
                "99be126f15dd0ed0fe4b7f326fa2ffb54e8e345778b4b0f09d411ba6cc96c7117b7b560da54dc8f963a9c4c7",
                "ae9f0e7f3a7b368d117778a88b8367700cc3c3f027a1",
            ),
        ),
        (
            BlockType::Q4K,
            0x2c53_90d0,
            concat!(
                "8a181124fefbfafffcfcfdfebccafc2453f5678a70f5dbb8e0f92356a82c732e9cd45a07e331c104620a5825",
                "c36b2d929cbe6070cf4c07569a1f4b3736b27e9b8ae97841e6a99e659c24dece06368500a8a78676600abe1b",
                "d7ac9579be34ab586892b0c8fcc140de13a404163bb443a14d363c062951e9b517b290824ec6597825579ea1",
                "54bc9797cbcdf7caf349823f",
            ),
        ),
        (
            BlockType::Q5K,
            0xc5f6_1426,
            concat!(
                "22141724fefefffffdfcfdffccdfff287c2e610b4c16f3933eb7a49073897c5d1f6ee5b13aecceb0cce18dcc",
                "92618962a7fbc016e1fbb861e0f448bd525af75f2bbaa501e673a20ac416a24c98c84d35598de001bf990ebc",
                "553e977f8d840c3724f2f191fd714dea3848ecad0d6d2b10525f0efec0066f28b04a3bf46f7959b3c2347092",
                "fb9291af374a192e687a97539b7d5a0d54a2d37a2f7430049d8ca3f05aa02e43a969303f888cfe95e693045f",
            ),
        ),
        (
            BlockType::Q6K,
            0x2ee8_67b6,
            concat!(
                "df48f0ed03c832745129101b56766f0f965d333eb54ddf5d2b11bad9c1ce6117ab01c70d52201872a26136e8",
                "0416017556f8f531fdef85d16883c65814ca491764be5dac814c6d4ff0840679ae937205d50821b4f6d5121e",
                "0e84425c40958f06adfb22ef49901dd598da67dfbdbf8cf60888af5c702c8d89ebe61fcd35a0dd0588c17ab6",
                "c841236690025d2966ff889fa8ee6541dfa3bf52b711f5f21f14900bba99f9d5e4822b12de0b4946bb11ab66",
                "eaa44072a34068631c052d1d3f9578c4846e7b857c86808384868677847a6c7c1c8c",
            ),
        ),
    ];
    for (block_type, crc, expected) in vectors {
        let block = encode(block_type, 256, None);
        assert_eq!(hex(&block), expected, "{block_type}");
        assert_eq!(crc32(&block), crc, "{block_type}");
    }
}

/// The codebook types. What is called the reference quantizer of iq4_nl differs from the one that writes files, which is ours.
#[test]
fn codebooks() {
    let nl = encode(BlockType::Iq4Nl, 64, None);
    assert_eq!(crc32(&nl), 0x8d86_3872);
    let nl = encode(BlockType::Iq4Nl, 64, Some(&importance(64)));
    assert_eq!(
        hex(&nl),
        "ef1fe345c89c30151d4910cba3563adef32fd69f6b10baf709d021f4a0f0beeb24aee85e"
    );
    let xs = encode(BlockType::Iq4Xs, 256, None);
    assert_eq!(
        hex(&xs[..40]),
        "400cc33f2ff0fe4fe345b89c31151d4920cba3563adef32f6b10baf709d021f4a0f0beeb24aee85e"
    );
    assert_eq!(crc32(&xs), 0x2af7_7606);
    let xs = encode(BlockType::Iq4Xs, 256, Some(&importance(256)));
    assert_eq!(
        hex(&xs[..40]),
        "420cc3ff3ee0edefe345c89c31151d4910cba3563adef32f6b10baf709d021f4a0f0beeb24aee85e"
    );
    assert_eq!(crc32(&xs), 0x011c_bca5);
}

/// One row of 64, so that the mean square of the row is not that of a block.
#[test]
fn blocks_of_32_under_importance() {
    let vectors = [
        (
            BlockType::Q4_0,
            0x02e7_e8e0,
            "1f30e456b88b41261c5920ba946749cdf43f16b07b20baf719c032f5a1f1adea359de86d",
        ),
        (
            BlockType::Q4_1,
            0x977d_3a51,
            "5d3096bbc345a78a30151b4820a9835648bcd32e1e307ebb95df5608e73fcd0b5e0f5215ca622792",
        ),
        (
            BlockType::Q5_0,
            0x3a22_ed9d,
            "dd2bccb20d66c7ac6017713c29a2407538cd838be75fd4ab15ecac6fd54064fe119054f941f05bc46a3bc0cb",
        ),
        (
            BlockType::Q5_1,
            0xd3a0_dca5,
            "102cf7bbccb20d66b7ac5016713c28a1406428cd838ad75f042cacbbea1353902abfac01ee7fab06ce1ea44b95c54f35",
        ),
    ];
    for (block_type, plain_crc, expected) in vectors {
        let importance = importance(64);
        assert_eq!(hex(&encode(block_type, 64, Some(&importance))), expected, "{block_type}");
        assert_eq!(crc32(&encode(block_type, 64, None)), plain_crc, "{block_type}");
    }
}

/// Super-blocks under importance: the checksum of all, and the bytes that hold scales. Where the compiler contracts products and sums, the reference
/// gives 0x23321ad9 for q2_k.
#[test]
fn super_blocks_under_importance() {
    let vectors = [
        (BlockType::Q2K, 0xe409_86fc, 0, "ffccbeeeceefeaefdfedebdcdd9daa6b"),
        (BlockType::Q2K, 0xe409_86fc, 80, "1529162c"),
        (BlockType::Q3K, 0x985a_4457, 96, "3499a7b99d7487810cc3c3f055a1"),
        (BlockType::Q4K, 0x8639_904f, 0, "91180d24fdfafcfffcfbfefebcd6fb05"),
        (BlockType::Q5K, 0x4f1c_d171, 0, "31141624fcfdfefffafcfdfdcbdefe3a"),
        (BlockType::Q6K, 0x6b11_0cf5, 192, "846e7c847c89808388868677837a6d7c1a8c"),
    ];
    for (block_type, crc, at, expected) in vectors {
        let block = encode(block_type, 256, Some(&importance(256)));
        assert_eq!(hex(&block[at..at + expected.len() / 2]), expected, "{block_type}");
        assert_eq!(crc32(&block), crc, "{block_type}");
    }
}
