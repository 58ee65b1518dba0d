//! The formats of compressed-tensors beside `pack-quantized`: bytes, 8-bit floats, 4-bit floats, and several in one model.

mod common;

use common::{Memory, config, encode, matrix, module};
use fewbit_checkpoint::{
    CheckpointError, CompressedTensors, Container, ContainerConfig, Dtype, InputRounding,
    IntLayout, ModuleScheme, Refusal, TensorSpec,
};
use fewbit_format::{
    Bits, Float4, Float4Matrix, Float8, Float8Matrix, Float8Scheme, Granularity, IntScheme,
    MatrixShape, Quantized, ScaleTile, ScaleType, Scheme, Symmetry,
};
use fewbit_testkit::{Random, crc32};
use proptest::prelude::*;
use serde_json::{Value, json};

const PACKED: CompressedTensors =
    CompressedTensors { integers: IntLayout::Packed, inputs: InputRounding::Float };
const BYTES: CompressedTensors =
    CompressedTensors { integers: IntLayout::Bytes, inputs: InputRounding::Float };
const NAIVE: CompressedTensors =
    CompressedTensors { integers: IntLayout::Naive, inputs: InputRounding::Float };

fn round_trip(container: CompressedTensors, matrix: impl Into<Quantized>, format: &str) {
    let matrix = matrix.into();
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    container.check("m", shape, &scheme, false).unwrap();
    let encoded = container.encode("m", &matrix).unwrap();
    let specs: Vec<TensorSpec> = encoded.iter().map(|(spec, _)| spec.clone()).collect();
    assert_eq!(specs, container.tensors("m", shape, &scheme, false));
    let (written, _) = config(&container, &[module("m", scheme)]);
    assert_eq!(written["format"], format);
    let (memory, config) = encode(&container, &matrix);
    assert!(config.holds(&memory, "m") && !config.holds(&memory, "n"));
    let back = config.decode(&memory, "m").unwrap();
    assert_eq!(back, matrix);
}

fn float8(shape: MatrixShape, tile: ScaleTile, scale_type: ScaleType, seed: u64) -> Float8Matrix {
    let mut random = Random::new(seed);
    let scheme = Float8Scheme { element: Float8::E4M3, tile, scale_type };
    let codes = (0..shape.len()).map(|_| match random.below(256) as u8 {
        // Not a number.
        nan if nan & 0x7f == 0x7f => 0,
        code => code,
    });
    let codes = codes.collect();
    let [down, across] = tile.count(shape);
    let scales = (0..down * across).map(|_| scale_type.round(random.normal() as f32)).collect();
    Float8Matrix::new(shape, scheme, codes, scales).unwrap()
}

fn float4(shape: MatrixShape, scheme: Float4, seed: u64) -> Float4Matrix {
    let mut random = Random::new(seed);
    let codes = (0..shape.len()).map(|_| random.below(16) as u8).collect();
    let n = shape.out_features * scheme.n_groups(shape.in_features);
    let scales = (0..n).map(|_| random.below(127) as u8).collect();
    let global = match scheme {
        Float4::Mxfp4 => 1.0,
        Float4::Nvfp4 => random.normal() as f32,
    };
    Float4Matrix::new(shape, scheme, codes, scales, global).unwrap()
}

const SCALE_TYPES: [ScaleType; 3] = [ScaleType::F16, ScaleType::BF16, ScaleType::F32];

proptest! {
    #[test]
    fn integers_in_bytes(seed: u64, out in 1usize..9, groups in 1usize..4, size in 1u32..40, bits in 0usize..6, affine: bool, by in 0usize..3, float in 0usize..3, naive: bool) {
        let symmetry = if affine { Symmetry::Affine } else { Symmetry::Symmetric };
        let granularity = [Granularity::Tensor, Granularity::Channel, Granularity::group(size)][by];
        let scheme = IntScheme { bits: Bits::ALL[bits], symmetry, granularity, scale_type: SCALE_TYPES[float] };
        let matrix = matrix(MatrixShape::new(out, groups * size as usize), scheme, 0, false, seed);
        match naive {
            true => round_trip(NAIVE, matrix, "naive-quantized"),
            false => round_trip(BYTES, matrix, "int-quantized"),
        }
    }

    #[test]
    fn floats_of_8_bits(seed: u64, down in 1usize..4, across in 1usize..4, rows in 1u32..9, columns in 1u32..40, by in 0usize..3, float in 0usize..3, naive: bool) {
        let tile = [ScaleTile::Tensor, ScaleTile::Channel, ScaleTile::block(rows, columns)][by];
        let shape = MatrixShape::new(down * rows as usize, across * columns as usize);
        let matrix = float8(shape, tile, SCALE_TYPES[float], seed);
        match naive {
            true => round_trip(NAIVE, matrix, "naive-quantized"),
            false => round_trip(PACKED, matrix, "float-quantized"),
        }
    }

    #[test]
    fn floats_of_4_bits(seed: u64, out in 1usize..9, groups in 1usize..6) {
        for scheme in Float4::ALL {
            let shape = MatrixShape::new(out, groups * scheme.group_size());
            round_trip(PACKED, float4(shape, scheme, seed), &format!("{}-pack-quantized", scheme.name()));
        }
    }
}

/// The tensors that compressed-tensors 0.13 makes of the common sequence.
#[test]
fn vectors() {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 - 8_388_608.0) / 8_388_608.0
    };
    let weight: Vec<f32> = (0..256).map(|_| next()).collect();
    let shape = MatrixShape::new(4, 64);
    let tensors = |scheme| {
        let matrix = Quantized::round_to_nearest(&weight, shape, scheme).unwrap();
        encode(&PACKED, &matrix).0
    };
    let memory = tensors(Scheme::Float4(Float4::Nvfp4));
    assert_eq!(crc32(&memory.0["m.weight_packed"].1), 0x11d2_755d);
    assert_eq!(memory.0["m.weight_packed"].1[..4], [0xbd, 0x40, 0xbf, 0x15]);
    assert_eq!(memory.0["m.weight_scale"].0.dtype, Dtype::F8_E4M3);
    assert_eq!(memory.0["m.weight_scale"].1[..4], [0x7e, 0x7c, 0x7e, 0x7e]);
    assert_eq!(memory.0["m.weight_global_scale"].1, 2_696.413_3f32.to_le_bytes());
    let memory = tensors(Scheme::Float4(Float4::Mxfp4));
    assert_eq!(crc32(&memory.0["m.weight_packed"].1), 0xf3c2_e621);
    assert_eq!(memory.0["m.weight_scale"].1, [125; 8]);
    let (tile, scale_type) = (ScaleTile::block(2, 32), ScaleType::F32);
    let memory = tensors(Scheme::Float8(Float8Scheme { element: Float8::E4M3, tile, scale_type }));
    assert_eq!(crc32(&memory.0["m.weight"].1), 0x08ff_3091);
    assert_eq!(memory.0["m.weight_scale"].0.shape, [2, 2]);
}

/// Tools write the one scale of a tensor as [1] or [], and that of a channel as [out, 1] or [out].
#[test]
fn shapes_of_scales() {
    let shape = MatrixShape::new(6, 8);
    let tensor = float8(shape, ScaleTile::Tensor, ScaleType::F32, 1);
    let channel = float8(shape, ScaleTile::Channel, ScaleType::F32, 2);
    for (matrix, shapes) in [(tensor, [vec![1], vec![]]), (channel, [vec![6, 1], vec![6]])] {
        let (memory, config) = encode(&PACKED, &matrix);
        let scales = memory.0["m.weight_scale"].1.clone();
        for shape in shapes {
            let mut memory = memory.clone();
            memory.insert(TensorSpec::new("m.weight_scale", Dtype::F32, shape), scales.clone());
            assert_eq!(config.decode(&memory, "m").unwrap(), matrix.clone().into());
        }
    }
}

fn refusal(container: CompressedTensors, shape: MatrixShape, scheme: Scheme) -> Refusal {
    match container.check("m", shape, &scheme, false).unwrap_err() {
        CheckpointError::Refused { container: "compressed-tensors", refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn refusals_before_any_work() {
    let shape = MatrixShape::new(6, 48);
    let e4m3 = |tile| {
        Scheme::Float8(Float8Scheme { element: Float8::E4M3, tile, scale_type: ScaleType::BF16 })
    };
    PACKED.check("m", shape, &e4m3(ScaleTile::block(2, 16)), false).unwrap();
    for (tile, axis, size, multiple) in [
        (ScaleTile::block(4, 16), "output", 6, 4),
        (ScaleTile::block(2, 32), "input", 48, 32),
        (ScaleTile::block(1, 10), "input", 48, 10),
    ] {
        let expected = Refusal::RaggedBlock { axis, size, multiple };
        assert_eq!(refusal(PACKED, shape, e4m3(tile)), expected);
    }
    let tile = ScaleTile::Tensor;
    let e5m2 = Float8Scheme { element: Float8::E5M2, tile, scale_type: ScaleType::F32 };
    assert!(matches!(
        refusal(PACKED, shape, Scheme::Float8(e5m2)),
        Refusal::Scheme { scheme: "fp8 e5m2", .. }
    ));
    assert!(matches!(
        refusal(PACKED, shape, Scheme::Float4(Float4::Mxfp4)),
        Refusal::RaggedGroup { in_features: 48, group_size: 32 }
    ));
    PACKED.check("m", shape, &Scheme::Float4(Float4::Nvfp4), false).unwrap();
    assert!(matches!(
        refusal(PACKED, shape, Scheme::LlmInt8),
        Refusal::Scheme { scheme: "llm.int8()", .. }
    ));
    let int = |granularity| {
        Scheme::Int(IntScheme {
            bits: Bits::B8,
            symmetry: Symmetry::Symmetric,
            granularity,
            scale_type: ScaleType::F32,
        })
    };
    assert!(matches!(
        refusal(PACKED, shape, int(Granularity::Tensor)),
        Refusal::Granularity { .. }
    ));
    BYTES.check("m", shape, &int(Granularity::Tensor), false).unwrap();
    for container in [BYTES, NAIVE] {
        assert!(matches!(
            refusal(container, shape, int(Granularity::group(32))),
            Refusal::RaggedGroup { .. }
        ));
        let error = container.check("m", shape, &int(Granularity::group(16)), true).unwrap_err();
        assert!(error.to_string().contains("group map"), "{error}");
    }
    assert!(matches!(
        refusal(BYTES, MatrixShape::new(0, 48), int(Granularity::Tensor)),
        Refusal::Empty { .. }
    ));
}

/// One model with every format, its modules told apart by name.
#[test]
fn mixed_formats() {
    let shape = MatrixShape::new(64, 64);
    let int = IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(32),
        scale_type: ScaleType::BF16,
    };
    let matrices: [(&str, Quantized); 5] = [
        ("layers.0.q_proj", matrix(shape, int, 0, false, 1).into()),
        ("layers.0.k_proj", float8(shape, ScaleTile::Channel, ScaleType::BF16, 2).into()),
        ("layers.0.v_proj", float8(shape, ScaleTile::block(32, 16), ScaleType::F32, 3).into()),
        ("layers.1.q_proj", float4(shape, Float4::Nvfp4, 4).into()),
        ("layers.1.k_proj", float4(shape, Float4::Mxfp4, 5).into()),
    ];
    let mut modules: Vec<ModuleScheme> =
        matrices.iter().map(|(name, matrix)| module(name, matrix.scheme())).collect();
    modules.push(module("layers.1.v_proj", Scheme::Float));
    let (written, config) = config(&PACKED, &modules);
    assert_eq!(written["format"], "mixed-precision");
    let groups = written["config_groups"].as_object().unwrap();
    let formats: Vec<&str> = groups.values().map(|g| g["format"].as_str().unwrap()).collect();
    let expected = [
        "pack-quantized",
        "float-quantized",
        "float-quantized",
        "nvfp4-pack-quantized",
        "mxfp4-pack-quantized",
    ];
    assert_eq!(formats, expected);
    let mut memory = Memory::default();
    for (name, matrix) in &matrices {
        for (spec, bytes) in PACKED.encode(name, matrix).unwrap() {
            memory.insert(spec, bytes);
        }
    }
    for (name, matrix) in matrices {
        assert_eq!(config.decode(&memory, name).unwrap(), matrix, "{name}");
    }
}

#[test]
fn configurations() {
    let parse = |format: &str, weights: Value| {
        let object = json!({"quant_method": "compressed-tensors", "format": format,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}});
        ContainerConfig::parse(object.as_object().unwrap(), "config.json".as_ref())
    };
    let block = |structure: Value| json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": structure});
    for (format, weights) in [
        ("float-quantized", json!({"num_bits": 8, "type": "float"})),
        ("float-quantized", json!({"type": "float", "strategy": "channel"})),
        ("float-quantized", block(json!([128, 128]))),
        (
            "naive-quantized",
            json!({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 128}),
        ),
        ("naive-quantized", json!({"num_bits": 6, "type": "int", "strategy": "tensor"})),
        (
            "int-quantized",
            json!({"num_bits": 4, "type": "int", "strategy": "channel", "symmetric": false}),
        ),
        ("mxfp4-pack-quantized", json!({"num_bits": 4, "type": "float", "group_size": 32})),
        (
            "nvfp4-pack-quantized",
            json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
        ),
    ] {
        parse(format, weights).unwrap();
    }
    for (format, weights, named) in [
        ("float-quantized", json!({"num_bits": 8, "type": "int"}), "\"int\""),
        ("float-quantized", json!({"num_bits": 4, "type": "float"}), "num_bits"),
        (
            "float-quantized",
            json!({"num_bits": 8, "type": "float", "strategy": "token"}),
            "\"token\"",
        ),
        ("float-quantized", block(json!([128])), "block_structure"),
        ("float-quantized", block(json!([128, 0])), "block_structure"),
        ("float-quantized", block(json!([128, -1])), "block_structure"),
        ("float-quantized", block(Value::Null), "block_structure"),
        ("int-quantized", json!({"num_bits": 8, "type": "float"}), "\"float\""),
        ("int-quantized", json!({"num_bits": 7, "type": "int"}), "num_bits"),
        ("int-quantized", json!({"num_bits": 8, "type": "int", "strategy": "block"}), "\"block\""),
        ("naive-quantized", json!({"num_bits": 8, "type": "bool"}), "\"bool\""),
        (
            "mxfp4-pack-quantized",
            json!({"num_bits": 4, "type": "float", "group_size": 16}),
            "group_size",
        ),
        ("nvfp4-pack-quantized", json!({"num_bits": 4, "type": "float"}), "group_size"),
        (
            "nvfp4-pack-quantized",
            json!({"num_bits": 8, "type": "float", "group_size": 16}),
            "num_bits",
        ),
        ("mxfp6-pack-quantized", json!({}), "\"mxfp6-pack-quantized\""),
        ("marlin-24", json!({}), "\"marlin-24\""),
    ] {
        let error = parse(format, weights).unwrap_err();
        assert!(matches!(error, CheckpointError::Config { .. }), "{error}");
        assert!(error.to_string().contains(named), "{named:?} in {error}");
    }
}

/// Every tensor of a module, missing, of another type, and of another shape.
#[test]
fn tensors_that_contradict() {
    let shape = MatrixShape::new(8, 32);
    let int = IntScheme {
        bits: Bits::B6,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(16),
        scale_type: ScaleType::F16,
    };
    let matrices: [(CompressedTensors, Quantized); 4] = [
        (BYTES, matrix(shape, int, 0, false, 1).into()),
        (PACKED, float8(shape, ScaleTile::block(4, 16), ScaleType::F32, 2).into()),
        (PACKED, float4(shape, Float4::Mxfp4, 3).into()),
        (PACKED, float4(shape, Float4::Nvfp4, 4).into()),
    ];
    for (container, matrix) in matrices {
        let (memory, config) = encode(&container, &matrix);
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
                "{error}"
            );
            for shape in [vec![], vec![1, 1, 1], vec![usize::MAX; 2], vec![0, 0], vec![5, 7]] {
                let mut other_shape = memory.clone();
                other_shape.0.get_mut(name).unwrap().0.shape = shape.clone();
                assert!(config.decode(&other_shape, "m").is_err(), "{name} {shape:?}");
            }
        }
    }
}

#[test]
fn values_that_contradict() {
    let shape = MatrixShape::new(8, 32);
    let set = |memory: &mut Memory, name: &str, at: usize, byte: u8| {
        memory.0.get_mut(name).unwrap().1[at] = byte;
    };
    let cases: [(Quantized, &str, usize, u8, &str); 4] = [
        (
            float8(shape, ScaleTile::Tensor, ScaleType::F32, 1).into(),
            "m.weight",
            9,
            0xff,
            "0xff at index 9",
        ),
        (float4(shape, Float4::Mxfp4, 2).into(), "m.weight_scale", 3, 0xff, "e8m0 scale 0xff"),
        (float4(shape, Float4::Nvfp4, 3).into(), "m.weight_scale", 3, 0x7f, "e4m3 scale 0x7f"),
        (float4(shape, Float4::Nvfp4, 4).into(), "m.weight_global_scale", 3, 0x7f, "global scale"),
    ];
    for (matrix, name, at, byte, named) in cases {
        let (mut memory, config) = encode(&PACKED, &matrix);
        if name == "m.weight_global_scale" {
            memory.0.get_mut(name).unwrap().1.copy_from_slice(&f32::INFINITY.to_le_bytes());
        } else {
            set(&mut memory, name, at, byte);
        }
        let error = config.decode(&memory, "m").unwrap_err();
        assert!(error.to_string().contains(named), "{named:?} in {error}");
    }
    let scheme = IntScheme {
        bits: Bits::B4,
        symmetry: Symmetry::Symmetric,
        granularity: Granularity::Channel,
        scale_type: ScaleType::F32,
    };
    let (mut memory, config) = encode(&BYTES, &matrix(shape, scheme, 0, false, 5));
    set(&mut memory, "m.weight", 40, 8);
    let error = config.decode(&memory, "m").unwrap_err();
    assert!(error.to_string().contains("value 8 at index 40 is outside -8..=7"), "{error}");
}
