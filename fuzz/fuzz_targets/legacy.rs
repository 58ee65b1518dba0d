//! Any bytes as a model of llama.cpp before GGUF, of llama2.c, and as a vocabulary of llama2.c.
#![no_main]

use fewbit_checkpoint::{
    Access,
    legacy::{GgmlFile, Llama2c, llama2c_vocabulary},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bin");
    std::fs::write(&path, bytes).unwrap();
    if let Ok(tokens) = llama2c_vocabulary(&path) {
        let text: usize = tokens.iter().map(|token| token.text.len() + 8).sum();
        assert_eq!(text + 4, bytes.len());
    }
    if let Ok(file) = Llama2c::open_with(&path, Access::Positioned) {
        for tensor in file.tensors() {
            let values = file.read_f32(&tensor.name);
            if let Ok(Some(matrix)) = file.quant_matrix(&tensor.name) {
                assert_eq!(matrix.dequantize(), values.unwrap());
            }
        }
    }
    // A model in several files: each is the same.
    std::fs::write(folder.path().join("x.bin.1"), bytes).unwrap();
    let Ok(file) = GgmlFile::open_with(&path, Access::Positioned) else { return };
    for tensor in file.tensors() {
        assert_eq!(file.read(&tensor.name).unwrap().len() as u64, tensor.bytes);
        let values = file.read_f32(&tensor.name).unwrap();
        assert_eq!(values.len() as u64, tensor.dims.iter().product::<u64>());
        let Some(modern) = file.read_modern(&tensor.name).unwrap() else { continue };
        let Some(block) = tensor.kind.block() else { continue };
        let mut decoded = vec![0.0; values.len()];
        block.decode(&modern, &mut decoded).unwrap();
        for (a, b) in values.iter().zip(&decoded) {
            assert!(a == b || a.is_nan() && b.is_nan(), "{a} {b}");
        }
    }
});
