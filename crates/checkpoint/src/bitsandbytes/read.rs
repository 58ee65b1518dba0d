//! Reading what is drawn in the parent module.

use std::{num::NonZeroU32, path::Path};

use fewbit_format::{
    Absmax, Codebook, CodebookMatrix, CodebookScheme, DoubleQuant, LlmInt8Matrix, MatrixShape,
    Quantized, ScaleType,
};
use serde_json::{Map, Value};

use super::{NAME, STATES};
use crate::{
    CheckpointError, ConfigProblem, Dtype, Refusal, TensorSource, config::Keys, container::refuse,
    parts::Parts,
};

/// That a model is quantized by bitsandbytes; how, each module says itself.
#[derive(Clone, Copy, Debug)]
pub struct BitsAndBytesConfig;

impl BitsAndBytesConfig {
    pub(crate) fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        // The numbers in these are read from the tensors; here they must only not contradict each other.
        let four = keys.boolean("load_in_4bit")?.unwrap_or_default();
        let eight = keys.boolean("load_in_8bit")?.unwrap_or_default();
        if four == eight {
            let (found, supported) =
                (four.to_string(), "true in one of load_in_4bit and load_in_8bit");
            return Err(keys.unsupported("load_in_4bit", &found, supported));
        }
        Ok(Self)
    }

    /// Whether `source` holds this module in quantized form.
    pub(crate) fn holds(source: &dyn TensorSource, module: &str) -> bool {
        let has = |mark: &str| source.tensor(&format!("{module}{mark}")).is_some();
        STATES.into_iter().any(has) || has(".SCB")
    }

    pub(crate) fn decode(
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<Quantized, CheckpointError> {
        let parts = Parts { source, module };
        for (state, codebook) in STATES.into_iter().zip([Codebook::Nf4, Codebook::Fp4]) {
            if parts.find(&state[1..]).is_some() {
                return decode_codebook(&parts, &state[1..], codebook).map(Quantized::Codebook);
            }
        }
        decode_int8(&parts).map(Quantized::LlmInt8)
    }
}

/// What the JSON text of a module says.
struct State {
    shape: MatrixShape,
    scheme: CodebookScheme,
    offset: f32,
}

impl State {
    fn read(parts: &Parts<'_>, state: &str, codebook: Codebook) -> Result<Self, CheckpointError> {
        let info = parts.info(state)?;
        let text = parts.typed(state, &[Dtype::U8], "U8", &info.shape)?;
        let file = Path::new(&info.name);
        let object: Map<String, Value> = serde_json::from_slice(&text)
            .map_err(|source| CheckpointError::Json { file: file.to_owned(), source })?;
        let keys = Keys::new(&object, file);
        match keys.need("quant_type", keys.text("quant_type")?)? {
            name if name == codebook.name() => {}
            other => {
                return Err(keys.unsupported("quant_type", other, "the type in the tensor's name"));
            }
        }
        let value_type = match keys.need("dtype", keys.text("dtype")?)? {
            "float16" => ScaleType::F16,
            "bfloat16" => ScaleType::BF16,
            "float32" => ScaleType::F32,
            other => {
                return Err(keys.unsupported("dtype", other, "float16, bfloat16 and float32"));
            }
        };
        let size = |key| {
            let size = keys.need(key, keys.integer(key)?)?;
            let positive = u32::try_from(size).ok().and_then(NonZeroU32::new);
            let expected = "a positive block size";
            let found = Value::from(size);
            positive.ok_or_else(|| keys.error(key, ConfigProblem::expected(&found, expected)))
        };
        let sizes = keys.list("shape")?;
        let size_of = |value: &Value| usize::try_from(value.as_u64()?).ok();
        let shape = match sizes.iter().map(size_of).collect::<Option<Vec<_>>>().as_deref() {
            Some(&[rows, columns]) if rows.checked_mul(columns).is_some() => {
                MatrixShape::new(rows, columns)
            }
            _ => {
                let found = Value::Array(sizes.to_vec());
                let problem = ConfigProblem::expected(&found, "rows and columns");
                return Err(keys.error("shape", problem));
            }
        };
        let (double_quant, offset) = match keys.get("nested_blocksize") {
            None => (None, 0.0),
            Some(_) => {
                match keys.text("nested_dtype")? {
                    None | Some("float32") => {}
                    Some(other) => return Err(keys.unsupported("nested_dtype", other, "float32")),
                }
                let offset = keys.float("nested_offset")?;
                let offset = keys.need("nested_offset", offset)?;
                (Some(size("nested_blocksize")?), offset as f32)
            }
        };
        let block_size = size("blocksize")?;
        let scheme = CodebookScheme { codebook, block_size, double_quant, value_type };
        Ok(Self { shape, scheme, offset })
    }
}

fn decode_codebook(
    parts: &Parts<'_>,
    state: &str,
    codebook: Codebook,
) -> Result<CodebookMatrix, CheckpointError> {
    let State { shape, scheme, offset } = State::read(parts, state, codebook)?;
    let MatrixShape { out_features, in_features } = shape;
    if shape.is_empty() {
        return refuse(NAME, parts.module, Refusal::Empty { out_features, in_features });
    }
    // Whatever type the bytes were stored as.
    let info = parts.info("weight")?;
    let dtypes = [Dtype::U8, Dtype::F16, Dtype::BF16, Dtype::F32];
    let packed = parts.typed("weight", &dtypes, "U8, F16, BF16 or F32", &info.shape)?;
    let expected = shape.len().div_ceil(2);
    if packed.len() != expected {
        let (tensor, got) = (info.name.clone(), packed.len() as u64);
        return Err(CheckpointError::TensorLength { tensor, got, expected: expected as u64 });
    }
    let mut codes: Vec<u8> = packed.iter().flat_map(|byte| [byte >> 4, byte & 15]).collect();
    codes.truncate(shape.len());

    let map = parts.floats("weight.quant_map", &[16])?;
    let table = codebook.values();
    if let Some(index) = (0..16).find(|&i| map[i] != table[i]) {
        return Err(CheckpointError::Codebook {
            module: parts.module.to_owned(),
            codebook: codebook.name(),
            index,
            found: map[index],
            expected: table[index],
        });
    }
    let n_blocks = scheme.n_blocks(shape);
    let absmax = match scheme.double_quant {
        None => Absmax::Plain(parts.floats("weight.absmax", &[n_blocks])?),
        Some(size) => {
            let outer = n_blocks.div_ceil(size.get() as usize);
            let codes = parts.typed("weight.absmax", &[Dtype::U8], "U8", &[n_blocks])?;
            Absmax::Double(DoubleQuant {
                codes: codes.into_owned(),
                absmax: parts.floats("weight.nested_absmax", &[outer])?,
                map: parts.floats("weight.nested_quant_map", &[256])?,
                offset,
            })
        }
    };
    CodebookMatrix::new(shape, scheme, codes, absmax).map_err(|e| parts.format(e))
}

fn decode_int8(parts: &Parts<'_>) -> Result<LlmInt8Matrix, CheckpointError> {
    let [out_features, in_features] = parts.matrix("weight")?;
    if out_features == 0 || in_features == 0 {
        return refuse(NAME, parts.module, Refusal::Empty { out_features, in_features });
    }
    if let Some(info) = parts.find("weight_format") {
        let format = parts.typed("weight_format", &[Dtype::U8], "U8", &info.shape)?;
        if let Some(&format) = format.iter().find(|&&format| format != 0) {
            let tensor = info.name.clone();
            return Err(CheckpointError::WeightFormat { tensor, format });
        }
    }
    let shape = MatrixShape { out_features, in_features };
    let codes = parts.bytes("weight", &[out_features, in_features])?;
    let absmax = parts.floats("SCB", &[out_features])?;
    LlmInt8Matrix::new(shape, codes, absmax).map_err(|e| parts.format(e))
}
