//! Pre-tokenizers: GGUF names them, `tokenizer.json` spells them out.

use serde_json::{Map, Value, json};

use crate::{CheckpointError, ConfigProblem, config::Keys};

use super::super::GgufArch;

/// How a byte-level vocabulary cuts a text into words, by its name in GGUF.
///
/// The name stands for patterns that cut one after the other, and for whether a word that is a token is taken whole (`ignore_merges`).
#[derive(Clone, Copy, Debug)]
pub struct PreTokenizer {
    /// What `tokenizer.ggml.pre` says.
    name: &'static str,
    preset: &'static Preset,
}

#[derive(Debug)]
struct Preset {
    /// Each cuts what the ones before it left: matches are words of their own.
    splits: &'static [&'static str],
    ignore_merges: bool,
    /// What llama.cpp does where no key says so.
    add_bos: bool,
    /// The first is what is written; the others are read as the same.
    names: &'static [&'static str],
}

impl PartialEq for PreTokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The letters of the contractions in either case, as some files write them.
const CASES: (&str, &str) =
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])");

const PRESETS: [Preset; 7] = [
    Preset {
        splits: &[GPT2],
        ignore_merges: false,
        add_bos: false,
        names: &[
            "gpt-2",
            "mpt",
            "olmo",
            "jais",
            "phi-2",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "trillion",
            "granite-docling",
            "exaone4",
        ],
    },
    Preset {
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
        ],
    },
    Preset {
        splits: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
        names: &["smaug-bpe", "dbrx"],
    },
    Preset {
        splits: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
        names: &[
            "qwen2",
            "stablelm2",
            "deepseek-r1-qwen",
            "megrez",
            "hunyuan",
            "kormo",
            "solar-open",
        ],
    },
    Preset {
        splits: &[DIGIT, GPT2],
        ignore_merges: false,
        add_bos: false,
        names: &["smollm", "exaone", "starcoder", "refact", "command-r", "codeshell", "minerva-7b"],
    },
    Preset { splits: &[TEKKEN], ignore_merges: true, add_bos: true, names: &["tekken"] },
    Preset {
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
        names: &["default"],
    },
];

/// Names that a file may have, for messages.
const NAMES: &str =
    "gpt-2, llama-bpe, smaug-bpe, qwen2, smollm, exaone, tekken, default and their like";

impl PreTokenizer {
    /// The pre-tokenizer that a GGUF file names.
    ///
    /// # Errors
    /// If its patterns are not known here.
    pub fn of_name(name: &str) -> Result<Self, CheckpointError> {
        for preset in &PRESETS {
            if let Some(name) = preset.names.iter().find(|known| **known == name) {
                return Ok(Self { name, preset });
            }
        }
        let problem = ConfigProblem::unsupported(name, NAMES);
        Err(CheckpointError::MetadataValue { key: "tokenizer.ggml.pre".to_owned(), problem })
    }

    /// The pre-tokenizer with the patterns of a `tokenizer.json`. `arch` decides between names for the same.
    pub(super) fn of_json(
        keys: &Keys<'_>,
        ignore_merges: bool,
        arch: GgufArch,
    ) -> Result<Self, CheckpointError> {
        let Some(object) = keys.object("pre_tokenizer")? else {
            return Err(keys.error("pre_tokenizer", ConfigProblem::Missing));
        };
        let mut splits = Vec::new();
        let byte_level = collect(&object, &mut splits)?;
        if !byte_level {
            let supported = "sequences of Split, Digits and ByteLevel";
            return Err(keys.unsupported("pre_tokenizer.type", "without ByteLevel", supported));
        }
        let splits: Vec<String> =
            splits.into_iter().map(|split| split.replace(CASES.1, CASES.0)).collect();
        let same = |preset: &&Preset| preset.splits == splits;
        let known: Vec<&'static Preset> = PRESETS.iter().filter(same).collect();
        let Some(first) = known.first() else {
            let supported = "those of GPT-2, Llama 3, Qwen2, EXAONE and Tekken";
            return Err(keys.unsupported("pre_tokenizer", &splits.join(" then "), supported));
        };
        let Some(preset) = known.iter().find(|preset| preset.ignore_merges == ignore_merges) else {
            let (found, supported) = match first.ignore_merges {
                true => ("false", "true with this pre-tokenizer"),
                false => ("true", "false with this pre-tokenizer"),
            };
            return Err(keys.unsupported("model.ignore_merges", found, supported));
        };
        let name = match arch {
            GgufArch::Exaone if preset.names.contains(&"exaone") => "exaone",
            _ => preset.names[0],
        };
        Ok(Self { name, preset })
    }

    /// What `tokenizer.ggml.pre` says.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Whether a word that is a token is taken whole, whatever the merges.
    pub const fn ignore_merges(self) -> bool {
        self.preset.ignore_merges
    }

    /// Whether llama.cpp adds the beginning-of-text token where no key says so.
    pub(super) const fn adds_bos(self) -> bool {
        self.preset.add_bos
    }

    /// As `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(self) -> Value {
        let byte_level = |use_regex: bool| {
            json!({
                "type": "ByteLevel",
                "add_prefix_space": false,
                "trim_offsets": true,
                "use_regex": use_regex,
            })
        };
        let split = |&pattern: &&str| match pattern {
            DIGIT => json!({ "type": "Digits", "individual_digits": true }),
            _ => json!({
                "type": "Split",
                "pattern": { "Regex": pattern },
                "behavior": "Isolated",
                "invert": false,
            }),
        };
        match self.preset.splits {
            [GPT2] => byte_level(true),
            [before @ .., GPT2] => {
                let mut parts: Vec<Value> = before.iter().map(split).collect();
                parts.push(byte_level(true));
                json!({ "type": "Sequence", "pretokenizers": parts })
            }
            splits => {
                let mut parts: Vec<Value> = splits.iter().map(split).collect();
                parts.push(byte_level(false));
                json!({ "type": "Sequence", "pretokenizers": parts })
            }
        }
    }
}

/// Collects the patterns of a pre-tokenizer in their order; returns whether it maps bytes at the end.
fn collect(object: &Keys<'_>, splits: &mut Vec<String>) -> Result<bool, CheckpointError> {
    let kind = object.need("type", object.text("type")?)?;
    match kind {
        "Sequence" => {
            let mut byte_level = false;
            for (i, part) in object.list("pretokenizers")?.iter().enumerate() {
                let empty = Map::new();
                let part = Keys {
                    object: part.as_object().unwrap_or(&empty),
                    file: object.file,
                    at: format!("{}pretokenizers.{i}.", object.at),
                };
                byte_level |= collect(&part, splits)?;
            }
            Ok(byte_level)
        }
        "ByteLevel" => {
            if object.boolean("add_prefix_space")?.unwrap_or(true) {
                return Err(object.unsupported("add_prefix_space", "true", "false"));
            }
            if object.boolean("use_regex")?.unwrap_or(true) {
                splits.push(GPT2.to_owned());
            }
            Ok(true)
        }
        "Digits" => {
            let individual = object.boolean("individual_digits")?.unwrap_or(false);
            splits.push(if individual { DIGIT } else { r"\p{N}+" }.to_owned());
            Ok(false)
        }
        "Split" => {
            let pattern = object.object("pattern")?;
            let regex = match &pattern {
                Some(pattern) => pattern.text("Regex")?,
                None => None,
            };
            let regex = object.need("pattern.Regex", regex)?;
            let behavior = object.text("behavior")?.unwrap_or("Removed");
            // Removing what does not match a pattern that matches everything is the same.
            let inverted = object.boolean("invert")?.unwrap_or(false);
            if !matches!((behavior, inverted), ("Isolated", false) | ("Removed", true)) {
                return Err(object.unsupported("behavior", behavior, "Isolated"));
            }
            splits.push(regex.to_owned());
            Ok(false)
        }
        other => Err(object.unsupported("type", other, "Sequence, Split, Digits and ByteLevel")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_json(value: Value, ignore_merges: bool, arch: GgufArch) -> Result<PreTokenizer, String> {
        let object = json!({ "pre_tokenizer": value });
        let keys = Keys::new(object.as_object().unwrap(), "tokenizer.json".as_ref());
        PreTokenizer::of_json(&keys, ignore_merges, arch).map_err(|error| error.to_string())
    }

    #[test]
    fn every_name_comes_back() {
        for preset in &PRESETS {
            let name = preset.names[0];
            let pre = PreTokenizer::of_name(name).unwrap();
            let back = of_json(pre.json(), preset.ignore_merges, GgufArch::Llama).unwrap();
            assert_eq!(back.name(), name);
        }
        let exaone = PreTokenizer::of_name("exaone").unwrap();
        assert_eq!(of_json(exaone.json(), false, GgufArch::Exaone).unwrap().name(), "exaone");
    }

    #[test]
    fn other_spellings() {
        let split = json!({
            "type": "Sequence",
            "pretokenizers": [
                { "type": "Split", "pattern": { "Regex": LLAMA3.replace(CASES.0, CASES.1) },
                  "behavior": "Removed", "invert": true },
                { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false },
            ]
        });
        assert_eq!(of_json(split, true, GgufArch::Llama).unwrap().name(), "llama-bpe");
    }

    #[test]
    fn what_has_no_name_is_refused() {
        let metaspace = json!({ "type": "Metaspace" });
        let error = of_json(metaspace, false, GgufArch::Llama).unwrap_err();
        assert!(error.contains("Metaspace") && error.contains("pre_tokenizer"), "{error}");
        let prefix = json!({ "type": "ByteLevel", "add_prefix_space": true });
        assert!(of_json(prefix, false, GgufArch::Llama).is_err());
        let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false });
        let error = of_json(gpt2, true, GgufArch::Gpt2).unwrap_err();
        assert!(error.contains("ignore_merges"), "{error}");
        let digits = json!({ "type": "Digits", "individual_digits": true });
        assert!(of_json(digits, false, GgufArch::Llama).is_err());
        assert!(PreTokenizer::of_name("bloom").is_err());
    }
}
