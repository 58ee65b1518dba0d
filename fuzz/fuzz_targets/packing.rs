//! Codes and words of every width.
#![no_main]

use fewbit_format::{
    Bits,
    packing::{Words, pack_nibbles, pack_rows, unpack_nibbles, unpack_rows},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, bool, u8, Vec<u8>)| {
    let (bits, padded, columns, mut codes) = input;
    let bits = Bits::ALL[usize::from(bits) % Bits::ALL.len()];
    let layout = if padded { Words::Padded } else { Words::Dense };
    codes.iter_mut().for_each(|code| *code &= bits.max_code());
    let columns = usize::from(columns).max(1);
    codes.truncate(codes.len() / columns * columns);
    let rows = codes.len() / columns;
    let words = pack_rows(&codes, rows, columns, bits, layout);
    assert_eq!(unpack_rows(&words, rows, columns, bits, layout).unwrap(), codes);
    assert!(unpack_rows(&words, rows, columns + 64, bits, layout).is_err() || rows == 0);
    codes.iter_mut().for_each(|code| *code &= 15);
    assert_eq!(unpack_nibbles(&pack_nibbles(&codes), codes.len()).unwrap(), codes);
});
