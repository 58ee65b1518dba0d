//! ONNX files: every width and symmetry there and back, files of onnxruntime's own quantizer, and damaged ones.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{
    Checkpoint, CheckpointError, Container, Dtype, ModelOutput, Onnx, PlanInfo, Refusal, Weight,
};
use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, Quantized, ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::Random;

fn scheme(bits: Bits, symmetry: Symmetry, group: u32, scale_type: ScaleType) -> IntScheme {
    IntScheme { bits, symmetry, granularity: Granularity::group(group), scale_type }
}

/// All widths and symmetries, with ragged last blocks and odd numbers of blocks.
fn modules() -> Vec<(String, Quantized)> {
    let mut random = Random::new(3);
    let mut all = Vec::new();
    for bits in [Bits::B2, Bits::B4, Bits::B8] {
        for symmetry in [Symmetry::Symmetric, Symmetry::Affine] {
            for (group, in_features) in [(16, 64), (32, 96), (64, 100), (128, 40)] {
                for scale_type in [ScaleType::F32, ScaleType::F16] {
                    let shape = MatrixShape::new(6, in_features);
                    let weight: Vec<f32> =
                        (0..shape.len()).map(|_| random.normal() as f32 + 0.5).collect();
                    let scheme = scheme(bits, symmetry, group, scale_type);
                    let matrix = Quantized::round_to_nearest(&weight, shape, scheme.into());
                    all.push((format!("layer.{}.proj", all.len()), matrix.unwrap()));
                }
            }
        }
    }
    all
}

/// Writes modules and a float tensor to `x.onnx`.
fn write(folder: &Path, modules: &[(String, Quantized)]) -> PathBuf {
    let config = serde_json::json!({ "model_type": "llama" });
    let (original, spec, norm) = common::norm_model(folder, &config);
    let schemes = common::schemes(modules);
    let mut specs = vec![spec];
    for m in &schemes {
        specs.extend(Onnx.tensors(&m.module, m.shape, &m.scheme, false));
    }
    let out = folder.join("x.onnx");
    let plan = PlanInfo { modules: &schemes, damping: None };
    let output = ModelOutput {
        out: &out,
        original: &original,
        specs: &specs,
        plan: &plan,
        part_bytes: u64::MAX,
    };
    Onnx.check_plan(&plan).unwrap();
    assert!(Onnx.check_model(&output).unwrap().is_empty());
    let mut writer = Onnx.writer(&output).unwrap();
    assert!(matches!(writer.complete(), Err(CheckpointError::Unwritten { .. })));
    for (module, matrix) in modules.iter().rev() {
        for (spec, bytes) in Onnx.encode(module, matrix).unwrap() {
            assert_eq!(spec.bytes(), bytes.len() as u64);
            writer.write(&spec.name, &bytes).unwrap();
            assert!(writer.write(&spec.name, &bytes).is_err());
        }
    }
    writer.write_part("norm.weight", 0, &norm[..4]).unwrap();
    assert!(writer.write_part("norm.weight", 8, &norm[8..]).is_err());
    writer.write_part("norm.weight", 4, &norm[4..]).unwrap();
    assert!(writer.write("other", &norm).is_err());
    writer.finish().unwrap();
    out
}

#[test]
fn every_grid_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let modules = modules();
    let out = write(folder.path(), &modules);
    let model = Checkpoint::open(&out).unwrap();
    assert_eq!(model.quantized_modules().count(), modules.len());
    model.check().unwrap();
    for (module, matrix) in &modules {
        assert_eq!(model.weight(module).unwrap(), Weight::Quant(matrix.clone()), "{module}");
    }
    assert_eq!(model.read_f32("norm.weight").unwrap(), [1.0, -2.0, 0.5]);
    assert_eq!(model.config()["model_type"], "llama");
    assert_eq!(model.container().unwrap().name(), "onnx");
}

#[test]
fn what_has_no_place_is_refused() {
    let shape = MatrixShape::new(4, 64);
    let refusal = |scheme: IntScheme, group_map| match Onnx
        .check("m", shape, &scheme.into(), group_map)
        .unwrap_err()
    {
        CheckpointError::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    };
    let good = scheme(Bits::B4, Symmetry::Affine, 32, ScaleType::F32);
    assert!(Onnx.check("m", shape, &good.into(), false).is_ok());
    assert!(matches!(refusal(good, true), Refusal::GroupMap));
    let bits = IntScheme { bits: Bits::B3, ..good };
    assert!(matches!(refusal(bits, false), Refusal::Bits { .. }));
    for group in [8, 48] {
        let group = IntScheme { granularity: Granularity::group(group), ..good };
        assert!(matches!(refusal(group, false), Refusal::GroupSize { .. }));
    }
    let channel = IntScheme { granularity: Granularity::Channel, ..good };
    assert!(matches!(refusal(channel, false), Refusal::Granularity { .. }));
    let scales = IntScheme { scale_type: ScaleType::BF16, ..good };
    assert!(matches!(refusal(scales, false), Refusal::ScaleType { .. }));
    assert!(Onnx.check("m", shape, &Scheme::LlmInt8, false).is_err());
    assert_eq!(Onnx.scale_type(Dtype::BF16), ScaleType::F32);
}

/// onnxruntime's quantizer wrote `x.onnx`; `x.f32` is what its operator decoded.
#[test]
fn files_of_onnxruntime() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/onnx");
    for name in ["int4-affine-g16", "int4-sym-g32", "int8-affine-g32"] {
        let model = Checkpoint::open(&folder.join(format!("{name}.onnx"))).unwrap();
        let modules: Vec<&str> = model.quantized_modules().collect();
        let [module] = modules[..] else { panic!("{modules:?}") };
        let Weight::Quant(matrix) = model.weight(module).unwrap() else { panic!("{name}") };
        let expected: Vec<f32> = fs::read(folder.join(format!("{name}.f32")))
            .unwrap()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(matrix.dequantize(), expected, "{name}");
    }
}

#[test]
fn damaged_files_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let modules = &modules()[8..10];
    let out = write(folder.path(), modules);
    let bytes = fs::read(&out).unwrap();
    let path = folder.path().join("damaged.onnx");
    let mut random = Random::new(4);
    let mut refused = 0;
    for round in 0..600 {
        let mut damaged = bytes.clone();
        if round < bytes.len().min(200) {
            damaged.truncate(round * bytes.len() / 200);
        } else {
            let at = random.below(damaged.len().min(700));
            damaged[at] = random.below(256) as u8;
        }
        fs::write(&path, &damaged).unwrap();
        match Checkpoint::open(&path) {
            Ok(model) => refused += usize::from(model.check().is_err()),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 200, "{refused} of 600");
}

#[test]
fn files_beside_it_stay_beside_it() {
    // An initialiser `w` of one float whose data lies in another file.
    let model = |location: &str, offset: &str| {
        let message = |field: u8, body: &[u8]| [&[field << 3 | 2, body.len() as u8], body].concat();
        let pair = |key: &str, value: &str| {
            message(13, &[message(1, key.as_bytes()), message(2, value.as_bytes())].concat())
        };
        let tensor = [
            &[1 << 3, 1, 2 << 3, 1][..],
            &message(8, b"w"),
            &pair("location", location),
            &pair("offset", offset),
            &[14 << 3, 1],
        ];
        message(7, &message(5, &tensor.concat()))
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    fs::write(folder.path().join("x.data"), [0u8, 0, 0, 0, 0, 0, 128, 63]).unwrap();
    let open = |location: &str, offset: &str| {
        fs::write(&path, model(location, offset)).unwrap();
        Checkpoint::open(&path)
    };
    assert_eq!(open("x.data", "4").unwrap().read_f32("w").unwrap(), [1.0]);
    for (location, offset) in
        [("../x.data", "0"), ("/etc/x", "0"), ("x.data", "5"), ("x.data", "-1")]
    {
        let error = open(location, offset).unwrap_err();
        assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");
    }
    assert!(matches!(open("absent", "0").unwrap_err(), CheckpointError::Io { .. }));
}

#[test]
fn a_number_that_leaves_its_field_is_refused() {
    // Found by fuzzing: the last number of the packed dimensions went on behind them, and behind the initialiser.
    let message = |field: u8, body: &[u8]| [&[field << 3 | 2, body.len() as u8], body].concat();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.onnx");
    for after in [&[1, 8][..], &[]] {
        let initializer = message(5, &[&[1 << 3 | 2, 1, 0x8c][..], after].concat());
        fs::write(&path, message(7, &[initializer, message(2, b"graph")].concat())).unwrap();
        let error = Checkpoint::open(&path).unwrap_err();
        assert!(matches!(error, CheckpointError::Malformed { .. }), "{error}");
    }
}
