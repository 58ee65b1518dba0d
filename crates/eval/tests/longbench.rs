//! LongBench: metrics against the authors' functions, and the way from files to a report.

use std::{convert::Infallible, error::Error, fs, path::Path};

use fewbit_eval::{
    Logits, from_fn,
    ndarray::Array2,
    tasks::longbench::{
        Dataset, LongBenchAnswer, LongBenchReport, LongBenchSpec, LongBenchTask, Metric,
        answer_longbench, read_longbench,
    },
};
use serde_json::{Value, json};

mod common;
use common::Bytes;

#[test]
fn metrics_agree_with_the_originals() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/longbench_metrics.jsonl");
    let mut counts = [0; 7];
    for line in fs::read_to_string(file).unwrap().lines() {
        let (name, prediction, answer, classes, expected): (
            String,
            String,
            String,
            Vec<String>,
            f64,
        ) = serde_json::from_str(line).unwrap();
        let metrics = [
            ("f1", Metric::F1),
            ("rouge_l", Metric::RougeL),
            ("classification", Metric::Classification),
            ("count", Metric::Count),
            ("retrieval", Metric::Retrieval),
            ("retrieval_zh", Metric::RetrievalZh),
            ("code_similarity", Metric::CodeSimilarity),
        ];
        let index = metrics.iter().position(|(n, _)| *n == name).unwrap();
        counts[index] += 1;
        let got = metrics[index].1.score(&prediction, &answer, &classes);
        assert!((got - expected).abs() < 1e-12, "{got} instead of {expected} for {line}");
    }
    assert!(counts.iter().all(|&n| n >= 30), "{counts:?}");
}

fn item(context: &str, length: usize) -> Value {
    json!({ "context": context, "input": "why?", "answers": ["no", "abc"], "length": length, "all_classes": null, "_id": "x" })
}

fn folder(data: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let prompts = json!({
        "qasper": "Text: {context}\n{{Question}}: {input}\nAnswer:",
        "samsum": "{context}{input}",
        "trec": "{context}",
        "passage_retrieval_en": "{context}",
    });
    fs::write(folder.path().join("dataset2prompt.json"), prompts.to_string()).unwrap();
    fs::write(folder.path().join("dataset2maxlen.json"), r#"{"qasper": 5}"#).unwrap();
    for (name, text) in data {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read(data: &[(&str, String)]) -> Result<Vec<LongBenchTask>, String> {
    read_longbench(folder(data).path()).map_err(|error| {
        let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
        format!("{error}{cause}")
    })
}

/// Continues with the next letter of the alphabet; after z comes the byte 0.
fn alphabet() -> impl Logits {
    from_fn(256, |tokens: &[u32]| {
        let next = |token: u32| if token == u32::from(b'z') { 0 } else { token as usize + 1 };
        let logit = |(t, i)| if next(tokens[t]) == i { 1.0 } else { 0.0 };
        Ok::<_, Infallible>(Array2::from_shape_fn((tokens.len(), 256), logit))
    })
}

fn answer(task: &LongBenchTask, spec: &LongBenchSpec<'_>) -> Vec<LongBenchAnswer> {
    let items = task.items.iter().enumerate();
    items
        .map(|(n, item)| answer_longbench(&mut alphabet(), &Bytes, n, task, item, spec).unwrap())
        .collect()
}

#[test]
fn prompts_lose_their_middle_and_predictions_end() {
    let tasks = read(&[
        ("qasper.jsonl", format!("{}\n{}\n", item("0123456789", 10), item("1", 5000))),
        ("samsum_e.jsonl", item("x", 9000).to_string()),
    ])
    .unwrap();
    let names: Vec<String> = tasks.iter().map(LongBenchTask::name).collect();
    assert_eq!(names, ["qasper", "samsum_e"]);
    assert_eq!((tasks[0].max_new_tokens, tasks[1].max_new_tokens), (5, 128));
    let whole = "Text: 0123456789\n{Question}: why?\nAnswer:";
    assert_eq!(tasks[0].prompt.fill(&tasks[0].items[0]), whole);

    let end_tokens = [0];
    let spec =
        LongBenchSpec { max_prompt: 39, max_len: 100, end_tokens: &end_tokens, message: None };
    let answers = answer(&tasks[0], &spec);
    // The prompt has 41 bytes; two halves of 19 stay. After its ":" follow ";<=>?".
    assert_eq!(answers[0].tokens_cut, 3);
    assert_eq!((&*answers[0].prediction, answers[0].stopped_by_context), (";<=>?", false));
    assert_eq!(answers[1].tokens_cut, 0);

    // The context ends after two new tokens.
    let spec = LongBenchSpec { max_len: 40, ..spec };
    let answers = answer(&tasks[0], &spec);
    assert_eq!((&*answers[0].prediction, answers[0].stopped_by_context), (";<", true));

    // A message ends in "w"; x, y and z follow, and then the end.
    let message = |prompt: &str| format!("{prompt} w");
    let spec = LongBenchSpec { max_len: 100, message: Some(&message), ..spec };
    assert_eq!(answer(&tasks[0], &spec)[0].prediction, "xyz");
    // A task of few shots is no message: "?" is followed by "@", "A", …, "Z", …, "z" and the end.
    let summary = &answer(&tasks[1], &spec)[0];
    assert!(summary.prediction.starts_with("@ABC") && summary.prediction.ends_with("xyz"));

    let report = LongBenchReport::of(tasks.iter().map(|task| (task, &[][..]))).is_none();
    assert!(report, "there is no score of nothing");
    let all: Vec<_> = tasks.iter().map(|task| answer(task, &spec)).collect();
    let report =
        LongBenchReport::of(tasks.iter().zip(all.iter().map(|answers| &**answers))).unwrap();
    let buckets: Vec<_> =
        report.datasets.iter().map(|d| d.buckets.map(|b| b.map(|b| b.0))).collect();
    assert_eq!(buckets, [[Some(1), Some(1), None], [None, None, Some(1)]]);
    assert_eq!(report.categories.len(), 2);
}

#[test]
fn samsum_says_something_before_a_line_break() {
    // After a tabulator comes the line break, which ends the summary but may not begin it.
    let mut value = item("x", 1);
    value["input"] = json!("\t");
    let tasks = read(&[("samsum.jsonl", value.to_string())]).unwrap();
    let spec = LongBenchSpec { max_prompt: 50, max_len: 60, end_tokens: &[0], message: None };
    let answers = answer(&tasks[0], &spec);
    // All other tokens but the ends are equally likely; 1 is the first of them, and 2 to 9 follow.
    assert_eq!(answers[0].prediction, "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8}\t");
}

#[test]
fn bad_files_are_named() {
    let change = |key: &str, value: Value| {
        let mut item = item("x", 1);
        item[key] = value;
        format!("{}\n{item}", self::item("y", 2))
    };
    let cases = [
        ("answers", json!([]), "field `answers` is empty"),
        ("answers", json!("no"), "field `answers` is \"no\", where a list of texts"),
        ("length", json!("1"), "field `length` is \"1\", where a number of words"),
        ("context", json!(""), "field `context` is empty"),
        ("input", json!(null), "field `input` is null, where a text"),
    ];
    for (key, value, expected) in cases {
        let error = read(&[("qasper.jsonl", change(key, value))]).unwrap_err();
        assert!(error.contains("qasper.jsonl, line 2: "), "{error}");
        assert!(error.contains(expected), "{error}, but not {expected}");
    }
    let error = read(&[("trec.jsonl", item("x", 1).to_string())]).unwrap_err();
    assert!(error.contains("line 1: there is no field `all_classes`"), "{error}");
    let error = read(&[("passage_retrieval_en.jsonl", item("x", 1).to_string())]).unwrap_err();
    assert!(error.contains("answer `no`") && error.contains("Paragraph and a number"), "{error}");
    let error = read(&[("lcc.jsonl", item("x", 1).to_string())]).unwrap_err();
    assert!(error.contains("dataset2prompt.json") && error.contains("no field `lcc`"), "{error}");
    let error = read(&[("other.jsonl", item("x", 1).to_string())]).unwrap_err();
    assert!(error.contains("holds no item of LongBench"), "{error}");
    let bad = r#"{"qasper": "{context} {question}"}"#.to_string();
    let data = [("qasper.jsonl", item("x", 1).to_string()), ("dataset2prompt.json", bad)];
    let error = read(&data).unwrap_err();
    assert!(error.contains("where a text with {context} and {input}"), "{error}");
    assert!(Dataset::of("dureader").is_none());
}
