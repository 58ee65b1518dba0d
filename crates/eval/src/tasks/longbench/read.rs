//! The files of LongBench.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{DATASETS, Dataset};
use crate::EvalError;
use crate::tasks::{Fault, lines};

/// An item: something long, a question about it, and answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LongBenchItem {
    /// The long text.
    pub context: String,
    /// Question or command; may be empty.
    pub input: String,
    /// Reference answers, at least one; the best match counts.
    pub answers: Vec<String>,
    /// All classes, where the task is to name one.
    pub classes: Vec<String>,
    /// Words of input, context and answers (characters in Chinese), as the authors counted them.
    pub length: usize,
}

/// The items of a data set with its prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct LongBenchTask {
    /// The data set.
    pub dataset: &'static Dataset,
    /// Whether the items are those of LongBench-E, which has equally many of each length.
    pub extended: bool,
    /// The items.
    pub items: Vec<LongBenchItem>,
    /// The prompt.
    pub prompt: PromptTemplate,
    /// Most tokens of a prediction.
    pub max_new_tokens: usize,
}

impl LongBenchTask {
    /// Name of the file, without its extension.
    pub fn name(&self) -> String {
        format!("{}{}", self.dataset.name, if self.extended { "_e" } else { "" })
    }
}

/// Where the texts of an item go into a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PromptTemplate(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
enum Part {
    Text(String),
    Context,
    Input,
}

impl PromptTemplate {
    /// Of a text with `{context}` and `{input}` in it; a brace that means itself is doubled. `None` if something else stands in
    /// braces.
    pub fn parse(template: &str) -> Option<Self> {
        let mut parts = vec![];
        let mut text = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            rest = &rest[at..];
            let known = [
                ("{{", None),
                ("}}", None),
                ("{context}", Some(Part::Context)),
                ("{input}", Some(Part::Input)),
            ];
            let (mark, part) = known.into_iter().find(|(mark, _)| rest.starts_with(mark))?;
            match part {
                None => text.push_str(&mark[..1]),
                Some(part) => parts.extend([Part::Text(std::mem::take(&mut text)), part]),
            }
            rest = &rest[mark.len()..];
        }
        text.push_str(rest);
        parts.push(Part::Text(text));
        Some(Self(parts))
    }

    /// The prompt of an item.
    pub fn fill(&self, item: &LongBenchItem) -> String {
        let text = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Context => item.context.clone(),
            Part::Input => item.input.clone(),
        };
        self.0.iter().map(text).collect()
    }
}

/// Reads what a folder holds: `DATASET.jsonl` and `DATASET_e.jsonl` in it or in `data/`, and the prompts `dataset2prompt.json` in it or
/// in `config/`, with `dataset2maxlen.json` beside them if there is one.
///
/// # Errors
/// [`EvalError::TaskFile`], [`EvalError::TaskLine`] with the line and what is wrong in it, [`EvalError::NoItems`].
pub fn read_longbench(folder: &Path) -> Result<Vec<LongBenchTask>, EvalError> {
    let find = |sub: &str, name: &str| -> PathBuf {
        let nested = folder.join(sub).join(name);
        if nested.is_file() { nested } else { folder.join(name) }
    };
    let prompt_file = find("config", "dataset2prompt.json");
    let prompts: BTreeMap<String, Value> = table(&prompt_file)?;
    let length_file = find("config", "dataset2maxlen.json");
    let lengths = if length_file.is_file() { table(&length_file)? } else { BTreeMap::new() };
    let mut tasks = vec![];
    for dataset in DATASETS {
        for extended in [false, true] {
            let end = if extended { "_e.jsonl" } else { ".jsonl" };
            let file = find("data", &format!("{}{end}", dataset.name));
            if !file.is_file() {
                continue;
            }
            let max_new_tokens = match lengths.get(dataset.name) {
                None => dataset.max_new_tokens,
                Some(length) => positive(length).map_err(lines::at(&length_file, 1))?,
            };
            let prompt = prompts.get(dataset.name);
            let prompt = prompt_of(dataset, prompt).map_err(lines::at(&prompt_file, 1))?;
            let items = lines::json_lines(&file, |object| item(dataset, object))?;
            tasks.push(LongBenchTask { dataset, extended, items, prompt, max_new_tokens });
        }
    }
    if tasks.iter().all(|task| task.items.is_empty()) {
        let remedy = "files such as qasper.jsonl are expected, in it or in its folder data";
        return Err(EvalError::NoItems { file: folder.to_path_buf(), task: "LongBench", remedy });
    }
    tasks.retain(|task| !task.items.is_empty());
    Ok(tasks)
}

/// A file that is one JSON object.
fn table(file: &Path) -> Result<BTreeMap<String, Value>, EvalError> {
    let bytes = lines::read(file)?;
    serde_json::from_slice(&bytes).map_err(|error| lines::at(file, error.line())(error.into()))
}

fn prompt_of(dataset: &Dataset, prompt: Option<&Value>) -> Result<PromptTemplate, Fault> {
    let field = dataset.name;
    let prompt = prompt.ok_or(Fault::Missing { field })?;
    let template = prompt.as_str().and_then(PromptTemplate::parse);
    template.ok_or_else(|| lines::wrong(field, "a text with {context} and {input}", prompt))
}

fn positive(value: &Value) -> Result<usize, Fault> {
    let number = value.as_u64().filter(|&number| number > 0).and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| lines::wrong("length", "a number of tokens", value))
}

fn item(dataset: &'static Dataset, object: &lines::Object) -> Result<LongBenchItem, Fault> {
    let owned = |texts: Vec<&str>| texts.into_iter().map(String::from).collect::<Vec<_>>();
    let answers = owned(lines::texts(object, "answers")?);
    if answers.is_empty() {
        return Err(Fault::Empty { field: "answers" });
    }
    for answer in &answers {
        dataset.metric.check(dataset.name, answer)?;
    }
    let needs_classes = dataset.metric == super::Metric::Classification;
    let classes = match object.get("all_classes") {
        None | Some(Value::Null) if needs_classes => {
            return Err(Fault::Missing { field: "all_classes" });
        }
        None | Some(Value::Null) => vec![],
        Some(_) => owned(lines::texts(object, "all_classes")?),
    };
    let context = lines::text(object, "context")?.to_string();
    if context.is_empty() {
        return Err(Fault::Empty { field: "context" });
    }
    let length = lines::field(object, "length")?;
    let length = length.as_u64().and_then(|length| usize::try_from(length).ok());
    let length =
        length.ok_or_else(|| lines::wrong("length", "a number of words", &object["length"]))?;
    Ok(LongBenchItem {
        context,
        input: lines::text(object, "input")?.into(),
        answers,
        classes,
        length,
    })
}
