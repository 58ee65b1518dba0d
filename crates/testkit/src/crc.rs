//! CRC-32 as in zip files.

/// CRC-32, reflected polynomial 0xEDB88320, initial value and final inversion all ones.
///
/// ```
/// assert_eq!(fewbit_testkit::crc32(b"123456789"), 0xcbf4_3926);
/// ```
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut table = [0u32; 256];
    for (i, entry) in table.iter_mut().enumerate() {
        *entry = (0..8).fold(i as u32, |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()));
    }
    !bytes
        .iter()
        .fold(!0, |crc, &byte| (crc >> 8) ^ table[((crc ^ u32::from(byte)) & 0xff) as usize])
}
