//! Reading task files: whole files, JSON lines, fields of an object.

use std::{fs, path::Path};

use serde_json::{Map, Value};

use super::Fault;
use crate::EvalError;

/// A JSON object on a line.
pub(super) type Object = Map<String, Value>;

pub(super) fn read(file: &Path) -> Result<Vec<u8>, EvalError> {
    let mut bytes = fs::read(file)
        .map_err(|source| EvalError::TaskFile { file: file.to_path_buf(), source })?;
    // The mark of UTF-8 that some editors put at the beginning.
    if bytes.starts_with(b"\xef\xbb\xbf") {
        bytes.drain(..3);
    }
    Ok(bytes)
}

/// The error of a line, from 1.
pub(super) fn at(file: &Path, line: usize) -> impl FnOnce(Fault) -> EvalError {
    move |source| EvalError::TaskLine { file: file.to_path_buf(), line, source }
}

/// One item for each line that is not blank; `item` makes it of the line's JSON object.
pub(super) fn json_lines<T>(
    file: &Path,
    mut item: impl FnMut(&Object) -> Result<T, Fault>,
) -> Result<Vec<T>, EvalError> {
    let bytes = read(file)?;
    let mut items = Vec::new();
    for (index, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        items.push(object(line).and_then(|object| item(&object)).map_err(at(file, index + 1))?);
    }
    Ok(items)
}

fn object(line: &[u8]) -> Result<Object, Fault> {
    let text = str::from_utf8(line).map_err(Fault::NotUtf8)?;
    Ok(serde_json::from_str(text)?)
}

/// A field that has to be there.
pub(super) fn field<'a>(object: &'a Object, field: &'static str) -> Result<&'a Value, Fault> {
    object.get(field).ok_or(Fault::Missing { field })
}

/// A field that is a text.
pub(super) fn text<'a>(object: &'a Object, name: &'static str) -> Result<&'a str, Fault> {
    let value = field(object, name)?;
    value.as_str().ok_or_else(|| wrong(name, "a text", value))
}

/// A field that is a list of texts.
pub(super) fn texts<'a>(object: &'a Object, name: &'static str) -> Result<Vec<&'a str>, Fault> {
    let value = field(object, name)?;
    let wrong = || wrong(name, "a list of texts", value);
    value.as_array().ok_or_else(wrong)?.iter().map(|v| v.as_str().ok_or_else(wrong)).collect()
}

/// The fault of a field that is something else.
pub(super) fn wrong(field: &'static str, expected: &'static str, value: &Value) -> Fault {
    let found: String = value.to_string().chars().take(60).collect();
    Fault::Type { field, expected, found }
}
