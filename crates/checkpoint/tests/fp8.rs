//! Block-wise FP8: round trips, every refusal, files that contradict themselves.

mod common;

use common::{config, encode, module};
use fewbit_checkpoint::{
    CheckpointError, Container, ContainerConfig, Dtype, Fp8, ModuleScheme, PlanInfo, Refusal,
    TensorSpec,
};
use fewbit_format::{
    Float8, Float8Matrix, Float8Scheme, MatrixShape, Quantized, ScaleTile, ScaleType, Scheme,
};
use fewbit_testkit::Random;
use proptest::prelude::*;
use serde_json::json;

fn scheme(rows: u32, columns: u32) -> Float8Scheme {
    let (tile, scale_type) = (ScaleTile::block(rows, columns), ScaleType::F32);
    Float8Scheme { element: Float8::E4M3, tile, scale_type }
}

fn rounded(shape: MatrixShape, scheme: Float8Scheme, seed: u64) -> Float8Matrix {
    let weight = Random::new(seed).normals(shape.len());
    Float8Matrix::round_to_nearest(&weight, shape, scheme).unwrap()
}

proptest! {
    /// Blocks at the edges may be smaller.
    #[test]
    fn decoding_undoes_encoding(seed: u64, out in 1usize..40, n in 1usize..40, rows in 1u32..20, columns in 1u32..20) {
        let shape = MatrixShape::new(out, n);
        let matrix = Quantized::from(rounded(shape, scheme(rows, columns), seed));
        let (memory, config) = encode(&Fp8, &matrix);
        assert!(config.holds(&memory, "m") && !config.holds(&memory, "n"));
        assert_eq!(config.name(), "fp8");
        let specs: Vec<TensorSpec> = Fp8.encode("m", &matrix).unwrap().into_iter().map(|(spec, _)| spec).collect();
        assert_eq!(specs, Fp8.tensors("m", shape, &matrix.scheme(), false));
        assert_eq!(config.decode(&memory, "m").unwrap(), matrix);
    }
}

#[test]
fn refusals_before_any_work() {
    let shape = MatrixShape::new(256, 256);
    let good = scheme(128, 128);
    let refusal = |shape, scheme: Scheme| match Fp8.check("m", shape, &scheme, false) {
        Err(CheckpointError::Refused { container: "fp8", refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    Fp8.check("m", shape, &Scheme::Float8(good), false).unwrap();
    let e5m2 = Float8Scheme { element: Float8::E5M2, ..good };
    assert!(matches!(refusal(shape, Scheme::Float8(e5m2)), Refusal::Scheme { .. }));
    assert!(matches!(refusal(shape, Scheme::LlmInt8), Refusal::Scheme { .. }));
    let bf16 = Float8Scheme { scale_type: ScaleType::BF16, ..good };
    assert!(matches!(refusal(shape, Scheme::Float8(bf16)), Refusal::ScaleType { .. }));
    let channel = Float8Scheme { tile: ScaleTile::Channel, ..good };
    assert!(matches!(refusal(shape, Scheme::Float8(channel)), Refusal::Granularity { .. }));
    let empty = refusal(MatrixShape::new(0, 3), Scheme::Float8(good));
    assert!(matches!(empty, Refusal::Empty { .. }));

    let check = |modules: &[ModuleScheme]| Fp8.check_plan(&PlanInfo { modules, damping: None });
    let (a, b) = (Scheme::Float8(good), Scheme::Float8(scheme(64, 64)));
    check(&[module("x", a), module("y", a), module("z", Scheme::Float)]).unwrap();
    let error = check(&[module("x", a), module("y", b)]).unwrap_err();
    assert!(error.to_string().contains("settings are not those of x"), "{error}");
    let error = check(&[module("xy", a), module("x", Scheme::Float)]).unwrap_err();
    assert!(error.to_string().contains("x stays in float"), "{error}");
}

#[test]
fn configurations() {
    let (written, _) =
        config(&Fp8, &[module("a", Scheme::Float8(scheme(128, 128))), module("b", Scheme::Float)]);
    assert_eq!(written["weight_block_size"], json!([128, 128]));
    assert_eq!(written["modules_to_not_convert"], json!(["b", "lm_head"]));
    for block in [json!(null), json!([128]), json!([0, 128]), json!(128), json!([-1, 2])] {
        let object = json!({"quant_method": "fp8", "weight_block_size": block});
        let error = ContainerConfig::parse(object.as_object().unwrap(), "config.json".as_ref());
        let error = error.unwrap_err();
        assert!(error.to_string().contains("weight_block_size in config.json"), "{error}");
    }
}

#[test]
fn tensors_that_contradict() {
    let (memory, config) = encode(&Fp8, &rounded(MatrixShape::new(8, 12), scheme(4, 8), 1));
    for name in memory.0.keys() {
        let mut missing = memory.clone();
        missing.0.remove(name);
        let error = config.decode(&missing, "m").unwrap_err();
        assert!(matches!(error, CheckpointError::MissingPart { .. }), "{error}");
        let mut other_type = memory.clone();
        other_type.0.get_mut(name).unwrap().0.dtype = Dtype::C64;
        let error = config.decode(&other_type, "m").unwrap_err();
        assert!(matches!(error, CheckpointError::Dtype { .. }), "{error}");
        for shape in [vec![], vec![1, 1, 1], vec![usize::MAX; 2], vec![0, 0], vec![5, 7]] {
            let mut other_shape = memory.clone();
            other_shape.0.get_mut(name).unwrap().0.shape = shape.clone();
            assert!(config.decode(&other_shape, "m").is_err(), "{name} {shape:?}");
        }
    }
    let mut nan = memory.clone();
    nan.0.get_mut("m.weight").unwrap().1[7] = 0x7f;
    assert!(config.decode(&nan, "m").unwrap_err().to_string().contains("0x7f at index 7"));
}
