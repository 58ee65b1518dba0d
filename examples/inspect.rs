//! Says what is in a model folder or a safetensors file: grids, shapes, bits per weight, ranges, saturated codes.
//!
//! ```text
//! cargo run --release --example inspect -- OUT [--tensors]
//! ```

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use fewbit::{
    checkpoint::{Access, Checkpoint, Weight},
    eval::{Table, units::bytes},
    format::Quantized,
    model::{ModelConfig, Role},
};

#[derive(Parser)]
#[command(about = "Say what is in a model folder or a safetensors file")]
struct Args {
    /// Model folder or .safetensors file.
    path: PathBuf,
    /// List the tensors as they are stored, instead of the matrices that they make up.
    #[arg(long)]
    tensors: bool,
    /// Decode every quantized matrix and check the whole file.
    #[arg(long)]
    check: bool,
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
    let config = ModelConfig::parse(checkpoint.config());
    if let Ok(c) = &config {
        println!(
            "model      {}: {} blocks, {} wide, {} in the MLP, {} heads over {} key/value heads of {}, vocabulary {}{}",
            c.model_type,
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
        Ok(config) if !args.tensors => matrices(&checkpoint, &config),
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
fn matrices(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<()> {
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
    for block in 0..config.n_layers {
        if block > 0 {
            table.rule();
        }
        for role in Role::ALL {
            let module = config.module(block, role);
            let weight = checkpoint.weight(&module)?;
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
            table.row([
                module,
                grid,
                format!("{}×{}", shape.out_features, shape.in_features),
                format!("{bits:.3}"),
                format!("{:.3}", s.min),
                format!("{:.3}", s.max),
                format!("{:.4}", s.std),
                saturated.map_or("–".into(), |s| format!("{:.1}", s * 100.0)),
                s.histogram,
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

struct Summary {
    min: f32,
    max: f32,
    std: f64,
    /// Share of the weights over 16 equal bins from −3 to 3 standard deviations, the tails in the outer ones.
    histogram: String,
}

impl Summary {
    fn of(values: &[f32]) -> Self {
        let n = values.len().max(1) as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let square = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
        let std = (square / n).sqrt();
        let mut bins = [0usize; 16];
        for &v in values {
            let position = (f64::from(v) - mean) / std.max(f64::MIN_POSITIVE);
            bins[((position + 3.0) / 6.0 * 16.0).clamp(0.0, 15.0) as usize] += 1;
        }
        let highest = bins.iter().copied().max().unwrap_or(1).max(1);
        let histogram = bins
            .iter()
            .map(|&b| ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][b * 7 / highest])
            .collect();
        Self {
            min: values.iter().copied().fold(f32::INFINITY, f32::min),
            max: values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            std,
            histogram,
        }
    }
}
