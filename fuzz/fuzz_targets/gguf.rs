//! Any bytes as a GGUF file. What opens is written again, and reads the same.
#![no_main]

use std::path::Path;

use fewbit_checkpoint::{
    Access,
    gguf::{Gguf, GgufSpec, GgufWriter},
};
use libfuzzer_sys::fuzz_target;

/// Writes everything in a file again; its bytes.
fn rewrite(file: &Gguf, out: &Path) -> Vec<u8> {
    let specs = file.tensors().map(|t| GgufSpec::new(&t.name, t.kind, t.dims.as_slice())).collect();
    let mut writer = GgufWriter::create(out, file.metadata(), specs, None).unwrap();
    for tensor in file.tensors() {
        writer.write(&tensor.name, &file.read(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    std::fs::read(out).unwrap()
}

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a"), bytes).unwrap();
    let Ok(file) = Gguf::open_with(&path("a"), Access::Positioned) else { return };
    let mut total = 0;
    for tensor in file.tensors() {
        let raw = file.read(&tensor.name).unwrap();
        assert_eq!(raw.len() as u64, tensor.bytes);
        if tensor.kind.decodes() {
            assert_eq!(file.read_f32(&tensor.name).unwrap().len() as u64, tensor.len());
        }
        total += tensor.bytes;
    }
    assert!(total < bytes.len() as u64);
    // NaN is not equal to itself, so bytes are compared: of the second writing with the first.
    let once = rewrite(&file, &path("b"));
    let again = Gguf::open_with(&path("b"), Access::Positioned).unwrap();
    for (a, b) in file.tensors().zip(again.tensors()) {
        assert_eq!((&a.name, &a.dims, a.kind), (&b.name, &b.dims, b.kind));
        assert_eq!(file.read(&a.name).unwrap(), again.read(&b.name).unwrap());
    }
    assert_eq!(rewrite(&again, &path("c")), once);
});
