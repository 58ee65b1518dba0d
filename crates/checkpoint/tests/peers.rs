//! Checkpoints that other tools wrote, against what those tools decode (see testdata/README.md).

use std::{fs, path::Path};

use fewbit_checkpoint::{Access, Checkpoint, ContainerConfig, Weight};

#[test]
fn every_fixture_decodes_to_the_same_bits() {
    let testdata = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"));
    let mut folders = 0;
    for entry in fs::read_dir(testdata).unwrap() {
        let folder = entry.unwrap().path();
        // The other folders belong to other tests.
        if !folder.join("expected.safetensors").is_file() {
            continue;
        }
        folders += 1;
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        // The folder holds the expected values as a second file, so the weights are found by their usual name.
        let checkpoint = Checkpoint::open_with(&folder, Access::Positioned).unwrap();
        let expected = Checkpoint::open(&folder.join("expected.safetensors")).unwrap();
        let container = checkpoint.container().expect("a quantization_config");
        let prefix = match container {
            ContainerConfig::Gptq(_) => "gptqmodel-",
            ContainerConfig::CompressedTensors(_) => "ct-",
            ContainerConfig::Awq(_) => "awq-",
            ContainerConfig::BitsAndBytes(_) => "bnb-",
            other => panic!("{name}: {other:?}"),
        };
        assert!(name.starts_with(prefix), "{name}");
        checkpoint.check().unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut modules = 0;
        for info in expected.tensors() {
            let module = info.name.strip_suffix(".weight").expect("a weight");
            let Weight::Quant(matrix) = checkpoint.weight(module).unwrap() else {
                panic!("{name}: {module} is not quantized");
            };
            let shape = [matrix.shape().out_features, matrix.shape().in_features];
            assert_eq!(info.shape, shape, "{name}: {module}");
            let ours = matrix.dequantize();
            let theirs = expected.read_f32(&info.name).unwrap();
            for (i, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                // Both zeros are zero.
                assert!(a == b, "{name}: {module} at {i}: ours {a}, theirs {b}");
            }
            let mapped = matrix.group_of_column().is_some();
            // A map is stored only where act-order made one; q, k and v share theirs.
            assert!(!mapped || name.contains("actorder"), "{name}: {module}");
            modules += 1;
        }
        assert_eq!(modules, 7, "{name}");
        assert_eq!(checkpoint.quantized_modules().count(), 7, "{name}");
    }
    assert!(folders >= 32, "only {folders} fixtures");
}
