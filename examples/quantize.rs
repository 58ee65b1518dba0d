//! Quantizes a Hugging Face folder on the CPU and says what it cost.
//!
//! ```text
//! cargo run --release --example quantize                        # the embedded demo model
//! cargo run --release --example quantize -- --model DIR --calibration text.txt --out OUT
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{
        Access, Checkpoint, CompressedTensors, Container, FolderWriter, Gptq, GptqVersion,
        write_atomically,
    },
    eval::{
        Divergence, Table,
        figure::{BarChart, LayerError},
        units::bytes,
    },
    format::{Bits, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    gptq::{FitFrom, GptqSpec, Groups, Order},
    model::{Model, ModelConfig, Tokenizer},
    pipeline::{
        Calibration, Candidate, Estimate, Job, Method, Prepared, Report, Resume, compare_streamed,
        weight_dtype,
    },
};
use serde::Serialize;

mod support;
use support::{bar::Bar, duration};

#[derive(Parser)]
#[command(about = "Quantize a Hugging Face model folder on the CPU")]
struct Args {
    /// Model folder (config.json, model.safetensors or shards, tokenizer.json). Without it: the embedded demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Folder to write; must not exist. For the demo model: target/fewbit-demo, replaced.
    #[arg(long)]
    out: Option<PathBuf>,
    /// How codes are chosen.
    #[arg(long, value_enum, default_value_t = MethodArg::Gptq)]
    method: MethodArg,
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    #[arg(long, default_value_t = 4)]
    bits: u32,
    /// Weights that share a scale: a number, or "channel".
    #[arg(long, default_value = "128", value_parser = parse_granularity)]
    group_size: Granularity,
    /// A zero point per group. Default: whatever is better at this width, affine.
    #[arg(long)]
    symmetric: bool,
    /// Order in which columns are rounded.
    #[arg(long, value_enum, default_value_t = ActOrder::Static)]
    act_order: ActOrder,
    /// Added to the Hessian's diagonal, as a fraction of its mean.
    #[arg(long, default_value_t = GptqSpec::default().damping)]
    damping: f64,
    /// Passes of coordinate descent after GPTQ.
    #[arg(long, default_value_t = GptqSpec::default().refine_passes)]
    refine: u32,
    /// How much of the errors of earlier layers a layer makes up for, 0 to 1. Less if the calibration text is short.
    #[arg(long, default_value_t = 1.0)]
    mismatch: f32,
    /// How the matrices lie in the file.
    #[arg(long, value_enum, default_value_t = ContainerArg::Gptq)]
    container: ContainerArg,
    /// Text to calibrate on, documents separated by <|endoftext|>.
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Windows of calibration text.
    #[arg(long, default_value_t = 128)]
    windows: usize,
    /// Tokens of a window; default 384 for the demo model, else 512.
    #[arg(long)]
    window: Option<usize>,
    /// Held-out text to compare on. Default: the last tenth of the calibration text, which is then not calibrated on.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Documents of held-out text that are used.
    #[arg(long, default_value_t = 128)]
    eval_documents: usize,
    /// Skip perplexity, divergence and speed.
    #[arg(long)]
    no_eval: bool,
    /// Skip the measurement of tokens per second, which loads both models whole.
    #[arg(long)]
    no_speed: bool,
    /// Fail if there is no work folder to continue. Without it the job continues if there is one, else begins.
    #[arg(long)]
    resume: bool,
    /// Turn every repair into an error.
    #[arg(long)]
    strict: bool,
    /// Threads; default: all cores. The output is the same for any number.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum MethodArg {
    /// Every weight to its nearest value, no calibration.
    Rtn,
    /// Errors of each column compensated by the columns after it.
    Gptq,
}

#[derive(Clone, Copy, ValueEnum)]
enum ActOrder {
    /// Most important columns first, groups of neighbours: no cost at run time.
    Static,
    /// Most important columns first, groups in that order: the file then needs a group map (gptq only).
    Ordered,
    /// As stored.
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum ContainerArg {
    /// GPTQ, in the version that most engines read right for the grid.
    Gptq,
    /// GPTQ, version 1: zero points less one.
    GptqV1,
    /// GPTQ, version 2: zero points as they are.
    GptqV2,
    /// compressed-tensors, pack-quantized.
    CompressedTensors,
}

fn parse_granularity(text: &str) -> Result<Granularity, String> {
    if text == "channel" {
        return Ok(Granularity::Channel);
    }
    match text.parse() {
        Ok(size) if size > 0 => Ok(Granularity::group(size)),
        _ => Err("a positive number, or \"channel\"".into()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    let started = Instant::now();
    let source = Source::of(args)?;
    let mut bar = Bar::new();
    let prepared = job(args, &source)?.prepare(&mut bar)?;
    bar.finish();
    announce(args, &source, &prepared);

    let plan = prepared.plan().clone();
    let mut bar = Bar::new();
    let report = prepared.run(&mut bar)?;
    bar.finish();

    let evaluation = match args.no_eval || source.held_out.is_empty() {
        true => None,
        false => Some(evaluate(args, &source, &plan)?),
    };
    let results = Results { report: &report, evaluation: &evaluation };
    let json = serde_json::to_vec_pretty(&results)?;
    write_atomically(&source.out.join("report.json"), &json)?;
    let figure = source.out.join("report.svg");
    write_atomically(&figure, error_by_layer(&report).to_svg()?.as_bytes())?;

    print_matrices(&report);
    print_summary(&source, &report, evaluation.as_ref(), started);
    Ok(())
}

/// Where everything comes from and goes to.
struct Source {
    model: PathBuf,
    out: PathBuf,
    demo: bool,
    calibration: Vec<Vec<u32>>,
    held_out: Vec<Vec<u32>>,
    window: usize,
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        let demo = args.model.is_none();
        let model = args.model.clone().map_or_else(support::demo_model, Ok)?;
        let out = match (&args.out, demo) {
            (Some(out), _) => out.clone(),
            (None, true) => Path::new("target/fewbit-demo").to_path_buf(),
            (None, false) => bail!("--out is missing: name the folder to write"),
        };
        if demo && args.out.is_none() && out.join("report.json").is_file() {
            std::fs::remove_dir_all(&out)?;
        }
        let needs_text = args.method == MethodArg::Gptq;
        let (calibration, held_out) = match (&args.calibration, demo) {
            (None, true) => (
                Some(fewbit_demo::text(fewbit_demo::Split::Calibration, 400_000)),
                Some(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000)),
            ),
            (None, false) if needs_text => {
                bail!("--calibration is missing: GPTQ needs text; or choose --method rtn")
            }
            (path, _) => (path.as_deref().map(support::read_text).transpose()?, None),
        };
        let held_out = match &args.text {
            Some(path) => Some(support::read_text(path)?),
            None => held_out,
        };
        let bos = ModelConfig::parse(Checkpoint::open(&model)?.config())?.bos_token;
        let encode = |text: Option<String>| -> Result<Vec<Vec<u32>>> {
            let Some(text) = text else { return Ok(Vec::new()) };
            let tokenizer =
                Tokenizer::open(&model).context("text needs the model's tokenizer.json")?;
            support::encode_documents(&tokenizer, bos, &text)
        };
        let mut calibration = encode(calibration)?;
        let mut held_out = encode(held_out)?;
        if args.text.is_none() && held_out.is_empty() && !calibration.is_empty() {
            let keep = calibration.len() - calibration.len() / 10;
            held_out = calibration.split_off(keep);
        }
        held_out.truncate(args.eval_documents);
        let window = args.window.unwrap_or(if demo { 384 } else { 512 });
        Ok(Self { model, out, demo, calibration, held_out, window })
    }
}

fn job(args: &Args, source: &Source) -> Result<Job> {
    let symmetry = if args.symmetric { Symmetry::Symmetric } else { Symmetry::Affine };
    let bits = Bits::try_from(args.bits)?;
    let granularity = args.group_size;
    let container: Box<dyn Container> = match args.container {
        ContainerArg::Gptq => {
            let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
            Box::new(Gptq { version: GptqVersion::portable([scheme].iter()) })
        }
        ContainerArg::GptqV1 => Box::new(Gptq { version: GptqVersion::V1 }),
        ContainerArg::GptqV2 => Box::new(Gptq { version: GptqVersion::V2 }),
        ContainerArg::CompressedTensors => Box::new(CompressedTensors::default()),
    };
    let (method, calibration) = match args.method {
        MethodArg::Rtn => (Method::RoundToNearest, None),
        MethodArg::Gptq => {
            let (order, groups) = match args.act_order {
                ActOrder::Static => (Order::ActOrder, Groups::Static),
                ActOrder::Ordered => (Order::ActOrder, Groups::Ordered),
                ActOrder::Off => (Order::Natural, Groups::Static),
            };
            let spec = GptqSpec {
                order,
                groups,
                fit: FitFrom::Original,
                damping: args.damping,
                refine_passes: args.refine,
            };
            let calibration =
                Calibration::from_documents(&source.calibration, source.window, args.windows)?;
            (Method::Gptq { spec, mismatch: args.mismatch }, Some(calibration))
        }
    };
    let model = Checkpoint::open_with(&source.model, Access::Positioned)?;
    let config = ModelConfig::parse(model.config())?;
    let scheme = IntScheme {
        bits,
        symmetry,
        granularity,
        scale_type: container.scale_type(weight_dtype(&model, &config)),
    };
    Ok(Job {
        model: source.model.clone(),
        out: source.out.clone(),
        work: None,
        plan: Plan::uniform(Scheme::Int(scheme)),
        method,
        container,
        calibration,
        resume: if args.resume { Resume::Require } else { Resume::Auto },
        strict: args.strict,
        shard_bytes: FolderWriter::SHARD_BYTES,
    })
}

fn announce(args: &Args, source: &Source, prepared: &Prepared) {
    let config = prepared.config();
    let (before, after) = prepared.bytes();
    let e: &Estimate = prepared.estimate();
    let name = if source.demo {
        "the embedded demo model".into()
    } else {
        source.model.display().to_string()
    };
    println!(
        "model      {name}: {} blocks of {}, {} matrices",
        config.n_layers,
        config.model_type,
        prepared.modules().len()
    );
    println!("method     {}, {} bits, {}", prepared.method().name(), args.bits, describe(args));
    if let Some(c) = prepared.calibration() {
        println!(
            "text       {} windows of {} tokens to calibrate, {} documents held out",
            c.n_windows(),
            c.window(),
            source.held_out.len()
        );
    }
    println!(
        "output     {} as {}: {} → {}",
        source.out.display(),
        prepared.container().name(),
        bytes(before),
        bytes(after)
    );
    println!(
        "estimate   {}, {} of memory, {} of disk while it runs",
        duration(e.seconds),
        bytes(e.peak_memory),
        bytes(e.work_bytes + e.output_bytes)
    );
    println!();
}

fn describe(args: &Args) -> String {
    let groups = match args.group_size {
        Granularity::Group(size) => format!("groups of {size}"),
        other => format!("one scale per {}", other.name()),
    };
    let symmetry = if args.symmetric { "symmetric" } else { "affine" };
    format!("{groups}, {symmetry}")
}

/// Before, by plain rounding, and after.
#[derive(Serialize)]
struct Evaluation {
    documents: usize,
    plain_rounding: Divergence,
    quantized: Divergence,
    speed: Option<Speeds>,
}

#[derive(Serialize)]
struct Speeds {
    threads: usize,
    before: fewbit::eval::Throughput,
    after: fewbit::eval::Throughput,
}

#[derive(Serialize)]
struct Results<'a> {
    #[serde(flatten)]
    report: &'a Report,
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
                support::speed::measure(&Model::load(checkpoint)?, prompt, 32)
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

fn print_matrices(report: &Report) {
    let mut table = Table::new()
        .left("matrix")
        .right("shape")
        .right("bits")
        .unit("per weight")
        .right("plain rounding")
        .unit("output error")
        .right(&report.method)
        .unit("output error")
        .right("damping")
        .right("clipped")
        .unit("%")
        .right("time")
        .unit("s");
    let mut block = 0;
    for m in &report.matrices {
        if m.block != block {
            table.rule();
            block = m.block;
        }
        let error = |e: Option<f64>| e.map_or("–".into(), |e| format!("{e:.2e}"));
        table.row([
            m.module.clone(),
            format!("{}×{}", m.out_features, m.in_features),
            format!("{:.3}", m.bits_per_weight),
            error(m.output_error_plain),
            error(m.output_error.or(Some(m.weight_error))),
            m.damping.map_or("–".into(), |d| format!("{d}")),
            format!("{:.1}", m.clipped * 100.0),
            format!("{:.2}", m.seconds),
        ]);
    }
    println!("{table}");
    for (module, repair) in report.repairs() {
        println!("repaired: {module}: {repair}");
    }
}

fn print_summary(
    source: &Source,
    report: &Report,
    evaluation: Option<&Evaluation>,
    started: Instant,
) {
    if let Some(e) = evaluation {
        let mut table = Table::new()
            .left(format!("on {} held-out documents", e.documents))
            .right("perplexity")
            .right("KL divergence")
            .unit("nats")
            .right("same top token")
            .unit("%");
        let kl = |d: &Divergence| {
            let error = d.kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.4}"));
            format!("{:.4}{error}", d.kl.value)
        };
        table.row([
            "original".to_owned(),
            format!("{:.3}", e.quantized.baseline.perplexity),
            "–".into(),
            "–".into(),
        ]);
        for (name, d) in
            [("plain rounding", &e.plain_rounding), (report.method.as_str(), &e.quantized)]
        {
            table.row([
                name.to_owned(),
                format!("{:.3}", d.model.perplexity),
                kl(d),
                format!("{:.1}", d.top1_agreement.value * 100.0),
            ]);
        }
        println!("{table}");
        if let Some(s) = &e.speed {
            let decode = |t: &fewbit::eval::Throughput| {
                t.decode.as_ref().map_or(0.0, |d| d.tokens_per_second)
            };
            println!(
                "speed      prefill {:.0} → {:.0} tokens/s, decode {:.0} → {:.0} tokens/s ({} threads)",
                s.before.prefill.tokens_per_second,
                s.after.prefill.tokens_per_second,
                decode(&s.before),
                decode(&s.after),
                s.threads,
            );
        }
    }
    println!(
        "size       {} → {}: {:.3} bits per quantized weight, {:.3} per parameter",
        bytes(report.bytes_before),
        bytes(report.bytes_after),
        report.bits_per_weight,
        report.bits_per_parameter,
    );
    if let Some(peak) = report.peak_memory {
        println!(
            "memory     {} at the peak (estimated {})",
            bytes(peak),
            bytes(report.estimate.peak_memory)
        );
    }
    println!(
        "time       {} to quantize (estimated {}), {} in all",
        duration(report.seconds),
        duration(report.estimate.seconds),
        duration(started.elapsed().as_secs_f64()),
    );
    let out = source.out.display();
    println!("written    {out}, verified; report in {out}/report.json, figure in {out}/report.svg");
    println!();
    println!(
        "next       cargo run --release --example generate -- --model {out} --prompt \"The future of artificial intelligence is\""
    );
}

/// Output error of every matrix (weight error where nothing was calibrated), one group of bars per block.
fn error_by_layer(report: &Report) -> BarChart {
    let calibrated = report.calibration_tokens > 0;
    let label = if calibrated { "relative squared output error" } else { "relative weight error" };
    BarChart::error_by_layer(
        format!("Error by layer: {}, {:.2} bits per weight", report.method, report.bits_per_weight),
        label,
        (&report.method, "plain rounding"),
        report.matrices.iter().map(|m| LayerError {
            matrix: &m.role,
            layer: m.block,
            before: m.output_error_plain,
            after: m.output_error.or(Some(m.weight_error)),
        }),
    )
}
