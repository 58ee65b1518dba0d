//! Reading what is drawn in the parent module.

use std::num::NonZeroU32;

use fewbit_format::{
    Bits, Granularity, IntScheme, MatrixShape, QuantMatrix, Symmetry,
    packing::{Words, transpose, unpack_rows},
};
use regex::Regex;
use serde_json::Value;

use super::{GptqVersion, Settings, WIDTH_NAMES, WIDTHS};
use crate::{
    CheckpointError, Refusal, TensorSource,
    config::{Keys, group_size},
    container::refuse,
    parts::Parts,
};

/// What a GPTQ configuration says, for reading.
#[derive(Clone, Debug)]
pub struct GptqConfig {
    version: GptqVersion,
    default: Settings,
    /// Patterns with settings of their own, in the order of the file.
    dynamic: Vec<(Regex, Overrides)>,
    /// Whether version 1 zero points were made by subtracting [`ones`] from whole words.
    word_offset: bool,
}

/// What GPTQModel before 7 subtracts from the words of zero points, by column modulo 3. Where a field is 0, it borrows from the next; at 3 bits the
/// constants are, besides, in the wrong order. Adding them back undoes both.
const fn ones(bits: Bits, column: usize) -> u32 {
    match bits {
        Bits::B2 => 0x5555_5555,
        Bits::B4 => 0x1111_1111,
        Bits::B8 => 0x0101_0101,
        _ => [0x2492_4924, 0x9249_2492, 0x4924_9249][column % 3],
    }
}

impl GptqConfig {
    /// What stored zero points mean.
    pub fn version(&self) -> GptqVersion {
        self.version
    }

    pub(crate) fn parse(keys: &Keys<'_>) -> Result<Self, CheckpointError> {
        if keys.boolean("is_marlin_format")? == Some(true) {
            return Err(keys.unsupported("is_marlin_format", "true", "the gptq layout"));
        }
        let key =
            if keys.get("checkpoint_format").is_some() { "checkpoint_format" } else { "format" };
        let version = match keys.text(key)?.unwrap_or("gptq") {
            "gptq" => GptqVersion::V1,
            "gptq_v2" => GptqVersion::V2,
            other => return Err(keys.unsupported(key, other, "gptq and gptq_v2")),
        };
        match keys.text("pack_dtype")? {
            None | Some("int32") => {}
            Some(other) => return Err(keys.unsupported("pack_dtype", other, "int32")),
        }
        let given = Settings::parse(keys)?;
        let default = Settings {
            bits: keys.need("bits", given.bits)?,
            group_size: keys.need("group_size", given.group_size)?,
            symmetry: given.symmetry.unwrap_or(Symmetry::Symmetric),
        };
        let mut dynamic = Vec::new();
        if let Some(overrides) = keys.object("dynamic")? {
            for pattern in overrides.object.keys() {
                // What stays float has no packed tensors, whatever patterns say.
                if pattern.starts_with("-:") {
                    continue;
                }
                let body = pattern.strip_prefix("+:").unwrap_or(pattern);
                let regex = overrides.pattern(pattern, body)?;
                let settings = overrides.object(pattern)?;
                let settings = overrides.need(pattern, settings)?;
                dynamic.push((regex, Settings::parse(&settings)?));
            }
        }
        let word_offset = version == GptqVersion::V1 && made_by_early_gptqmodel(keys)?;
        Ok(Self { version, default, dynamic, word_offset })
    }

    fn settings(&self, module: &str) -> Settings {
        let Settings { bits, group_size, symmetry } = self.default;
        match self.dynamic.iter().find(|(pattern, _)| pattern.is_match(module)) {
            None => self.default,
            Some((_, o)) => Settings {
                bits: o.bits.unwrap_or(bits),
                group_size: o.group_size.unwrap_or(group_size),
                symmetry: o.symmetry.unwrap_or(symmetry),
            },
        }
    }

    pub(crate) fn decode(
        &self,
        source: &dyn TensorSource,
        module: &str,
    ) -> Result<QuantMatrix, CheckpointError> {
        let parts = Parts { source, module };
        let Settings { bits, group_size, symmetry } = self.settings(module);
        let granularity = group_size.map_or(Granularity::Channel, Granularity::Group);
        let [width, out] = parts.matrix("qweight")?;
        let g_idx = parts.find("g_idx").map(|_| parts.integers("g_idx")).transpose()?;
        let in_features = match &g_idx {
            Some(map) => map.len(),
            None => (width as u64 * 32 / u64::from(bits.get())) as usize,
        };
        let shape = MatrixShape::new(out, in_features);
        if out == 0 || in_features == 0 {
            let refusal = Refusal::Empty { out_features: out, in_features };
            return refuse(self.version.name(), module, refusal);
        }

        let words = |count| Words::Dense.count(count, bits);
        let qweight = parts.words("qweight", [words(in_features), out])?;
        let rows = transpose(&qweight, width, out);
        let codes = unpack_rows(&rows, out, in_features, bits, Words::Dense)
            .map_err(|error| parts.format(error))?;

        let n_groups = granularity.n_groups(in_features);
        parts.check_shape("scales", &[n_groups, out])?;
        let (scales, scale_type) = parts.scales("scales")?;
        let scales = transpose(&scales, n_groups, out);
        let qzeros = parts.words("qzeros", [n_groups, words(out)])?;
        let zeros = self.zero_points(&parts, qzeros, [n_groups, out], bits, symmetry)?;
        let map = match g_idx {
            None => None,
            Some(map) => parts.group_map(map, granularity.group_size(in_features), n_groups)?,
        };
        let scheme = IntScheme { bits, symmetry, granularity, scale_type };
        QuantMatrix::new(shape, scheme, codes, scales, zeros, map)
            .map_err(|error| parts.format(error))
    }

    /// Zero points as `(out_features, n_groups)`; none if symmetric.
    fn zero_points(
        &self,
        parts: &Parts<'_>,
        mut words: Vec<u32>,
        [n_groups, out]: [usize; 2],
        bits: Bits,
        symmetry: Symmetry,
    ) -> Result<Vec<u8>, CheckpointError> {
        let unpack = |words: &[u32], offset: u8| {
            let fields = unpack_rows(words, n_groups, out, bits, Words::Dense)
                .map_err(|error| parts.format(error))?;
            let zeros = transpose(&fields, n_groups, out);
            Ok(zeros.iter().map(|z| z.wrapping_add(offset) & bits.max_code()).collect::<Vec<u8>>())
        };
        let by_field = unpack(&words, self.version.offset())?;
        let constant = by_field.iter().all(|&zero| zero == bits.middle());
        if symmetry == Symmetry::Symmetric && constant {
            return Ok(Vec::new());
        }
        // Which of the two readings a symmetric version 1 file means shows in the result, whoever made it.
        let v1 = self.version == GptqVersion::V1;
        let zeros = if v1 && (self.word_offset || symmetry == Symmetry::Symmetric) {
            let width = words.len() / n_groups;
            for (i, word) in words.iter_mut().enumerate() {
                *word = word.wrapping_add(ones(bits, i % width));
            }
            unpack(&words, 0)?
        } else {
            by_field
        };
        match symmetry {
            Symmetry::Affine => Ok(zeros),
            Symmetry::Symmetric => {
                parts.check_symmetric(&zeros, n_groups, bits.middle())?;
                Ok(Vec::new())
            }
        }
    }
}

/// Whether `meta.quantizer` names GPTQModel below version 7.
fn made_by_early_gptqmodel(keys: &Keys<'_>) -> Result<bool, CheckpointError> {
    let Some(Value::Object(meta)) = keys.get("meta") else { return Ok(false) };
    let names = match meta.get("quantizer") {
        Some(Value::Array(names)) => names.as_slice(),
        Some(name) => std::slice::from_ref(name),
        None => &[],
    };
    Ok(names.iter().filter_map(Value::as_str).any(|name| {
        let version = name.strip_prefix("gptqmodel:");
        let major = version.and_then(|v| v.split('.').next()?.parse::<u32>().ok());
        major.is_some_and(|major| major < 7)
    }))
}

impl Settings {
    /// Reads what `keys` say; `None` for what they don't.
    fn parse(keys: &Keys<'_>) -> Result<Overrides, CheckpointError> {
        let bits = match keys.integer("bits")? {
            None => keys.integer("w_bit")?,
            some => some,
        };
        let known = |bits: i64| WIDTHS.into_iter().find(|b| i64::from(b.get()) == bits);
        let unknown = |bits: i64| keys.unsupported("bits", &bits.to_string(), WIDTH_NAMES);
        let bits = bits.map(|b| known(b).ok_or_else(|| unknown(b))).transpose()?;
        let group_size = group_size(keys)?;
        let symmetry = keys.boolean("sym")?;
        let symmetry = symmetry.map(|s| if s { Symmetry::Symmetric } else { Symmetry::Affine });
        Ok(Overrides { bits, group_size, symmetry })
    }
}

/// Settings of which any may be left to the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overrides {
    bits: Option<Bits>,
    group_size: Option<Option<NonZeroU32>>,
    symmetry: Option<Symmetry>,
}
