//! Any bytes as an ONNX file, and the same bytes as the file beside it that holds initialisers. What decodes is encoded again, and reads the same.
#![no_main]

use fewbit_checkpoint::{Access, Checkpoint, Container, Onnx, Weight};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    std::fs::write(&path, bytes).unwrap();
    std::fs::write(folder.path().join("x.data"), bytes).unwrap();
    let Ok(file) = Checkpoint::open_with(&path, Access::Positioned) else { return };
    let sound = file.check().is_ok();
    for tensor in file.tensors() {
        assert_eq!(file.read(&tensor.name).unwrap().len() as u64, tensor.bytes);
    }
    for module in file.quantized_modules() {
        let Ok(weight) = file.weight(module) else {
            assert!(!sound, "{module} passed the check");
            continue;
        };
        let Weight::Quant(matrix) = weight else { panic!("{module} is quantized") };
        assert_eq!(matrix.dequantize().len(), matrix.shape().len());
        for (spec, data) in Onnx.encode(module, &matrix).unwrap() {
            assert_eq!(spec.bytes(), data.len() as u64);
        }
    }
});
