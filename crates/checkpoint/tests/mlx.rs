//! Folders of MLX: what it wrote decodes to its values and is encoded to its bytes; ours come back; what has no place is refused.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{
    Checkpoint, CheckpointError, Container, ContainerConfig, Mlx, ModelOutput, PlanInfo, Refusal,
    Weight,
};
use fewbit_format::{
    Bits, BlockType, Float4, Float4Matrix, Granularity, IntScheme, MatrixShape, OffsetScheme,
    Quantized, ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::Random;
use serde_json::{Value, json};

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/mlx"));
    let mut folders: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 8);
    folders
}

fn floats(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

fn quantized(checkpoint: &Checkpoint, module: &str) -> Quantized {
    match checkpoint.weight(module).unwrap() {
        Weight::Quant(matrix) => matrix,
        Weight::Float { .. } => panic!("{module} is not quantized"),
    }
}

#[test]
fn files_of_mlx_decode_to_its_values_and_encode_to_its_bytes() {
    for folder in fixtures() {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        assert!(matches!(checkpoint.container(), Some(ContainerConfig::Mlx(_))));
        checkpoint.check().unwrap();
        assert_eq!(checkpoint.quantized_modules().collect::<Vec<_>>(), ["a", "b"]);
        for module in ["a", "b"] {
            let matrix = quantized(&checkpoint, module);
            let expected = floats(&folder.join(format!("{module}.f32")));
            assert!(matrix.dequantize() == expected, "{} {module}", folder.display());
            for (spec, bytes) in Mlx.encode(module, &matrix).unwrap() {
                let info = checkpoint.tensor(&spec.name).unwrap();
                assert_eq!((info.dtype, &info.shape), (spec.dtype, &spec.shape));
                assert_eq!(*checkpoint.read(&spec.name).unwrap(), bytes, "{}", spec.name);
            }
        }
    }
}

#[test]
fn plain_rounding_is_that_of_mlx() {
    let mut compared = 0;
    for folder in fixtures() {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        let weight = floats(&folder.join("a.float.f32"));
        for module in ["a", "b"] {
            let theirs = quantized(&checkpoint, module);
            // Of 4-bit floats, MLX chooses other scales.
            let Quantized::Offset(theirs) = theirs else { continue };
            let scheme = Scheme::Offset(theirs.scheme());
            let ours = Quantized::round_to_nearest(&weight, theirs.shape(), scheme).unwrap();
            let same = ours == Quantized::Offset(theirs);
            assert!(same, "{} {module}", folder.display());
            compared += 1;
        }
    }
    assert_eq!(compared, 12);
}

/// A model of these modules and a norm, written and opened.
fn write(folder: &Path, modules: &[(String, Quantized)]) -> Checkpoint {
    let config = json!({ "model_type": "llama", "quantization": { "bits": 3, "group_size": 32 } });
    let (original, spec, norm) = common::norm_model(folder, &config);
    let schemes = common::schemes(modules);
    let mut specs = vec![spec];
    for m in &schemes {
        specs.extend(Mlx.tensors(&m.module, m.shape, &m.scheme, false));
    }
    let out = folder.join("out");
    let plan = PlanInfo { modules: &schemes, damping: None };
    Mlx.check_plan(&plan).unwrap();
    let output = ModelOutput {
        out: &out,
        original: &original,
        specs: &specs,
        plan: &plan,
        part_bytes: u64::MAX,
    };
    let mut writer = Mlx.writer(&output).unwrap();
    for (module, matrix) in modules {
        for (spec, bytes) in Mlx.encode(module, matrix).unwrap() {
            writer.write(&spec.name, &bytes).unwrap();
        }
    }
    writer.write("norm.weight", &norm).unwrap();
    writer.finish().unwrap();
    Checkpoint::open(&out).unwrap()
}

fn random(shape: MatrixShape, scheme: impl Into<Scheme>) -> Quantized {
    let weight = Random::new(5).normals(shape.len());
    Quantized::round_to_nearest(&weight, shape, scheme.into()).unwrap()
}

#[test]
fn every_grid_comes_back() {
    let shape = MatrixShape::new(5, 256);
    let mut modules = Vec::new();
    let mut add = |scheme: Scheme| {
        let matrix = match scheme {
            Scheme::Float4(Float4::Nvfp4) => {
                let codes = (0..shape.len()).map(|i| (i * 7 % 16) as u8).collect();
                let scales = (0..shape.len() / 16).map(|i| 0x30 + (i % 9) as u8).collect();
                Float4Matrix::new(shape, Float4::Nvfp4, codes, scales, 1.0).unwrap().into()
            }
            other => random(shape, other),
        };
        modules.push((format!("layers.{}.proj", modules.len()), matrix));
    };
    for bits in Bits::ALL {
        for (group, value_type) in
            [(32, ScaleType::F16), (64, ScaleType::BF16), (128, ScaleType::F32)]
        {
            add(Scheme::Offset(OffsetScheme::new(bits, group, value_type)));
        }
    }
    Float4::ALL.into_iter().for_each(|float| add(Scheme::Float4(float)));
    let folder = tempfile::tempdir().unwrap();
    let model = write(folder.path(), &modules);
    assert_eq!(model.quantized_modules().count(), modules.len());
    for (module, matrix) in &modules {
        assert_eq!(quantized(&model, module), *matrix, "{module}");
    }
    let [settings, again] = ["quantization", "quantization_config"].map(|k| &model.config()[k]);
    assert_eq!(settings, again);
    assert_eq!(settings["mode"], "affine");
    // All but the modules that share the usual settings are named.
    assert_eq!(settings.as_object().unwrap().len(), 3 + modules.len() - 1);
}

#[test]
fn integers_with_whole_offsets_go_there_and_back() {
    let shape = MatrixShape::new(7, 128);
    for bits in Bits::ALL {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            let granularity = Granularity::group(64);
            let int = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
            let matrix = random(shape, int);
            // In f16 the product of a scale and a large zero point has no place.
            let offset = Scheme::Offset(OffsetScheme::new(bits, 64, ScaleType::F32));
            let there = matrix.relay(&offset).unwrap();
            assert_eq!(there.dequantize(), matrix.dequantize());
            let back = there.relay(&Scheme::Int(int)).unwrap();
            assert_eq!(back, matrix);
        }
    }
    // MLX's own files begin at either end, and reach zero only up to rounding.
    let scheme = OffsetScheme::new(Bits::B4, 64, ScaleType::F16);
    let int = IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(64),
        scale_type: ScaleType::F16,
    };
    let matrix = random(shape, Scheme::Offset(scheme));
    assert!(matrix.relay(&int.into()).unwrap_err().to_string().contains("minimum"));
}

#[test]
fn blocks_with_minima_go_there_and_back() {
    let shape = MatrixShape::new(4, 128);
    for (block_type, bits) in [(BlockType::Q4_1, Bits::B4), (BlockType::Q5_1, Bits::B5)] {
        let blocks = random(shape, Scheme::Block(block_type));
        let offset = Scheme::Offset(OffsetScheme::new(bits, 32, ScaleType::F16));
        let there = blocks.relay(&offset).unwrap();
        assert_eq!(there.dequantize(), blocks.dequantize());
        assert_eq!(there.relay(&Scheme::Block(block_type)).unwrap(), blocks);
        // Wider groups become several blocks.
        let wide = random(shape, Scheme::Offset(OffsetScheme::new(bits, 64, ScaleType::F16)));
        let there = wide.relay(&Scheme::Block(block_type)).unwrap();
        assert_eq!(there.dequantize(), wide.dequantize());
        assert!(there.relay(&wide.scheme()).is_err());
    }
}

#[test]
fn what_has_no_place_is_refused() {
    let refusal = |shape: MatrixShape, scheme: Scheme| match Mlx
        .check("m", shape, &scheme, false)
        .unwrap_err()
    {
        CheckpointError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    };
    let shape = MatrixShape::new(4, 128);
    let offset = |group| Scheme::Offset(OffsetScheme::new(Bits::B4, group, ScaleType::F16));
    assert!(Mlx.check("m", shape, &offset(64), false).is_ok());
    assert!(matches!(refusal(shape, offset(16)), Refusal::GroupSize { group_size: 16, .. }));
    assert!(matches!(
        refusal(MatrixShape::new(4, 96), offset(64)),
        Refusal::RaggedGroup { in_features: 96, group_size: 64 }
    ));
    assert!(matches!(refusal(MatrixShape::new(0, 128), offset(64)), Refusal::Empty { .. }));
    assert!(matches!(refusal(shape, Scheme::Block(BlockType::Q4_0)), Refusal::Scheme { .. }));
    let mapped = Mlx.check("m", shape, &offset(64), true).unwrap_err();
    assert!(matches!(mapped, CheckpointError::Refused { refusal: Refusal::GroupMap, .. }));
    let nvfp4 = random(shape, Scheme::Float4(Float4::Nvfp4));
    assert!(Mlx.encode("m", &nvfp4).unwrap_err().to_string().contains("whole matrix"));
}

#[test]
fn impossible_files_name_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let shape = MatrixShape::new(4, 128);
    let matrix = random(shape, Scheme::Offset(OffsetScheme::new(Bits::B4, 64, ScaleType::F16)));
    let sound = write(folder.path(), &[("m".into(), matrix)]);
    let with = |change: &dyn Fn(&mut Value)| {
        let mut config = Value::Object(sound.config().clone());
        change(&mut config["quantization"]);
        let path = folder.path().join("out/config.json");
        fs::write(path, config.to_string()).unwrap();
        match Checkpoint::open(&folder.path().join("out")) {
            Err(error) => error.to_string(),
            Ok(model) => model.weight("m").unwrap_err().to_string(),
        }
    };
    for (key, value, names) in [
        ("mode", json!("mxfp8"), "mxfp8"),
        ("mode", json!(3), "mode"),
        ("bits", json!(7), "7"),
        ("bits", Value::Null, "bits"),
        ("group_size", json!(16), "16"),
        ("group_size", json!(-64), "-64"),
        // Another size of groups makes other rows.
        ("group_size", json!(128), "m.weight"),
        ("bits", json!(8), "m.weight"),
        ("mode", json!("mxfp4"), "m.weight"),
    ] {
        let message = with(&|settings| settings[key] = value.clone());
        assert!(message.contains(names), "{key} {value}: {message}");
    }
    let message = with(&|settings| settings["m"] = json!({ "bits": 9, "group_size": 64 }));
    assert!(message.contains("m.bits"), "{message}");
}
