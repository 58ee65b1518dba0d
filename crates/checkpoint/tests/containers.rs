//! GPTQ and compressed-tensors: golden words, round trips over everything they carry, and every refusal.

mod common;

use std::path::Path;

use common::{Memory, config, encode, matrix, module, scheme};
use fewbit_checkpoint::{
    CheckpointError, CompressedTensors, Container, ContainerConfig, Dtype, Gptq, GptqVersion,
    InputRounding, IntLayout, ModuleScheme, PlanInfo, Refusal, TensorSpec, total_bytes,
};
use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Quantized, ScaleType, Scheme, Symmetry,
};
use serde_json::{Value, json};

const SYMMETRIES: [Symmetry; 2] = [Symmetry::Symmetric, Symmetry::Affine];
const V1: Gptq = Gptq { version: GptqVersion::V1 };
const V2: Gptq = Gptq { version: GptqVersion::V2 };
const CT: CompressedTensors =
    CompressedTensors { integers: IntLayout::Packed, inputs: InputRounding::Float };

fn granularities() -> [Granularity; 3] {
    [Granularity::Channel, Granularity::group(32), Granularity::group(96)]
}

fn round_trip(container: &dyn Container, matrix: &QuantMatrix) {
    let matrix = &Quantized::from(matrix.clone());
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    let map = matrix.group_of_column().is_some();
    container.check("m", shape, &scheme, map).unwrap();
    let announced = container.tensors("m", shape, &scheme, map);
    let encoded = container.encode("m", matrix).unwrap();
    let specs: Vec<TensorSpec> = encoded.iter().map(|(spec, _)| spec.clone()).collect();
    assert_eq!(specs, announced);
    let bytes: usize = encoded.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(bytes as u64, total_bytes(&announced));

    let (memory, config) = encode(container, matrix);
    assert!(config.holds(&memory, "m") && !config.holds(&memory, "n"));
    assert_eq!(config.name(), container.name());
    assert_eq!(config.decode(&memory, "m").unwrap(), *matrix, "{container:?} {scheme:?}");
}

#[test]
fn gptq_round_trips() {
    let shape = MatrixShape::new(64, 96);
    for container in [V1, V2] {
        for bits in [Bits::B2, Bits::B3, Bits::B4, Bits::B8] {
            for symmetry in SYMMETRIES {
                for granularity in granularities() {
                    let scheme = scheme(bits, symmetry, granularity);
                    let least = container.least_zero_point(&scheme);
                    round_trip(&container, &matrix(shape, scheme, least, false, 1));
                }
                let scheme = scheme(bits, symmetry, Granularity::group(32));
                let least = container.least_zero_point(&scheme);
                round_trip(&container, &matrix(shape, scheme, least, true, 2));
            }
        }
    }
}

#[test]
fn compressed_tensors_round_trips() {
    for shape in [MatrixShape::new(64, 96), MatrixShape::new(7, 96), MatrixShape::new(33, 192)] {
        for bits in Bits::ALL {
            for symmetry in SYMMETRIES {
                for granularity in granularities() {
                    for scale_type in [ScaleType::F16, ScaleType::BF16, ScaleType::F32] {
                        let scheme = IntScheme { bits, symmetry, granularity, scale_type };
                        round_trip(&CT, &matrix(shape, scheme, 0, false, 3));
                    }
                }
            }
        }
    }
    // Rows that end within a word, one group.
    for in_features in [1, 5, 31, 45, 101] {
        for bits in [Bits::B4, Bits::B8, Bits::B2] {
            let scheme = scheme(bits, Symmetry::Affine, Granularity::Channel);
            round_trip(&CT, &matrix(MatrixShape::new(3, in_features), scheme, 0, false, 4));
        }
    }
}

/// Two rows of 32 codes that are their own index modulo 16, and the parameters of two groups.
fn small(symmetry: Symmetry) -> QuantMatrix {
    let shape = MatrixShape::new(8, 32);
    let codes = (0..256).map(|i| ((i + i / 32) % 16) as u8).collect();
    let scales = (0..16).map(|i| 1.0 + f32::from(i as u8)).collect();
    let zeros = match symmetry {
        Symmetry::Symmetric => Vec::new(),
        Symmetry::Affine => (0..16).map(|i| (i % 15 + 1) as u8).collect(),
    };
    QuantMatrix::new(
        shape,
        scheme(Bits::B4, symmetry, Granularity::group(16)),
        codes,
        scales,
        zeros,
        None,
    )
    .unwrap()
}

#[test]
fn gptq_words_by_hand() {
    let (memory, _) = encode(&V1, &small(Symmetry::Affine));
    // [in/8, out]: row 0 holds inputs 0..8 of each output; output n begins at code n.
    let qweight = memory.words("m.qweight");
    assert_eq!(qweight[..3], [0x7654_3210, 0x8765_4321, 0x9876_5432]);
    assert_eq!(qweight[8], 0xfedc_ba98);
    assert_eq!(memory.0["m.qweight"].0.shape, [4, 8]);
    // [groups, out/8], less one: outputs have zero points 1, 3, 5, … in group 0 and 2, 4, … in group 1.
    assert_eq!(memory.words("m.qzeros"), [0xeca8_6420, 0x0db9_7531]);
    assert_eq!(memory.0["m.scales"].0.shape, [2, 8]);
    let f16 = |x: f32| fewbit_format::f16::from_f32(x).to_le_bytes();
    assert_eq!(memory.0["m.scales"].1[..4], [f16(1.0), f16(3.0)].concat());
    let mut g_idx = [0; 32];
    g_idx[16..].fill(1);
    assert_eq!(memory.words("m.g_idx"), g_idx);
    let (memory, _) = encode(&V2, &small(Symmetry::Affine));
    assert_eq!(memory.words("m.qzeros"), [0xfdb9_7531, 0x1eca_8642]);
}

/// The constant words of symmetric files.
#[test]
fn gptq_symmetric_zero_points() {
    let shape = MatrixShape::new(32, 32);
    for (bits, v1, v2) in [
        (Bits::B2, vec![0x5555_5555; 2], vec![0xaaaa_aaaa; 2]),
        (Bits::B4, vec![0x7777_7777; 4], vec![0x8888_8888; 4]),
        (Bits::B8, vec![0x7f7f_7f7f; 8], vec![0x8080_8080; 8]),
        (
            Bits::B3,
            vec![0xdb6d_b6db, 0xb6db_6db6, 0x6db6_db6d],
            vec![0x2492_4924, 0x4924_9249, 0x9249_2492],
        ),
    ] {
        let matrix =
            matrix(shape, scheme(bits, Symmetry::Symmetric, Granularity::Channel), 0, false, 1);
        assert_eq!(encode(&V1, &matrix).0.words("m.qzeros"), v1);
        assert_eq!(encode(&V2, &matrix).0.words("m.qzeros"), v2);
    }
}

#[test]
fn compressed_tensors_words_by_hand() {
    let (memory, _) = encode(&CT, &small(Symmetry::Affine));
    assert_eq!(
        memory.words("m.weight_packed")[..5],
        [0x7654_3210, 0xfedc_ba98, 0x7654_3210, 0xfedc_ba98, 0x8765_4321]
    );
    assert_eq!(memory.0["m.weight_zero_point"].0.shape, [1, 2]);
    assert_eq!(memory.words("m.weight_zero_point"), [0xfdb9_7531, 0x1eca_8642]);
    assert_eq!(memory.words("m.weight_shape"), [8, 0, 32, 0]);
    assert_eq!(memory.0["m.weight_scale"].0.shape, [8, 2]);
    let (memory, _) = encode(&CT, &small(Symmetry::Symmetric));
    assert!(!memory.0.contains_key("m.weight_zero_point"));
}

/// Ten 3-bit codes a word, as compressed-tensors packed until 2025: along the inputs, and zero points along the outputs.
#[test]
fn compressed_tensors_reads_padded_words() {
    use fewbit_format::packing::{Words, pack_rows, transpose};
    for (out, in_features) in [(16, 64), (3, 12), (11, 15)] {
        let granularity = Granularity::group(if in_features == 64 { 32 } else { 3 });
        let scheme = scheme(Bits::B3, Symmetry::Affine, granularity);
        let scheme = IntScheme { scale_type: ScaleType::F32, ..scheme };
        let matrix = matrix(MatrixShape::new(out, in_features), scheme, 0, false, 8);
        let (_, config) = config(&CT, &[module("m", Scheme::Int(scheme))]);
        let mut memory = Memory::default();
        let shape = [out, in_features].map(|n| (n as u64).to_le_bytes()).concat();
        memory.insert(TensorSpec::new("m.weight_shape", Dtype::I64, [2]), shape);
        let scales = matrix.scales().iter().flat_map(|s| s.to_le_bytes()).collect();
        let spec = TensorSpec::new("m.weight_scale", Dtype::F32, [out, matrix.n_groups()]);
        memory.insert(spec, scales);

        let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        let width = Words::Padded.count(in_features, Bits::B3);
        let words = pack_rows(matrix.codes(), out, in_features, Bits::B3, Words::Padded);
        memory.insert(TensorSpec::new("m.weight_packed", Dtype::I32, [out, width]), bytes(&words));
        let (groups, height) = (matrix.n_groups(), Words::Padded.count(out, Bits::B3));
        let zeros = transpose(matrix.zero_points(), out, groups);
        let words =
            transpose(&pack_rows(&zeros, groups, out, Bits::B3, Words::Padded), groups, height);
        memory.insert(
            TensorSpec::new("m.weight_zero_point", Dtype::I32, [height, groups]),
            bytes(&words),
        );
        assert_eq!(config.decode(&memory, "m").unwrap(), Quantized::Int(matrix.clone()));
        // Earlier still: zero points as signed bytes.
        let signed = fewbit_format::packing::to_signed(matrix.zero_points(), Bits::B3);
        let signed = signed.iter().map(|z| z.cast_unsigned()).collect();
        memory.insert(TensorSpec::new("m.weight_zero_point", Dtype::I8, [out, groups]), signed);
        assert_eq!(config.decode(&memory, "m").unwrap(), Quantized::Int(matrix.clone()));
    }
}

/// A version 1 field of all ones is a zero point of 0, unless GPTQModel borrowed it from the neighbour.
#[test]
fn gptq_reads_wrapped_zero_points() {
    let (mut memory, config) = encode(&V1, &small(Symmetry::Affine));
    let spec = TensorSpec::new("m.qzeros", Dtype::I32, [2, 1]);
    // True zero points 0, 0, 3, 4, 5, 6, 7, 8 of group 0, field by field and as one subtraction.
    let by_field = 0x7654_32ffu32;
    let by_word = 0x8765_4300u32.wrapping_sub(0x1111_1111);
    assert_ne!(by_field, by_word);
    let bytes =
        |word: u32| [word, 0x7777_7777].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let zeros = |config: &ContainerConfig, memory: &Memory| {
        let Quantized::Int(matrix) = config.decode(memory, "m").unwrap() else {
            panic!("an integer grid")
        };
        matrix.zero_points().iter().step_by(2).copied().collect::<Vec<_>>()
    };
    memory.insert(spec.clone(), bytes(by_field));
    assert_eq!(zeros(&config, &memory), [0, 0, 3, 4, 5, 6, 7, 8]);
    memory.insert(spec, bytes(by_word));
    for (quantizer, by_word) in
        [("gptqmodel:5.6.12", true), ("gptqmodel:7.7.0", false), ("fewbit:1", false)]
    {
        let object =
            json!({"bits": 4, "group_size": 16, "sym": false, "meta": {"quantizer": [quantizer]}});
        let config = ContainerConfig::parse(object.as_object().unwrap(), Path::new("c")).unwrap();
        let right = zeros(&config, &memory) == [0, 0, 3, 4, 5, 6, 7, 8];
        assert_eq!(right, by_word, "{quantizer}");
    }
}

#[test]
fn gptq_writer_never_stores_minus_one() {
    let scheme = scheme(Bits::B4, Symmetry::Affine, Granularity::group(32));
    assert_eq!((V1.least_zero_point(&scheme), V2.least_zero_point(&scheme)), (1, 0));
    let zeros = vec![1, 2, 3, 4, 5, 0, 7, 8];
    let shape = MatrixShape::new(8, 32);
    let matrix = QuantMatrix::new(shape, scheme, vec![0; 256], vec![1.0; 8], zeros, None);
    let matrix = Quantized::Int(matrix.unwrap());
    V2.encode("m", &matrix).unwrap();
    let error = V1.encode("m", &matrix).unwrap_err();
    assert!(error.to_string().contains("write gptq version 2"), "{error}");
    let CheckpointError::Refused { refusal, module, .. } = error else { panic!("{error}") };
    assert_eq!(refusal, Refusal::ZeroPoint { row: 5, group: 0, zero_point: 0 });
    assert_eq!(module, "m");
}

fn refusal(container: &dyn Container, shape: MatrixShape, scheme: IntScheme, map: bool) -> Refusal {
    match container.check("m", shape, &scheme.into(), map).unwrap_err() {
        CheckpointError::Refused { refusal, module, .. } if module == "m" => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn refusals_before_any_work() {
    let good = scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(32));
    let shape = MatrixShape::new(64, 64);
    let ct = CT;
    for container in [&V1 as &dyn Container, &V2, &ct] {
        container.check("m", shape, &good.into(), false).unwrap();
        let ragged = IntScheme { granularity: Granularity::group(48), ..good };
        let expected = Refusal::RaggedGroup { in_features: 64, group_size: 48 };
        assert_eq!(refusal(container, shape, ragged, false), expected);
        let tensor = IntScheme { granularity: Granularity::Tensor, ..good };
        assert!(matches!(refusal(container, shape, tensor, false), Refusal::Granularity { .. }));
        let empty = refusal(container, MatrixShape::new(0, 64), good, false);
        assert_eq!(empty, Refusal::Empty { out_features: 0, in_features: 64 });
    }
    assert_eq!(refusal(&ct, shape, good, true), Refusal::GroupMap);
    V1.check("m", shape, &good.into(), true).unwrap();
    let channel = IntScheme { granularity: Granularity::Channel, ..good };
    assert_eq!(refusal(&V1, shape, channel, true), Refusal::GroupMap);
    for bits in [Bits::B5, Bits::B6] {
        let wide = IntScheme { bits, ..good };
        assert!(matches!(refusal(&V1, shape, wide, false), Refusal::Bits { .. }));
        ct.check("m", shape, &wide.into(), false).unwrap();
    }
    for scale_type in [ScaleType::BF16, ScaleType::F32] {
        let wide = IntScheme { scale_type, ..good };
        assert!(matches!(refusal(&V2, shape, wide, false), Refusal::ScaleType { .. }));
        ct.check("m", shape, &wide.into(), false).unwrap();
    }
    for (bits, out, in_features, axis, multiple) in [
        (Bits::B4, 60, 64, "output", 8),
        (Bits::B4, 64, 60, "input", 8),
        (Bits::B2, 64, 40, "input", 16),
        (Bits::B8, 66, 64, "output", 4),
        (Bits::B3, 64, 72, "input", 32),
        (Bits::B3, 48, 64, "output", 32),
    ] {
        let size = if axis == "input" { in_features } else { out };
        let scheme = IntScheme { bits, ..channel };
        let shape = MatrixShape::new(out, in_features);
        let expected = Refusal::Words { axis, size, multiple, bits };
        assert_eq!(refusal(&V1, shape, scheme, false), expected);
        ct.check("m", shape, &scheme.into(), false).unwrap();
    }
    let three = IntScheme { bits: Bits::B3, ..channel };
    ct.check("m", MatrixShape::new(5, 172), &three.into(), false).unwrap();
    for in_features in [10, 15, 40, 80] {
        let expected = Refusal::AmbiguousWords { in_features, bits: Bits::B3 };
        assert_eq!(refusal(&ct, MatrixShape::new(5, in_features), three, false), expected);
    }
    let uneven = (0..64).map(|c| u32::from(c >= 40)).collect();
    let matrix =
        QuantMatrix::new(shape, good, vec![0; 4096], vec![1.0; 128], Vec::new(), Some(uneven));
    let error = V1.encode("m", &matrix.unwrap().into()).unwrap_err();
    assert!(error.to_string().contains("group 0 has 40 columns instead of 32"), "{error}");

    assert_eq!(V1.scale_type(Dtype::BF16), ScaleType::F16);
    assert_eq!(ct.scale_type(Dtype::BF16), ScaleType::BF16);
    assert_eq!(ct.scale_type(Dtype::F32), ScaleType::F32);
}

/// A plan of two widths with float modules, two layers.
fn mixed() -> Vec<ModuleScheme> {
    let four = Scheme::Int(scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(32)));
    let eight = Scheme::Int(scheme(Bits::B8, Symmetry::Affine, Granularity::Channel));
    let mut modules = Vec::new();
    for layer in [1, 11] {
        for (name, scheme) in [
            ("self_attn.q_proj", eight),
            ("self_attn.k_proj", eight),
            ("self_attn.v_proj", eight),
            ("self_attn.o_proj", four),
            ("mlp.gate_proj", four),
            ("mlp.up_proj", four),
            ("mlp.down_proj", if layer == 1 { Scheme::Float } else { four }),
        ] {
            modules.push(module(&format!("model.layers.{layer}.{name}"), scheme));
        }
    }
    modules.push(module("lm_head", Scheme::Float));
    modules
}

#[test]
fn gptq_configuration() {
    let (written, _) = config(
        &V1,
        &[module("m", Scheme::Int(scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(128))))],
    );
    let expected = json!({
        "quant_method": "gptq", "bits": 4, "group_size": 128, "sym": true, "desc_act": false, "lm_head": false,
        "checkpoint_format": "gptq", "format": "gptq", "pack_dtype": "int32", "true_sequential": true,
        "damp_percent": 0.02, "meta": {"quantizer": [concat!("fewbit:", env!("CARGO_PKG_VERSION"))]},
    });
    assert_eq!(Value::Object(written.clone()), expected);
    assert_eq!(V1.config_files(&written), [("quantize_config.json", expected)]);

    let (written, _) = config(&V2, &mixed());
    assert_eq!(written["checkpoint_format"], "gptq_v2");
    let expected = json!({
        r"-:model\.layers\.1\.mlp\.down_proj$": {},
        r"+:model\.layers\.1\.self_attn\.(?:q_proj|k_proj|v_proj|qkv_proj)$": {"bits": 8, "group_size": -1, "sym": false},
        r"+:model\.layers\.11\.self_attn\.(?:q_proj|k_proj|v_proj|qkv_proj)$": {"bits": 8, "group_size": -1, "sym": false},
    });
    assert_eq!(written["dynamic"], expected);
    let mut head =
        module("lm_head", Scheme::Int(scheme(Bits::B8, Symmetry::Symmetric, Granularity::Channel)));
    head.group_map = true;
    let (written, _) = config(&V1, &[head]);
    assert_eq!((&written["lm_head"], &written["desc_act"]), (&json!(true), &json!(true)));
    assert!(
        V1.config(&PlanInfo { modules: &[module("m", Scheme::Float)], damping: None }).is_none()
    );
}

#[test]
fn compressed_tensors_configuration() {
    let (written, _) = config(
        &CT,
        &[module("m", Scheme::Int(scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(128))))],
    );
    let weights = json!({
        "num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 128, "dynamic": false,
    });
    let expected = json!({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
        "global_compression_ratio": null, "kv_cache_scheme": null, "ignore": ["lm_head"],
        "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": weights, "input_activations": null, "output_activations": null,
        }},
    });
    assert_eq!(Value::Object(written), expected);
    let (written, _) = config(&CT, &mixed());
    assert_eq!(written["ignore"], json!(["model.layers.1.mlp.down_proj", "lm_head"]));
    let targets = &written["config_groups"]["group_1"]["targets"];
    assert_eq!(targets[1], r"re:model\.layers\.11\.self_attn\.(?:q_proj|k_proj|v_proj|qkv_proj)$");
    assert_eq!(written["config_groups"]["group_1"]["weights"]["strategy"], "channel");
    assert!(!written["config_groups"].to_string().contains("Linear"));
}

/// Each module of a mixed plan is read with its own settings, although names are prefixes of one another.
#[test]
fn mixed_plans_round_trip() {
    let modules = mixed();
    for container in [&V2 as &dyn Container, &CT] {
        let (_, config) = config(container, &modules);
        let mut memory = Memory::default();
        let mut matrices = Vec::new();
        for (seed, m) in modules.iter().enumerate() {
            if let Scheme::Int(scheme) = m.scheme {
                let matrix = Quantized::Int(matrix(m.shape, scheme, 0, false, seed as u64));
                for (spec, bytes) in container.encode(&m.module, &matrix).unwrap() {
                    memory.insert(spec, bytes);
                }
                matrices.push((&m.module, matrix));
            }
        }
        assert_eq!(matrices.len(), 13);
        for (name, matrix) in matrices {
            assert_eq!(config.decode(&memory, name).unwrap(), matrix, "{name}");
        }
    }
}

#[test]
fn portable_version() {
    let plain = scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(32));
    assert_eq!(GptqVersion::portable([&plain].into_iter()), GptqVersion::V1);
    let three = IntScheme { bits: Bits::B3, ..plain };
    let eight = IntScheme { bits: Bits::B8, ..plain };
    let affine = IntScheme { symmetry: Symmetry::Affine, ..plain };
    for other in [three, eight, affine] {
        assert_eq!(GptqVersion::portable([&plain, &other].into_iter()), GptqVersion::V2);
    }
}

fn parse(value: Value) -> Result<ContainerConfig, CheckpointError> {
    ContainerConfig::parse(value.as_object().unwrap(), Path::new("config.json"))
}

#[test]
fn configurations_that_cannot_be_read() {
    let gptq = |key: &str, value: Value| {
        let mut object = json!({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true});
        object[key] = value;
        object
    };
    let ct = |pointer: &str, value: Value| {
        let mut object = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": {
            "targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": true, "group_size": 32, "strategy": "group"}}}});
        *object.pointer_mut(pointer).unwrap() = value;
        object
    };
    parse(gptq("bits", json!(4))).unwrap();
    parse(ct("/format", json!("pack-quantized"))).unwrap();
    parse(json!({"w_bit": 4, "q_group_size": 128})).unwrap();
    parse(gptq("checkpoint_format", Value::Null)).unwrap();
    let weights = "/config_groups/group_0/weights";
    for (object, named) in [
        (gptq("quant_method", json!("modelopt")), "\"modelopt\""),
        (gptq("checkpoint_format", json!("marlin")), "\"marlin\""),
        (gptq("checkpoint_format", json!("gptq_p")), "\"gptq_p\""),
        (gptq("format", json!("bitblas")), "\"bitblas\""),
        (gptq("is_marlin_format", json!(true)), "is_marlin_format"),
        (gptq("pack_dtype", json!("int16")), "\"int16\""),
        (gptq("bits", json!(5)), "2, 3, 4 and 8"),
        (gptq("bits", json!("4")), "bits"),
        (gptq("bits", Value::Null), "bits in config.json: is missing"),
        (gptq("group_size", json!(0)), "group_size"),
        (gptq("group_size", json!(-2)), "group_size"),
        (gptq("group_size", json!(1u64 << 40)), "group_size"),
        (gptq("sym", json!(1)), "sym"),
        (gptq("dynamic", json!([1])), "dynamic"),
        (gptq("dynamic", json!({"+:a(": {}})), "dynamic.+:a("),
        (gptq("dynamic", json!({"(?!a)": {}})), "look-around"),
        (gptq("dynamic", json!({"(?:(?:a{1000}){1000}){1000}": {}})), "too big"),
        (gptq("dynamic", json!({"a": {"bits": 7}})), "dynamic.a.bits"),
        (gptq("dynamic", json!({"a": 3})), "dynamic.a"),
        (ct("/format", json!("marlin-24")), "\"marlin-24\""),
        (ct("/format", json!("mixed-precision")), "group_0.format in config.json: is missing"),
        (ct("/format", json!("float-quantized")), "\"int\""),
        (ct("/format", Value::Null), "format in config.json: is missing"),
        (ct("/config_groups", json!({})), "config_groups"),
        (ct("/config_groups", json!({"g": 3})), "config_groups.g"),
        (ct("/config_groups/group_0/targets", json!([3])), "config_groups.group_0.targets"),
        (ct("/config_groups/group_0/targets", json!(["re:("])), "targets"),
        (ct(&format!("{weights}/num_bits"), json!(7)), "num_bits"),
        (ct(&format!("{weights}/type"), json!("float")), "\"float\""),
        (ct(&format!("{weights}/strategy"), json!("block")), "\"block\""),
        (ct(&format!("{weights}/group_size"), Value::Null), "group_size"),
    ] {
        let error = parse(object).unwrap_err();
        assert!(matches!(error, CheckpointError::Config { .. }), "{error}");
        assert!(error.to_string().contains(named), "{named:?} in {error}");
    }
}

/// Every tensor of a module, missing, of another type, and of another shape.
#[test]
fn tensors_that_contradict() {
    let good = matrix(
        MatrixShape::new(32, 64),
        scheme(Bits::B4, Symmetry::Affine, Granularity::group(32)),
        1,
        true,
        1,
    );
    let plain = matrix(
        MatrixShape::new(32, 64),
        scheme(Bits::B4, Symmetry::Affine, Granularity::group(32)),
        1,
        false,
        1,
    );
    for (container, matrix) in [(&V1 as &dyn Container, &good), (&CT, &plain)] {
        let (memory, config) = encode(container, matrix);
        for name in memory.0.keys() {
            let error = |broken: &Memory| config.decode(broken, "m").unwrap_err();
            let mut missing = memory.clone();
            missing.0.remove(name);
            if name != "m.g_idx" {
                let error = error(&missing);
                assert!(
                    matches!(&error, CheckpointError::MissingPart { tensor, .. } if tensor == name),
                    "{error}"
                );
            }
            let mut other_type = memory.clone();
            other_type.0.get_mut(name).unwrap().0.dtype = Dtype::C64;
            let error_type = error(&other_type);
            assert!(
                matches!(&error_type, CheckpointError::Dtype { tensor, .. } if tensor == name),
                "{error_type}"
            );
            for shape in [
                vec![],
                vec![1],
                vec![1, 1, 1],
                vec![usize::MAX, usize::MAX],
                vec![0, 0],
                vec![5, 7],
            ] {
                let mut other_shape = memory.clone();
                other_shape.0.get_mut(name).unwrap().0.shape = shape.clone();
                // No panic, and an error wherever the shape carries meaning.
                let decoded = config.decode(&other_shape, "m");
                let vector = matches!(name.as_str(), "m.g_idx" | "m.weight_shape");
                assert!(decoded.is_err() || vector && shape.len() == 1, "{name} {shape:?}");
            }
        }
    }
}

#[test]
fn values_that_contradict() {
    let symmetric = matrix(
        MatrixShape::new(8, 32),
        scheme(Bits::B4, Symmetry::Symmetric, Granularity::group(16)),
        0,
        false,
        1,
    );
    let (mut memory, config) = encode(&V1, &symmetric);
    let set = |memory: &mut Memory, name: &str, at: usize, bytes: &[u8]| {
        memory.0.get_mut(name).unwrap().1[at..at + bytes.len()].copy_from_slice(bytes);
    };
    // Group 1 of output 2 has zero point 6.
    set(&mut memory, "m.qzeros", 4, &0x7777_7577u32.to_le_bytes());
    let error = config.decode(&memory, "m").unwrap_err();
    assert!(
        matches!(
            error,
            CheckpointError::SymmetricZeroPoint { row: 2, group: 1, found: 6, expected: 8, .. }
        ),
        "{error}"
    );
    for (group, named) in
        [(2u32, "group 2"), (u32::MAX, "group"), (i32::MAX as u32, "group 2147483647")]
    {
        let (mut memory, config) = encode(&V1, &symmetric);
        set(&mut memory, "m.g_idx", 4 * 31, &group.to_le_bytes());
        let error = config.decode(&memory, "m").unwrap_err();
        assert!(matches!(error, CheckpointError::Format { .. }), "{error}");
        assert!(error.to_string().contains(named), "{error}");
    }
    for bits in [0x7c00u16, 0x7e00] {
        let (mut memory, config) = encode(&CT, &symmetric);
        set(&mut memory, "m.weight_scale", 6, &bits.to_le_bytes());
        let error = config.decode(&memory, "m").unwrap_err();
        assert!(error.to_string().contains("module m: scale"), "{error}");
    }
    for stored in [[9i64, 32], [8, -1], [8, i64::MAX], [8, 33]] {
        let (mut memory, config) = encode(&CT, &symmetric);
        let bytes: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
        set(&mut memory, "m.weight_shape", 0, &bytes);
        assert!(config.decode(&memory, "m").is_err(), "{stored:?}");
    }
}
