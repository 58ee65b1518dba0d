//! Finished items on disk, so that long work goes on where it was interrupted.

use std::{
    fs::{self, File},
    io::{self, Write},
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use xxhash_rust::xxh3::xxh3_64;

use crate::EvalError;

/// The results of a task's items so far, in order, and the file that keeps them.
///
/// The file is JSON lines: the first says to which run it belongs, each other is the result of an item. A last line that was
/// not finished is forgotten.
#[derive(Debug)]
pub struct Journal<R> {
    results: Vec<R>,
    file: Option<(PathBuf, File)>,
}

impl<R: Serialize + DeserializeOwned> Journal<R> {
    /// A journal without a file.
    pub fn in_memory() -> Self {
        Self { results: vec![], file: None }
    }

    /// Opens or begins a journal. `run` says what the results depend on besides the items: model, tokenizer, settings.
    ///
    /// # Errors
    /// [`EvalError::Journal`], [`EvalError::JournalLine`]; [`EvalError::JournalOfAnotherRun`] if items or `run` are others.
    pub fn open(
        file: &Path,
        run: &impl Serialize,
        items: &impl Serialize,
    ) -> Result<Self, EvalError> {
        let failed = |source| EvalError::Journal { file: file.to_path_buf(), source };
        let to_io = |error: serde_json::Error| failed(error.into());
        let digest = xxh3_64(&serde_json::to_vec(items).map_err(to_io)?);
        let run = serde_json::to_value(run).map_err(to_io)?;
        let head = json!({ "run": run, "items": format!("{digest:016x}") });
        let mut text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            found => found.map_err(failed)?,
        };
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        let results = Self::results_of(file, &text, &head)?;
        if text.is_empty() {
            text = format!("{head}\n");
        }
        // Written anew and renamed: whatever was torn is gone, and a second interruption loses nothing.
        let fresh = file.with_extension("new");
        fs::write(&fresh, &text).and_then(|()| fs::rename(&fresh, file)).map_err(failed)?;
        let append = File::options().append(true).open(file).map_err(failed)?;
        Ok(Self { results, file: Some((file.to_path_buf(), append)) })
    }

    fn results_of(file: &Path, text: &str, head: &Value) -> Result<Vec<R>, EvalError> {
        let at = |line: usize| {
            move |source| EvalError::JournalLine { file: file.to_path_buf(), line, source }
        };
        let mut lines = text.lines();
        let Some(first) = lines.next() else { return Ok(vec![]) };
        let found: Value = serde_json::from_str(first).map_err(at(1))?;
        if found != *head {
            let (found, expected) = first_difference(&found, head);
            return Err(EvalError::JournalOfAnotherRun {
                file: file.to_path_buf(),
                found,
                expected,
            });
        }
        lines.enumerate().map(|(i, line)| serde_json::from_str(line).map_err(at(i + 2))).collect()
    }

    /// Results so far.
    pub fn results(&self) -> &[R] {
        &self.results
    }

    fn push(&mut self, result: R) -> Result<(), EvalError> {
        if let Some((path, file)) = &mut self.file {
            let failed = |source| EvalError::Journal { file: path.clone(), source };
            let mut line =
                serde_json::to_vec(&result).map_err(|error| failed(io::Error::from(error)))?;
            line.push(b'\n');
            file.write_all(&line).map_err(failed)?;
        }
        self.results.push(result);
        Ok(())
    }
}

/// The deepest place where two runs differ, in both.
fn first_difference(found: &Value, expected: &Value) -> (String, String) {
    if let (Value::Object(a), Value::Object(b)) = (found, expected) {
        for (key, theirs) in a {
            let ours = b.get(key).unwrap_or(&Value::Null);
            if theirs != ours {
                let (found, expected) = first_difference(theirs, ours);
                let name = |value: String| {
                    if theirs.is_object() { value } else { format!("{key} {value}") }
                };
                return (name(found), name(expected));
            }
        }
    }
    (found.to_string(), expected.to_string())
}

/// Computes what the journal lacks. `progress` hears how many items are finished, of how many, and stops the work by breaking.
/// Results for all items, in order.
///
/// # Errors
/// [`EvalError::Stopped`], those of `score` and of the journal.
pub fn run<'j, I, R: Serialize + DeserializeOwned>(
    items: &[I],
    journal: &'j mut Journal<R>,
    progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    mut score: impl FnMut(usize, &I) -> Result<R, EvalError>,
) -> Result<&'j [R], EvalError> {
    run_batches(items, journal, progress, |number, left| Ok(vec![score(number, &left[0])?]))
}

/// As [`run`], several items at a time. `score` gets the number of the first item that is left and all that are left, at least one; it gives the results of as many of the
/// first as it likes, at least one.
///
/// # Errors
/// The same.
///
/// # Panics
/// If `score` gives no results, or more than there are items.
pub fn run_batches<'j, I, R: Serialize + DeserializeOwned>(
    items: &[I],
    journal: &'j mut Journal<R>,
    mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    mut score: impl FnMut(usize, &[I]) -> Result<Vec<R>, EvalError>,
) -> Result<&'j [R], EvalError> {
    let total = items.len();
    while journal.results.len() <= total {
        let done = journal.results.len();
        if progress(done, total).is_break() {
            return Err(EvalError::Stopped { done, total });
        }
        if done == total {
            break;
        }
        let left = &items[done..];
        let results = score(done, left)?;
        assert!((1..=left.len()).contains(&results.len()), "results of the first items left");
        for result in results {
            journal.push(result)?;
        }
    }
    Ok(&journal.results[..total.min(journal.results.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(number: usize, item: &&str) -> Result<usize, EvalError> {
        Ok(number + item.len())
    }

    #[test]
    fn interrupted_work_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("task.jsonl");
        let items = ["a", "bb", "ccc", "dddd"];
        let open = || Journal::<usize>::open(&file, &"run", &items).unwrap();
        let stop_at_2 =
            |n, _| if n == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        let error = run(&items, &mut open(), stop_at_2, scored).unwrap_err().to_string();
        assert_eq!(error, "stopped after 2 of 4 items");
        // Killed in the middle of a line.
        let mut torn = fs::read_to_string(&file).unwrap();
        torn.push_str("12");
        fs::write(&file, torn).unwrap();
        let mut journal = open();
        assert_eq!(journal.results(), [1, 3]);
        let mut calls = 0;
        let go_on = |_, _| ControlFlow::Continue(());
        let count = |number, item: &&str| {
            calls += 1;
            scored(number, item)
        };
        assert_eq!(run(&items, &mut journal, go_on, count).unwrap(), [1, 3, 5, 7]);
        assert_eq!(calls, 2);
        assert_eq!(run(&items, &mut open(), go_on, |_, _| unreachable!()).unwrap(), [1, 3, 5, 7]);
    }

    #[test]
    fn batches_are_kept_item_by_item() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("task.jsonl");
        let items = ["a", "bb", "ccc", "dddd", "eeeee"];
        let open = || Journal::<usize>::open(&file, &"run", &items).unwrap();
        let go_on = |_, _| ControlFlow::Continue(());
        let mut firsts = vec![];
        let mut two = |number: usize, left: &[&str]| {
            firsts.push(number);
            left.iter().take(2).enumerate().map(|(i, item)| scored(number + i, item)).collect()
        };
        assert_eq!(run_batches(&items, &mut open(), go_on, &mut two).unwrap(), [1, 3, 5, 7, 9]);
        // Killed while the results of the second batch were written.
        let text = fs::read_to_string(&file).unwrap();
        let kept: String = text.split_inclusive('\n').take(4).collect();
        fs::write(&file, kept).unwrap();
        let stop_at_5 =
            |n, _| if n == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        run_batches(&items, &mut open(), stop_at_5, &mut two).unwrap_err();
        assert_eq!(firsts, [0, 2, 4, 3]);
        assert_eq!(open().results(), [1, 3, 5, 7, 9]);
    }

    #[test]
    fn journals_of_other_runs_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("task.jsonl");
        let open = |model: &str, items: &[&str]| {
            Journal::<usize>::open(&file, &json!({ "model": model, "shots": 5 }), &items)
        };
        open("m", &["a"]).unwrap();
        let error = open("n", &["a"]).unwrap_err().to_string();
        assert!(error.contains(r#"model "m", but this one is model "n""#), "{error}");
        let error = open("m", &["b"]).unwrap_err().to_string();
        assert!(error.contains("items"), "{error}");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + "{}\n").unwrap();
        let error = open("m", &["a"]).unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
