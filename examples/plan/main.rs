//! Finds how many bits each matrix of a model should get.
//!
//! ```text
//! cargo run --release --example plan                        # the embedded demo model
//! cargo run --release --example plan -- --model DIR --calibration text.txt --budget 4.25bpw --out plan.json
//! cargo run --release --example quantize -- --model DIR --calibration text.txt --plan plan.json --out OUT
//! ```

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, write_atomically},
    model::{ModelConfig, Tokenizer},
    pipeline::sensitivity::{Measured, PlanFile, Tie, compare_plans, measure},
};

mod args;
mod choose;
mod figures;
mod heat_map;
mod report;
mod setup;
#[path = "../support/mod.rs"]
mod support;

use args::{Args, BudgetArg, Policy};
use choose::{Limits, Planner};
use setup::Setup;
use support::bar::Bar;

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let budget = BudgetArg::parse(&args.budget).map_err(anyhow::Error::msg)?;
    let source = Source::of(args)?;
    let setup = Setup::new(args, &source)?;
    let started = Instant::now();
    let mut bar = Bar::new();
    let spec = setup.spec(args, &source, &budget);
    let sensitivities = measure(&source.model, &spec, &mut bar)?;
    bar.finish();
    let measuring = started.elapsed().as_secs_f64();
    report::print_inside(&sensitivities, &setup.grids);

    let tie = if args.tie { Tie::SharedInput } else { Tie::None };
    let limits = Limits::new(&budget, &setup, &sensitivities)?;
    let problem =
        sensitivities.problem(&setup.grids, &*setup.container, tie, limits.speeds.as_ref())?;
    let planner = Planner { args, setup: &setup, sensitivities: &sensitivities, problem: &problem };
    let chosen = planner.choose(&limits)?;
    let uniform = planner.uniform(&limits);

    let mut chosen = chosen;
    let mut measured = None;
    if !args.no_verify && !source.held_out.is_empty() {
        let mut bar = Bar::new();
        if args.refine > 0 {
            chosen = planner.refine(chosen, &limits, &source, &mut bar)?;
        }
        let mut selections = vec![chosen.clone()];
        selections.extend(uniform.clone().filter(|u| u.choices != chosen.choices));
        let plans: Vec<_> = selections.iter().map(|s| problem.plan(s)).collect();
        let mut job = |plan, out: &std::path::Path| setup.job(args, &source, plan, out);
        let runs = compare_plans(&source.model, &plans, &mut job, &source.held_out, 512, &mut bar)?;
        bar.finish();
        report::print_runs(&planner, &selections, &runs);
        if let [plan, other] = &runs[..] {
            let pair = plan.against(other).context("no held-out documents")?;
            let interval = pair.interval.map_or([f64::NAN; 2], |i| [i.low, i.high]);
            measured = Some(Measured {
                documents: plan.documents.len(),
                kl: plan.kl.value,
                uniform: planner.describe(&selections[1]),
                uniform_bits_per_weight: planner.bits_per_weight(&selections[1]),
                uniform_kl: other.kl.value,
                reduction: [pair.reduction, interval[0], interval[1]],
            });
            report::print_comparison(measured.as_ref().context("just measured")?);
            if args.policy == Policy::Best && pair.reduction < 0.0 {
                println!("the uniform plan is better on this text, so it is what is written");
                chosen = selections[1].clone();
                measured = None;
            }
        }
    }
    report::print_words(&planner, &chosen);

    let name = source.model.file_name().unwrap_or_default().to_string_lossy();
    let container = setup.container.name();
    let mut file =
        PlanFile::new(&sensitivities, &problem, &chosen, name, container, setup.method.name());
    file.budget = Some(args.budget.clone());
    file.measured = measured;
    file.write(&args.out)?;
    let map = args.out.with_extension("sensitivity.svg");
    write_atomically(&map, heat_map::svg(&planner, &chosen).as_bytes())?;
    let frontier = args.out.with_extension("frontier.svg");
    write_atomically(&frontier, figures::frontier(&planner, &chosen)?.as_bytes())?;
    println!(
        "time       {} to measure, {} in all",
        support::duration(measuring),
        support::duration(started.elapsed().as_secs_f64())
    );
    println!("written    {}, {}, {}", args.out.display(), map.display(), frontier.display());
    println!();
    println!(
        "next       cargo run --release --example quantize -- --model {} --calibration TEXT --plan {} --out OUT",
        source.model.display(),
        args.out.display()
    );
    Ok(())
}

/// Where everything comes from.
pub struct Source {
    pub model: PathBuf,
    pub calibration: Vec<Vec<u32>>,
    pub held_out: Vec<Vec<u32>>,
    pub window: usize,
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        let demo = args.model.is_none();
        let model = args.model.clone().map_or_else(support::demo_model, Ok)?;
        let checkpoint = Checkpoint::open_with(&model, Access::Positioned)?;
        let bos = ModelConfig::of(&checkpoint)?.bos_token;
        let tokenizer = Tokenizer::load(&checkpoint).context("text needs the model's tokenizer")?;
        let encode = |text: String| support::encode_documents(&tokenizer, bos, &text);
        let calibration = match (&args.calibration, demo) {
            (Some(path), _) => support::read_text(path)?,
            (None, true) => fewbit_demo::text(fewbit_demo::Split::Calibration, 400_000),
            (None, false) => bail!("--calibration is missing: sensitivities are measured on text"),
        };
        let mut calibration = encode(calibration)?;
        let mut held_out = match (&args.text, demo && args.calibration.is_none()) {
            (Some(path), _) => encode(support::read_text(path)?)?,
            (None, true) => encode(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000))?,
            (None, false) => calibration.split_off(calibration.len() - calibration.len() / 10),
        };
        held_out.truncate(args.eval_documents);
        let window = args.window.unwrap_or(if demo { 384 } else { 512 });
        Ok(Self { model, calibration, held_out, window })
    }
}
