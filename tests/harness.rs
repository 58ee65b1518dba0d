//! HellaSwag and MMLU against lm-evaluation-harness, item by item. `tools/peers/harness.py` made the golden files.

use std::{fs, ops::ControlFlow, path::Path};

use fewbit::{
    checkpoint::Checkpoint,
    eval::tasks::{
        Accuracy, ChoiceItem, ChoiceScore, Journal, MmluProtocol, mmlu_items, read_hellaswag,
        read_mmlu, run_batches, score_choices,
    },
    model::{CacheType, Model, Tokenizer},
};
use fewbit_testkit::shared_or_skip;
use serde::Deserialize;
use std::collections::BTreeMap;

#[path = "../examples/support/scorer.rs"]
#[allow(dead_code, reason = "what the examples share")]
mod scorer;
use scorer::{Bos, Scorer, Text};

#[derive(Deserialize)]
struct Golden {
    model: String,
    shots: usize,
    limit: Option<usize>,
    tasks: BTreeMap<String, GoldenTask>,
}

#[derive(Deserialize)]
struct GoldenTask {
    metrics: BTreeMap<String, f64>,
    items: Vec<GoldenItem>,
}

#[derive(Deserialize)]
struct GoldenItem {
    log_likelihoods: Vec<f64>,
    acc: u8,
    acc_norm: Option<u8>,
}

fn golden(name: &str) -> Golden {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// The scores of items whose texts the model's tokenizer encodes as it likes.
fn scores(
    model: &Path,
    items: impl FnOnce(&Text<'_>, usize) -> Vec<ChoiceItem>,
) -> Vec<ChoiceScore> {
    let checkpoint = Checkpoint::open(model).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let tokenizer = Tokenizer::load(&checkpoint).unwrap();
    let text = Text { tokenizer: &tokenizer, rule: Bos::Tokenizer, bos: None };
    let max_len = model.config().max_positions;
    let items = items(&text, max_len);
    let mut scorer = Scorer::new(&model, CacheType::F32);
    run_batches(
        &items,
        &mut Journal::in_memory(),
        |_, _| ControlFlow::Continue(()),
        |number, left| score_choices(&mut scorer, &text, number, left, max_len),
    )
    .unwrap()
    .to_vec()
}

/// Every log-likelihood to 1e-4 of itself, every prediction, every mean and standard error.
fn agree(name: &str, golden: &GoldenTask, scores: &[ChoiceScore]) {
    assert_eq!(golden.items.len(), scores.len(), "{name}: number of items");
    for (number, (expected, score)) in golden.items.iter().zip(scores).enumerate() {
        for (a, b) in score.log_likelihoods.iter().zip(&expected.log_likelihoods) {
            assert!((a - b).abs() <= 1e-4 * b.abs(), "{name}, item {number}: {a} instead of {b}");
        }
        assert_eq!(score.log_likelihoods.len(), expected.log_likelihoods.len());
        let hit = |predicted| u8::from(predicted == score.gold);
        assert_eq!(hit(score.predicted()), expected.acc, "{name}, item {number}");
        if let Some(acc_norm) = expected.acc_norm {
            assert_eq!(hit(score.predicted_by_chars()), acc_norm, "{name}, item {number}");
        }
    }
    let accuracy = Accuracy::of(scores).unwrap();
    for (metric, ours) in [("acc", accuracy.acc), ("acc_norm", accuracy.acc_norm)] {
        let Some(&theirs) = golden.metrics.get(&format!("{metric},none")) else { continue };
        assert!((ours.value - theirs).abs() < 1e-12, "{name}: {metric}");
        if let Some(theirs) = golden.metrics.get(&format!("{metric}_stderr,none")) {
            let ours = ours.standard_error.unwrap();
            assert!((ours - theirs).abs() < 1e-9, "{name}: error of {metric}: {ours}, {theirs}");
        }
    }
}

fn hellaswag(file: &str) {
    let Some(shared) = shared_or_skip(file) else { return };
    let golden = golden(file);
    let scores = scores(&shared.join("models").join(&golden.model), |_, _| {
        read_hellaswag(&shared.join("tasks/hellaswag/val_500.jsonl")).unwrap()
    });
    assert_eq!(scores.len(), 500);
    agree(file, &golden.tasks["hellaswag"], &scores);
}

fn mmlu(file: &str) {
    let Some(shared) = shared_or_skip(file) else { return };
    let golden = golden(file);
    let subjects = read_mmlu(&shared.join("tasks/mmlu")).unwrap();
    assert_eq!(subjects.len(), golden.tasks.len());
    let mut ends = vec![];
    let scores = scores(&shared.join("models").join(&golden.model), |text, max_len| {
        let mut all = vec![];
        for subject in &subjects {
            let protocol = MmluProtocol::Harness;
            let items = mmlu_items(subject, protocol, golden.shots, text, max_len).unwrap();
            all.extend(items.into_iter().take(golden.limit.unwrap_or(usize::MAX)));
            ends.push(all.len());
        }
        all
    });
    let mut start = 0;
    for (subject, end) in subjects.iter().zip(ends) {
        let name = format!("{file}: {}", subject.name);
        agree(&name, &golden.tasks[&subject.name], &scores[start..end]);
        start = end;
    }
    if golden.shots > 0 {
        assert!(scores.iter().any(|score| score.tokens_cut > 0), "{file}: nothing was cut");
    }
}

#[test]
fn hellaswag_llama_4m() {
    hellaswag("hellaswag-llama-4m.json");
}

#[test]
fn hellaswag_tiny_stories() {
    hellaswag("hellaswag-TinyStories-656K.json");
}

#[test]
fn mmlu_without_shots_llama_4m() {
    mmlu("mmlu-0-llama-4m.json");
}

#[test]
fn mmlu_without_shots_tiny_stories() {
    mmlu("mmlu-0-TinyStories-656K.json");
}

#[test]
fn mmlu_with_five_shots_llama_4m() {
    mmlu("mmlu-5-llama-4m.json");
}

#[test]
fn mmlu_with_five_shots_tiny_stories() {
    mmlu("mmlu-5-TinyStories-656K.json");
}
