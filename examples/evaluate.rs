//! Perplexity of a model, and its distance from a baseline.
//!
//! ```text
//! cargo run --release --example evaluate -- --model OUT [--baseline DIR] --text test.txt
//! ```

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{self, Divergence, Perplexity, Table, from_fn, resident_memory, units::bytes},
    model::{CacheType, Model, ModelConfig, ModelError, Tokenizer},
    pipeline::{Candidate, compare_streamed},
};

mod support;
use support::bar::Bar;

#[derive(Parser)]
#[command(about = "Perplexity of a model, float or quantized, and its distance from a baseline")]
struct Args {
    /// Model folder. Without it: the embedded demo model.
    #[arg(long)]
    model: Option<PathBuf>,
    /// The model that it was made from; adds KL divergence and agreement.
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Text; without it: test text of the demo model.
    #[arg(long)]
    text: Option<PathBuf>,
    /// How the text is cut.
    #[arg(long, value_enum, default_value_t = Protocol::Documents)]
    protocol: Protocol,
    /// Tokens of a window, or the most tokens of a document.
    #[arg(long, default_value_t = 512)]
    window: usize,
    /// Use the first so many documents or windows.
    #[arg(long)]
    limit: Option<usize>,
    /// Measure tokens per second too.
    #[arg(long)]
    speed: bool,
    /// In what the inputs of few-bit layers are multiplied. With int8 and no --baseline, the distance from float inputs is printed too.
    #[arg(long, value_enum, default_value_t = support::Inputs::Float)]
    activations: support::Inputs,
    /// How keys and values are cached: f32, f16, q8 or q4. With another than f32 and no --baseline, the distance from f32 is printed too.
    #[arg(long, value_parser = support::parse_cache, default_value = "f32")]
    cache: CacheType,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Threads; default: all cores.
    #[arg(long)]
    threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Protocol {
    /// Each document (between <|endoftext|> lines) on its own, after the beginning-of-text token.
    Documents,
    /// The whole text as one stream, in windows without overlap: the GPTQ papers' protocol for wikitext-2.
    Windows,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    support::use_threads(args.threads)?;
    let folder = args.model.clone().map_or_else(support::demo_model, Ok)?;
    let checkpoint = Checkpoint::open_with(&folder, Access::Positioned)?;
    let bos = ModelConfig::parse(checkpoint.config())?.bos_token;
    let sequences = sequences(args, &checkpoint, bos)?;
    if args.activations == support::Inputs::Int8 || args.cache != CacheType::F32 {
        return compare_fast(args, &folder, &checkpoint, &sequences);
    }
    if let Some(baseline) = &args.baseline {
        return compare(args, baseline, &folder, &checkpoint, &sequences);
    }
    let model = Model::load(&checkpoint)?;
    let mut logits =
        from_fn(model.config().vocab_size, |tokens: &[u32]| -> Result<_, ModelError> {
            model.logits(tokens)
        });
    let p = eval::perplexity_documents(&mut logits, &sequences, args.window)?;
    let speed = args.speed.then(|| speed(&model, &sequences)).transpose()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&p)?);
        return Ok(());
    }
    let mut table = table(args);
    table.row(perplexity_cells(&folder.display().to_string(), &p));
    println!("{table}");
    println!("weights    {} in memory", bytes(model.bytes() as u64));
    if let Some(speed) = speed {
        println!("{speed}");
    }
    if let Some(memory) = resident_memory() {
        println!("memory     {} at the peak", bytes(memory.peak));
    }
    Ok(())
}

fn compare(
    args: &Args,
    baseline: &Path,
    path: &Path,
    model: &Checkpoint,
    sequences: &[Vec<u32>],
) -> Result<()> {
    let original = Checkpoint::open_with(baseline, Access::Positioned)?;
    let mut bar = Bar::new();
    let candidates = [Candidate::Checkpoint(model)];
    let results = compare_streamed(&original, &candidates, sequences, args.window, &mut bar)?;
    bar.finish();
    print_divergence(args, [baseline, path], &results[0])?;
    let total = |c: &Checkpoint| bytes(c.tensors().map(|t| t.bytes).sum());
    if !args.json {
        println!("size               {} → {}", total(&original), total(model));
    }
    Ok(())
}

/// The model as fast as it runs, against the baseline, or itself, in floats.
fn compare_fast(
    args: &Args,
    path: &Path,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
) -> Result<()> {
    let baseline_path = args.baseline.as_deref().unwrap_or(path);
    let baseline = match &args.baseline {
        Some(path) => Model::load(&Checkpoint::open_with(path, Access::Positioned)?)?,
        None => Model::load(checkpoint)?,
    };
    let model = Model::load_with(checkpoint, args.activations.into())?;
    let logits = |model: &Model, tokens: &[u32], cache| -> Result<_, ModelError> {
        model.session_with(cache).feed_all(tokens)
    };
    let in_floats = |tokens: &[u32]| logits(&baseline, tokens, CacheType::F32);
    let as_fast = |tokens: &[u32]| logits(&model, tokens, args.cache);
    let divergence = eval::compare(
        &mut from_fn(baseline.config().vocab_size, in_floats),
        &mut from_fn(model.config().vocab_size, as_fast),
        sequences,
        args.window,
    )?;
    let fast = format!("{}, {}", path.display(), description(args));
    print_divergence(args, [baseline_path, Path::new(&fast)], &divergence)?;
    if !args.json {
        println!("weights            {} in memory", bytes(model.bytes() as u64));
    }
    Ok(())
}

fn description(args: &Args) -> String {
    let inputs = match args.activations {
        support::Inputs::Float => "float",
        support::Inputs::Int8 => "int8",
    };
    format!("{inputs} inputs, {} cache", args.cache.name())
}

fn print_divergence(args: &Args, [baseline, path]: [&Path; 2], d: &Divergence) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(d)?);
        return Ok(());
    }
    let mut table = table(args);
    table.row(perplexity_cells(&baseline.display().to_string(), &d.baseline));
    table.row(perplexity_cells(&path.display().to_string(), &d.model));
    println!("{table}");
    let error = |e: Option<f64>| e.map_or(String::new(), |e| format!(" ± {e:.5}"));
    println!("KL divergence      {:.5}{} nats per token", d.kl.value, error(d.kl.standard_error));
    println!("  median, 99 %     {:.5}, {:.5}", d.kl_median, d.kl_p99);
    println!("ln ppl ratio       {:.5}{}", d.ln_ratio.value, error(d.ln_ratio.standard_error));
    println!("same top token     {:.2} %", d.top1_agreement.value * 100.0);
    Ok(())
}

fn table(args: &Args) -> Table {
    let cut = match args.protocol {
        Protocol::Documents => format!("documents up to {} tokens", args.window),
        Protocol::Windows => format!("windows of {} tokens", args.window),
    };
    Table::new()
        .left(cut)
        .right("count")
        .right("tokens")
        .unit("predicted")
        .right("perplexity")
        .right("nll")
        .unit("nats")
}

fn perplexity_cells(name: &str, p: &Perplexity) -> [String; 5] {
    let error = p.perplexity_standard_error().map_or(String::new(), |e| format!(" ± {e:.3}"));
    [
        name.into(),
        p.n_documents.to_string(),
        p.n_tokens.to_string(),
        format!("{:.4}{error}", p.perplexity),
        format!("{:.5}", p.mean_nll),
    ]
}

/// The token sequences that the protocol asks for.
fn sequences(args: &Args, checkpoint: &Checkpoint, bos: Option<u32>) -> Result<Vec<Vec<u32>>> {
    let text = match &args.text {
        Some(path) => support::read_text(path)?,
        None if args.model.is_none() => fewbit_demo::text(fewbit_demo::Split::Test, 100_000),
        None => bail!("--text is missing: name a text file to evaluate on"),
    };
    let tokenizer = Tokenizer::load(checkpoint).context("text needs the model's tokenizer")?;
    let mut sequences = match args.protocol {
        Protocol::Documents => support::encode_documents(&tokenizer, bos, &text)?,
        Protocol::Windows => {
            let tokens = tokenizer.encode(&text, true)?;
            tokens.chunks_exact(args.window).map(<[u32]>::to_vec).collect()
        }
    };
    if sequences.is_empty() {
        bail!("the text holds no sequence to predict: give more text or a shorter --window");
    }
    sequences.truncate(args.limit.unwrap_or(usize::MAX));
    Ok(sequences)
}

fn speed(model: &Model, sequences: &[Vec<u32>]) -> Result<String> {
    let prompt = sequences.concat();
    let speed = support::speed::measure(model, &prompt[..prompt.len().min(128)], 64)?;
    let decode = speed.decode.as_ref().map_or(0.0, |d| d.tokens_per_second);
    Ok(format!(
        "speed      prefill {:.0} tokens/s, decode {decode:.0} tokens/s ({} threads)",
        speed.prefill.tokens_per_second,
        rayon::current_num_threads()
    ))
}
