//! How good a model is, and how far from the model that it was made from.
//!
//! ```text
//! cargo run --release --example evaluate -- --model OUT [--baseline DIR] --text test.txt
//! cargo run --release --example evaluate -- --model OUT --baseline DIR --hellaswag val.jsonl --mmlu FOLDER --out results
//! ```

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::tasks::{longbench::read_longbench, read_hellaswag, read_mmlu},
};

mod args;
mod choice;
mod long;
mod models;
mod report;
#[path = "../support/mod.rs"]
mod support;
mod text;

use args::{Args, Task};
use models::Models;
use report::Report;
use support::demo_tasks;

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let tasks = args.chosen()?;
    let folder = args.model.clone().map_or_else(support::demo_model, Ok)?;
    let checkpoint = Checkpoint::open_with(&folder, Access::Positioned)?;
    let mut report = Report::default();
    if tasks.iter().any(|task| matches!(task, Task::Perplexity | Task::Kld)) {
        report.text = Some(text::evaluate(args, &tasks, &folder, &checkpoint)?);
    }
    if tasks.iter().any(|task| matches!(task, Task::Hellaswag | Task::Mmlu | Task::Longbench)) {
        let models = Models::load(args, &folder, &checkpoint)?;
        if tasks.contains(&Task::Hellaswag) {
            let items = args.hellaswag.as_deref().map(read_hellaswag).transpose()?;
            let items = items.unwrap_or_else(demo_tasks::hellaswag);
            let task = choice::hellaswag(args, &models, name(&args.hellaswag), items)?;
            if !args.json {
                report::print_hellaswag(&task);
            }
            report.hellaswag = Some(task);
        }
        if tasks.contains(&Task::Mmlu) {
            let subjects = args.mmlu.as_deref().map(read_mmlu).transpose()?;
            let subjects = subjects.unwrap_or_else(demo_tasks::mmlu);
            let task = choice::mmlu(args, &models, name(&args.mmlu), &subjects)?;
            if !args.json {
                report::print_mmlu(&task, args.shots);
            }
            report.mmlu = Some(task);
        }
        if tasks.contains(&Task::Longbench) {
            let tasks = args.longbench.as_deref().map(read_longbench).transpose()?;
            let tasks = tasks.unwrap_or_else(demo_tasks::longbench);
            let task = long::longbench(args, &models, name(&args.longbench), &tasks)?;
            if !args.json {
                report::print_longbench(&task);
            }
            report.longbench = Some(task);
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    if let Some(folder) = &args.out {
        report.write(folder)?;
    }
    Ok(())
}

/// Where the items of a task come from.
fn name(data: &Option<PathBuf>) -> String {
    data.as_ref().map_or_else(|| "the demo's own".into(), |path| path.display().to_string())
}
