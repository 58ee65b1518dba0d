//! Says what is in a model folder, a safetensors file, a GGUF file or a legacy .bin file: metadata, grids, shapes, bits per weight, ranges, saturated codes.
//!
//! ```text
//! cargo run --release --example inspect -- OUT [--tensors] [--check] [--svg weights.svg]
//! ```

mod figure;
mod gguf;
mod legacy;
mod summary;
#[path = "../support/mod.rs"]
mod support;

use std::{ffi::OsStr, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, Weight, gguf::Gguf, legacy::LegacyFile},
    eval::{Table, units::bytes},
    format::Quantized,
    model::ModelConfig,
};

use crate::{figure::Distributions, summary::Summary};

#[derive(Parser)]
#[command(about = "Say what is in a model folder, or a safetensors, GGUF or legacy .bin file")]
struct Args {
    /// Model folder, or .safetensors, .gguf or legacy .bin file (of llama.cpp before GGUF, or of llama2.c).
    path: PathBuf,
    /// List the tensors as they are stored, instead of the matrices that they make up.
    #[arg(long)]
    tensors: bool,
    /// Decode every quantized matrix and check the whole file.
    #[arg(long)]
    check: bool,
    /// Draw the weight distributions of the whole model into this SVG file.
    #[arg(long)]
    svg: Option<PathBuf>,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let mut distributions = Distributions::default();
    if args.path.extension() == Some(OsStr::new("gguf")) {
        let file = Gguf::open_with(&args.path, Access::Positioned)?;
        gguf::print(&file, &mut distributions)?;
    } else if args.path.extension() == Some(OsStr::new("bin")) {
        let file = LegacyFile::open_with(&args.path, Access::Positioned)?;
        legacy::print(&args.path, &file, &mut distributions)?;
    } else {
        checkpoint(args, &mut distributions)?;
    }
    if let Some(path) = &args.svg {
        if distributions.is_empty() {
            bail!("no matrix of a layer could be decoded: there is nothing to draw");
        }
        let name = args.path.file_name().unwrap_or(args.path.as_os_str()).display();
        let svg = distributions.to_svg(format!("Weights of {name}"))?;
        fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        println!("figure     {}", path.display());
    }
    Ok(())
}

fn checkpoint(args: &Args, distributions: &mut Distributions) -> Result<()> {
    let checkpoint = Checkpoint::open_with(&args.path, Access::Positioned)?;
    let total: u64 = checkpoint.tensors().map(|t| t.bytes).sum();
    println!("{}: {} tensors, {}", args.path.display(), checkpoint.tensors().len(), bytes(total));
    if let Some(container) = checkpoint.container() {
        println!("container  {}", container.name());
    }
    if args.check {
        checkpoint.check()?;
        println!("checked    every tensor is consistent");
    }
    let config = ModelConfig::of(&checkpoint);
    if let Ok(c) = &config {
        println!(
            "model      {}: {} blocks, {} wide, {} in the MLP, {} heads over {} key/value heads of {}, vocabulary {}{}",
            c.model_type(),
            c.n_layers,
            c.hidden_size,
            c.intermediate_size,
            c.n_heads,
            c.n_kv_heads,
            c.head_dim,
            c.vocab_size,
            if c.tied { ", tied" } else { "" },
        );
    }
    println!();
    match config {
        Ok(config) if !args.tensors => matrices(&checkpoint, &config, distributions),
        _ => tensors(&checkpoint),
    }
}

/// Every tensor as stored.
fn tensors(checkpoint: &Checkpoint) -> Result<()> {
    let mut table = Table::new().left("tensor").left("type").right("shape").right("size");
    for t in checkpoint.tensors() {
        let shape: Vec<String> = t.shape.iter().map(usize::to_string).collect();
        table.row([t.name.clone(), format!("{:?}", t.dtype), shape.join("×"), bytes(t.bytes)]);
    }
    println!("{table}");
    Ok(())
}

/// Every linear layer, decoded.
fn matrices(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    distributions: &mut Distributions,
) -> Result<()> {
    let mut table = Table::new()
        .left("matrix")
        .left("grid")
        .right("shape")
        .right("bits")
        .unit("per weight")
        .right("min")
        .right("max")
        .right("std")
        .right("at the ends")
        .unit("%")
        .left("histogram");
    let (mut stored, mut weights) = (0.0, 0usize);
    let n_roles = config.roles().count();
    for block in 0..config.n_layers {
        if block > 0 {
            table.rule();
        }
        for (place, role) in config.roles().enumerate() {
            let module = config.module(block, role);
            let weight = config.weight(checkpoint, block, role)?;
            let shape = weight.shape();
            let (grid, bits, saturated, values) = match weight {
                Weight::Float { dtype, data, .. } => {
                    (format!("{dtype:?}").to_lowercase(), dtype.bitsize() as f64, None, data)
                }
                Weight::Quant(q) => (grid(&q), q.bits_per_weight(), q.saturated(), q.dequantize()),
            };
            stored += bits * shape.len() as f64;
            weights += shape.len();
            let s = Summary::of(&values);
            distributions.add(block as f64 + place as f64 / n_roles as f64, &s);
            table.row([
                module,
                grid,
                format!("{}×{}", shape.out_features, shape.in_features),
                format!("{bits:.3}"),
                format!("{:.3}", s.min),
                format!("{:.3}", s.max),
                format!("{:.4}", s.std()),
                saturated.map_or("–".into(), |s| format!("{:.1}", s * 100.0)),
                s.histogram(),
            ]);
        }
    }
    println!("{table}");
    println!(
        "{weights} weights in these matrices at {:.3} bits on average",
        stored / weights as f64
    );
    Ok(())
}

fn grid(q: &Quantized) -> String {
    let map = if q.group_of_column().is_some() { ", mapped" } else { "" };
    format!("{}{map}", q.scheme())
}
