//! Perplexity of a text, and the distance from a baseline.

use std::path::Path;

use anyhow::{Context, Result, bail};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{self, Divergence, Perplexity, Table, resident_memory, units::bytes},
    model::{CacheType, Model, ModelConfig, Tokenizer},
    pipeline::{Candidate, compare_streamed},
};
use serde::Serialize;

use crate::{
    args::{Args, Protocol, Task},
    support::{self, bar::Bar, scorer::Scorer},
};

/// What was measured.
#[derive(Serialize)]
#[serde(untagged)]
pub enum TextReport {
    Perplexity(Box<Perplexity>),
    Divergence(Box<Divergence>),
}

/// Measures what `tasks` ask for.
pub fn evaluate(
    args: &Args,
    tasks: &[Task],
    folder: &Path,
    checkpoint: &Checkpoint,
) -> Result<TextReport> {
    let bos = ModelConfig::of(checkpoint)?.bos_token;
    let sequences = sequences(args, checkpoint, bos)?;
    if tasks.contains(&Task::Kld) {
        let divergence = match &args.baseline {
            Some(baseline) if !args.is_fast() && args.protocol != Protocol::LlamaCpp => {
                compare(args, baseline, folder, checkpoint, &sequences)?
            }
            _ => compare_fast(args, folder, checkpoint, &sequences)?,
        };
        return Ok(TextReport::Divergence(Box::new(divergence)));
    }
    let model = Model::load_with(checkpoint, args.activations.into())?;
    let mut logits = Scorer::new(&model, args.cache).with_batch_tokens(args.batch_tokens);
    let p = match args.protocol {
        Protocol::LlamaCpp => {
            eval::perplexity_second_half(&mut logits, &sequences.concat(), args.window, None)?
        }
        _ => eval::perplexity_documents(&mut logits, &sequences, args.window)?,
    };
    let speed = args.speed.then(|| speed(&model, &sequences)).transpose()?;
    if args.json {
        return Ok(TextReport::Perplexity(Box::new(p)));
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
    Ok(TextReport::Perplexity(Box::new(p)))
}

fn compare(
    args: &Args,
    baseline: &Path,
    path: &Path,
    model: &Checkpoint,
    sequences: &[Vec<u32>],
) -> Result<Divergence> {
    let original = Checkpoint::open_with(baseline, Access::Positioned)?;
    let mut bar = Bar::new();
    let candidates = [Candidate::Checkpoint(model)];
    let mut results = compare_streamed(&original, &candidates, sequences, args.window, &mut bar)?;
    bar.finish();
    let divergence = results.remove(0);
    print_divergence(args, [baseline, path], &divergence);
    let total = |c: &Checkpoint| bytes(c.tensors().map(|t| t.bytes).sum());
    if !args.json {
        println!("size               {} → {}", total(&original), total(model));
    }
    Ok(divergence)
}

/// The model as fast as it runs, against the baseline, or itself, in floats.
fn compare_fast(
    args: &Args,
    path: &Path,
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
) -> Result<Divergence> {
    let baseline_path = args.baseline.as_deref().unwrap_or(path);
    let baseline = match &args.baseline {
        Some(path) => Model::load(&Checkpoint::open_with(path, Access::Positioned)?)?,
        None => Model::load(checkpoint)?,
    };
    let model = Model::load_with(checkpoint, args.activations.into())?;
    let scorer = |model, cache| Scorer::new(model, cache).with_batch_tokens(args.batch_tokens);
    let (mut in_floats, mut as_fast) =
        (scorer(&baseline, CacheType::F32), scorer(&model, args.cache));
    let divergence = match args.protocol {
        Protocol::LlamaCpp => eval::compare_second_half(
            &mut in_floats,
            &mut as_fast,
            &sequences.concat(),
            args.window,
            None,
        )?,
        _ => eval::compare(&mut in_floats, &mut as_fast, sequences, args.window)?,
    };
    let fast = format!("{}, {}", path.display(), description(args));
    print_divergence(args, [baseline_path, Path::new(&fast)], &divergence);
    if !args.json {
        println!("weights            {} in memory", bytes(model.bytes() as u64));
    }
    Ok(divergence)
}

fn description(args: &Args) -> String {
    let inputs = match args.activations {
        support::Inputs::Float => "float",
        support::Inputs::Int8 => "int8",
    };
    format!("{inputs} inputs, {} cache", args.cache.name())
}

fn print_divergence(args: &Args, [baseline, path]: [&Path; 2], d: &Divergence) {
    if args.json {
        return;
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
}

fn table(args: &Args) -> Table {
    let cut = match args.protocol {
        Protocol::Documents => format!("documents up to {} tokens", args.window),
        Protocol::Windows => format!("windows of {} tokens", args.window),
        Protocol::LlamaCpp => format!("second halves of windows of {} tokens", args.window),
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
        Protocol::Windows | Protocol::LlamaCpp => {
            let tokens = tokenizer.encode(&text, true)?;
            let mut windows: Vec<Vec<u32>> =
                tokens.chunks_exact(args.window).map(<[u32]>::to_vec).collect();
            let added = tokenizer.encode("", true)?.first().copied();
            if let (Protocol::LlamaCpp, Some(bos)) = (args.protocol, added) {
                windows.iter_mut().for_each(|window| window[0] = bos);
            }
            windows
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
