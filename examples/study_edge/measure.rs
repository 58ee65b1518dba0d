//! Time, text and quality of each model.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{Divergence, compare, from_fn, statistics::median},
    model::{Activations, CacheType, Choice, Model, ModelError, Stop, generate},
};
use serde::Serialize;

use crate::{Args, Source, policies::Policy};

/// What was measured of a policy.
#[derive(Serialize)]
pub struct Measured {
    pub name: &'static str,
    /// Of the blocks' matrices.
    pub bits_per_weight: f64,
    /// Seconds for prompt and text, each time.
    pub seconds: Vec<f64>,
    /// Their median.
    pub median: f64,
    /// Median time of the first policy over this one.
    pub speed_up: f64,
    /// Bytes of weights in memory.
    pub memory: usize,
    /// Bytes of tensors in the file.
    pub file: u64,
    /// From the first policy, on held-out text, as it runs here: with inputs of 8 bits where weights have few.
    pub divergence: Divergence,
    /// What it wrote.
    pub text: String,
}

/// Everything, models side by side, so that what slows the machine down for a while slows all of them.
pub fn all(
    args: &Args,
    source: &Source,
    policies: &[Policy],
    folders: &[PathBuf],
) -> Result<Vec<Measured>> {
    let mut models = vec![];
    let mut files = vec![];
    for folder in folders {
        let checkpoint = Checkpoint::open_with(folder, Access::Positioned)?;
        models.push(Model::load_with(&checkpoint, Activations::Int8)?);
        files.push(checkpoint.tensors().map(|tensor| tensor.bytes).sum::<u64>());
    }
    let prompt = source.tokenizer.encode(&args.prompt, true)?;
    let mut seconds = vec![vec![]; models.len()];
    let mut texts = vec![vec![]; models.len()];
    // Once before time is taken.
    for repeat in 0..=args.repeats {
        for (i, model) in models.iter().enumerate() {
            let started = Instant::now();
            let text = write(model, &prompt, args.n)?;
            if repeat == 0 {
                texts[i] = text;
                continue;
            }
            seconds[i].push(started.elapsed().as_secs_f64());
            ensure!(texts[i] == text, "{} did not write the same twice", policies[i].name);
        }
    }
    let medians: Vec<f64> = seconds.iter().filter_map(|times| median(times)).collect();
    let mut results = vec![];
    for (i, policy) in policies.iter().enumerate() {
        let logits = |model: &Model, tokens: &[u32]| -> Result<_, ModelError> {
            model.session_with(CacheType::F32).feed_all(tokens)
        };
        let vocab_size = models[i].config().vocab_size;
        let divergence = compare(
            &mut from_fn(vocab_size, |tokens: &[u32]| logits(&models[0], tokens)),
            &mut from_fn(vocab_size, |tokens: &[u32]| logits(&models[i], tokens)),
            &source.held_out,
            source.window,
        )?;
        results.push(Measured {
            name: policy.name,
            bits_per_weight: policy.bits_per_weight,
            seconds: seconds[i].clone(),
            median: medians[i],
            speed_up: medians[0] / medians[i],
            memory: models[i].bytes(),
            file: files[i],
            divergence,
            text: source.tokenizer.decode(&texts[i])?,
        });
    }
    Ok(results)
}

/// Reads the prompt and writes `n` tokens, whatever they are.
fn write(model: &Model, prompt: &[u32], n: usize) -> Result<Vec<u32>> {
    let mut session = model.session_with(CacheType::F16);
    let stop = Stop { max_tokens: n, end_tokens: vec![] };
    let (tokens, _) = generate(&mut session, prompt, &Choice::Greedy, &stop, |_| true)?;
    Ok(tokens)
}
