//! Packing: the worked words of the format descriptions, and round trips.

use fewbit_format::{
    Bits, FormatError,
    packing::{
        Words, from_signed, pack_nibbles, pack_rows, to_signed, transpose, unpack_nibbles,
        unpack_rows,
    },
};
use fewbit_testkit::Random;
use proptest::prelude::*;

fn pack(codes: &[u8], bits: Bits) -> Vec<u32> {
    pack_rows(codes, 1, codes.len(), bits, Words::Dense)
}

#[test]
fn four_bit_word_has_the_first_code_lowest() {
    let words = pack(&[0, 1, 2, 3, 4, 5, 6, 7], Bits::B4);
    assert_eq!(words, [0x7654_3210]);
    assert_eq!(words[0].to_le_bytes(), [0x10, 0x32, 0x54, 0x76]);
}

/// The GPTQ 3-bit stream, with codes 10 and 21 across word borders.
#[test]
fn three_bit_stream_fills_three_words_with_32_codes() {
    let codes: Vec<u8> = (0..32).map(|i| (5 * i + 3) % 8).collect();
    assert_eq!(pack(&codes, Bits::B3), [0x43c6_7543, 0x7543_c675, 0xc675_43c6]);
    assert_eq!(pack(&[3; 32], Bits::B3), [0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d]);
    assert_eq!(pack(&[4; 32], Bits::B3), [0x2492_4924, 0x4924_9249, 0x9249_2492]);
}

/// The zero points of symmetric GPTQ files, version 1 (less one) and 2.
#[test]
fn constant_zero_points() {
    for (bits, v1, v2) in [
        (Bits::B2, 0x5555_5555, 0xaaaa_aaaa),
        (Bits::B4, 0x7777_7777, 0x8888_8888),
        (Bits::B8, 0x7f7f_7f7f, 0x8080_8080),
    ] {
        let count = 32 / bits.get() as usize;
        assert_eq!(pack(&vec![bits.middle() - 1; count], bits), [v1]);
        assert_eq!(pack(&vec![bits.middle(); count], bits), [v2]);
    }
}

/// Signed codes of compressed-tensors, as unsigned ones in words.
#[test]
fn signed_codes_in_words() {
    let codes = from_signed(&[-5, 0, 5, -6, -1, 4, -7, -2], Bits::B4).unwrap();
    assert_eq!(codes, [3, 8, 13, 2, 7, 12, 1, 6]);
    assert_eq!(pack(&codes, Bits::B4), [0x61c7_2d83]);
    let codes = from_signed(&[-125, -120, -115, -110], Bits::B8).unwrap();
    assert_eq!(pack(&codes, Bits::B8), [0x120d_0803]);
    // Zero points of 8 rows and one group, packed along the rows.
    let zeros = from_signed(&[0, 1, -8, 7, 3, -3, 2, -1], Bits::B4).unwrap();
    let words = pack_rows(&transpose(&zeros, 8, 1), 1, 8, Bits::B4, Words::Dense);
    assert_eq!(transpose(&words, 1, 1), [0x7a5b_f098]);
}

/// GPTQ: consecutive inputs of one output column share a word.
#[test]
fn gptq_words_run_along_the_inputs() {
    // (out_features, in_features) = (2, 8); the second output holds the codes backwards.
    let codes = [0, 1, 2, 3, 4, 5, 6, 7, 7, 6, 5, 4, 3, 2, 1, 0];
    let qweight = transpose(&pack_rows(&codes, 2, 8, Bits::B4, Words::Dense), 2, 1);
    assert_eq!(qweight, [0x7654_3210, 0x0123_4567]);
}

/// The earlier compressed-tensors layout of 3-bit codes: ten a word, two bits unused.
#[test]
fn padded_words_hold_whole_codes() {
    let codes: Vec<u8> = (0..12).map(|i| (5 * i + 3) % 8).collect();
    let words = pack_rows(&codes, 1, 12, Bits::B3, Words::Padded);
    let word =
        |codes: &[u8]| codes.iter().enumerate().map(|(i, &c)| u32::from(c) << (3 * i)).sum::<u32>();
    assert_eq!(words, [word(&codes[..10]), word(&codes[10..])]);
    assert_eq!(unpack_rows(&words, 1, 12, Bits::B3, Words::Padded).unwrap(), codes);
}

#[test]
fn all_nibble_pairs() {
    for low in 0..16u8 {
        for high in 0..16u8 {
            let bytes = pack_nibbles(&[low, high]);
            assert_eq!(bytes, [low | high << 4]);
            assert_eq!(unpack_nibbles(&bytes, 2).unwrap(), [low, high]);
        }
    }
    assert_eq!(pack_nibbles(&[1, 2, 3]), [0x21, 0x03]);
    assert_eq!(unpack_nibbles(&[0x21, 0x03], 3).unwrap(), [1, 2, 3]);
    assert!(unpack_nibbles(&[0x21], 3).is_err());
    assert!(pack_nibbles(&[]).is_empty());
}

#[test]
fn all_codes_as_signed_bytes() {
    for bits in Bits::ALL {
        let codes: Vec<u8> = (0..=bits.max_code()).collect();
        let signed = to_signed(&codes, bits);
        assert_eq!(i16::from(signed[0]), -i16::from(bits.middle()));
        assert_eq!(signed[bits.middle() as usize], 0);
        assert_eq!(from_signed(&signed, bits).unwrap(), codes);
    }
    let error = from_signed(&[0, 8], Bits::B4).unwrap_err();
    assert_eq!(error, FormatError::SignedRange { index: 1, value: 8, low: -8, bits: 4 });
    assert!(error.to_string().contains("-8..=7"), "{error}");
}

#[test]
fn wrong_number_of_words_is_refused() {
    for words in [2, 4] {
        let error = unpack_rows(&vec![0; words], 1, 32, Bits::B3, Words::Dense).unwrap_err();
        let FormatError::PackedLength { got, expected: 3, .. } = error else { panic!("{error}") };
        assert_eq!(got, words);
    }
    // What a lying header could claim: no overflow, no allocation.
    assert!(unpack_rows(&[], usize::MAX, usize::MAX, Bits::B3, Words::Dense).is_err());
    assert!(unpack_rows(&[], usize::MAX, 8, Bits::B4, Words::Padded).is_err());
}

fn widths() -> impl Strategy<Value = Bits> {
    prop::sample::select(Bits::ALL.to_vec())
}

proptest! {
    #[test]
    fn unpacking_undoes_packing(
        bits in widths(), rows in 0usize..5, columns in 0usize..131, padded: bool, seed: u64,
    ) {
        let layout = if padded { Words::Padded } else { Words::Dense };
        let mut random = Random::new(seed);
        let codes: Vec<u8> =
            (0..rows * columns).map(|_| random.bits() as u8 & bits.max_code()).collect();
        let words = pack_rows(&codes, rows, columns, bits, layout);
        prop_assert_eq!(unpack_rows(&words, rows, columns, bits, layout).unwrap(), codes);
    }

    /// Both layouts agree where words hold whole codes anyway, and the dense one wastes less than a word a row.
    #[test]
    fn dense_is_a_stream_of_bits(bits in widths(), count in 0usize..200, seed: u64) {
        let mut random = Random::new(seed);
        let codes: Vec<u8> = (0..count).map(|_| random.bits() as u8 & bits.max_code()).collect();
        let words = pack(&codes, bits);
        prop_assert_eq!(words.len(), (count * bits.get() as usize).div_ceil(32));
        for i in 0..words.len() * 32 {
            let code = codes.get(i / bits.get() as usize).copied().unwrap_or(0);
            let bit = code >> (i % bits.get() as usize) & 1;
            prop_assert_eq!((words[i / 32] >> (i % 32) & 1) as u8, bit, "bit {}", i);
        }
        if 32 % bits.get() == 0 {
            prop_assert_eq!(pack_rows(&codes, 1, count, bits, Words::Padded), words);
        }
    }

    #[test]
    fn transposing_twice_changes_nothing(rows in 0usize..70, columns in 0usize..70) {
        let values: Vec<u32> = (0..(rows * columns) as u32).collect();
        let turned = transpose(&values, rows, columns);
        prop_assert_eq!(transpose(&turned, columns, rows), values);
    }
}
