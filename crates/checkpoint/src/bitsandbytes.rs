//! The bitsandbytes container (bitsandbytes, transformers, vLLM): NF4 and FP4, with and without double quantization, and LLM.int8().
//!
//! ```text
//! 4 bits    <module>.weight                   U8   [⌈out·in/2⌉, 1]   codes of the flattened matrix, the first of two in the high nibble
//!           <module>.weight.absmax            F32  [blocks]          the largest magnitude of each block
//!           <module>.weight.quant_map         F32  [16]              the codebook
//!           <module>.weight.quant_state.bitsandbytes__nf4 (or __fp4)  U8  a JSON object: type, block size, float type, shape
//! double    <module>.weight.absmax            U8   [blocks]          magnitudes in 8 bits
//!           <module>.weight.nested_absmax     F32  [⌈blocks/256⌉]    the scales of those
//!           <module>.weight.nested_quant_map  F32  [256]             their codebook
//! 8 bits    <module>.weight                   I8   [out, in]
//!           <module>.SCB                      F32  [out]             the largest magnitude of each row
//!           <module>.weight_format            U8   []                0: row by row
//! all       <module>.bias                          [out]             as in the float model, if it has one
//!
//! quant_state: {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [64, 128],
//!               "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0625}
//! ```
//!
//! `blocks = ⌈out·in / blocksize⌉`. With double quantization a magnitude is `nested_quant_map[code] · nested_absmax + nested_offset`. The length
//! of the JSON text would depend on the digits of that offset, so it is padded with spaces to the longest there can be; readers parse it
//! either way. `weight` may also be stored as F16, BF16 or F32 of the same bytes (`bnb_4bit_quant_storage`), which is read.
//!
//! The configuration says 4 or 8 bits for all modules, and lists those that stay float in `llm_int8_skip_modules`, of which readers look for
//! any as a whole component of a module's name.

use fewbit_format::{
    Absmax, CodebookMatrix, CodebookScheme, MatrixShape, Quantized, ScaleType, Scheme,
};
use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, Container, Dtype, PlanInfo, Refusal, TensorSpec,
    container::{HEAD, check_names, check_same, le_bytes, most_frequent, refuse},
};

mod read;

pub use read::BitsAndBytesConfig;

/// The bitsandbytes container, for writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct BitsAndBytes;

const NAME: &str = "bitsandbytes";
/// Magnitudes in a block of double quantization: the only number that bitsandbytes writes.
const NESTED_BLOCK: u32 = 256;
/// Endings of the tensor that describes a 4-bit module.
const STATES: [&str; 2] =
    [".weight.quant_state.bitsandbytes__nf4", ".weight.quant_state.bitsandbytes__fp4"];

impl Container for BitsAndBytes {
    fn name(&self) -> &'static str {
        NAME
    }

    /// Magnitudes are f32; this is the type that readers round weights to.
    fn scale_type(&self, model: Dtype) -> ScaleType {
        match model {
            Dtype::F16 => ScaleType::F16,
            Dtype::BF16 => ScaleType::BF16,
            _ => ScaleType::F32,
        }
    }

    fn check(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Result<(), CheckpointError> {
        let refuse = |refusal| refuse(NAME, module, refusal);
        let MatrixShape { out_features, in_features } = shape;
        if shape.is_empty() {
            return refuse(Refusal::Empty { out_features, in_features });
        }
        match scheme {
            Scheme::LlmInt8 => Ok(()),
            Scheme::Codebook(scheme) => {
                let group_size = scheme.block_size.get() as usize;
                if !group_size.is_power_of_two() || !(32..=4096).contains(&group_size) {
                    let remedy = "a power of two from 32 to 4096";
                    return refuse(Refusal::GroupSize { group_size, remedy });
                }
                if let Some(size) = scheme.double_quant
                    && size.get() != NESTED_BLOCK
                {
                    let (group_size, remedy) = (size.get() as usize, "256 for magnitudes");
                    return refuse(Refusal::GroupSize { group_size, remedy });
                }
                Ok(())
            }
            other => {
                let (scheme, supported) = (other.name(), "nf4, fp4 and llm.int8()");
                refuse(Refusal::Scheme { scheme, supported })
            }
        }
    }

    fn check_plan(&self, plan: &PlanInfo<'_>) -> Result<(), CheckpointError> {
        check_same(NAME, plan, |m| {
            self.check(&m.module, m.shape, &m.scheme, m.group_map)?;
            Ok(m.scheme == Scheme::LlmInt8)
        })?;
        check_names(NAME, plan, |float, quantized| quantized.contains(&format!("{float}.")))
    }

    fn tensors(
        &self,
        module: &str,
        shape: MatrixShape,
        scheme: &Scheme,
        _has_group_map: bool,
    ) -> Vec<TensorSpec> {
        let MatrixShape { out_features: out, in_features } = shape;
        let spec = |part: &str, dtype, shape: &[usize]| {
            TensorSpec::new(format!("{module}{part}"), dtype, shape)
        };
        match scheme {
            Scheme::LlmInt8 => vec![
                spec(".weight", Dtype::I8, &[out, in_features]),
                spec(".SCB", Dtype::F32, &[out]),
                spec(".weight_format", Dtype::U8, &[]),
            ],
            Scheme::Codebook(scheme) => {
                let n_blocks = scheme.n_blocks(shape);
                let state = STATES
                    .into_iter()
                    .find(|state| state.ends_with(scheme.codebook.name()))
                    .expect("a name for each codebook");
                let length = quant_state(shape, scheme, 0.0).len();
                let absmax = match scheme.double_quant {
                    None => Dtype::F32,
                    Some(_) => Dtype::U8,
                };
                let mut specs = vec![
                    spec(".weight", Dtype::U8, &[shape.len().div_ceil(2), 1]),
                    spec(".weight.absmax", absmax, &[n_blocks]),
                    spec(".weight.quant_map", Dtype::F32, &[16]),
                    spec(state, Dtype::U8, &[length]),
                ];
                if let Some(size) = scheme.double_quant {
                    let outer = n_blocks.div_ceil(size.get() as usize);
                    specs.push(spec(".weight.nested_absmax", Dtype::F32, &[outer]));
                    specs.push(spec(".weight.nested_quant_map", Dtype::F32, &[256]));
                }
                specs
            }
            _ => Vec::new(),
        }
    }

    fn encode(
        &self,
        module: &str,
        matrix: &Quantized,
    ) -> Result<Vec<(TensorSpec, Vec<u8>)>, CheckpointError> {
        let (shape, scheme) = (matrix.shape(), matrix.scheme());
        self.check(module, shape, &scheme, false)?;
        let bytes = match matrix {
            Quantized::Codebook(matrix) => encode_codebook(matrix),
            Quantized::LlmInt8(matrix) => vec![
                matrix.codes().iter().map(|code| code.cast_unsigned()).collect(),
                le_bytes(matrix.absmax().iter().copied(), f32::to_le_bytes),
                vec![0],
            ],
            _ => unreachable!("refused above"),
        };
        Ok(self.tensors(module, shape, &scheme, false).into_iter().zip(bytes).collect())
    }

    fn config(&self, plan: &PlanInfo<'_>) -> Option<Map<String, Value>> {
        let schemes = || plan.quantized().map(|m| m.scheme);
        let eight = schemes().next()? == Scheme::LlmInt8;
        let codebooks = schemes().filter_map(|scheme| match scheme {
            Scheme::Codebook(scheme) => Some(scheme),
            _ => None,
        });
        let common = most_frequent(codebooks);
        let mut float: Vec<&str> = plan.float().map(|m| m.module.as_str()).collect();
        if !float.is_empty() && !float.contains(&HEAD) {
            float.push(HEAD);
        }
        let config = json!({
            "_load_in_4bit": !eight,
            "_load_in_8bit": eight,
            "bnb_4bit_compute_dtype": common.map_or("float32", |s| float_name(s.value_type)),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": common.map_or("fp4", |s| s.codebook.name()),
            "bnb_4bit_use_double_quant": common.is_some_and(|s| s.double_quant.is_some()),
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": if float.is_empty() { Value::Null } else { json!(float) },
            "llm_int8_threshold": 6.0,
            "load_in_4bit": !eight,
            "load_in_8bit": eight,
            "quant_method": NAME,
        });
        let Value::Object(config) = config else { unreachable!("an object literal") };
        Some(config)
    }
}

fn encode_codebook(matrix: &CodebookMatrix) -> Vec<Vec<u8>> {
    let scheme = matrix.scheme();
    let floats = |values: &[f32]| le_bytes(values.iter().copied(), f32::to_le_bytes);
    // An odd number of codes is filled up with the code of zero.
    let pair = |pair: &[u8]| {
        pair[0] << 4 | pair.get(1).copied().unwrap_or_else(|| scheme.codebook.nearest(0.0))
    };
    let codes = matrix.codes().chunks(2).map(pair).collect();
    let map = floats(scheme.codebook.values());
    match matrix.absmax() {
        Absmax::Plain(values) => {
            vec![codes, floats(values), map, quant_state(matrix.shape(), &scheme, 0.0)]
        }
        Absmax::Double(double) => vec![
            codes,
            double.codes.clone(),
            map,
            quant_state(matrix.shape(), &scheme, double.offset),
            floats(&double.absmax),
            floats(&double.map),
        ],
    }
}

/// The JSON text of a 4-bit module, as Python writes it; padded to a length that does not depend on `offset`.
fn quant_state(shape: MatrixShape, scheme: &CodebookScheme, offset: f32) -> Vec<u8> {
    /// Characters of the longest f32 as Python writes it.
    const LONGEST: usize = 23;
    let MatrixShape { out_features, in_features } = shape;
    let mut text = format!(
        r#"{{"quant_type": "{}", "blocksize": {}, "dtype": "{}", "shape": [{out_features}, {in_features}]"#,
        scheme.codebook.name(),
        scheme.block_size,
        float_name(scheme.value_type),
    );
    let mut padding = 0;
    if let Some(size) = scheme.double_quant {
        let offset = python_float(offset);
        padding = LONGEST.saturating_sub(offset.len());
        text.push_str(&format!(
            r#", "nested_blocksize": {size}, "nested_dtype": "float32", "nested_offset": {offset}"#
        ));
    }
    text.push('}');
    text.push_str(&" ".repeat(padding));
    text.into_bytes()
}

/// A number as Python's `repr` of the same value in double precision.
fn python_float(value: f32) -> String {
    let value = f64::from(value);
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e16).contains(&magnitude) {
        // Shortest digits, and a fraction even where it is zero.
        return format!("{value:?}");
    }
    let text = format!("{value:e}");
    let (digits, exponent) = text.split_once('e').expect("exponential notation");
    let (sign, exponent) = match exponent.strip_prefix('-') {
        Some(exponent) => ('-', exponent),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{exponent:0>2}")
}

/// The name that torch has for a float type.
const fn float_name(float: ScaleType) -> &'static str {
    match float {
        ScaleType::F16 => "float16",
        ScaleType::BF16 => "bfloat16",
        ScaleType::F32 => "float32",
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use fewbit_format::Codebook;

    use super::*;

    #[test]
    fn numbers_as_python_writes_them() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (0.988_991_86, "0.9889918565750122"),
            (1.234_567_8e-5, "1.2345678442216013e-05"),
            (1e-4, "9.999999747378752e-05"),
            (1.5e20, "1.500000030061316e+20"),
            (-0.001, "-0.0010000000474974513"),
            (1e-45, "1.401298464324817e-45"),
            (3e15, "3000000028082176.0"),
        ] {
            assert_eq!(python_float(value), text);
        }
    }

    #[test]
    fn state_texts() {
        let (shape, value_type) = (MatrixShape::new(4, 64), ScaleType::F32);
        let plain = CodebookScheme::new(Codebook::Nf4, 64, false, value_type);
        let text =
            r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4, 64]}"#;
        assert_eq!(text.len(), 76);
        assert_eq!(quant_state(shape, &plain, 0.0), text.as_bytes());
        let double = CodebookScheme { double_quant: NonZeroU32::new(256), ..plain };
        let expected = r#"{"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4, 64], "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.9889918565750122}"#;
        let written = quant_state(shape, &double, 0.988_991_86);
        assert_eq!(written.trim_ascii_end(), expected.as_bytes());
        for offset in [0.0, 1e-45, -1.234_567_8e-38, f32::MAX, 0.000_123_456_79, 123.456_79] {
            assert_eq!(quant_state(shape, &double, offset).len(), written.len(), "{offset}");
        }
    }
}
