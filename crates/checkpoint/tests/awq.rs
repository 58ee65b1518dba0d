//! AWQ: worked words, round trips, every refusal; files of AutoAWQ are in peers.rs.

mod common;

use common::{Memory, config, encode, matrix, module};
use fewbit_checkpoint::{
    Awq, CheckpointError, Container, ContainerConfig, Dtype, ModuleScheme, PlanInfo, Refusal,
    TensorSpec,
};
use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Quantized, ScaleType, Scheme, Symmetry,
    f16,
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn scheme(symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits: Bits::B4, symmetry, granularity, scale_type: ScaleType::F16 }
}

#[test]
fn words_are_interleaved() {
    // Code and zero point of output n are n; one group.
    let shape = MatrixShape::new(16, 3);
    let codes = (0..48).map(|i| (i / 3) as u8).collect();
    let zeros = (0..16).collect();
    let scales = (0..16).map(|i| i as f32).collect();
    let scheme = scheme(Symmetry::Affine, Granularity::Channel);
    let matrix = QuantMatrix::new(shape, scheme, codes, scales, zeros, None).unwrap();
    let (memory, config) = encode(&Awq, &matrix);
    assert_eq!(memory.words("m.qweight"), [0x7531_6420, 0xfdb9_eca8].repeat(3));
    assert_eq!(memory.words("m.qzeros"), [0x7531_6420, 0xfdb9_eca8]);
    assert_eq!(memory.0["m.qweight"].0.shape, [3, 2]);
    assert_eq!(memory.0["m.scales"].0.shape, [1, 16]);
    assert_eq!(memory.0["m.scales"].1[2..4], f16::from_f32(1.0).to_le_bytes());
    assert_eq!(config.decode(&memory, "m").unwrap(), matrix.into());
}

fn round_trip(matrix: QuantMatrix) {
    let matrix = Quantized::Int(matrix);
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    Awq.check("m", shape, &scheme, false).unwrap();
    let specs: Vec<TensorSpec> =
        Awq.encode("m", &matrix).unwrap().into_iter().map(|(spec, _)| spec).collect();
    assert_eq!(specs, Awq.tensors("m", shape, &scheme, false));
    let (memory, config) = encode(&Awq, &matrix);
    assert!(config.holds(&memory, "m") && !config.holds(&memory, "n"));
    assert_eq!(config.name(), "awq");
    assert_eq!(config.decode(&memory, "m").unwrap(), matrix);
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(seed: u64, out in 1usize..6, groups in 1usize..4, size in 1u32..40, affine: bool, channel: bool) {
        let symmetry = if affine { Symmetry::Affine } else { Symmetry::Symmetric };
        let granularity = if channel { Granularity::Channel } else { Granularity::group(size) };
        let shape = MatrixShape::new(8 * out, groups * size as usize);
        round_trip(matrix(shape, scheme(symmetry, granularity), 0, false, seed));
    }
}

fn refusal(shape: MatrixShape, scheme: impl Into<Scheme>, map: bool) -> Refusal {
    match Awq.check("m", shape, &scheme.into(), map).unwrap_err() {
        CheckpointError::Refused { container: "awq", refusal, module } if module == "m" => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn refusals_before_any_work() {
    let good = scheme(Symmetry::Affine, Granularity::group(32));
    let shape = MatrixShape::new(64, 64);
    Awq.check("m", shape, &good.into(), false).unwrap();
    let bits = Bits::B3;
    assert!(matches!(
        refusal(shape, IntScheme { bits, ..good }, false),
        Refusal::Bits { bits: Bits::B3, supported: "4" }
    ));
    let scale_type = ScaleType::BF16;
    assert!(matches!(
        refusal(shape, IntScheme { scale_type, ..good }, false),
        Refusal::ScaleType { .. }
    ));
    let tensor = IntScheme { granularity: Granularity::Tensor, ..good };
    assert!(matches!(refusal(shape, tensor, false), Refusal::Granularity { .. }));
    let ragged = IntScheme { granularity: Granularity::group(48), ..good };
    assert!(matches!(refusal(shape, ragged, false), Refusal::RaggedGroup { .. }));
    assert_eq!(refusal(shape, good, true), Refusal::GroupMap);
    let words = refusal(MatrixShape::new(60, 64), good, false);
    assert!(matches!(words, Refusal::Words { axis: "output", size: 60, multiple: 8, .. }));
    assert!(matches!(refusal(MatrixShape::new(8, 0), good, false), Refusal::Empty { .. }));
    assert_eq!(
        refusal(shape, Scheme::LlmInt8, false),
        Refusal::Scheme { scheme: "llm.int8()", supported: "integer grids" }
    );
    assert!(Awq.tensors("m", shape, &Scheme::LlmInt8, false).is_empty());
}

#[test]
fn one_group_size_for_the_whole_model() {
    let plan = |modules: &[ModuleScheme]| Awq.check_plan(&PlanInfo { modules, damping: None });
    let affine = |size| Scheme::Int(scheme(Symmetry::Affine, Granularity::group(size)));
    let symmetric = Scheme::Int(scheme(Symmetry::Symmetric, Granularity::group(32)));
    plan(&[module("a", affine(32)), module("b", Scheme::Float), module("c", affine(32))]).unwrap();
    for other in [affine(64), symmetric] {
        let error = plan(&[module("a", affine(32)), module("c", other)]).unwrap_err();
        let CheckpointError::Refused { refusal, module, .. } = error else { panic!("{error}") };
        assert_eq!((module.as_str(), refusal), ("c", Refusal::Differs { other: "a".into() }));
    }
    let error =
        plan(&[module("layers.1.up", Scheme::Float), module("layers.1.up_proj", affine(32))]);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("layers.1.up stays in float"), "{error}");
    let error = plan(&[module("lm_head", affine(32))]).unwrap_err();
    assert!(error.to_string().contains("output layer"), "{error}");
    let ragged = plan(&[module("a", affine(48))]).unwrap_err();
    assert!(ragged.to_string().contains("multiple of the group size"), "{ragged}");
}

#[test]
fn configurations() {
    let affine = Scheme::Int(scheme(Symmetry::Affine, Granularity::group(32)));
    let (written, _) = config(&Awq, &[module("a.b", affine)]);
    let expected = json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "gemm", "modules_to_not_convert": null});
    assert_eq!(Value::Object(written), expected);
    let channel = Scheme::Int(scheme(Symmetry::Symmetric, Granularity::Channel));
    let (written, _) = config(&Awq, &[module("a", channel), module("b", Scheme::Float)]);
    assert_eq!(written["group_size"], -1);
    assert_eq!(written["zero_point"], false);
    assert_eq!(written["modules_to_not_convert"], json!(["b", "lm_head"]));
    let info = PlanInfo { modules: &[module("b", Scheme::Float)], damping: None };
    assert!(Awq.config(&info).is_none());

    let parse = |object: Value| {
        ContainerConfig::parse(object.as_object().unwrap(), "quant_config.json".as_ref())
    };
    // As AutoAWQ's own file, and as transformers and GPTQModel write.
    for (object, layout) in [
        (json!({"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}), "gemm"),
        (json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMV"}), "gemv"),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": -1, "format": "gemv_fast"}),
            "gemv_fast",
        ),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm", "backend": "llm-awq"}),
            "gemv_fast",
        ),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 64, "checkpoint_format": "gemm"}),
            "gemm",
        ),
    ] {
        let ContainerConfig::Awq(config) = parse(object).unwrap() else { panic!("awq") };
        assert_eq!(config.layout().name(), layout);
    }
    for (object, named) in [
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "marlin"}),
            "\"marlin\"",
        ),
        (json!({"quant_method": "awq", "bits": 8, "group_size": 128}), "bits"),
        (
            json!({"quant_method": "awq", "group_size": 128}),
            "bits in quant_config.json: is missing",
        ),
        (json!({"quant_method": "awq", "bits": 4}), "group_size in quant_config.json: is missing"),
        (json!({"quant_method": "awq", "bits": 4, "group_size": 0}), "group_size"),
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": 1}),
            "zero_point",
        ),
    ] {
        let error = parse(object).unwrap_err();
        assert!(matches!(error, CheckpointError::Config { .. }), "{error}");
        assert!(error.to_string().contains(named), "{named:?} in {error}");
    }
}

fn parsed(version: &str, group_size: i32, zero_point: bool) -> ContainerConfig {
    let object = json!({"quant_method": "awq", "bits": 4, "group_size": group_size, "version": version, "zero_point": zero_point});
    ContainerConfig::parse(object.as_object().unwrap(), "config.json".as_ref()).unwrap()
}

/// The zero points of "gemv_fast" lie in the file as products; one that is none is an error, as are padding-only widths of groups.
#[test]
fn products_of_scales_and_zero_points() {
    let halves = |values: &[f32]| -> Vec<u8> {
        values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
    };
    let (out, n) = (4, 128);
    let memory = |product: f32, scale: f32| {
        let mut memory = Memory::default();
        memory.insert(TensorSpec::new("m.qweight", Dtype::I16, [out / 4, n]), vec![0; n * 2]);
        for (part, value) in [("scales", scale), ("qzeros", product)] {
            let mut values = vec![0.0; 8 * out];
            values[..out].fill(value);
            memory.insert(
                TensorSpec::new(format!("m.{part}"), Dtype::F16, [8, out]),
                halves(&values),
            );
        }
        memory
    };
    let config = parsed("gemv_fast", 128, true);
    let scale = f16::from_f32(0.123).to_f32();
    let Quantized::Int(matrix) = config.decode(&memory(-7.0 * scale, scale), "m").unwrap() else {
        panic!("integers")
    };
    assert_eq!(matrix.zero_points(), [7; 4]);
    let Quantized::Int(matrix) = config.decode(&memory(-0.0, 0.0), "m").unwrap() else {
        panic!("integers")
    };
    assert_eq!(matrix.zero_points(), [0; 4]);
    for (product, scale) in
        [(-7.5 * scale, scale), (scale, scale), (-16.0 * scale, scale), (1.0, 0.0)]
    {
        let error = config.decode(&memory(product, scale), "m").unwrap_err();
        assert!(
            matches!(error, CheckpointError::ScaledZeroPoint { row: 0, group: 0, .. }),
            "{error}"
        );
    }
    let error = parsed("gemv_fast", 16, true).decode(&memory(0.0, 1.0), "m").unwrap_err();
    assert!(error.to_string().contains("groups of 16"), "{error}");
    let error = parsed("gemv_fast", 128, false).decode(&memory(-7.0 * scale, scale), "m");
    assert!(matches!(error.unwrap_err(), CheckpointError::SymmetricZeroPoint { found: 7, .. }));
}

/// Every tensor of a module, missing, of another type, and of another shape, in every layout.
#[test]
fn tensors_that_contradict() {
    for (version, weight, zeros) in [
        ("gemm", (Dtype::I32, [128, 2]), (Dtype::I32, [1, 2], [1, 16])),
        ("gemv", (Dtype::I32, [16, 16]), (Dtype::I32, [16, 1], [16, 8])),
        ("gemv_fast", (Dtype::I16, [4, 128]), (Dtype::F16, [8, 16], [8, 16])),
    ] {
        let config = parsed(version, 128, true);
        let mut memory = Memory::default();
        let mut insert = |part: &str, dtype, shape: [usize; 2]| {
            let spec = TensorSpec::new(format!("m.{part}"), dtype, shape);
            let bytes = vec![0; spec.bytes() as usize];
            memory.insert(spec, bytes);
        };
        insert("qweight", weight.0, weight.1);
        insert("qzeros", zeros.0, zeros.1);
        insert("scales", Dtype::F16, zeros.2);
        let decoded = config.decode(&memory, "m").unwrap();
        assert_eq!(decoded.shape(), MatrixShape::new(16, 128), "{version}");
        for name in memory.0.keys() {
            let mut missing = memory.clone();
            missing.0.remove(name);
            let error = config.decode(&missing, "m").unwrap_err();
            assert!(
                matches!(&error, CheckpointError::MissingPart { tensor, .. } if tensor == name),
                "{error}"
            );
            let mut other_type = memory.clone();
            other_type.0.get_mut(name).unwrap().0.dtype = Dtype::C64;
            let error = config.decode(&other_type, "m").unwrap_err();
            assert!(
                matches!(&error, CheckpointError::Dtype { tensor, .. } if tensor == name),
                "{version}: {error}"
            );
            for shape in
                [vec![], vec![1], vec![1, 1, 1], vec![usize::MAX; 2], vec![0, 0], vec![5, 7]]
            {
                let mut other_shape = memory.clone();
                other_shape.0.get_mut(name).unwrap().0.shape = shape.clone();
                assert!(config.decode(&other_shape, "m").is_err(), "{version} {name} {shape:?}");
            }
        }
    }
}
