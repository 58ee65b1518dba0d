//! Lays a model into another container, without quantizing anew what is quantized already unless told to.
//!
//! ```text
//! cargo run --release --example convert -- IN OUT --to gguf|gptq|awq|compressed-tensors|bitsandbytes|mlx|onnx|float
//! cargo run --release --example convert -- LLAMA2C.bin OUT.gguf --to gguf --tokenizer tokenizer.bin
//! cargo run --release --example convert -- GGML.bin OUT --to float --norm-eps 1e-6 --context-length 2048
//! ```

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::{
        Access, Awq, BitsAndBytes, CompressedTensors, Container, FolderWriter, Fp8, Gptq,
        GptqVersion, IntLayout, Mlx, Onnx,
        gguf_model::GgufContainer,
        legacy::{LegacyFile, LegacySettings, llama2c_vocabulary},
    },
    eval::{Table, units::bytes},
    format::Scheme,
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
    /// Model folder, .gguf file, or legacy .bin file of llama.cpp before GGUF or of llama2.c.
    model: PathBuf,
    /// Folder, or .gguf file, to write; must not exist.
    out: PathBuf,
    /// How the matrices lie in the output.
    #[arg(long, value_enum)]
    to: To,
    /// Let codes become wider where the output has no place for them otherwise, such as 4 bits affine in q8_0, or old blocks with f32 scales in f32.
    #[arg(long)]
    widen: bool,
    /// Round matrices that do not fit as they are to this grid, with loss: q4_0 and other block types, nf4, fp4, fp8, int4-g128 and the like.
    #[arg(long, value_parser = parse_grid)]
    requantize: Option<Scheme>,
    /// Round matrices in floating point to this grid, embedding and head among them in a GGUF file.
    #[arg(long, value_parser = parse_grid)]
    floats: Option<Scheme>,
    /// Tokens of a llama2.c file.
    #[arg(long, value_name = "TOKENIZER.BIN")]
    tokenizer: Option<PathBuf>,
    /// What is added to the mean square before the root, which legacy files of llama.cpp do not say.
    #[arg(long)]
    norm_eps: Option<f32>,
    /// Longest text of the model, which legacy files of llama.cpp do not say.
    #[arg(long)]
    context_length: Option<u32>,
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
    /// MLX.
    Mlx,
    /// One ONNX file of MatMulNBits weights.
    Onnx,
    /// Floats: f32, which holds the value of every code.
    Float,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    if args.model.extension() != Some(OsStr::new("bin")) {
        return convert(args, &args.model);
    }
    // By way of a GGUF file, which is the output if nothing more is asked for.
    let file = LegacyFile::open_with(&args.model, Access::Positioned)?;
    let vocabulary = args.tokenizer.as_deref().map(llama2c_vocabulary).transpose()?;
    let settings = LegacySettings {
        norm_eps: args.norm_eps,
        context_length: args.context_length,
        vocabulary,
        widen: args.widen,
    };
    println!("model      {}: {}", args.model.display(), file.format());
    if matches!(args.to, To::Gguf) && args.requantize.is_none() && args.floats.is_none() {
        file.write_gguf(&args.out, &settings)?;
        println!("written    {}", args.out.display());
        return Ok(());
    }
    let parent = args.out.parent().filter(|parent| *parent != Path::new(""));
    let parent = parent.unwrap_or(Path::new("."));
    let folder = tempfile::tempdir_in(parent)
        .with_context(|| format!("cannot create a temporary folder in {}", parent.display()))?;
    let name = args.model.with_extension("gguf");
    let gguf = folder.path().join(name.file_name().unwrap_or(OsStr::new("model.gguf")));
    file.write_gguf(&gguf, &settings)?;
    convert(args, &gguf)
}

fn convert(args: &Args, model: &Path) -> Result<()> {
    let container: Option<Box<dyn Container>> = match args.to {
        To::Gguf => Some(Box::new(GgufContainer::default())),
        To::Gptq => Some(Box::new(Gptq { version: GptqVersion::V2 })),
        To::GptqV1 => Some(Box::new(Gptq { version: GptqVersion::V1 })),
        To::Awq => Some(Box::new(Awq)),
        To::CompressedTensors => Some(Box::new(CompressedTensors::default())),
        To::CompressedTensorsBytes => Some(Box::new(CompressedTensors {
            integers: IntLayout::Bytes,
            ..CompressedTensors::default()
        })),
        To::Bitsandbytes => Some(Box::new(BitsAndBytes)),
        To::Fp8 => Some(Box::new(Fp8)),
        To::Mlx => Some(Box::new(Mlx)),
        To::Onnx => Some(Box::new(Onnx)),
        To::Float => None,
    };
    let mut bar = Bar::new();
    let grid = |scheme: Option<Scheme>| match args.to {
        To::Gguf => scheme,
        _ => scheme.map(for_folder),
    };
    let conversion = Conversion {
        model: model.to_owned(),
        out: args.out.clone(),
        container,
        anew: grid(args.requantize),
        floats: grid(args.floats),
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
