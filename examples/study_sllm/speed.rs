//! Speed and memory of a model in a process of its own, where nothing else is in memory.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{reset_peak_memory, resident_memory},
    model::{Activations, Model},
};
use serde::{Deserialize, Serialize};

use crate::support;

/// What a model needs and how fast it is, in the way that it runs fastest: with inputs of 8 bits where weights have few.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Running {
    /// Tokens per second of reading a prompt.
    pub prefill: f64,
    /// Tokens per second of writing.
    pub decode: f64,
    /// Bytes of weights in memory.
    pub weights: usize,
    /// Most bytes that were resident at once because of the model: weights, keys and values, buffers.
    pub resident: Option<u64>,
}

/// Tokens of the prompt, and tokens that are written after it.
const READ: usize = 256;
const WRITTEN: usize = 64;

/// Starts this program again and asks it for [`measure`].
pub fn measure_apart(folder: &Path) -> Result<Running> {
    let program = std::env::current_exe().context("this program cannot find itself")?;
    let threads = rayon::current_num_threads().to_string();
    let mut command = Command::new(program);
    let output = command.arg("--speed-of").arg(folder).args(["--threads", &threads]).output()?;
    if !output.status.success() {
        bail!("{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Prints [`Running`] of a model as JSON.
pub fn print(folder: &Path) -> Result<()> {
    let running = measure(folder)?;
    println!("{}", serde_json::to_string(&running)?);
    Ok(())
}

fn measure(folder: &Path) -> Result<Running> {
    let checkpoint = Checkpoint::open_with(folder, Access::Positioned)?;
    let before = resident_memory().filter(|_| reset_peak_memory());
    let model = Model::load_with(&checkpoint, Activations::Int8)?;
    let config = model.config();
    let most = config.max_positions.saturating_sub(WRITTEN).max(1);
    let prompt: Vec<u32> =
        (0..READ.min(most)).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
    let speed = support::speed::measure(&model, &prompt, WRITTEN)?;
    let peak = resident_memory().map(|memory| memory.peak);
    Ok(Running {
        prefill: speed.prefill.tokens_per_second,
        decode: speed.decode.map_or(0.0, |decode| decode.tokens_per_second),
        weights: model.bytes(),
        resident: before.zip(peak).map(|(before, peak)| peak.saturating_sub(before.current)),
    })
}
