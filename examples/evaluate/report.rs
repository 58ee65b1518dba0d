//! Tables, JSON and CSV.

use std::path::Path;

use anyhow::Result;
use fewbit::{
    checkpoint::write_atomically,
    eval::{
        Estimate, Table,
        tasks::{
            Accuracy, ChoiceScore, MmluReport, PairedAccuracy,
            longbench::{BUCKETS, LongBenchAnswer, LongBenchReport},
        },
        units,
    },
};
use serde::Serialize;

use crate::{
    choice::{Compared, ScoredItem},
    long::LongCompared,
    text::TextReport,
};

/// All that was measured.
#[derive(Default, Serialize)]
pub struct Report {
    #[serde(flatten)]
    pub text: Option<TextReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hellaswag: Option<Compared<Accuracy>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mmlu: Option<Compared<MmluReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub longbench: Option<LongCompared>,
}

impl Report {
    /// Writes report.json; choices.csv and answers.csv with a line for each item, if there are any.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        write_atomically(&folder.join("report.json"), &serde_json::to_vec_pretty(self)?)?;
        let tasks = [
            ("hellaswag", self.hellaswag.as_ref().map(|task| &task.items)),
            ("mmlu", self.mmlu.as_ref().map(|task| &task.items)),
        ];
        let mut csv = csv::Writer::from_writer(vec![]);
        csv.write_record(CHOICE_COLUMNS)?;
        for (task, items) in tasks.iter().filter_map(|(name, items)| Some((name, (*items)?))) {
            for (number, item) in items.iter().enumerate() {
                csv.write_record(record(task, number, item))?;
            }
        }
        if tasks.iter().any(|(_, items)| items.is_some()) {
            write_atomically(&folder.join("choices.csv"), &csv.into_inner()?)?;
        }
        if let Some(task) = &self.longbench {
            let mut csv = csv::Writer::from_writer(vec![]);
            csv.write_record([
                "dataset",
                "length",
                "score",
                "prediction",
                "baseline_score",
                "baseline_prediction",
            ])?;
            for (name, answer, other) in &task.items {
                let of = |a: &LongBenchAnswer| [a.score.to_string(), a.prediction.clone()];
                let other = other.as_ref().map_or_else(Default::default, of);
                let record = [name.clone(), answer.length.to_string()].into_iter();
                csv.write_record(record.chain(of(answer)).chain(other))?;
            }
            write_atomically(&folder.join("answers.csv"), &csv.into_inner()?)?;
        }
        Ok(())
    }
}

const CHOICE_COLUMNS: [&str; 13] = [
    "task",
    "group",
    "item",
    "gold",
    "predicted",
    "predicted_norm",
    "baseline",
    "baseline_norm",
    "tokens_cut",
    "ll_0",
    "ll_1",
    "ll_2",
    "ll_3",
];

fn record(task: &str, number: usize, item: &ScoredItem) -> Vec<String> {
    let score = &item.model;
    let other = |predicted: fn(&ChoiceScore) -> usize| {
        item.baseline.as_ref().map_or(String::new(), |score| predicted(score).to_string())
    };
    let numbers = [number, score.gold, score.predicted(), score.predicted_by_chars()];
    let mut record = vec![task.to_string(), item.group.clone()];
    record.extend(numbers.map(|n| n.to_string()));
    record.extend([other(ChoiceScore::predicted), other(ChoiceScore::predicted_by_chars)]);
    record.push(score.tokens_cut.to_string());
    record
        .extend((0..4).map(|i| score.log_likelihoods.get(i).map_or(String::new(), f64::to_string)));
    record
}

/// A share in percent with its standard error.
fn percent(share: Estimate) -> String {
    let error = share.standard_error.map_or(String::new(), |e| format!(" ± {:.2}", e * 100.0));
    format!("{:.2}{error}", share.value * 100.0)
}

/// A difference of shares, in points of percent.
fn points(difference: Estimate) -> String {
    let error = difference.standard_error.map_or(String::new(), |e| format!(" ± {:.2}", e * 100.0));
    format!("{:+.2}{error}", difference.value * 100.0)
}

pub fn print_hellaswag(task: &Compared<Accuracy>) {
    let n = task.model.n_items;
    println!("HellaSwag   {n} items of {}", task.data);
    let mut table =
        Table::new().left("").right("acc").unit("%").right("acc_norm").unit("%").right("cut");
    let row = |a: &Accuracy| [percent(a.acc), percent(a.acc_norm), a.n_cut.to_string()];
    let mut add = |name: &str, cells: [String; 3]| {
        table.row([name.to_string()].into_iter().chain(cells));
    };
    add("model", row(&task.model));
    if let (Some(baseline), Some(acc), Some(norm)) =
        (&task.baseline, &task.paired, &task.paired_norm)
    {
        add("baseline", row(baseline));
        add("difference", [points(acc.difference), points(norm.difference), String::new()]);
    }
    println!("{table}");
    print_pairs("acc", task.paired.as_ref());
    print_pairs("acc_norm", task.paired_norm.as_ref());
    print_speed(task.seconds, n);
}

pub fn print_mmlu(task: &Compared<MmluReport>, shots: usize) {
    let report = &task.model;
    println!("MMLU   {} questions of {}, {shots} solved examples each", report.n_items, task.data);
    let mut table =
        Table::new().left("subject").left("category").right("questions").right("acc").unit("%");
    if task.baseline.is_some() {
        table = table.right("baseline").unit("%");
    }
    let mut add = |cells: [String; 4], baseline: Option<Estimate>| {
        table.row(cells.into_iter().chain(baseline.map(percent)));
    };
    for (i, subject) in report.subjects.iter().enumerate() {
        let accuracy = &subject.accuracy;
        let baseline = task.baseline.as_ref().map(|b| b.subjects[i].accuracy.acc);
        let name = subject.subject.replace('_', " ");
        let n = accuracy.n_items.to_string();
        add([name, subject.category.to_string(), n, percent(accuracy.acc)], baseline);
    }
    println!("{table}");
    let mut table = Table::new().left("average").right("questions").right("acc").unit("%");
    if task.baseline.is_some() {
        table = table.right("baseline").unit("%");
    }
    let mut add = |name: String, n: usize, acc: Estimate, baseline: Option<Estimate>| {
        let cells = [name, n.to_string(), percent(acc)].into_iter();
        table.row(cells.chain(baseline.map(percent)));
    };
    for (i, (category, n, acc)) in report.categories.iter().enumerate() {
        add(category.to_string(), *n, *acc, task.baseline.as_ref().map(|b| b.categories[i].2));
    }
    let of = |get: fn(&MmluReport) -> Estimate| task.baseline.as_ref().map(get);
    add("all questions (micro)".into(), report.n_items, report.micro, of(|b| b.micro));
    let n = report.n_items;
    add("mean of subjects (macro)".into(), n, report.by_subject, of(|b| b.by_subject));
    println!("{table}");
    if report.n_cut > 0 {
        println!(
            "cut        {} prompts were longer than the context and lost their beginning",
            report.n_cut
        );
    }
    print_pairs("acc", task.paired.as_ref());
    print_speed(task.seconds, report.n_items);
}

/// Scores times 100, as LongBench's own tables have them.
pub fn print_longbench(task: &LongCompared) {
    let report = &task.model;
    let n: usize = report.datasets.iter().map(|d| d.n_items).sum();
    println!("LongBench   {n} items of {}, prompts up to {} tokens", task.data, task.max_prompt);
    let mut table = Table::new().left("data set").left("category").right("items").right("score");
    if task.baseline.is_some() {
        table = table.right("baseline");
    }
    table = BUCKETS.iter().fold(table, |table, bucket| table.right(*bucket).unit("words"));
    table = table.right("cut").right("unfinished");
    let bucket = |score: Option<Estimate>| score.map_or("–".into(), percent);
    for (i, d) in report.datasets.iter().enumerate() {
        let mut cells =
            vec![d.name.clone(), d.category.name().into(), d.n_items.to_string(), percent(d.score)];
        cells.extend(task.baseline.as_ref().map(|b| percent(b.datasets[i].score)));
        cells.extend(d.buckets.map(|b| bucket(b.map(|b| b.1))));
        cells.extend([d.n_cut, d.n_stopped].map(|n| n.to_string()));
        table.row(cells);
    }
    let mut mean =
        |name: &str, score: Estimate, of: &dyn Fn(&LongBenchReport) -> Estimate, b: [String; 3]| {
            let mut cells = vec![name.to_string(), String::new(), String::new(), percent(score)];
            cells.extend(task.baseline.as_ref().map(|b| percent(of(b))));
            cells.extend(b);
            cells.extend([String::new(), String::new()]);
            table.row(cells);
        };
    for (i, (category, score)) in report.categories.iter().enumerate() {
        mean(category.name(), *score, &|b| b.categories[i].1, Default::default());
    }
    mean("mean of categories", report.overall, &|b| b.overall, report.buckets.map(bucket));
    println!("{table}");
    if let Some(difference) = task.difference {
        println!("difference {} points over all items", points(difference));
    }
    print_speed(task.seconds, n);
}

fn print_pairs(name: &str, paired: Option<&PairedAccuracy>) {
    let Some(p) = paired else { return };
    println!(
        "{name:10} {} items gained, {} lost, {} answered otherwise; difference {} points, McNemar p = {}",
        p.n_gained,
        p.n_lost,
        p.n_changed,
        points(p.difference),
        units::significant(p.p_value, 2),
    );
}

fn print_speed(seconds: f64, n_items: usize) {
    let rate = units::significant(n_items as f64 / seconds.max(1e-9), 3);
    println!(
        "time       {seconds:.1} s, {rate} items/s ({} threads)\n",
        rayon::current_num_threads()
    );
}
