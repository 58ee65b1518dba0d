//! An index, a configuration and two shards.
#![no_main]

use fewbit_checkpoint::{Access, Checkpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: (&[u8], &[u8], &[u8], &[u8])| {
    let (index, config, first, second) = parts;
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes| std::fs::write(folder.path().join(name), bytes).unwrap();
    if index.is_empty() {
        write("model.safetensors", first);
    } else {
        write("model.safetensors.index.json", index);
        write("a", first);
        write("b", second);
    }
    if !config.is_empty() {
        write("config.json", config);
    }
    let Ok(checkpoint) = Checkpoint::open_with(folder.path(), Access::Positioned) else { return };
    let _ = checkpoint.check();
    for info in checkpoint.tensors() {
        checkpoint.read(&info.name).unwrap();
        if let Some((module, _)) = info.name.rsplit_once('.') {
            let _ = checkpoint.weight(module);
            let _ = checkpoint.bias(module);
        }
    }
});
