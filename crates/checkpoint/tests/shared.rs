//! Real model folders, where this machine has them.

use std::fs;

use fewbit_checkpoint::{Access, Checkpoint, Weight};

#[test]
fn shared_models_open_and_read() {
    let Some(shared) = fewbit_testkit::shared_or_skip("shared_models_open_and_read") else {
        return;
    };
    let mut models = 0;
    for entry in fs::read_dir(shared.join("models")).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("config.json").is_file() {
            continue;
        }
        models += 1;
        let mapped = Checkpoint::open(&folder).unwrap();
        let positioned = Checkpoint::open_with(&folder, Access::Positioned).unwrap();
        assert!(mapped.container().is_none() && mapped.config().contains_key("hidden_size"));
        assert!(!mapped.companions().is_empty());
        let mut bytes = 0;
        for info in mapped.tensors() {
            assert_eq!(mapped.read(&info.name).unwrap(), positioned.read(&info.name).unwrap());
            assert!(mapped.read_f32(&info.name).unwrap().iter().all(|x| x.is_finite()));
            bytes += info.bytes;
        }
        assert!(bytes < mapped.file_bytes() && mapped.file_bytes() < bytes + 100_000);
        let Weight::Float { shape, data, .. } =
            mapped.weight("model.layers.0.mlp.down_proj").unwrap()
        else {
            panic!("{} is quantized", folder.display())
        };
        assert_eq!(mapped.config()["hidden_size"], shape.out_features);
        assert_eq!(mapped.config()["intermediate_size"], shape.in_features);
        assert_eq!(data.len(), shape.len());
    }
    assert!(models > 0);
}
