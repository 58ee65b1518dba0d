//! bitsandbytes: the vectors of its quantizer as files, round trips, every refusal; files that it wrote are in peers.rs.

mod common;

use std::num::NonZeroU32;

use common::{Memory, config, encode, module};
use fewbit_checkpoint::{
    BitsAndBytes, CheckpointError, Container, ContainerConfig, Dtype, ModuleScheme, PlanInfo,
    Refusal, TensorSpec,
};
use fewbit_format::{
    Absmax, Codebook, CodebookMatrix, CodebookScheme, DoubleQuant, LlmInt8Matrix, MatrixShape,
    Quantized, ScaleType, Scheme,
};
use fewbit_testkit::{Random, crc32};
use proptest::prelude::*;
use serde_json::json;

/// The input of the vectors: a linear congruential sequence between −1 and 1.
fn sequence(n: usize) -> Vec<f32> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 - 8_388_608.0) / 8_388_608.0
    };
    (0..n).map(|_| next()).collect()
}

fn codebook(book: Codebook, block: u32, double: bool, value_type: ScaleType) -> Scheme {
    Scheme::Codebook(CodebookScheme::new(book, block, double, value_type))
}

#[test]
fn tensors_by_hand() {
    let shape = MatrixShape::new(4, 64);
    let scheme = codebook(Codebook::Nf4, 64, true, ScaleType::F32);
    let matrix = Quantized::round_to_nearest(&sequence(256), shape, scheme).unwrap();
    let (memory, _) = encode(&BitsAndBytes, &matrix);
    let bytes = |name: &str| &memory.0[name].1[..];
    assert_eq!(memory.0["m.weight"].0.shape, [128, 1]);
    assert_eq!(crc32(bytes("m.weight")), 0xc080_3974);
    assert_eq!(bytes("m.weight")[..4], [0x24, 0x7c, 0x04, 0xd8]);
    assert_eq!(bytes("m.weight.absmax"), [92, 219, 0, 220]);
    assert_eq!(crc32(bytes("m.weight.quant_map")), 0xc471_f81a);
    assert_eq!(bytes("m.weight.nested_absmax"), 0.015_380_621f32.to_le_bytes());
    assert_eq!(crc32(bytes("m.weight.nested_quant_map")), 0x1b13_7aeb);
    let state = String::from_utf8(bytes("m.weight.quant_state.bitsandbytes__nf4").to_vec());
    assert_eq!(
        state.unwrap().trim_end(),
        r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.9889918565750122}"#
    );
    let single = codebook(Codebook::Fp4, 64, false, ScaleType::F32);
    let matrix = Quantized::round_to_nearest(&sequence(256), shape, single).unwrap();
    let (memory, _) = encode(&BitsAndBytes, &matrix);
    assert_eq!(crc32(&memory.0["m.weight"].1), 0x57b1_ccfe);
    assert!(!memory.0.contains_key("m.weight.nested_absmax"));
    assert!(memory.0.contains_key("m.weight.quant_state.bitsandbytes__fp4"));

    let matrix = Quantized::round_to_nearest(&sequence(256), shape, Scheme::LlmInt8).unwrap();
    let (memory, _) = encode(&BitsAndBytes, &matrix);
    assert_eq!(crc32(&memory.0["m.weight"].1), 0x85a6_29d2);
    assert_eq!(memory.0["m.weight"].0.dtype, Dtype::I8);
    assert_eq!(memory.0["m.weight_format"].1, [0]);
    assert!(memory.0["m.weight_format"].0.shape.is_empty());
}

/// A matrix with any codes and parameters.
fn random(shape: MatrixShape, scheme: CodebookScheme, seed: u64) -> CodebookMatrix {
    let mut random = Random::new(seed);
    let codes = (0..shape.len()).map(|_| random.below(16) as u8).collect();
    let n_blocks = scheme.n_blocks(shape);
    let absmax = match scheme.double_quant {
        None => Absmax::Plain(random.normals(n_blocks)),
        Some(size) => Absmax::Double(DoubleQuant {
            codes: (0..n_blocks).map(|_| random.below(256) as u8).collect(),
            absmax: random.normals(n_blocks.div_ceil(size.get() as usize)),
            map: random.normals(256),
            offset: random.normal() as f32 * f32::powi(10.0, random.below(20) as i32 - 10),
        }),
    };
    CodebookMatrix::new(shape, scheme, codes, absmax).unwrap()
}

fn round_trip(matrix: Quantized) {
    let (shape, scheme) = (matrix.shape(), matrix.scheme());
    BitsAndBytes.check("m", shape, &scheme, false).unwrap();
    let encoded = BitsAndBytes.encode("m", &matrix).unwrap();
    let specs: Vec<TensorSpec> = encoded.iter().map(|(spec, _)| spec.clone()).collect();
    assert_eq!(specs, BitsAndBytes.tensors("m", shape, &scheme, false));
    let (memory, config) = encode(&BitsAndBytes, &matrix);
    assert!(config.holds(&memory, "m") && !config.holds(&memory, "n"));
    assert_eq!(config.name(), "bitsandbytes");
    let back = config.decode(&memory, "m").unwrap();
    assert_eq!(back, matrix);
    // And the file again, to the byte.
    assert_eq!(BitsAndBytes.encode("m", &back).unwrap(), encoded);
}

proptest! {
    #[test]
    fn decoding_undoes_encoding(seed: u64, out in 1usize..9, n in 1usize..90, block in 5u32..10, fp4: bool, double: bool, float in 0usize..3) {
        let book = if fp4 { Codebook::Fp4 } else { Codebook::Nf4 };
        let value_type = [ScaleType::F16, ScaleType::BF16, ScaleType::F32][float];
        let scheme = CodebookScheme::new(book, 1 << block, double, value_type);
        round_trip(random(MatrixShape::new(out, n), scheme, seed).into());
    }

    #[test]
    fn int8_decoding_undoes_encoding(seed: u64, out in 1usize..9, n in 1usize..90) {
        let mut random = Random::new(seed);
        let codes = (0..out * n).map(|_| random.below(256) as u8 as i8).collect();
        let matrix = LlmInt8Matrix::new(MatrixShape::new(out, n), codes, random.normals(out));
        round_trip(matrix.unwrap().into());
    }
}

/// The same bytes as another float type (`bnb_4bit_quant_storage`).
#[test]
fn other_storage_types_are_read() {
    let scheme = codebook(Codebook::Nf4, 64, false, ScaleType::BF16);
    let shape = MatrixShape::new(16, 64);
    let matrix = Quantized::round_to_nearest(&sequence(1024), shape, scheme).unwrap();
    let (mut memory, config) = encode(&BitsAndBytes, &matrix);
    let bytes = memory.0["m.weight"].1.clone();
    for (dtype, size) in [(Dtype::BF16, 2), (Dtype::F16, 2), (Dtype::F32, 4)] {
        memory.insert(TensorSpec::new("m.weight", dtype, [512 / size, 1]), bytes.clone());
        assert_eq!(config.decode(&memory, "m").unwrap(), matrix);
    }
    memory.insert(TensorSpec::new("m.weight", Dtype::U8, [511, 1]), bytes[1..].to_vec());
    let error = config.decode(&memory, "m").unwrap_err();
    assert!(matches!(error, CheckpointError::TensorLength { got: 511, expected: 512, .. }));
}

#[test]
fn refusals_before_any_work() {
    let shape = MatrixShape::new(64, 64);
    let refusal = |shape, scheme: Scheme| match BitsAndBytes.check("m", shape, &scheme, false) {
        Err(CheckpointError::Refused { container: "bitsandbytes", refusal, .. }) => refusal,
        other => panic!("{other:?}"),
    };
    for block in [16, 48, 8192] {
        let scheme = codebook(Codebook::Nf4, block, false, ScaleType::F16);
        let Refusal::GroupSize { group_size, .. } = refusal(shape, scheme) else { panic!() };
        assert_eq!(group_size, block as usize);
    }
    let odd = CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::F16);
    let odd = CodebookScheme { double_quant: NonZeroU32::new(128), ..odd };
    assert!(matches!(
        refusal(shape, Scheme::Codebook(odd)),
        Refusal::GroupSize { group_size: 128, .. }
    ));
    assert!(matches!(refusal(MatrixShape::new(0, 64), Scheme::LlmInt8), Refusal::Empty { .. }));
    assert!(matches!(
        refusal(shape, Scheme::Float4(fewbit_format::Float4::Nvfp4)),
        Refusal::Scheme { scheme: "nvfp4", .. }
    ));
    let matrix = fewbit_format::Float4Matrix::round_to_nearest(
        &vec![0.5; 4096],
        shape,
        fewbit_format::Float4::Mxfp4,
    );
    assert!(BitsAndBytes.encode("m", &matrix.unwrap().into()).is_err());
}

#[test]
fn plans() {
    let nf4 = codebook(Codebook::Nf4, 64, true, ScaleType::BF16);
    let fp4 = codebook(Codebook::Fp4, 128, false, ScaleType::BF16);
    let check =
        |modules: &[ModuleScheme]| BitsAndBytes.check_plan(&PlanInfo { modules, damping: None });
    let modules =
        [module("a.b", nf4), module("a.c", fp4), module("a.d", Scheme::Float), module("a.e", nf4)];
    check(&modules).unwrap();
    let (written, _) = config(&BitsAndBytes, &modules);
    assert_eq!(written["bnb_4bit_quant_type"], "nf4");
    assert_eq!(written["bnb_4bit_use_double_quant"], true);
    assert_eq!(written["bnb_4bit_compute_dtype"], "bfloat16");
    assert_eq!(written["llm_int8_skip_modules"], json!(["a.d", "lm_head"]));
    assert_eq!((&written["load_in_4bit"], &written["load_in_8bit"]), (&json!(true), &json!(false)));
    let (written, _) = config(&BitsAndBytes, &[module("a", Scheme::LlmInt8)]);
    assert_eq!((&written["load_in_4bit"], &written["load_in_8bit"]), (&json!(false), &json!(true)));
    assert!(written["llm_int8_skip_modules"].is_null());

    let error = check(&[module("a", nf4), module("b", Scheme::LlmInt8)]).unwrap_err();
    assert!(error.to_string().contains("one place for all"), "{error}");
    let error = check(&[module("a", Scheme::Float), module("a.b", nf4)]).unwrap_err();
    assert!(error.to_string().contains("a stays in float"), "{error}");
    check(&[module("a.b", Scheme::Float), module("a.bc", nf4)]).unwrap();
    assert!(check(&[module("lm_head", nf4)]).is_err());
}

#[test]
fn configurations() {
    let parse = |object: serde_json::Value| {
        ContainerConfig::parse(object.as_object().unwrap(), "config.json".as_ref())
    };
    parse(json!({"quant_method": "bitsandbytes", "load_in_4bit": true})).unwrap();
    for object in [
        json!({"quant_method": "bitsandbytes"}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": true, "load_in_8bit": true}),
        json!({"quant_method": "bitsandbytes", "load_in_4bit": "yes"}),
    ] {
        let error = parse(object).unwrap_err();
        assert!(error.to_string().contains("load_in_4bit"), "{error}");
    }
}

fn good(double: bool) -> (Memory, ContainerConfig) {
    let scheme = codebook(Codebook::Nf4, 64, double, ScaleType::F16);
    let shape = MatrixShape::new(8, 64);
    let matrix = Quantized::round_to_nearest(&sequence(512), shape, scheme).unwrap();
    encode(&BitsAndBytes, &matrix)
}

#[test]
fn tensors_that_contradict() {
    let int8 =
        Quantized::round_to_nearest(&sequence(512), MatrixShape::new(8, 64), Scheme::LlmInt8);
    for (memory, config) in [good(false), good(true), encode(&BitsAndBytes, &int8.unwrap())] {
        for name in memory.0.keys() {
            let mut missing = memory.clone();
            missing.0.remove(name);
            // Without the tensor that marks it, the module is another kind or none.
            let optional = name == "m.weight_format";
            assert_eq!(config.decode(&missing, "m").is_ok(), optional, "{name}");
            let mut other_type = memory.clone();
            other_type.0.get_mut(name).unwrap().0.dtype = Dtype::C64;
            let error = config.decode(&other_type, "m").unwrap_err();
            assert!(
                matches!(&error, CheckpointError::Dtype { tensor, .. } if tensor == name),
                "{error}"
            );
            for shape in [vec![1, 1, 1], vec![usize::MAX; 2], vec![0, 0], vec![5, 7]] {
                let mut other_shape = memory.clone();
                other_shape.0.get_mut(name).unwrap().0.shape = shape.clone();
                // These are read whatever their shape: one says so itself, the others are bytes.
                let shapeless = name == "m.weight_format"
                    || name.contains("quant_state")
                    || name == "m.weight" && !memory.0.contains_key("m.SCB");
                let decoded = config.decode(&other_shape, "m");
                assert!(decoded.is_err() || shapeless, "{name} {shape:?}");
            }
        }
    }
}

#[test]
fn values_that_contradict() {
    const STATE: &str = "m.weight.quant_state.bitsandbytes__nf4";
    let decode = |double: bool, state: &str| {
        let (mut memory, config) = good(double);
        let spec = TensorSpec::new(STATE, Dtype::U8, [state.len()]);
        memory.insert(spec, state.as_bytes().to_vec());
        config.decode(&memory, "m")
    };
    let text = |from: &str, to: &str| {
        let state =
            r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [8, 64]}"#;
        assert!(state.contains(from));
        state.replace(from, to)
    };
    decode(false, &text("nf4", "nf4")).unwrap();
    for (state, named) in [
        (text("nf4", "fp4"), "\"fp4\""),
        (text("64,", "0,"), "blocksize"),
        (text("64,", "-64,"), "blocksize"),
        (text("64,", "4294967296,"), "blocksize"),
        (text("float16", "float64"), "\"float64\""),
        (text("[8, 64]", "[8]"), "shape"),
        (text("[8, 64]", "null"), "shape"),
        (text("[8, 64]", "[8, -64]"), "shape"),
        (text("[8, 64]", "[4294967296, 4294967296]"), "shape"),
        (text("[8, 64]", "[4294967296, 4294967295]"), "takes"),
        (text("[8, 64]", "[0, 64]"), "empty"),
        (text("[8, 64]", "[16, 64]"), "takes 512 bytes, not 256"),
        (
            text("\"blocksize\": 64, ", ""),
            "blocksize in m.weight.quant_state.bitsandbytes__nf4: is missing",
        ),
        (text("}", ""), "is not valid"),
        (text("{", "["), "is not valid"),
        (text("}", ", \"nested_blocksize\": 256}"), "nested_offset"),
        (
            text(
                "}",
                ", \"nested_blocksize\": 256, \"nested_dtype\": \"float16\", \"nested_offset\": 0.5}",
            ),
            "nested_dtype",
        ),
    ] {
        let error = decode(false, &state).unwrap_err();
        assert!(error.to_string().contains(named), "{named:?} in {error}");
    }
    let set = |memory: &mut Memory, name: &str, at: usize, bytes: &[u8]| {
        memory.0.get_mut(name).unwrap().1[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let (mut memory, config) = good(false);
    set(&mut memory, "m.weight.quant_map", 8, &0.5f32.to_le_bytes());
    let error = config.decode(&memory, "m").unwrap_err();
    assert!(
        matches!(error, CheckpointError::Codebook { index: 2, codebook: "nf4", .. }),
        "{error}"
    );
    let (mut memory, config) = good(false);
    set(&mut memory, "m.weight.absmax", 4, &f32::NAN.to_le_bytes());
    assert!(config.decode(&memory, "m").unwrap_err().to_string().contains("magnitude is NaN"));

    let int8 =
        Quantized::round_to_nearest(&sequence(512), MatrixShape::new(8, 64), Scheme::LlmInt8);
    let (mut memory, config) = encode(&BitsAndBytes, &int8.unwrap());
    set(&mut memory, "m.weight_format", 0, &[2]);
    let error = config.decode(&memory, "m").unwrap_err();
    assert!(matches!(error, CheckpointError::WeightFormat { format: 2, .. }), "{error}");
}
