//! Any bytes as a weight file.
#![no_main]

use fewbit_checkpoint::{Access, Checkpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let Ok(checkpoint) = Checkpoint::open_with(&path, Access::Positioned) else { return };
    let mut total = 0;
    for info in checkpoint.tensors() {
        assert_eq!(checkpoint.read(&info.name).unwrap().len() as u64, info.bytes);
        let _ = checkpoint.read_f32(&info.name);
        total += info.bytes;
    }
    assert!(total < bytes.len() as u64);
});
