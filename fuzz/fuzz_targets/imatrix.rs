//! Any bytes as an importance matrix. What is read is written in both forms, and reads the same.
#![no_main]

use fewbit_checkpoint::gguf::ImportanceMatrix;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a"), bytes).unwrap();
    let Ok(matrix) = ImportanceMatrix::read(&path("a")) else { return };
    for entry in matrix.entries.values() {
        assert!(entry.means().iter().all(|mean| mean.is_finite() && *mean >= 0.0));
    }
    // A name of the older form may be too long for the other, and a count be rounded to f32.
    let exact = matrix.entries.values().all(|e| e.counts().iter().all(|&c| c as f32 as u64 == c));
    if matrix.write_gguf(&path("b")).is_ok() {
        let back = ImportanceMatrix::read(&path("b")).unwrap();
        assert!(back == matrix || !exact);
    } else {
        assert!(!bytes.starts_with(b"GGUF"));
    }
    // A count may be too large, and a sum times the number of chunks.
    if matrix.write_dat(&path("c")).is_ok() {
        let back = ImportanceMatrix::read(&path("c")).unwrap();
        if bytes.starts_with(b"GGUF") {
            assert!(back.entries.len() <= matrix.entries.len());
        } else {
            assert_eq!(back, matrix);
        }
    } else {
        assert!(bytes.starts_with(b"GGUF"));
    }
});
