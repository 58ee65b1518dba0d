//! HellaSwag: which of four endings does a description of an everyday scene have?
//!
//! Zellers et al. 2019. A file of JSON lines, one item a line, with the fields `activity_label`, `ctx_a`, `ctx_b`,
//! `endings` (four texts) and `label` (0 to 3, as a number or a digit). Texts are built and cleaned as in
//! lm-evaluation-harness, task `hellaswag` version 1.

use std::path::Path;

use serde_json::Value;

use super::{ChoiceItem, Fault, lines, python};
use crate::EvalError;

const N_ENDINGS: usize = 4;

/// Reads the items of a file; those of the test split cannot be used, because their labels are hidden.
///
/// # Errors
/// [`EvalError::TaskFile`], [`EvalError::TaskLine`] with the line and what is wrong in it, [`EvalError::NoItems`].
pub fn read_hellaswag(file: &Path) -> Result<Vec<ChoiceItem>, EvalError> {
    let items = lines::json_lines(file, |object| {
        item(
            lines::text(object, "activity_label")?,
            [lines::text(object, "ctx_a")?, lines::text(object, "ctx_b")?],
            &lines::texts(object, "endings")?,
            label(lines::field(object, "label")?)?,
        )
    })?;
    if items.is_empty() {
        let remedy = "one JSON object is expected on each line";
        return Err(EvalError::NoItems { file: file.to_path_buf(), task: "HellaSwag", remedy });
    }
    Ok(items)
}

fn item(
    activity: &str,
    [ctx_a, ctx_b]: [&str; 2],
    endings: &[&str],
    gold: usize,
) -> Result<ChoiceItem, Fault> {
    if endings.len() != N_ENDINGS {
        let (found, expected) = (endings.len(), N_ENDINGS);
        return Err(Fault::Choices { field: "endings", found, expected });
    }
    let choices: Vec<String> = endings.iter().map(|ending| cleaned(ending)).collect();
    if let Some(choice) = choices.iter().position(|ending| python::strip(ending).is_empty()) {
        return Err(Fault::EmptyChoice { field: "endings", choice });
    }
    let context = format!("{activity}: {ctx_a} {}", python::capitalize(ctx_b));
    Ok(ChoiceItem { context: cleaned(&context), choices, gold })
}

fn label(value: &Value) -> Result<usize, Fault> {
    let number = match value {
        Value::String(digit) => digit.parse().ok(),
        other => other.as_u64(),
    };
    match number {
        Some(label) if label < N_ENDINGS as u64 => Ok(label as usize),
        _ => Err(Fault::Label { field: "label", found: value.to_string(), expected: "0 to 3" }),
    }
}

/// Takes away what comes from WikiHow's pages: `[title]` and other words in brackets.
fn cleaned(text: &str) -> String {
    let titled = python::strip(text).replace(" [title]", ". ");
    let mut out = String::with_capacity(titled.len());
    let mut rest = &*titled;
    while let Some(open) = rest.find('[') {
        let inside = &rest[open + 1..];
        match inside.find([']', '\n']) {
            Some(close) if inside.as_bytes()[close] == b']' => {
                out.push_str(&rest[..open]);
                rest = &inside[close + 1..];
            }
            // Not closed on its line: the bracket stays.
            _ => {
                out.push_str(&rest[..=open]);
                rest = inside;
            }
        }
    }
    out.push_str(rest);
    out.replace("  ", " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_go_as_the_regular_expression_takes_them() {
        assert_eq!(
            cleaned(" How to [title] Bake. [header] Mix [step] it. "),
            "How to. Bake. Mix it."
        );
        assert_eq!(cleaned("a [b\nc] d [e] f"), "a [b\nc] d f");
        assert_eq!(cleaned("[[a] b]"), " b]");
        assert_eq!(cleaned("a [b"), "a [b");
        assert_eq!(cleaned("[a]"), "");
        assert_eq!(cleaned("x    y"), "x  y");
    }

    #[test]
    fn labels_are_numbers_or_digits() {
        assert_eq!(label(&Value::from(3)).unwrap(), 3);
        assert_eq!(label(&Value::from("2")).unwrap(), 2);
        for bad in [Value::from(4), Value::from(-1), Value::from("x"), Value::Null] {
            assert!(label(&bad).is_err(), "{bad}");
        }
        let hidden = label(&Value::from("")).unwrap_err().to_string();
        assert!(hidden.contains("hidden"), "{hidden}");
    }
}
