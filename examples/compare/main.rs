//! Methods × bits: how far each result is from the model, what it weighs, and what it took.
//!
//! ```text
//! cargo run --release --example compare                                  # the embedded demo model
//! cargo run --release --example compare -- --model DIR --calibration text.txt --bits 4,3,2
//! ```
//!
//! Writes compare.json, kl.svg and perplexity.svg. Killed at any moment, the same command goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{
        Access, Checkpoint, CompressedTensors, Container, Gptq, GptqVersion,
        gguf_model::GgufContainer,
    },
    eval::{
        Table,
        figure::{LineChart, LineSeries, Scale},
        units::bytes,
    },
    format::{Bits, BlockType, Granularity, IntScheme, Plan, ScaleType, Scheme, Symmetry},
    gptq::GptqSpec,
    model::{ModelConfig, Tokenizer},
    pipeline::{
        AwqSpec, Calibration, Entry, HqqSpec, ImportanceSource, Job, Method, Outcome, Rounding,
        Transform, contest, weight_dtype,
    },
};
use serde::Serialize;

#[path = "../support/mod.rs"]
mod support;

use support::{bar::Bar, duration};

#[derive(Parser)]
#[command(
    about = "Methods by bits: divergence, perplexity, agreement, size, time and memory, as a table and figures"
)]
struct Args {
    /// Model folder with float weights. Without it: the embedded demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// Text to calibrate on, documents separated by <|endoftext|>.
    #[arg(long)]
    calibration: Option<PathBuf>,
    /// Held-out text to compare on. Default: the last tenth of the calibration text, which is then not calibrated on.
    #[arg(long)]
    text: Option<PathBuf>,
    /// Bits of integer codes: 2, 3, 4, 5, 6 or 8.
    #[arg(long, value_delimiter = ',', default_value = "4,3,2")]
    bits: Vec<u32>,
    /// GGML blocks beside the integers: q4_0, q4_k, q3_k, q2_k, iq4_xs and so on, by plain rounding with importance and by GPTQ.
    #[arg(long, value_delimiter = ',')]
    blocks: Vec<String>,
    /// Weights that share a scale: a number, or 0 for whole rows.
    #[arg(long, default_value_t = 128)]
    group_size: u32,
    /// No zero points.
    #[arg(long)]
    symmetric: bool,
    /// Methods.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "rtn,hqq,awq,gptq,awq-gptq")]
    methods: Vec<MethodArg>,
    /// Windows of calibration text; default: 128, for the demo model 32.
    #[arg(long)]
    windows: Option<usize>,
    /// Tokens of a window.
    #[arg(long, default_value_t = 384)]
    window: usize,
    /// Documents of held-out text that are used.
    #[arg(long, default_value_t = 128)]
    eval_documents: usize,
    /// Folder for quantized models while they are compared, compare.json and the figures.
    #[arg(long, default_value = "target/fewbit-compare")]
    out: PathBuf,
    /// Keep the quantized models.
    #[arg(long)]
    keep: bool,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MethodArg {
    /// Plain rounding.
    Rtn,
    /// Plain rounding around moved zero points.
    Hqq,
    /// Channel scales, then rounding with ranges that suit the inputs.
    Awq,
    /// Codes that mend each other's errors.
    Gptq,
    /// The scales of AWQ, then GPTQ.
    AwqGptq,
}

impl MethodArg {
    fn method(self) -> Method {
        let gptq = Method::gptq(GptqSpec::default(), 1.0);
        match self {
            Self::Rtn => Method::nearest(),
            Self::Hqq => Method::hqq(HqqSpec::default()),
            Self::Awq => Method::awq(AwqSpec::default()),
            Self::Gptq => gptq,
            Self::AwqGptq => Method { transform: Transform::Awq(AwqSpec::before_gptq()), ..gptq },
        }
    }
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let started = Instant::now();
    let source = Source::of(args)?;
    println!("model      {}", source.name);
    println!(
        "text       {} windows of {} tokens to calibrate, {} documents held out",
        source.calibration.n_windows(),
        source.calibration.window(),
        source.held_out.len()
    );
    let models = args.out.join("models");
    fs::create_dir_all(&models).with_context(|| format!("cannot make {}", models.display()))?;
    let (mut cells, mut entries) = (vec![], vec![]);
    for grid in source.grids(args)? {
        for &method in &args.methods {
            let Some((entry, cell)) = source.entry(&grid, method.method(), &models)? else {
                continue;
            };
            entries.push(entry);
            cells.push(cell);
        }
    }
    if entries.is_empty() {
        bail!("none of these methods takes any of these grids");
    }
    let mut bar = Bar::new();
    let outcomes = contest(entries, &source.held_out, 512, &mut bar)?;
    bar.finish();
    let rows: Vec<Row> =
        cells.into_iter().zip(outcomes).map(|(cell, outcome)| Row { cell, outcome }).collect();

    print(&rows, source.bytes);
    let json = serde_json::to_vec_pretty(&rows)?;
    let kl = figure(&rows, "KL divergence by size", "KL divergence, nats per token", |r| {
        r.outcome.divergence.kl.value
    })?;
    let perplexity = figure(&rows, "Perplexity by size", "perplexity", |r| {
        r.outcome.divergence.model.perplexity
    })?;
    let files = [
        ("compare.json", json),
        ("kl.svg", kl.into_bytes()),
        ("perplexity.svg", perplexity.into_bytes()),
    ];
    let written = support::write_files(&args.out, files)?;
    if !args.keep {
        for row in rows {
            row.outcome.discard()?;
        }
        fs::remove_dir(&models)?;
    }
    println!("time       {} in all", duration(started.elapsed().as_secs_f64()));
    println!("written    {}", written.join(", "));
    Ok(())
}

/// What is compared.
#[derive(Clone, Serialize)]
struct Cell {
    grid: String,
    method: &'static str,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    cell: Cell,
    #[serde(flatten)]
    outcome: Outcome,
}

/// A grid, and whether it lies in a GGUF file.
struct Grid {
    scheme: Scheme,
    blocks: bool,
}

struct Source {
    folder: PathBuf,
    name: String,
    bytes: u64,
    calibration: Calibration,
    held_out: Vec<Vec<u32>>,
}

impl Source {
    fn of(args: &Args) -> Result<Self> {
        let demo = args.model.is_none();
        let folder = args.model.clone().map_or_else(support::demo_model, Ok)?;
        let (calibration, held_out) = match (&args.calibration, demo) {
            (Some(path), _) => (support::read_text(path)?, None),
            (None, true) => (
                fewbit_demo::text(fewbit_demo::Split::Calibration, 400_000),
                Some(fewbit_demo::text(fewbit_demo::Split::Validation, 60_000)),
            ),
            (None, false) => bail!("--calibration is missing: name a text file"),
        };
        let held_out = match &args.text {
            Some(path) => Some(support::read_text(path)?),
            None => held_out,
        };
        let model = Checkpoint::open_with(&folder, Access::Positioned)?;
        let bos = ModelConfig::of(&model)?.bos_token;
        let tokenizer = Tokenizer::load(&model).context("text needs the model's tokenizer")?;
        let encode = |text: &str| support::encode_documents(&tokenizer, bos, text);
        let mut documents = encode(&calibration)?;
        let mut held_out = match held_out {
            Some(text) => encode(&text)?,
            None => documents.split_off(documents.len() - documents.len() / 10),
        };
        held_out.truncate(args.eval_documents);
        if held_out.is_empty() {
            bail!("there is no held-out text: give more text");
        }
        let windows = args.windows.unwrap_or(if demo { 32 } else { 128 });
        Ok(Self {
            name: if demo {
                "the embedded demo model".into()
            } else {
                folder.display().to_string()
            },
            folder,
            bytes: model.tensors().map(|t| t.bytes).sum(),
            calibration: Calibration::from_documents(&documents, args.window, windows)?,
            held_out,
        })
    }

    fn grids(&self, args: &Args) -> Result<Vec<Grid>> {
        let granularity = match args.group_size {
            0 => Granularity::Channel,
            size => Granularity::group(size),
        };
        let symmetry = if args.symmetric { Symmetry::Symmetric } else { Symmetry::Affine };
        let mut grids = vec![];
        for &bits in &args.bits {
            let bits = Bits::try_from(bits)?;
            let scheme = IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 };
            grids.push(Grid { scheme: Scheme::Int(scheme), blocks: false });
        }
        for name in &args.blocks {
            let Some(block) = BlockType::ALL.into_iter().find(|b| b.name() == name) else {
                bail!("--blocks: {name} is no GGML block type");
            };
            grids.push(Grid { scheme: Scheme::Block(block), blocks: true });
        }
        Ok(grids)
    }

    /// A method on a grid, if they go together.
    fn entry(&self, grid: &Grid, method: Method, models: &Path) -> Result<Option<(Entry, Cell)>> {
        let model = Checkpoint::open_with(&self.folder, Access::Positioned)?;
        let config = ModelConfig::of(&model)?;
        let scheme = grid.scheme;
        if !config.roles().all(|role| method.takes(&scheme, config.shape(role))) {
            return Ok(None);
        }
        // Of blocks, transforms are left to the integers: one column of each is enough to compare roundings.
        if grid.blocks && method.transform != Transform::None {
            return Ok(None);
        }
        let container: Box<dyn Container> = match scheme {
            Scheme::Int(scheme) if scheme.bits == Bits::B5 || scheme.bits == Bits::B6 => {
                Box::new(CompressedTensors::default())
            }
            Scheme::Int(scheme) => {
                Box::new(Gptq { version: GptqVersion::portable([scheme].iter()) })
            }
            _ => Box::new(GgufContainer { file_type: None, split_bytes: None }),
        };
        let scheme = match scheme {
            Scheme::Int(scheme) => {
                let scale_type = container.scale_type(weight_dtype(&model, &config));
                Scheme::Int(IntScheme { scale_type, ..scheme })
            }
            other => other,
        };
        let cell = Cell { grid: scheme.to_string(), method: method.name() };
        let ending = if grid.blocks { ".gguf" } else { "" };
        let slug = format!("{}-{}{ending}", cell.grid.replace([' ', ','], "-"), cell.method);
        let mut job =
            Job::new(&self.folder, models.join(slug), Plan::uniform(scheme), Gptq::default());
        job.container = container;
        job.method = method;
        let weighed = grid.blocks && method.rounding == Rounding::Nearest;
        if weighed {
            job.importance = Some(ImportanceSource::Measured);
        }
        if weighed || method.needs_calibration() {
            job.calibration = Some(self.calibration.clone());
        }
        Ok(Some((Entry { name: format!("{} {}", cell.grid, cell.method), job }, cell)))
    }
}

fn print(rows: &[Row], before: u64) {
    let mut table = Table::new()
        .left("grid")
        .left("method")
        .right("bits")
        .unit("per weight")
        .right("KL divergence")
        .unit("nats")
        .right("perplexity")
        .right("same top token")
        .unit("%")
        .right("file")
        .right("time")
        .right("memory");
    let Some(first) = rows.first() else { return };
    let float = &first.outcome.divergence.baseline;
    table.row([
        "floats".to_owned(),
        String::new(),
        String::new(),
        "–".into(),
        format!("{:.3}", float.perplexity),
        "–".into(),
        bytes(before),
        "–".into(),
        "–".into(),
    ]);
    let mut grid = "";
    for Row { cell, outcome } in rows {
        if cell.grid != grid {
            table.rule();
            grid = &cell.grid;
        }
        let (d, r) = (&outcome.divergence, &outcome.report);
        let error = d.kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.5}"));
        table.row([
            cell.grid.clone(),
            cell.method.to_owned(),
            format!("{:.3}", r.bits_per_weight),
            format!("{:.5}{error}", d.kl.value),
            format!("{:.3}", d.model.perplexity),
            format!("{:.1}", d.top1_agreement.value * 100.0),
            bytes(r.bytes_after),
            duration(r.seconds),
            bytes(r.estimate.peak_memory),
        ]);
    }
    println!("{table}");
    println!(
        "memory     as estimated before each job; a job's own peak cannot be told from those before it in one process"
    );
}

/// A line for each method over bits per weight.
fn figure(rows: &[Row], title: &str, y_label: &str, value: impl Fn(&Row) -> f64) -> Result<String> {
    let mut methods: Vec<&str> = vec![];
    for row in rows {
        if !methods.contains(&row.cell.method) {
            methods.push(row.cell.method);
        }
    }
    let series = methods.into_iter().map(|method| {
        let own = rows.iter().filter(|row| row.cell.method == method);
        let mut points: Vec<(f64, f64)> =
            own.map(|row| (row.outcome.report.bits_per_weight, value(row))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        LineSeries { name: method.into(), points }
    });
    let chart = LineChart {
        title: title.into(),
        x_label: "bits per weight".into(),
        y_label: y_label.into(),
        series: series.collect(),
        y_scale: Scale::Log,
        ..LineChart::default()
    };
    Ok(chart.to_svg()?)
}
