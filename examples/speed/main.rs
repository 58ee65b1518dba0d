//! Tokens per second of a model by threads, or of a known shape by threads and grid, beside what the machine can do at most.
//!
//! ```text
//! cargo run --release --example speed -- --model FILE_OR_FOLDER
//! cargo run --release --example speed -- --shape llama-3.2-1b --grid f32,q8_0,q4_0,int4-g128 --figure speed.svg
//! ```
//!
//! Prefill reads a prompt at once; decode begins with an empty context and writes token by token. Tokens come from the model itself, so
//! tokenizer and sampling are not part of it. The share of bandwidth counts every byte of weights once a token, nothing else.

use std::{fs, hint::black_box, path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, Dtype},
    eval::{
        Speed, Table, ThroughputSpec,
        figure::{BarChart, BarSeries, Scale},
        resident_memory, throughput,
        units::{bytes, significant},
    },
    kernels::{Level, probe},
    model::{CacheType, Linear, Model},
};

mod shape;
#[path = "../support/mod.rs"]
mod support;
use shape::{Shape, Storage};
use support::{grid::GRIDS, speed::Greedy};

#[derive(Parser)]
#[command(about = "Tokens per second by threads and grid, with bandwidth and memory")]
struct Args {
    /// Model folder or GGUF file.
    #[arg(long, conflicts_with = "shape", required_unless_present = "shape")]
    model: Option<PathBuf>,
    /// A known shape with random weights.
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// Grids for --shape: f32, f16, bf16 and those of `quantize --grid`. Times are compared with the first.
    #[arg(long, value_delimiter = ',', default_value = "f32,bf16,q8_0,q4_0,int4-g128", help = format!("Grids for --shape: f32, f16, bf16, {GRIDS}"))]
    grid: Vec<String>,
    /// Numbers of threads; default: 1 and all cores.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Tokens of the prompt; 0 measures decode alone.
    #[arg(short, default_value_t = 512)]
    p: usize,
    /// Tokens to write; 0 measures prefill alone.
    #[arg(short, default_value_t = 128)]
    n: usize,
    /// Timed repeats, after one that is not timed.
    #[arg(long, default_value_t = 3)]
    repeats: usize,
    /// In what the inputs of few-bit layers are multiplied.
    #[arg(long, value_enum, default_value_t = support::Inputs::Int8)]
    activations: support::Inputs,
    /// How keys and values are cached: f32, f16, q8 or q4.
    #[arg(long, value_parser = support::parse_cache, default_value = "f16")]
    cache: CacheType,
    /// File for a figure of times and speed-ups (SVG).
    #[arg(long)]
    figure: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

/// What was measured of a model with a number of threads.
struct Row {
    name: String,
    threads: usize,
    prefill: Option<Speed>,
    decode: Option<Speed>,
}

fn run(args: &Args) -> Result<()> {
    let all = std::thread::available_parallelism()?.get();
    let threads = match &args.threads[..] {
        [] if all == 1 => vec![1],
        [] => vec![1, all],
        some => some.to_vec(),
    };
    let mut pools = vec![];
    for &n in &threads {
        if n == 0 {
            bail!("--threads: at least 1");
        }
        pools.push((n, rayon::ThreadPoolBuilder::new().num_threads(n).build()?));
    }
    let level = Level::detect();
    let bandwidths: Vec<f64> = pools.iter().map(|(_, pool)| pool.install(bandwidth)).collect();
    for ((n, _), bandwidth) in pools.iter().zip(&bandwidths) {
        println!("{level}, {n} threads: memory is read at {:.1} GB/s", bandwidth / 1e9);
    }
    let peak = int_peak();
    println!("8-bit multiplications in registers: {:.0} GOP/s a thread\n", peak / 1e9);

    let mut table = Table::new()
        .left("model")
        .right("threads")
        .right("prefill")
        .unit(format!("{} tokens, tokens/s", args.p))
        .right("of int8 peak")
        .right("decode")
        .unit(format!("{} tokens, tokens/s", args.n))
        .right("weights")
        .unit("GB/s")
        .right("of bandwidth")
        .right("weights")
        .unit("in memory")
        .right("resident");
    let mut rows = vec![];
    for source in sources(args)? {
        let (name, model) = source?;
        let sizes = Sizes::of(&model);
        for ((threads, pool), bandwidth) in pools.iter().zip(&bandwidths) {
            let (prefill, decode) = pool.install(|| measure(args, &model))?;
            let rate = |speed: &Option<Speed>| {
                let cell =
                    |s: &Speed| format!("{:.2} ± {:.1} %", s.tokens_per_second, 50.0 * s.spread());
                speed.as_ref().map_or(String::new(), cell)
            };
            let bytes_per_second =
                decode.as_ref().map_or(0.0, |d| d.tokens_per_second * sizes.read as f64);
            let operations = prefill
                .as_ref()
                .map_or(0.0, |p| 2.0 * p.tokens_per_second * sizes.prefilled as f64);
            table.row([
                name.clone(),
                threads.to_string(),
                rate(&prefill),
                format!("{:.0} %", 100.0 * operations / (peak * *threads as f64)),
                rate(&decode),
                format!("{:.1}", bytes_per_second / 1e9),
                format!("{:.0} %", 100.0 * bytes_per_second / bandwidth),
                bytes(model.bytes() as u64),
                resident_memory().map_or(String::new(), |memory| bytes(memory.current)),
            ]);
            eprintln!(
                "{name}, {threads} threads: prefill {}, decode {} tokens/s",
                rate(&prefill),
                rate(&decode)
            );
            rows.push(Row { name: name.clone(), threads: *threads, prefill, decode });
        }
    }
    println!("{}", table.to_markdown());
    if let Some(path) = &args.figure {
        fs::write(path, figure(&rows, &threads)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

type Source<'a> = Box<dyn FnMut() -> Result<(String, Model)> + 'a>;

/// The models one after the other: each is made when it is asked for, when the one before is gone.
fn sources(args: &Args) -> Result<impl Iterator<Item = Result<(String, Model)>> + '_> {
    let activations = args.activations.into();
    let mut makers: Vec<Source<'_>> = vec![];
    if let Some(path) = &args.model {
        makers.push(Box::new(move || {
            let checkpoint = Checkpoint::open_with(path, Access::Positioned)?;
            let model = Model::load_with(&checkpoint, activations)?;
            let name = path.file_stem().unwrap_or(path.as_os_str());
            Ok((name.to_string_lossy().into_owned(), model))
        }));
    } else if let Some(shape) = args.shape {
        for name in &args.grid {
            let storage = match name.as_str() {
                "f32" => Storage::Float(Dtype::F32),
                "f16" => Storage::Float(Dtype::F16),
                "bf16" => Storage::Float(Dtype::BF16),
                _ => Storage::Grid(support::grid::parse_grid(name).map_err(anyhow::Error::msg)?),
            };
            makers.push(Box::new(move || {
                Ok((name.clone(), shape::model(&shape.config()?, storage, activations)?))
            }));
        }
    }
    Ok(makers.into_iter().map(|mut make| make()))
}

/// Prefill and decode, in rayon's current pool.
fn measure(args: &Args, model: &Model) -> Result<(Option<Speed>, Option<Speed>)> {
    let vocab = model.config().vocab_size;
    let prompt: Vec<u32> = (0..args.p).map(|i| (i * 7919 % vocab) as u32).collect();
    let spec = ThroughputSpec { n_decode: args.n, warm_up: 1, repeats: args.repeats };
    let mut decoder = Greedy(model.session_with(args.cache));
    let prefill = match args.p {
        0 => None,
        _ => {
            Some(throughput(&mut decoder, &prompt, ThroughputSpec { n_decode: 0, ..spec })?.prefill)
        }
    };
    let decode = match args.n {
        0 => None,
        _ => throughput(&mut decoder, &[1], spec)?.decode,
    };
    Ok((prefill, decode))
}

/// What a model's speed is measured by.
struct Sizes {
    /// Bytes of weights that a token of decode reads.
    read: usize,
    /// Weights that a token of prefill is multiplied with: all but those of the head, which only the last one meets.
    prefilled: usize,
}

impl Sizes {
    fn of(model: &Model) -> Self {
        let linears = || model.blocks().iter().flat_map(|b| b.roles().map(|role| b.linear(role)));
        let read = linears().map(Linear::bytes).sum::<usize>() + model.ends().head_matrix().bytes();
        Self { read, prefilled: linears().map(|linear| linear.shape().len()).sum() }
    }
}

/// Bytes per second that the current pool reads from memory: the best of some runs over more than caches hold.
fn bandwidth() -> f64 {
    let memory = probe::Memory::new(1 << 30);
    let level = Level::detect();
    let time = || {
        let start = Instant::now();
        memory.read(level);
        memory.bytes() as f64 / start.elapsed().as_secs_f64()
    };
    (0..7).map(|_| time()).fold(0.0, f64::max)
}

/// Operations per second of one thread on 8-bit integers in registers; a product counts two.
fn int_peak() -> f64 {
    let time = || {
        let start = Instant::now();
        let products = black_box(probe::multiply_in_registers(Level::detect(), 1 << 33));
        2.0 * products as f64 / start.elapsed().as_secs_f64()
    };
    (0..3).map(|_| time()).fold(0.0, f64::max)
}

/// Milliseconds a token by model, with the speed-up over the first under each name.
fn figure(rows: &[Row], threads: &[usize]) -> Result<String> {
    let of = |speed: &Row| {
        speed.decode.as_ref().or(speed.prefill.as_ref()).map(Speed::milliseconds_per_token)
    };
    let mut names: Vec<&str> = rows.iter().map(|row| &*row.name).collect();
    names.dedup();
    let time =
        |name: &str, n: usize| rows.iter().find(|r| r.name == name && r.threads == n).and_then(of);
    let most = threads.iter().copied().max().unwrap_or(1);
    let label = |name: &&str| match (time(names[0], most), time(name, most)) {
        (Some(first), Some(own)) => format!("{name}: {}×", significant(first / own, 3)),
        _ => (*name).into(),
    };
    let series = threads.iter().map(|&n| BarSeries {
        name: threads_in_words(n),
        values: names.iter().map(|name| time(name, n)).collect(),
        before: vec![],
    });
    let what = if rows.iter().any(|row| row.decode.is_some()) { "decode" } else { "prefill" };
    let chart = BarChart {
        title: format!(
            "Time a token by precision, {what}; speed-up over {} with {}",
            names[0],
            threads_in_words(most)
        ),
        x_label: "precision of the weights, speed-up".into(),
        y_label: "milliseconds a token".into(),
        categories: names.iter().map(label).collect(),
        series: series.collect(),
        value_labels: true,
        // Bars are compared by their length.
        scale: Scale::Linear,
        ..BarChart::default()
    };
    Ok(chart.to_svg()?)
}

fn threads_in_words(n: usize) -> String {
    if n == 1 { "1 thread".into() } else { format!("{n} threads") }
}
