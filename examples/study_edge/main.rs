//! A study of few bits on small machines, done again: how long a short text takes, and what becomes of it, by the policy that gives matrices their bits.
//!
//! ```text
//! cargo run --release --example study-edge                      # the embedded demo model
//! cargo run --release --example study-edge -- --model distilgpt2 --calibration calibration.txt --text validation.txt
//! ```
//!
//! The first study ran DistilGPT-2 on a Raspberry Pi 5 in 32-bit floats, uniform 8 bits, uniform 4 bits, and "adaptive": the most important 30 % of the
//! layers in floats, the next 30 % in 8 bits, the rest in 4. Here the same policies stand beside plans of our planner, all measured in one run.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, write_atomically},
    model::{ModelConfig, Tokenizer},
};

mod conclusions;
mod measure;
mod policies;
mod report;
#[path = "../support/mod.rs"]
mod support;

#[derive(Parser)]
#[command(about = "Time, text and quality of a model by the policy that gives its matrices bits")]
struct Args {
    /// Model folder with float weights. Without it: the embedded demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Text that plans and GPTQ learn from, documents separated by <|endoftext|>. For the demo model: its own.
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Text to measure quality on. Default: the last tenth of --calibration, which then is not learned from.
    #[arg(long)]
    text: Option<PathBuf>,
    /// What each model is asked to continue.
    #[arg(long, default_value = "The future of artificial intelligence is")]
    prompt: String,
    /// Tokens that each model writes.
    #[arg(short, default_value_t = 50)]
    n: usize,
    /// Times that each model writes them; the median counts.
    #[arg(long, default_value_t = 9)]
    repeats: usize,
    /// Weights that share a scale.
    #[arg(long, default_value_t = 32)]
    group_size: u32,
    /// Documents of the comparison.
    #[arg(long, default_value_t = 100)]
    documents: usize,
    /// Folder for models, report.md, report.json and the figures.
    #[arg(long, default_value = "target/fewbit-study-edge")]
    out: PathBuf,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let started = Instant::now();
    if args.n == 0 || args.repeats == 0 {
        bail!("-n and --repeats: at least 1");
    }
    let source = Source::of(args)?;
    let policies = policies::all(args, &source)?;
    let folders = policies::quantize(args, &source, &policies)?;
    let results = measure::all(args, &source, &policies, &folders)?;
    let words = conclusions::of(&results);

    report::print(args, &source, &results, &words);
    let figures = report::write(args, &source, &results, &words)?;
    println!("time       {}", support::duration(started.elapsed().as_secs_f64()));
    println!("written    {}", figures.join(", "));
    Ok(())
}

/// Where everything comes from.
struct Source {
    /// As it was given.
    name: String,
    /// With 32-bit floats.
    model: PathBuf,
    tokenizer: Tokenizer,
    calibration: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
    /// Longest text that is measured at once.
    window: usize,
    /// Windows that plans and GPTQ learn from.
    windows: usize,
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        let demo = args.model.is_none();
        let original = args.model.clone().map_or_else(support::demo_model, Ok)?;
        fs::create_dir_all(&args.out)
            .with_context(|| format!("cannot make {}", args.out.display()))?;
        let checkpoint = Checkpoint::open_with(&original, Access::Positioned)?;
        own_folder(&args.out, &original, &checkpoint, args)?;
        let config = ModelConfig::of(&checkpoint)?;
        let tokenizer = Tokenizer::load(&checkpoint).context("text needs the model's tokenizer")?;
        let encode = |text: String| support::encode_documents(&tokenizer, config.bos_token, &text);
        let calibration = match (&args.calibration, demo) {
            (Some(path), _) => support::read_text(path)?,
            (None, true) => fewbit_demo::text(fewbit_demo::Split::Calibration, 400_000),
            (None, false) => bail!("--calibration is missing: plans and GPTQ learn from text"),
        };
        let mut calibration = encode(calibration)?;
        let mut held_out = match (&args.text, demo && args.calibration.is_none()) {
            (Some(path), _) => encode(support::read_text(path)?)?,
            (None, true) => encode(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000))?,
            (None, false) => calibration.split_off(calibration.len() - calibration.len() / 10),
        };
        held_out.truncate(args.documents);
        if held_out.is_empty() {
            bail!("no document of two tokens or more to measure on: give more --text");
        }
        let name = match demo {
            true => "the embedded demo model".into(),
            false => original.display().to_string(),
        };
        let model = support::float32::float32(&original, &args.out.join("float32"))?;
        let window = config.max_positions.min(512);
        let windows = if demo { 32 } else { 128 };
        Ok(Self { name, model, tokenizer, calibration, held_out, window, windows })
    }
}

/// Models that an earlier run of the same study left are used again; those of another would be mistaken for them.
fn own_folder(out: &Path, model: &Path, checkpoint: &Checkpoint, args: &Args) -> Result<()> {
    let tensors: u64 = checkpoint.tensors().map(|tensor| tensor.bytes).sum();
    let text = |path: &Option<PathBuf>| match path {
        Some(path) => Ok(format!("{} {}", path.display(), fs::metadata(path)?.len())),
        None => Ok::<_, std::io::Error>(String::new()),
    };
    let run = serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": model,
        "bytes": tensors,
        "calibration": text(&args.calibration)?,
        "held_out": args.text.is_none(),
        "group_size": args.group_size,
    });
    let run = serde_json::to_vec_pretty(&run)?;
    let file = out.join("study.json");
    match fs::read(&file) {
        Ok(found) if found == run => return Ok(()),
        Ok(_) => bail!(
            "{} holds a study of another model or other settings: choose another --out or remove it",
            out.display()
        ),
        Err(_) => {}
    }
    if fs::read_dir(out)?.next().is_some() {
        bail!("{} is not empty and not of this program: choose another --out", out.display());
    }
    Ok(write_atomically(&file, &run)?)
}
