//! A study of GPTQ and AWQ on small language models, done again: tasks, speed and memory of each model in floats and by each method, and what calibration text
//! does to the methods.
//!
//! ```text
//! cargo run --release --example study-sllm                      # the embedded demo model, with text and items of its own
//! cargo run --release --example study-sllm -- --model EXAONE-3.5-2.4B,gemma-3-1b,Llama-3.2-1B \
//!     --calibration wikitext=wiki.train.txt --calibration pile=pile.txt --calibration both=wiki.train.txt+pile.txt \
//!     --hellaswag hellaswag_val.jsonl --mmlu MMLU --longbench LongBench --limit 500 --out study
//! ```
//!
//! Kill it at any moment: the same command goes on where it was, from the models and journals in --out.

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use clap::Parser;

mod args;
mod contestants;
mod figures;
mod measure;
mod report;
mod source;
mod speed;
#[path = "../support/mod.rs"]
mod support;

use args::Args;
use source::{Data, Source};

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    if let Some(folder) = &args.speed_of {
        return speed::print(folder);
    }
    let started = Instant::now();
    let data = Data::of(args)?;
    let mut studied = vec![];
    for model in args.models()? {
        let source = Source::of(args, &data, &model)?;
        let contestants = contestants::all(args, &data, &source)?;
        let results = measure::all(args, &data, &source, &contestants)?;
        println!("{}\n{}", source.name, report::table(&results));
        studied.push(report::Studied { name: source.name, results });
    }
    for line in report::conclusions(&studied) {
        println!("{line}");
    }
    let written = report::write(args, &data, &studied)?;
    println!("time       {}", support::duration(started.elapsed().as_secs_f64()));
    println!("written    {}", written.join(", "));
    Ok(())
}
