//! Trains the embedded demo model again from nothing: the stories of its grammar, a tokenizer from them, our trainer.
//!
//! ```text
//! cargo run --release --example train-demo                      # as the embedded model was made: about 40 minutes
//! cargo run --release --example train-demo -- --steps 200       # a short run
//! ```
//!
//! Kill it at any moment: the same command goes on where it was, from OUT.work.

use std::{fs, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{Access, Checkpoint, write_atomically},
    model::{ModelConfig, Tokenizer},
    qat::{Learn, Objective, Run, Silent, Student, Windows, defaults, export, train_model},
};
use fewbit_demo::Split;

mod recall;
#[path = "../support/mod.rs"]
mod support;
mod tokenizer;

use recall::Recall;
use support::{duration, training::TrainingBar};
use tokenizer::Mention;

#[derive(Parser)]
#[command(about = "Train the demo model from nothing on the CPU")]
struct Args {
    /// Folder to write; replaced if this program wrote it.
    #[arg(long, default_value = "target/fewbit-demo-trained")]
    out: PathBuf,
    /// Steps.
    #[arg(long, default_value_t = 3000)]
    steps: u64,
    /// Windows of a pass.
    #[arg(long, default_value_t = 4)]
    batch: usize,
    /// Passes whose gradients make a step.
    #[arg(long, default_value_t = 1)]
    accumulate: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Bytes of stories to train on.
    #[arg(long, default_value_t = 24_000_000)]
    text: usize,
    /// From gradients to steps.
    #[arg(long, value_enum, default_value = "muon")]
    optimizer: Optimizer,
    /// Multiplies the learning rate.
    #[arg(long, default_value_t = 1.0)]
    rate: f32,
    /// How many times as much as another token a word counts that its story has used before, while the learning rate is high.
    #[arg(long, default_value_t = 6)]
    emphasis: u32,
    /// First weights, and which windows each step sees.
    #[arg(long, default_value_t = 20)]
    seed: u64,
    /// Steps between two checks on held-out text.
    #[arg(long, default_value_t = 200)]
    check_every: u64,
    /// Threads; default: all cores. The output is the same for any number.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Optimizer {
    /// Muon for the matrices of blocks, AdamW for all else.
    Muon,
    /// AdamW for all.
    Adamw,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let started = Instant::now();
    if args.out.exists() {
        if !args.out.join("loss.svg").is_file() {
            bail!("{} exists and is not of this program: choose another --out", args.out.display());
        }
        fs::remove_dir_all(&args.out)?;
    }
    let mut work = args.out.clone().into_os_string();
    work.push(".work");
    let work = PathBuf::from(work);
    let begin = work.join("begin");
    // Plain ASCII: it can be cut anywhere.
    let stories = fewbit_demo::text(Split::Train, args.text.max(tokenizer::TEXT));
    fewbit_demo::write_model(&begin)?;
    fs::write(begin.join("tokenizer.json"), tokenizer::train(&stories)?)?;
    // The configuration says what to train; of the weights only names, sizes and types are used.
    let beginning = Checkpoint::open_with(&begin, Access::Positioned)?;
    let config = ModelConfig::of(&beginning)?;
    let tokenizer = Tokenizer::load(&beginning)?;
    let documents = |text: &str| support::encode_documents(&tokenizer, config.bos_token, text);
    let windows = |documents: &[_]| Windows::new(documents, args.window, config.vocab_size);
    let read = documents(&stories[..args.text.min(stories.len())])?;
    let text = windows(&read)?;
    let mentions = tokenizer::mentions(&tokenizer);
    let again =
        |story: &[u32]| mentions(story).iter().map(|&m| m == Some(Mention::Again)).collect();
    let text = text.emphasize(&read, args.emphasis, again);
    drop((stories, read));
    let held_out = windows(&documents(&fewbit_demo::text(Split::Validation, 300_000))?)?;
    let mut student = Student::fresh(&config, args.seed);
    println!(
        "model      {} blocks of {}, hidden size {}",
        config.n_layers,
        config.model_type(),
        config.hidden_size
    );
    println!("text       {} windows of {} tokens", text.len(), args.window);

    let settings = match args.optimizer {
        Optimizer::Muon => defaults::fresh(args.steps),
        Optimizer::Adamw => defaults::fresh_adamw(args.steps),
    };
    let mut run = Run {
        batch: args.batch,
        accumulate: args.accumulate,
        seed: args.seed,
        check_every: args.check_every,
        check_windows: 32,
        ..settings
    };
    run.optimization.rates = run.optimization.rates.scaled(args.rate);
    let state = work.join("state.safetensors");
    let mut bar = TrainingBar::new();
    let objective = Objective::NextToken;
    let curve = train_model(
        &mut student,
        Learn::FLOAT,
        objective,
        &text,
        &held_out,
        &run,
        Some(&*state),
        &mut bar,
    )?;
    bar.finish();
    export(&student, &beginning, None, &args.out)?;
    let svg = support::training::figure(
        "The demo model, from nothing",
        "cross-entropy, nats",
        std::slice::from_ref(&curve),
    )?;
    write_atomically(&args.out.join("loss.svg"), svg.as_bytes())?;
    fs::remove_dir_all(&work)?;

    // No steps: only the first check.
    let embedded = Checkpoint::open_with(&support::demo_model()?, Access::Positioned)?;
    let mut whole = Student::float(&embedded)?;
    let check = Run { check_windows: 32, ..defaults::fresh(0) };
    let theirs = train_model(
        &mut whole,
        Learn::FLOAT,
        objective,
        &text,
        &held_out,
        &check,
        None,
        &mut Silent,
    )?;
    let (step, best) = curve.best();
    println!(
        "loss       {:.4} → {best:.4} nats per held-out token after step {step}; the embedded model: {:.4}",
        curve.first(),
        theirs.first()
    );
    for (model, name) in [(&student, "this"), (&whole, "embedded")] {
        let [first, again] = Recall::measure(model, &held_out, 64, &mentions)?;
        println!("recall     {name} model: a new word {first}; a word of the story so far {again}");
    }
    for (step, loss) in &curve.checks {
        println!("           step {step}: {loss:.4}");
    }
    let (tokens, seconds) = bar.total;
    if seconds > 0.0 {
        println!(
            "speed      {:.0} tokens/s, {:.2} steps/s",
            tokens as f64 / seconds,
            curve.steps.len() as f64 / seconds
        );
    }
    println!("time       {}", duration(started.elapsed().as_secs_f64()));
    println!(
        "written    {}; figure in {}",
        args.out.display(),
        args.out.join("loss.svg").display()
    );
    Ok(())
}
