//! Trains a model in few bits and says what that gained over rounding it.
//!
//! ```text
//! cargo run --release --example qat                             # the embedded demo model at 2 bits
//! cargo run --release --example qat -- --model DIR --text train.txt --bits 2 --group-size 64 --method block --out OUT
//! cargo run --release --example qat -- --model DIR --text train.txt --init OUT --method e2e --out OUT2
//! cargo run --release --example qat -- --model DIR --text train.txt --grid q2_k --out OUT.gguf
//! cargo run --release --example qat -- --model DIR --text mine.txt --method lora --objective text --out MERGED
//! ```
//!
//! Kill it at any moment: the same command goes on where it was, from OUT.work.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, Container, Gptq, InputRounding, write_atomically},
    eval::{Divergence, Table},
    format::{
        Bits, Codebook, CodebookScheme, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry,
    },
    gptq::GptqSpec,
    model::{ModelConfig, Tokenizer},
    pipeline::{
        Calibration, Candidate, Job, Method, compare_streamed,
        sensitivity::{PlanFile, model_fingerprint},
        weight_dtype,
    },
    qat::{
        AdapterSpec, BlockText, Curve, Geometry, Learn, Objective, Run, Start, Student, Windows,
        defaults, export, export_adapters, train_blocks, train_model,
    },
};
use serde::Serialize;

mod args;
#[path = "../support/mod.rs"]
mod support;

use args::{Args, InputsArg, MethodArg, ObjectiveArg};
use support::{bar::Bar, container::ContainerArg, duration, training::TrainingBar};

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let started = Instant::now();
    let model = args.model.clone().map_or_else(support::demo_model, Ok)?;
    let grid = Grid::of(args, &Checkpoint::open_with(&model, Access::Positioned)?)?;
    let source = Source::of(args, model, grid.kind.ending())?;
    println!("model      {}", source.name());
    println!("method     {}: {}", method_name(args.method), grid.name);
    println!(
        "text       {} windows of {} tokens to train on, {} to check on, {} documents to compare on",
        source.text.len(),
        args.window,
        source.checks.len(),
        source.held_out.len()
    );
    fs::create_dir_all(&source.work)
        .with_context(|| format!("cannot make {}", source.work.display()))?;
    let init = initial(args, &source, &grid)?;

    let mut bar = TrainingBar::new();
    let (student, curves) = train(args, &source, &grid, init.as_deref(), &mut bar)?;
    bar.finish();
    let model = Checkpoint::open_with(&source.model, Access::Positioned)?;
    if args.method == MethodArg::Lora {
        let name = source.model.display().to_string();
        export_adapters(&student, &name, &adapters_beside(&source.out))?;
        export(&student.merged(), &model, None, &source.out)?;
    } else {
        export(&student, &model, Some(&*grid.container()), &source.out)?;
    }

    let label = match args.method {
        MethodArg::Block | MethodArg::Round => "relative squared error of the block's output",
        _ if args.objective == ObjectiveArg::Text => "cross-entropy of the next token, nats",
        _ => "KL divergence from the teacher, nats",
    };
    let title = format!("{}, {}", method_name(args.method), grid.name);
    let svg = support::training::figure(&title, label, &curves)?;
    write_atomically(&beside(&source.out, "loss.svg"), svg.as_bytes())?;

    let results = evaluate(&source, &grid, init.as_deref())?;
    let (tokens, seconds) = bar.total;
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        method: method_name(args.method),
        grid: grid.name.clone(),
        steps: source.steps,
        tokens,
        training_seconds: seconds,
        curves: &curves,
        results: &results,
    };
    let json = serde_json::to_vec_pretty(&report)?;
    write_atomically(&beside(&source.out, "report.json"), &json)?;
    print_results(&results, args.inputs != InputsArg::Float);
    for (i, curve) in curves.iter().enumerate() {
        let (step, best) = curve.best();
        let which = if curves.len() > 1 { format!("block {}  ", i + 1) } else { String::new() };
        println!(
            "loss       {which}{:.5} → {best:.5} on held-out windows, after step {step}",
            curve.first()
        );
    }
    if curves.iter().all(|curve| curve.best().0 == 0) {
        println!(
            "advice     training gained nothing here: the file holds what training began with"
        );
    }
    if curves.iter().any(rose) {
        println!(
            "advice     the loss rose before it fell: with --rate {} it may end lower",
            args.rate / 4.0
        );
    }
    if seconds > 0.0 {
        println!("speed      {:.0} tokens/s", tokens as f64 / seconds);
    }
    println!("time       {} in all", duration(started.elapsed().as_secs_f64()));
    if args.method == MethodArg::Lora {
        println!("adapters   {}", adapters_beside(&source.out).display());
    }
    println!(
        "written    {}, verified; report in {}, figure in {}",
        source.out.display(),
        beside(&source.out, "report.json").display(),
        beside(&source.out, "loss.svg").display()
    );
    fs::remove_dir_all(&source.work)?;
    Ok(())
}

/// Where everything comes from and goes to.
struct Source {
    model: PathBuf,
    demo: bool,
    out: PathBuf,
    /// States and the model to begin with.
    work: PathBuf,
    documents: Vec<Vec<u32>>,
    text: Windows,
    checks: Windows,
    held_out: Vec<Vec<u32>>,
    steps: u64,
}

impl Source {
    fn of(args: &Args, model: PathBuf, ending: &str) -> Result<Self> {
        let demo = args.model.is_none();
        let out = match (&args.out, demo) {
            (Some(out), _) => out.clone(),
            (None, true) => format!("target/fewbit-demo-qat{ending}").into(),
            (None, false) => bail!("--out is missing: name the folder to write"),
        };
        if demo && args.out.is_none() && beside(&out, "report.json").is_file() {
            match out.is_dir() {
                true => fs::remove_dir_all(&out)?,
                false => fs::remove_file(&out)?,
            }
            let _ = fs::remove_dir_all(adapters_beside(&out));
        }
        for out in [&out, &adapters_beside(&out)] {
            if out.exists() {
                bail!("{} exists: choose another --out or remove it", out.display());
            }
        }
        let (text, held_out) = match (&args.text, demo) {
            (Some(path), _) => (support::read_text(path)?, None),
            (None, true) => (
                fewbit_demo::text(fewbit_demo::Split::Calibration, 2_000_000),
                Some(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000)),
            ),
            (None, false) => bail!("--text is missing: name a text to train on"),
        };
        let held_out = match &args.held_out {
            Some(path) => Some(support::read_text(path)?),
            None => held_out,
        };
        let checkpoint = Checkpoint::open_with(&model, Access::Positioned)?;
        let config = ModelConfig::of(&checkpoint)?;
        // What cannot be trained is refused before any work.
        Geometry::new(&config, args.window)?;
        let tokenizer = Tokenizer::load(&checkpoint).context("text needs the model's tokenizer")?;
        let encode = |text: &str| support::encode_documents(&tokenizer, config.bos_token, text);
        let mut documents = encode(&text)?;
        let mut held_out = match held_out {
            Some(text) => encode(&text)?,
            None => documents.split_off(documents.len() - documents.len() / 20),
        };
        held_out.truncate(args.eval_documents);
        let checks = documents.split_off(documents.len() - (documents.len() / 20).max(1));
        let windows =
            |documents: &[Vec<u32>]| Windows::new(documents, args.window, config.vocab_size);
        let mut work = out.clone().into_os_string();
        work.push(".work");
        Ok(Self {
            model,
            demo,
            work: work.into(),
            text: windows(&documents)?,
            checks: windows(&checks)?,
            out,
            documents,
            held_out,
            steps: args.steps.unwrap_or(if demo { 100 } else { 500 }),
        })
    }

    fn name(&self) -> String {
        match self.demo {
            true => "the embedded demo model".into(),
            false => self.model.display().to_string(),
        }
    }
}

/// What the matrices take, and how they lie in the file.
struct Grid {
    name: String,
    plan: Plan,
    kind: ContainerArg,
}

impl Grid {
    fn of(args: &Args, model: &Checkpoint) -> Result<Self> {
        if let Some(path) = &args.plan {
            let file = PlanFile::read(path)?;
            let mut bar = Bar::new();
            let fingerprint = model_fingerprint(model, &mut bar)?;
            bar.finish();
            file.check_model(path, model, &fingerprint, args.any_model)?;
            let plan = file.plan(path)?;
            let planned = ContainerArg::of_plan(&file.container);
            let kind = args.container.or(planned).unwrap_or(ContainerArg::CompressedTensors);
            return Ok(Self { name: format!("the plan {}", path.display()), plan, kind });
        }
        let rounded = args.inputs != InputsArg::Float;
        let scheme = match args.grid {
            Some(scheme) => scheme,
            None if args.method == MethodArg::Lora => {
                Scheme::Codebook(CodebookScheme::new(Codebook::Nf4, 64, false, ScaleType::F32))
            }
            None if rounded => Scheme::Int(IntScheme {
                bits: Bits::B8,
                symmetry: Symmetry::Symmetric,
                granularity: Granularity::Channel,
                scale_type: ScaleType::F16,
            }),
            None => Scheme::Int(IntScheme {
                bits: Bits::try_from(args.bits)?,
                symmetry: if args.symmetric { Symmetry::Symmetric } else { Symmetry::Affine },
                granularity: args.group_size,
                scale_type: ScaleType::F16,
            }),
        };
        let home = match args.inputs {
            InputsArg::Float => ContainerArg::home(&scheme),
            InputsArg::Int8 => ContainerArg::W8a8,
            InputsArg::Int8Static => ContainerArg::W8a8Static,
        };
        let kind = args.container.unwrap_or(home);
        let container = kind.container(&scheme, None);
        let scale_type = container.scale_type(weight_dtype(model, &ModelConfig::of(model)?));
        let scheme = kind.stored(scheme, scale_type);
        Ok(Self { name: scheme.to_string(), plan: Plan::uniform(scheme), kind })
    }

    fn container(&self) -> Box<dyn Container> {
        self.kind.container(&self.plan.default_scheme(), None)
    }
}

fn method_name(method: MethodArg) -> &'static str {
    match method {
        MethodArg::Block => "block-wise training",
        MethodArg::Round => "learned rounding",
        MethodArg::Norms => "norm tuning",
        MethodArg::E2e => "learned step sizes",
        MethodArg::Full => "quantization-aware training",
        MethodArg::Lora => "low-rank adapters",
    }
}

/// The quantized model to begin with, if there is to be one.
fn initial(args: &Args, source: &Source, grid: &Grid) -> Result<Option<PathBuf>> {
    match args.init.as_str() {
        "nearest" => return Ok(None),
        "gptq" => {}
        folder => return Ok(Some(folder.into())),
    }
    let out = source.work.join(format!("gptq{}", grid.kind.ending()));
    if out.exists() {
        // Of a run that was killed; the folder got its name when it was whole.
        return Ok(Some(out));
    }
    let mut job = Job::new(&source.model, &out, grid.plan.clone(), Gptq::default());
    job.container = grid.container();
    job.calibration = Some(Calibration::from_documents(&source.documents, args.window, 256)?);
    job.method = Method::gptq(GptqSpec::default(), 1.0);
    let mut bar = Bar::new();
    let report = job.prepare(&mut bar)?.run(&mut bar)?;
    bar.finish();
    println!("start      GPTQ, {}", duration(report.seconds));
    Ok(Some(out))
}

fn train(
    args: &Args,
    source: &Source,
    grid: &Grid,
    init: Option<&Path>,
    bar: &mut TrainingBar,
) -> Result<(Student, Vec<Curve>)> {
    let model = Checkpoint::open_with(&source.model, Access::Positioned)?;
    let init = init.map(|path| Checkpoint::open_with(path, Access::Positioned)).transpose()?;
    let start = init.as_ref().map_or(Start::Nearest, Start::Checkpoint);
    let run = |run: Run| {
        let mut run =
            Run { batch: args.batch, accumulate: args.accumulate, seed: args.seed, ..run };
        run.optimization.rates = run.optimization.rates.scaled(args.rate);
        run
    };
    let blocks = |learn, run: Run, bar: &mut TrainingBar| {
        let text =
            BlockText { text: &source.text, windows: args.windows, held_out: &source.checks };
        let work = Some(&*source.work);
        let (plan, container) = (&grid.plan, grid.container());
        train_blocks(&model, plan, &*container, start, learn, text, &run, work, bar)
    };
    let whole = |learn: Learn, run: Run, bar: &mut TrainingBar| -> Result<_> {
        let teacher = match &args.teacher {
            Some(folder) => Checkpoint::open_with(folder, Access::Positioned)?,
            None => Checkpoint::open_with(&source.model, Access::Positioned)?,
        };
        let teacher = Student::float(&teacher)?;
        let mut student = Student::quantize(&model, &grid.plan, &*grid.container(), start)?;
        let state = source.work.join("state.safetensors");
        let (text, checks) = (&source.text, &source.checks);
        let objective = match args.objective {
            ObjectiveArg::Teacher => Objective::Distill(&teacher),
            ObjectiveArg::Text => Objective::NextToken,
        };
        match args.inputs {
            InputsArg::Float => {}
            InputsArg::Int8 => student.round_inputs(InputRounding::Int8PerToken, text)?,
            InputsArg::Int8Static => student.round_inputs(InputRounding::Int8Static, text)?,
        }
        if args.method == MethodArg::Lora {
            let alpha = args.alpha.unwrap_or(2.0 * args.rank as f32);
            student.adapt(AdapterSpec { rank: args.rank, alpha, seed: args.seed })?;
        }
        let run = match learn.ends {
            true => run.with_ends(&student, args.rate),
            false => run,
        };
        let state = Some(&*state);
        let curve = train_model(&mut student, learn, objective, text, checks, &run, state, bar)?;
        Ok((student, vec![curve]))
    };
    match args.method {
        MethodArg::Block | MethodArg::Round if args.teacher.is_some() => {
            bail!("--teacher has no meaning block by block: there the model itself is the teacher")
        }
        MethodArg::Block | MethodArg::Round
            if args.inputs != InputsArg::Float || args.objective == ObjectiveArg::Text =>
        {
            bail!("--inputs and --objective are for whole models: take --method full, e2e or norms")
        }
        MethodArg::Block => Ok(blocks(Learn::WEIGHTS, run(defaults::blocks(source.steps)), bar)?),
        MethodArg::Round => {
            Ok(blocks(Learn::ROUNDING, run(defaults::rounding(source.steps)), bar)?)
        }
        MethodArg::Norms => whole(Learn::NORMS, run(defaults::norms(source.steps)), bar),
        MethodArg::Lora => whole(Learn::ADAPTERS, run(defaults::adapters(source.steps)), bar),
        MethodArg::E2e => {
            let learn = Learn { norms: true, ..Learn::SCALES };
            whole(learn, run(defaults::scales(source.steps)), bar)
        }
        MethodArg::Full => {
            let learn = Learn { norms: true, ends: true, ..Learn::WEIGHTS };
            whole(learn, run(defaults::full(source.steps)), bar)
        }
    }
}

/// Whether training left the model clearly worse than it began for a while: learning rates that are too large for it.
fn rose(curve: &Curve) -> bool {
    curve.checks.iter().any(|&(_, loss)| loss > 1.25 * curve.first())
}

/// One model of the comparison.
#[derive(Serialize)]
struct Row {
    name: String,
    divergence: Divergence,
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    method: &'static str,
    grid: String,
    steps: u64,
    tokens: usize,
    training_seconds: f64,
    curves: &'a [Curve],
    results: &'a [Row],
}

fn evaluate(source: &Source, grid: &Grid, init: Option<&Path>) -> Result<Vec<Row>> {
    let open = |path: &Path| Checkpoint::open_with(path, Access::Positioned);
    let original = open(&source.model)?;
    let init = init.map(open).transpose()?;
    let trained = open(&source.out)?;
    let mut candidates = vec![("plain rounding", Candidate::RoundedToNearest(&grid.plan))];
    candidates.extend(init.as_ref().map(|init| ("before training", Candidate::Checkpoint(init))));
    candidates.push(("after training", Candidate::Checkpoint(&trained)));
    let (names, models): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
    let mut bar = Bar::new();
    let results = compare_streamed(&original, &models, &source.held_out, 512, &mut bar)?;
    bar.finish();
    let rows = names.into_iter().zip(results);
    Ok(rows.map(|(name, divergence)| Row { name: name.into(), divergence }).collect())
}

/// The table; `rounded` where the file wants inputs in 8 bits, which it does not show: losses do.
fn print_results(rows: &[Row], rounded: bool) {
    let Some(first) = rows.first() else { return };
    let mut table = Table::new()
        .left(match rounded {
            false => "on held-out documents",
            true => "on held-out documents, inputs in floats",
        })
        .right("perplexity")
        .right("KL divergence")
        .unit("nats")
        .right("same top token")
        .unit("%");
    let original = format!("{:.3}", first.divergence.baseline.perplexity);
    table.row(["original".to_owned(), original, "–".into(), "–".into()]);
    for Row { name, divergence: d } in rows {
        let error = d.kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.5}"));
        table.row([
            name.clone(),
            format!("{:.3}", d.model.perplexity),
            format!("{:.5}{error}", d.kl.value),
            format!("{:.1}", d.top1_agreement.value * 100.0),
        ]);
    }
    println!("{table}");
}

/// Where the adapters of an output are.
fn adapters_beside(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".adapter");
    path.into()
}

/// A file that belongs to the output: in the folder, or beside the file.
fn beside(out: &Path, name: &str) -> PathBuf {
    if out.is_dir() {
        return out.join(name);
    }
    let mut path = out.as_os_str().to_owned();
    path.push(".");
    path.push(name);
    path.into()
}
