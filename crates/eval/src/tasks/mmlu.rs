//! MMLU: questions of school and college with four choices, in 57 subjects.
//!
//! Hendrycks et al. 2020. A folder in one of two layouts:
//!
//! * the original: `dev/SUBJECT_dev.csv` and `test/SUBJECT_test.csv`, records of question, four choices and the letter of the
//!   answer, without a header;
//! * the Hugging Face data set as JSON lines: `dev.jsonl` and `test.jsonl` with `question`, `subject`, `choices` (four texts)
//!   and `answer` (0 to 3).

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::{
    Accuracy, Category, ChoiceItem, ChoiceScore, Fault, accuracy::hits, choice::tokens_read, lines,
    python,
};
use crate::statistics::estimate;
use crate::{Estimate, EvalError, Tokenize};

const LETTERS: [&str; 4] = ["A", "B", "C", "D"];

/// Whose prompts and averages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MmluProtocol {
    /// lm-evaluation-harness, task `mmlu`: the question stripped, too long prompts cut at their beginning.
    #[default]
    Harness,
    /// The authors' program: the question verbatim, two spaces before the subject, solved examples dropped one by one until the
    /// prompt fits.
    Original,
}

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmluQuestion {
    /// The question.
    pub question: String,
    /// Its four choices.
    pub choices: [String; 4],
    /// Index of the right one.
    pub answer: usize,
}

/// The questions of a subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MmluSubject {
    /// Its name with underscores, such as `abstract_algebra`.
    pub name: String,
    /// Questions for solved examples.
    pub dev: Vec<MmluQuestion>,
    /// Questions to answer.
    pub test: Vec<MmluQuestion>,
    /// The file of the solved examples.
    dev_file: PathBuf,
}

impl MmluSubject {
    /// A subject from questions that are made somewhere else.
    pub fn new(name: String, dev: Vec<MmluQuestion>, test: Vec<MmluQuestion>) -> Self {
        let dev_file = PathBuf::from(format!("{name}_dev"));
        Self { name, dev, test, dev_file }
    }
}

/// Reads the subjects of a folder in alphabetical order.
///
/// # Errors
/// [`EvalError::TaskFile`], [`EvalError::TaskLine`] with the line and what is wrong in it, [`EvalError::NoItems`].
pub fn read_mmlu(folder: &Path) -> Result<Vec<MmluSubject>, EvalError> {
    let subjects =
        if folder.join("test").is_dir() { read_folder(folder)? } else { read_lines(folder)? };
    if subjects.iter().all(|subject| subject.test.is_empty()) {
        let remedy = "a folder test with files SUBJECT_test.csv is expected, or a file test.jsonl";
        return Err(EvalError::NoItems { file: folder.to_path_buf(), task: "MMLU", remedy });
    }
    Ok(subjects)
}

fn read_folder(folder: &Path) -> Result<Vec<MmluSubject>, EvalError> {
    let tests = folder.join("test");
    let failed = |source| EvalError::TaskFile { file: tests.clone(), source };
    let mut subjects = Vec::new();
    for entry in fs::read_dir(&tests).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let name = file.file_name().and_then(|name| name.to_str());
        let Some(name) = name.and_then(|name| name.strip_suffix("_test.csv")) else { continue };
        let dev_file = folder.join("dev").join(format!("{name}_dev.csv"));
        // Without shots no examples are needed.
        let dev = if dev_file.is_file() { read_csv(&dev_file)? } else { vec![] };
        subjects.push(MmluSubject { name: name.into(), dev, test: read_csv(&file)?, dev_file });
    }
    subjects.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(subjects)
}

fn read_csv(file: &Path) -> Result<Vec<MmluQuestion>, EvalError> {
    let bytes = lines::read(file)?;
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(&*bytes);
    let mut questions = Vec::new();
    let mut record = csv::ByteRecord::new();
    loop {
        let mut line = reader.position().line() as usize;
        let mut start = reader.position().byte() as usize;
        // Blank lines before the record, which the reader passes over.
        while let Some(b'\n' | b'\r') = bytes.get(start) {
            line += usize::from(bytes[start] == b'\n');
            start += 1;
        }
        let found = reader.read_byte_record(&mut record).map_err(Fault::from);
        if !found.map_err(lines::at(file, line))? {
            return Ok(questions);
        }
        let end = reader.position().byte() as usize;
        let question = match record.len() {
            6 => of_record(&record),
            _ if open_quote(&bytes[start..end]) => Err(Fault::OpenQuote),
            found => Err(Fault::Columns { found, expected: 6 }),
        };
        questions.push(question.map_err(lines::at(file, line))?);
    }
}

/// Whether a quote is left open at the end: the reader takes the rest of the file into the record then.
fn open_quote(record: &[u8]) -> bool {
    record.iter().filter(|&&byte| byte == b'"').count() % 2 == 1
}

fn of_record(record: &csv::ByteRecord) -> Result<MmluQuestion, Fault> {
    let text = |column: usize| str::from_utf8(&record[column]).map_err(Fault::NotUtf8);
    let answer = text(5)?.trim();
    let Some(answer) = LETTERS.iter().position(|&letter| letter == answer) else {
        let found = format!("{answer:?}");
        return Err(Fault::Label { field: "answer", found, expected: "A to D" });
    };
    let choices = [text(1)?, text(2)?, text(3)?, text(4)?];
    question(text(0)?, choices, answer)
}

fn question(text: &str, choices: [&str; 4], answer: usize) -> Result<MmluQuestion, Fault> {
    if python::strip(text).is_empty() {
        return Err(Fault::Empty { field: "question" });
    }
    if let Some(choice) = choices.iter().position(|choice| choice.is_empty()) {
        return Err(Fault::EmptyChoice { field: "choices", choice });
    }
    Ok(MmluQuestion { question: text.into(), choices: choices.map(String::from), answer })
}

fn read_lines(folder: &Path) -> Result<Vec<MmluSubject>, EvalError> {
    let read = |file: &Path| {
        lines::json_lines(file, |object| {
            let choices = lines::texts(object, "choices")?;
            let Ok(choices) = <[&str; 4]>::try_from(&*choices) else {
                return Err(Fault::Choices { field: "choices", found: choices.len(), expected: 4 });
            };
            let answer = lines::field(object, "answer")?;
            let Some(answer) = answer.as_u64().filter(|&answer| answer < 4) else {
                let found = answer.to_string();
                return Err(Fault::Label { field: "answer", found, expected: "0 to 3" });
            };
            let question = question(lines::text(object, "question")?, choices, answer as usize)?;
            Ok((lines::text(object, "subject")?.to_string(), question))
        })
    };
    let dev_file = folder.join("dev.jsonl");
    // Solved examples and questions of each subject.
    let mut subjects: BTreeMap<String, [Vec<MmluQuestion>; 2]> = BTreeMap::new();
    for (name, question) in read(&folder.join("test.jsonl"))? {
        subjects.entry(name).or_default()[1].push(question);
    }
    if dev_file.is_file() {
        for (name, question) in read(&dev_file)? {
            subjects.entry(name).or_default()[0].push(question);
        }
    }
    subjects.retain(|_, [_, test]| !test.is_empty());
    let subjects = subjects.into_iter();
    Ok(subjects
        .map(|(name, [dev, test])| MmluSubject { name, dev, test, dev_file: dev_file.clone() })
        .collect())
}

/// The items of a subject after `shots` solved examples; the model reads at most `max_len` tokens.
///
/// The harness's protocol leaves cutting to [`score_choice`](super::score_choice); the original one drops examples here.
///
/// # Errors
/// [`Fault::Examples`] if there are fewer examples, and those of the tokenizer.
pub fn mmlu_items<T: Tokenize>(
    subject: &MmluSubject,
    protocol: MmluProtocol,
    shots: usize,
    tokenizer: &T,
    max_len: usize,
) -> Result<Vec<ChoiceItem>, EvalError> {
    let Some(examples) = subject.dev.get(..shots) else {
        let found = subject.dev.len();
        let fault = Fault::Examples { subject: subject.name.clone(), found, expected: shots };
        return Err(lines::at(&subject.dev_file, found)(fault));
    };
    let name = subject.name.replace('_', " ");
    let space = if protocol == MmluProtocol::Original { "  " } else { " " };
    let header = format!(
        "The following are multiple choice questions (with answers) about{space}{name}.\n\n"
    );
    let item = |question: &MmluQuestion, examples: &[MmluQuestion]| {
        let mut context = header.clone();
        for example in examples {
            let answer = LETTERS[example.answer];
            context += &format!("{} {answer}\n\n", prompt(example, protocol));
        }
        context += &prompt(question, protocol);
        ChoiceItem { context, choices: LETTERS.map(String::from).into(), gold: question.answer }
    };
    let fitting = |(number, question): (usize, &MmluQuestion)| {
        let mut examples = examples;
        let mut whole = item(question, examples);
        while protocol == MmluProtocol::Original && !examples.is_empty() {
            if tokens_read(tokenizer, number, &whole)? <= max_len {
                break;
            }
            examples = &examples[..examples.len() - 1];
            whole = item(question, examples);
        }
        Ok(whole)
    };
    subject.test.iter().enumerate().map(fitting).collect()
}

/// A question with its choices, up to where the letter of the answer follows.
fn prompt(question: &MmluQuestion, protocol: MmluProtocol) -> String {
    let mut prompt = match protocol {
        MmluProtocol::Harness => python::strip(&question.question).to_string(),
        MmluProtocol::Original => question.question.clone(),
    };
    for (letter, choice) in LETTERS.iter().zip(&question.choices) {
        prompt += &format!("\n{letter}. {choice}");
    }
    prompt + "\nAnswer:"
}

/// Accuracy in a subject.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SubjectAccuracy {
    /// Its name with underscores.
    pub subject: String,
    /// Its category.
    pub category: Category,
    /// Its accuracy.
    pub accuracy: Accuracy,
}

/// Accuracies by subject and category, and their averages.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MmluReport {
    /// Subjects in the order given.
    pub subjects: Vec<SubjectAccuracy>,
    /// Categories that have questions: their number and share of right answers, every question counting the same. The standard
    /// error is that of the harness: deviations are taken from the subject's own mean.
    pub categories: Vec<(Category, usize, Estimate)>,
    /// Every question counts the same: the original average, and the harness's.
    pub micro: Estimate,
    /// Every subject counts the same: the average of the Llama model cards.
    #[serde(rename = "macro")]
    pub by_subject: Estimate,
    /// Questions.
    pub n_items: usize,
    /// Questions that were cut.
    pub n_cut: usize,
}

impl MmluReport {
    /// Of the scores of each subject; `None` without any. Subjects without scores are left out.
    pub fn of<'a>(
        scores: impl IntoIterator<Item = (&'a str, &'a [ChoiceScore])>,
        protocol: MmluProtocol,
    ) -> Option<Self> {
        let scores: Vec<(&str, &[ChoiceScore])> =
            scores.into_iter().filter(|(_, scores)| !scores.is_empty()).collect();
        let of_subject = |&(name, scores): &(&str, &[ChoiceScore])| {
            let category = Category::of(name, protocol);
            Some(SubjectAccuracy {
                subject: name.into(),
                category,
                accuracy: Accuracy::of(scores)?,
            })
        };
        let subjects = scores.iter().map(of_subject).collect::<Option<Vec<_>>>()?;
        let hits: Vec<(Category, Vec<f64>)> = scores
            .iter()
            .map(|(name, s)| (Category::of(name, protocol), hits(s, ChoiceScore::predicted)))
            .collect();
        let of_category = |category| {
            let of: Vec<&[f64]> = hits.iter().filter(|h| h.0 == category).map(|h| &*h.1).collect();
            let n = of.iter().map(|values| values.len()).sum();
            Some((category, n, pooled(&of)?))
        };
        let all: Vec<&[f64]> = hits.iter().map(|h| &*h.1).collect();
        let means: Option<Vec<Estimate>> = all.iter().map(|values| estimate(values)).collect();
        Some(Self {
            categories: Category::ALL.into_iter().filter_map(of_category).collect(),
            micro: pooled(&all)?,
            by_subject: mean_of(&means?)?,
            n_items: subjects.iter().map(|s| s.accuracy.n_items).sum(),
            n_cut: subjects.iter().map(|s| s.accuracy.n_cut).sum(),
            subjects,
        })
    }
}

/// Mean of all values; standard error as lm-evaluation-harness pools it (`pooled_sample_stderr`), deviations taken from the mean
/// of each group. `None` without values.
pub(super) fn pooled(groups: &[&[f64]]) -> Option<Estimate> {
    let all: Vec<f64> = groups.concat();
    let value = crate::statistics::mean(&all)?;
    let (n, k) = (all.len(), groups.len());
    let squares: f64 = groups
        .iter()
        .filter_map(|group| crate::statistics::standard_deviation(group))
        .zip(groups.iter().filter(|group| group.len() > 1))
        .map(|(deviation, group)| (group.len() - 1) as f64 * deviation * deviation)
        .sum();
    let standard_error = (n > k).then(|| (squares / (n - k) as f64 / n as f64).sqrt());
    Some(Estimate { value, standard_error })
}

/// The plain mean of independent estimates, with the standard error √(Σ se²)/k; `None` of none.
pub(super) fn mean_of(estimates: &[Estimate]) -> Option<Estimate> {
    let values: Vec<f64> = estimates.iter().map(|e| e.value).collect();
    let value = crate::statistics::mean(&values)?;
    let squares: Option<f64> = estimates.iter().map(|e| e.standard_error.map(|e| e * e)).sum();
    Some(Estimate { value, standard_error: squares.map(|s| s.sqrt() / values.len() as f64) })
}
