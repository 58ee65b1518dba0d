//! Quantizes a Hugging Face folder on the CPU and says what it cost.
//!
//! ```text
//! cargo run --release --example quantize                        # the embedded demo model
//! cargo run --release --example quantize -- --model DIR --calibration text.txt --out OUT
//! cargo run --release --example quantize -- --model DIR --method rtn --mix q4_k_m --out OUT.gguf
//! ```

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, write_atomically},
    eval::Divergence,
    format::Plan,
    model::{Activations, Model, ModelConfig, Tokenizer},
    pipeline::{Candidate, Report, Rotation, compare_streamed, rotate},
};
use serde::Serialize;

mod args;
mod best;
mod job;
mod report;
#[path = "../support/mod.rs"]
mod support;

use args::{Args, MethodArg};
use best::{Candidates, Choice};
use report::{beside, beside_folder};
use support::bar::Bar;

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let started = Instant::now();
    let source = Source::of(args)?;
    let mut bar = Bar::new();
    if args.rotate && !source.start.exists() {
        let rotation = Rotation { narrow_ends: true, ..Rotation::default() };
        rotate(&source.model, &source.start, rotation, &mut bar)?;
    }
    let mut prepared = job::job(args, &source, &mut bar)?.prepare(&mut bar)?;
    bar.finish();
    let candidates = match args.method {
        MethodArg::Best => Some(Candidates::of(args, &source, &prepared)?),
        _ => None,
    };
    report::announce(&source, &prepared, candidates.as_ref());

    let plan = prepared.plan().clone();
    let mut bar = Bar::new();
    job::save_importance(args, &mut prepared, &mut bar)?;
    let (mut report, choice) = match candidates {
        None => (prepared.run(&mut bar)?, None),
        Some(candidates) => {
            let (report, choice) = candidates.run(&source)?;
            (report, Some(choice))
        }
    };
    bar.finish();
    if args.rotate {
        std::fs::remove_dir_all(&source.start)?;
        // Of the model, not of its copy in f32.
        let model = Checkpoint::open_with(&source.model, Access::Positioned)?;
        report.bytes_before = model.tensors().map(|tensor| tensor.bytes).sum();
    }

    let evaluation = match args.no_eval || source.held_out.is_empty() {
        true => None,
        false => Some(evaluate(args, &source, &plan)?),
    };
    let results = Results { report: &report, choice: &choice, evaluation: &evaluation };
    let json = serde_json::to_vec_pretty(&results)?;
    write_atomically(&beside(&source.out, "report.json"), &json)?;
    let figure = beside(&source.out, "report.svg");
    write_atomically(&figure, report::error_by_layer(&report).to_svg()?.as_bytes())?;

    report::print_sites(&report);
    report::print_matrices(&report);
    if let Some(choice) = &choice {
        best::print_choice(choice);
    }
    report::print_summary(&source, &report, evaluation.as_ref(), started);
    Ok(())
}

/// Documents of the calibration text, at most, that the best method is chosen on and not calibrated on.
const CHOICE_DOCUMENTS: usize = 64;

/// Where everything comes from and goes to.
pub struct Source {
    pub model: PathBuf,
    /// What is quantized: the model, or its rotated copy.
    pub start: PathBuf,
    pub out: PathBuf,
    pub demo: bool,
    pub calibration: Vec<Vec<u32>>,
    /// What the best method is chosen on.
    pub choice: Vec<Vec<u32>>,
    pub held_out: Vec<Vec<u32>>,
    pub window: usize,
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        let demo = args.model.is_none();
        let model = args.model.clone().map_or_else(support::demo_model, Ok)?;
        let out = match (&args.out, demo) {
            (Some(out), _) => out.clone(),
            (None, true) => format!("target/fewbit-demo{}", job::ending(args)).into(),
            (None, false) => bail!("--out is missing: name the folder to write"),
        };
        if demo && args.out.is_none() && beside(&out, "report.json").is_file() {
            match out.is_dir() {
                true => std::fs::remove_dir_all(&out)?,
                false => std::fs::remove_file(&out)?,
            }
        }
        let needs_text = args.method.needs_text();
        let (calibration, held_out) = match (&args.calibration, demo) {
            (None, true) => (
                Some(fewbit_demo::text(fewbit_demo::Split::Calibration, 400_000)),
                Some(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000)),
            ),
            (None, false) if needs_text => {
                bail!("--calibration is missing: this method needs text; or choose --method rtn")
            }
            (path, _) => (path.as_deref().map(support::read_text).transpose()?, None),
        };
        let held_out = match &args.text {
            Some(path) => Some(support::read_text(path)?),
            None => held_out,
        };
        let checkpoint = Checkpoint::open_with(&model, Access::Positioned)?;
        let bos = ModelConfig::of(&checkpoint)?.bos_token;
        let encode = |text: Option<String>| -> Result<Vec<Vec<u32>>> {
            let Some(text) = text else { return Ok(Vec::new()) };
            let tokenizer =
                Tokenizer::load(&checkpoint).context("text needs the model's tokenizer")?;
            support::encode_documents(&tokenizer, bos, &text)
        };
        let mut calibration = encode(calibration)?;
        let mut held_out = encode(held_out)?;
        if args.text.is_none() && held_out.is_empty() && !calibration.is_empty() {
            let keep = calibration.len() - calibration.len() / 10;
            held_out = calibration.split_off(keep);
        }
        held_out.truncate(args.eval_documents);
        let choice = match args.method {
            MethodArg::Best => {
                let n = (calibration.len() / 10).min(CHOICE_DOCUMENTS);
                calibration.split_off(calibration.len() - n)
            }
            _ => vec![],
        };
        let window = args.window.unwrap_or(if demo { 384 } else { 512 });
        let start = match args.rotate {
            true => beside_folder(&out, "rotated"),
            false => model.clone(),
        };
        Ok(Self { model, start, out, demo, calibration, choice, held_out, window })
    }
}

/// Before, by plain rounding, and after.
#[derive(Serialize)]
pub struct Evaluation {
    pub documents: usize,
    pub plain_rounding: Divergence,
    pub quantized: Divergence,
    pub speed: Option<Speeds>,
}

#[derive(Serialize)]
pub struct Speeds {
    pub threads: usize,
    pub before: fewbit::eval::Throughput,
    pub after: fewbit::eval::Throughput,
}

#[derive(Serialize)]
struct Results<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    choice: &'a Option<Choice>,
    evaluation: &'a Option<Evaluation>,
}

fn evaluate(args: &Args, source: &Source, plan: &Plan) -> Result<Evaluation> {
    let original = Checkpoint::open_with(&source.model, Access::Positioned)?;
    let quantized = Checkpoint::open_with(&source.out, Access::Positioned)?;
    let candidates = [Candidate::RoundedToNearest(plan), Candidate::Checkpoint(&quantized)];
    let mut bar = Bar::new();
    let mut results =
        compare_streamed(&original, &candidates, &source.held_out, 512, &mut bar)?.into_iter();
    bar.finish();
    let speed = match args.no_speed {
        true => None,
        false => {
            let prompt = &source.held_out.concat()[..];
            let prompt = &prompt[..prompt.len().min(128)];
            let measure = |checkpoint: &Checkpoint| {
                support::speed::measure(
                    &Model::load_with(checkpoint, Activations::Int8)?,
                    prompt,
                    32,
                )
            };
            Some(Speeds {
                threads: rayon::current_num_threads(),
                before: measure(&original)?,
                after: measure(&quantized)?,
            })
        }
    };
    let (Some(plain_rounding), Some(quantized)) = (results.next(), results.next()) else {
        bail!("the comparison gave no results");
    };
    Ok(Evaluation { documents: source.held_out.len(), plain_rounding, quantized, speed })
}
