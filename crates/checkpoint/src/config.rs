//! Reading configuration values with errors that name file and key, and patterns over module names.

use std::{num::NonZeroU32, path::Path};

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use crate::{CheckpointError, ConfigProblem, ModuleScheme, mlx};

/// Keys of `config.json` that say how a model is quantized, the one that counts first.
pub(crate) const CONFIG_KEYS: [&str; 3] = [mlx::KEY, "quantization_config", "compression_config"];

impl ConfigProblem {
    pub(crate) fn expected(found: &Value, expected: &'static str) -> Self {
        let found = match found {
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "an object".to_owned(),
            other => shorten(&other.to_string()),
        };
        Self::Expected { found, expected }
    }

    pub(crate) fn unsupported(found: &str, supported: &'static str) -> Self {
        Self::Unsupported { found: shorten(found), supported }
    }
}

/// The beginning of an outside text, for a message.
fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// An object of a configuration file. A key that holds null counts as absent.
#[derive(Clone)]
pub(crate) struct Keys<'a> {
    pub(crate) object: &'a Map<String, Value>,
    pub(crate) file: &'a Path,
    /// Path of the object, ending in a dot unless it is the outermost one.
    pub(crate) at: String,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(object: &'a Map<String, Value>, file: &'a Path) -> Self {
        Self { object, file, at: String::new() }
    }

    pub(crate) fn error(&self, key: &str, problem: ConfigProblem) -> CheckpointError {
        let key = format!("{}{key}", self.at);
        CheckpointError::Config { file: self.file.to_owned(), key, problem }
    }

    pub(crate) fn unsupported(
        &self,
        key: &str,
        found: &str,
        supported: &'static str,
    ) -> CheckpointError {
        self.error(key, ConfigProblem::unsupported(found, supported))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(self.error(key, ConfigProblem::expected(value, expected))),
        }
    }

    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, CheckpointError> {
        self.read(key, "an integer", Value::as_i64)
    }

    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.read(key, "a number", Value::as_f64)
    }

    pub(crate) fn boolean(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.read(key, "true or false", Value::as_bool)
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        self.read(key, "a text", Value::as_str)
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, CheckpointError> {
        let object = self.read(key, "an object", Value::as_object)?;
        let at = format!("{}{key}.", self.at);
        Ok(object.map(|object| Self { object, file: self.file, at }))
    }

    pub(crate) fn list(&self, key: &str) -> Result<&'a [Value], CheckpointError> {
        let list = self.read(key, "a list", Value::as_array)?;
        Ok(list.map_or(&[], Vec::as_slice))
    }

    pub(crate) fn need<T>(&self, key: &str, value: Option<T>) -> Result<T, CheckpointError> {
        value.ok_or_else(|| self.error(key, ConfigProblem::Missing))
    }

    /// A regular expression that matches from the beginning of a name, as Python's `re.match`.
    pub(crate) fn pattern(&self, key: &str, pattern: &str) -> Result<Regex, CheckpointError> {
        /// Bound on the compiled pattern, in bytes: outside text must not cost unbounded memory.
        const SIZE: usize = 1 << 20;
        RegexBuilder::new(&format!("^(?:{pattern})")).size_limit(SIZE).build().map_err(|error| {
            let reason = match error {
                regex::Error::CompiledTooBig(_) => "it is too big".to_owned(),
                _ => "look-around, back-references and broken syntax are not supported".to_owned(),
            };
            let pattern = shorten(pattern);
            self.error(key, ConfigProblem::Pattern { pattern, reason })
        })
    }
}

/// Rows and columns that share a scale, from a list of two.
pub(crate) fn block_size(
    keys: &Keys<'_>,
    key: &'static str,
) -> Result<[NonZeroU32; 2], CheckpointError> {
    let sizes = keys.list(key)?;
    let size = |value: &Value| u32::try_from(value.as_u64()?).ok().and_then(NonZeroU32::new);
    match sizes.iter().map(size).collect::<Option<Vec<_>>>().as_deref() {
        Some(&[rows, columns]) => Ok([rows, columns]),
        _ => {
            let found = Value::Array(sizes.to_vec());
            Err(keys.error(key, ConfigProblem::expected(&found, "two positive sizes")))
        }
    }
}

/// The value of `group_size`, by either of its names: `None` if it is not given, `Some(None)` for −1, one group per row.
pub(crate) fn group_size(keys: &Keys<'_>) -> Result<Option<Option<NonZeroU32>>, CheckpointError> {
    let given = match keys.integer("group_size")? {
        None => keys.integer("q_group_size")?,
        some => some,
    };
    match given {
        None => Ok(None),
        Some(-1) => Ok(Some(None)),
        Some(size) => match u32::try_from(size).ok().and_then(NonZeroU32::new) {
            Some(size) => Ok(Some(Some(size))),
            None => {
                let (found, supported) = (size.to_string(), "-1 and positive group sizes");
                Err(keys.unsupported("group_size", &found, supported))
            }
        },
    }
}

/// Modules that share a parent and a treatment, as one pattern.
///
/// Engines that fuse projections look fused names up (`qkv_proj`), so these are added where all parts are treated alike.
pub(crate) fn patterns<'a, T: PartialEq>(
    modules: impl Iterator<Item = (&'a ModuleScheme, T)>,
) -> Vec<(String, T)> {
    const FUSED: [(&[&str], &str); 2] = [
        (&["q_proj", "k_proj", "v_proj"], "qkv_proj"),
        (&["gate_proj", "up_proj"], "gate_up_proj"),
    ];
    let mut families: Vec<(&str, T, Vec<&str>)> = Vec::new();
    for (module, treatment) in modules {
        let (parent, leaf) = module.module.rsplit_once('.').unwrap_or(("", &module.module));
        match families.iter_mut().rev().find(|(p, t, _)| *p == parent && *t == treatment) {
            Some((_, _, leaves)) => leaves.push(leaf),
            None => families.push((parent, treatment, vec![leaf])),
        }
    }
    let pattern = |(parent, treatment, mut leaves): (&str, T, Vec<&'a str>)| {
        for (parts, fused) in FUSED {
            if parts.iter().all(|part| leaves.contains(part)) {
                leaves.push(fused);
            }
        }
        let leaves: Vec<String> = leaves.into_iter().map(regex::escape).collect();
        let leaves = match &leaves[..] {
            [leaf] => leaf.clone(),
            several => format!("(?:{})", several.join("|")),
        };
        let dot = if parent.is_empty() { "" } else { r"\." };
        (format!("{}{dot}{leaves}$", regex::escape(parent)), treatment)
    };
    families.into_iter().map(pattern).collect()
}
