//! Lays a quantized model into another container, without quantizing anew.
//!
//! ```text
//! cargo run --release --example convert -- IN OUT --to gguf|gptq|awq|compressed-tensors|bitsandbytes|float
//! ```

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{
        Awq, BitsAndBytes, CompressedTensors, Container, FolderWriter, Fp8, Gptq, GptqVersion,
        IntLayout, gguf_model::GgufContainer,
    },
    eval::{Table, units::bytes},
    pipeline::{Conversion, PreparedConversion},
};

mod support;
use support::{
    bar::Bar,
    grid::{for_folder, parse_grid},
};

#[derive(Parser)]
#[command(about = "Lay a quantized model into another container, without quantizing anew")]
struct Args {
    /// Quantized model folder, or .gguf file.
    model: PathBuf,
    /// Folder, or .gguf file, to write; must not exist.
    out: PathBuf,
    /// How the matrices lie in the output.
    #[arg(long, value_enum)]
    to: To,
    /// Let codes become wider where the output has no place for them otherwise, such as 4 bits affine in q8_0.
    #[arg(long)]
    widen: bool,
    /// Round matrices that do not fit as they are to this grid, with loss: q4_0 and other block types, nf4, fp4, fp8, int4-g128 and the like.
    #[arg(long, value_parser = parse_grid)]
    requantize: Option<fewbit::format::Scheme>,
}

#[derive(Clone, Copy, ValueEnum)]
enum To {
    /// One GGUF file.
    Gguf,
    /// GPTQ, version 2: zero points as they are.
    Gptq,
    /// GPTQ, version 1: zero points less one.
    GptqV1,
    /// AWQ, in the layout "gemm".
    Awq,
    /// compressed-tensors, packed.
    CompressedTensors,
    /// compressed-tensors, a byte a code.
    CompressedTensorsBytes,
    /// bitsandbytes.
    Bitsandbytes,
    /// FP8 with a scale for each block.
    Fp8,
    /// Floats: f32, which holds the value of every code.
    Float,
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
    let container: Option<Box<dyn Container>> = match args.to {
        To::Gguf => Some(Box::new(GgufContainer::default())),
        To::Gptq => Some(Box::new(Gptq { version: GptqVersion::V2 })),
        To::GptqV1 => Some(Box::new(Gptq { version: GptqVersion::V1 })),
        To::Awq => Some(Box::new(Awq)),
        To::CompressedTensors => Some(Box::new(CompressedTensors::default())),
        To::CompressedTensorsBytes => {
            Some(Box::new(CompressedTensors { integers: IntLayout::Bytes }))
        }
        To::Bitsandbytes => Some(Box::new(BitsAndBytes)),
        To::Fp8 => Some(Box::new(Fp8)),
        To::Float => None,
    };
    let mut bar = Bar::new();
    let conversion = Conversion {
        model: args.model.clone(),
        out: args.out.clone(),
        container,
        anew: match args.to {
            To::Gguf => args.requantize,
            _ => args.requantize.map(for_folder),
        },
        widen: args.widen,
        part_bytes: FolderWriter::SHARD_BYTES,
    };
    let prepared = conversion.prepare(&mut bar)?;
    bar.finish();
    announce(args, &prepared);
    let mut bar = Bar::new();
    prepared.run(&mut bar)?;
    bar.finish();
    println!("written    {}, verified value by value", args.out.display());
    Ok(())
}

fn announce(args: &Args, prepared: &PreparedConversion) {
    println!(
        "model      {}: {} → {}",
        args.model.display(),
        bytes(prepared.model().file_bytes()),
        bytes(prepared.bytes())
    );
    let mut kinds: Vec<(String, String, bool, usize)> = Vec::new();
    for m in prepared.matrices() {
        let (from, to) = (m.from.to_string(), m.to.to_string());
        match kinds.iter_mut().find(|k| k.0 == from && k.1 == to && k.2 == m.anew) {
            Some(kind) => kind.3 += 1,
            None => kinds.push((from, to, m.anew, 1)),
        }
    }
    let mut table = Table::new().right("matrices").left("from").left("to").left("values");
    for (from, to, anew, count) in kinds {
        let values = if anew { "rounded anew" } else { "the same" };
        table.row([count.to_string(), from, to, values.into()]);
    }
    println!("{table}");
    for caveat in prepared.caveats() {
        println!("note       {caveat}");
    }
}
