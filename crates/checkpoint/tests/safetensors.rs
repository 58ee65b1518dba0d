//! Reading safetensors: values of every float type, and one test for each way in which a file can lie.

mod common;

use std::fs;

use common::{floats, folder_with, safetensors};
use fewbit_checkpoint::{Access, Checkpoint, CheckpointError, Dtype, HeaderError, Weight};
use fewbit_format::{MatrixShape, bf16, f16};
use fewbit_testkit::Random;

/// The error of a file with these bytes, the same under both ways of access.
fn header_error(bytes: &[u8]) -> HeaderError {
    let folder = folder_with(bytes);
    let error = Checkpoint::open_with(folder.path(), Access::Positioned).unwrap_err();
    let mapped = Checkpoint::open(folder.path()).unwrap_err();
    assert_eq!(error.to_string(), mapped.to_string());
    match error {
        CheckpointError::Header { file, source } => {
            assert_eq!(file, folder.path().join("model.safetensors"));
            source
        }
        other => panic!("{other}"),
    }
}

fn tensor(name: &str, dtype: &str, shape: &str, begin: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

#[test]
fn values_of_every_float_type_at_any_alignment() {
    // The odd byte in front puts every tensor at an odd address.
    let mut random = Random::new(1);
    let values: Vec<f32> = random.normals(100_000);
    let mut data = vec![7u8];
    data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
    data.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
    data.extend(values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()));
    let header = [
        tensor("byte", "U8", "[1]", 0, 1),
        tensor("a.weight", "F32", "[100,1000]", 1, 400_001),
        tensor("b.weight", "F16", "[100,1000]", 400_001, 600_001),
        tensor("c.weight", "BF16", "[100000]", 600_001, 800_001),
    ]
    .join(",");
    for pad in ["", " ", "   "] {
        let folder = folder_with(&safetensors(&format!("{{{header}}}{pad}"), &data));
        for access in [Access::Mapped, Access::Positioned] {
            let checkpoint = Checkpoint::open_with(folder.path(), access).unwrap();
            assert_eq!(checkpoint.read_f32("a.weight").unwrap(), values);
            let half: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
            assert_eq!(checkpoint.read_f32("b.weight").unwrap(), half);
            let brain: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
            assert_eq!(checkpoint.read_f32("c.weight").unwrap(), brain);
            assert_eq!(*checkpoint.read("byte").unwrap(), [7]);
            assert_eq!(checkpoint.read("a.weight").unwrap(), &data[1..400_001]);

            let shape = MatrixShape::new(100, 1000);
            let weight = Weight::Float { shape, dtype: Dtype::F16, data: half };
            assert_eq!(checkpoint.weight("b").unwrap(), weight);
            assert_eq!(checkpoint.bias("b").unwrap(), None);
            assert!(matches!(checkpoint.weight("c"), Err(CheckpointError::Rank { got: 1, .. })));
            let error = checkpoint.read_f32("byte").unwrap_err();
            assert!(matches!(&error, CheckpointError::Dtype { got: Dtype::U8, .. }), "{error}");
            let names: Vec<&str> = checkpoint.tensors().map(|t| t.name.as_str()).collect();
            assert_eq!(names, ["a.weight", "b.weight", "byte", "c.weight"]);
            let error = checkpoint.read("d").unwrap_err();
            assert!(
                matches!(error, CheckpointError::MissingTensor { tensor, .. } if tensor == "d")
            );
        }
    }
}

#[test]
fn empty_files_tensors_and_scalars_are_fine() {
    let folder = folder_with(&safetensors("{}", &[]));
    assert_eq!(Checkpoint::open(folder.path()).unwrap().tensors().len(), 0);
    let header = [
        tensor("none", "F32", "[0,5]", 0, 0),
        tensor("one", "F32", "[]", 0, 4),
        tensor("nothing", "F16", "[3,0]", 4, 4),
    ]
    .join(",");
    let folder = folder_with(&safetensors(&format!("{{{header}}}"), &2.5f32.to_le_bytes()));
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.read_f32("one").unwrap(), [2.5]);
    assert!(checkpoint.read_f32("none").unwrap().is_empty());
    assert!(checkpoint.read_f32("nothing").unwrap().is_empty());
}

#[test]
fn truncated_anywhere() {
    let whole = floats(&[("a", 3), ("b", 5)]);
    assert!(Checkpoint::open(folder_with(&whole).path()).is_ok());
    for length in 0..whole.len() {
        let error = header_error(&whole[..length]);
        let n = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
        match error {
            HeaderError::TooShort { bytes } if length < 8 => assert_eq!(bytes, length as u64),
            HeaderError::HeaderLength { header, file } if length < 8 + n => {
                assert_eq!((header, file), (n as u64, length as u64));
            }
            HeaderError::FileLength { expected, got } => {
                assert_eq!((expected, got), (whole.len() as u64, length as u64));
                assert!(error.to_string().contains("truncated"), "{error}");
            }
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn trailing_bytes() {
    let mut bytes = floats(&[("a", 3)]);
    bytes.push(0);
    let error = header_error(&bytes);
    assert!(matches!(error, HeaderError::FileLength { expected, got } if got == expected + 1));
    assert!(error.to_string().contains("belong to no tensor"), "{error}");
}

#[test]
fn impossible_header_lengths() {
    for claim in [u64::MAX, u64::MAX - 7, 100_000_001] {
        let mut bytes = floats(&[("a", 3)]);
        bytes[..8].copy_from_slice(&claim.to_le_bytes());
        assert!(
            matches!(header_error(&bytes), HeaderError::HeaderLimit { header } if header == claim)
        );
    }
    let mut bytes = floats(&[("a", 3)]);
    bytes[..8].copy_from_slice(&99_000_000u64.to_le_bytes());
    assert!(matches!(header_error(&bytes), HeaderError::HeaderLength { .. }));
}

#[test]
fn headers_that_do_not_parse() {
    assert!(matches!(
        header_error(&safetensors("[]", &[])),
        HeaderError::NotAnObject { first: b'[' }
    ));
    assert!(matches!(header_error(&safetensors("", &[])), HeaderError::NotAnObject { first: 0 }));
    assert!(matches!(
        header_error(&safetensors(" {}", &[])),
        HeaderError::NotAnObject { first: b' ' }
    ));
    let lies = [
        "{".to_owned(),
        "{}x".to_owned(),
        "{\"a\":1}".to_owned(),
        r#"{"a":{"dtype":"F32","shape":[1]}}"#.to_owned(),
        format!("{{{}}}", tensor("a", "F99", "[1]", 0, 4)),
        format!("{{{}}}", tensor("a", "F32", "[-1]", 0, 4)),
        format!("{{{}}}", tensor("a", "F32", "[1.5]", 0, 4)),
        format!("{{{}}}", tensor("a", "F32", "[99999999999999999999999]", 0, 4)),
        r#"{"__metadata__":{"format":3}}"#.to_owned(),
        format!("{{\"a\":{}}}", "[".repeat(100_000)),
    ];
    for header in lies {
        let error = header_error(&safetensors(&header, &[0; 4]));
        assert!(matches!(error, HeaderError::Json(_)), "{error}");
    }
    let mut bytes = safetensors("{\"aa\":1}", &[]);
    bytes[10] = 0xff;
    assert!(matches!(header_error(&bytes), HeaderError::Json(_)));
}

#[test]
fn duplicate_tensors() {
    let header = [tensor("a", "F32", "[1]", 0, 4), tensor("a", "F32", "[1]", 4, 8)].join(",");
    let error = header_error(&safetensors(&format!("{{{header}}}"), &[0; 8]));
    assert!(matches!(error, HeaderError::Duplicate { tensor } if tensor == "a"));
}

#[test]
fn impossible_names_and_ranks() {
    for name in ["", "a\\u0000b"] {
        let header = format!("{{{}}}", tensor(name, "F32", "[1]", 0, 4));
        assert!(matches!(header_error(&safetensors(&header, &[0; 4])), HeaderError::Name { .. }));
    }
    let header = format!("{{{}}}", tensor("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4));
    assert!(matches!(
        header_error(&safetensors(&header, &[0; 4])),
        HeaderError::Rank { rank: 9, .. }
    ));
}

#[test]
fn sizes_that_do_not_follow_from_the_shape() {
    let huge = format!("[{0},{0},{0}]", 1u64 << 40);
    for (dtype, shape, begin, end) in [
        ("F32", "[2]", 0, 4),
        ("F32", "[0]", 0, 4),
        ("F32", "[1]", 4, 0),
        ("F32", huge.as_str(), 0, 4),
        ("F4", "[3]", 0, 4),
        ("F32", "[4611686018427387905]", 0, 4),
    ] {
        let header = format!("{{{}}}", tensor("a", dtype, shape, begin, end));
        let error = header_error(&safetensors(&header, &[0; 4]));
        assert!(matches!(&error, HeaderError::Size { tensor, .. } if tensor == "a"), "{error}");
    }
}

#[test]
fn overlaps_and_holes() {
    let file = |b: &str| {
        let header = [tensor("a", "F32", "[2]", 0, 8), b.to_owned()].join(",");
        header_error(&safetensors(&format!("{{{header}}}"), &[0; 16]))
    };
    let error = file(&tensor("b", "F32", "[2]", 4, 12));
    assert!(
        matches!(&error, HeaderError::Overlap { tensor, begin: 4, other, end: 8 } if tensor == "b" && other == "a"),
        "{error}"
    );
    let error = file(&tensor("b", "F32", "[1]", 12, 16));
    assert!(matches!(error, HeaderError::Hole { begin: 12, end: 8, .. }), "{error}");
    let header = format!("{{{}}}", tensor("a", "F32", "[1]", 4, 8));
    let error = header_error(&safetensors(&header, &[0; 8]));
    assert!(matches!(error, HeaderError::Hole { begin: 4, end: 0, .. }), "{error}");
}

#[test]
fn configuration_files() {
    let folder = folder_with(&floats(&[("a", 3)]));
    let path = folder.path();
    assert!(Checkpoint::open(path).unwrap().config().is_empty());
    let config = path.join("config.json");
    fs::write(&config, r#"{"z": 1, "a": [2]}"#).unwrap();
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.config().keys().collect::<Vec<_>>(), ["z", "a"], "order is kept");
    for broken in ["{", "[]", ""] {
        fs::write(&config, broken).unwrap();
        let error = Checkpoint::open(path).unwrap_err();
        assert!(matches!(error, CheckpointError::Json { file, .. } if file == config));
    }
    for (value, named) in [
        (r#"{"quantization_config": 3}"#, "quantization_config"),
        (r#"{"quantization_config": {"quant_method": "aqlm", "bits": 4}}"#, "aqlm"),
        (r#"{"quantization_config": {"quant_method": "hqq"}}"#, "hqq"),
        (r#"{"quantization_config": {"quant_method": 4}}"#, "quant_method"),
    ] {
        fs::write(&config, value).unwrap();
        let error = Checkpoint::open(path).unwrap_err();
        assert!(matches!(error, CheckpointError::Config { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
}

/// Whatever a flipped byte does, there is no panic, and what opens can be read.
#[test]
fn mutated_files_never_panic() {
    let header = [
        tensor("m.qweight", "I32", "[4,8]", 0, 128),
        tensor("m.qzeros", "I32", "[1,1]", 128, 132),
        tensor("m.scales", "F16", "[1,8]", 132, 148),
        tensor("m.g_idx", "I32", "[32]", 148, 276),
        tensor("f.weight", "BF16", "[2,2]", 276, 284),
    ]
    .join(",");
    let mut data = vec![0x77; 132];
    data.extend([0x00, 0x3c].repeat(8));
    data.extend([0; 136]);
    let valid = safetensors(&format!("{{{header}}}"), &data);
    let config = br#"{"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32,"sym":true,"desc_act":false,
        "dynamic":{"+:n.*":{"bits":8}}}}"#;
    let folder = folder_with(&valid);
    fs::write(folder.path().join("config.json"), config).unwrap();
    Checkpoint::open(folder.path()).unwrap().check().unwrap();

    let mut random = Random::new(11);
    let (mut opened, mut decoded) = (0, 0);
    for round in 0..1500 {
        let (mut file, mut settings) = (valid.clone(), config.to_vec());
        for _ in 0..1 + random.below(4) {
            let target = if random.below(4) == 0 { &mut settings } else { &mut file };
            let at = random.below(target.len());
            match random.below(3) {
                0 => target[at] ^= 1 << random.below(8),
                1 => target[at] = b"0123456789[]{},:\"-"[random.below(18)],
                _ => drop(target.remove(at)),
            }
        }
        fs::write(folder.path().join("model.safetensors"), file).unwrap();
        fs::write(folder.path().join("config.json"), settings).unwrap();
        let access = if round % 2 == 0 { Access::Mapped } else { Access::Positioned };
        let Ok(checkpoint) = Checkpoint::open_with(folder.path(), access) else { continue };
        opened += 1;
        decoded += usize::from(checkpoint.check().is_ok() && checkpoint.weight("m").is_ok());
        for info in checkpoint.tensors() {
            assert!(info.bytes <= checkpoint.file_bytes());
            assert_eq!(checkpoint.read(&info.name).unwrap().len() as u64, info.bytes);
            let _ = checkpoint.read_f32(&info.name);
        }
    }
    assert!(opened > 50 && decoded > 10, "the mutations reach every layer: {opened}, {decoded}");
}
