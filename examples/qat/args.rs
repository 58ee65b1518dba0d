//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use fewbit::format::{Granularity, Scheme};

use crate::support::{container::ContainerArg, grid::parse_grid};

#[derive(Parser)]
#[command(about = "Train a model in few bits on the CPU")]
pub struct Args {
    /// Model folder (config.json, model.safetensors or shards, tokenizer.json). Without it: the embedded demo model.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Text to train on, documents separated by <|endoftext|>. For the demo model: stories from its own grammar.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Text to compare on in the end. Default: documents of --text that are then not trained on.
    #[arg(long)]
    pub held_out: Option<PathBuf>,
    /// Folder, or GGUF file, to write; must not exist. For the demo model: target/fewbit-demo-qat, replaced.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// What is trained, and towards what.
    #[arg(long, value_enum, default_value_t = MethodArg::Full)]
    pub method: MethodArg,
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    #[arg(long, default_value_t = 2)]
    pub bits: u32,
    /// Weights that share a step: a number, or "channel".
    #[arg(long, default_value = "64", value_parser = parse_granularity)]
    pub group_size: Granularity,
    /// No zero points.
    #[arg(long)]
    pub symmetric: bool,
    /// Which values the weights can take, in place of --bits, --group-size and --symmetric: q4_0, q2_k and the other GGML block types, nf4, fp4, mxfp4, nvfp4,
    /// int4-g64-offset and the like.
    #[arg(long, value_parser = parse_grid)]
    pub grid: Option<Scheme>,
    /// A plan from the example "plan": the grid of each matrix, and its container unless --container says otherwise. Matrices that stay floats are not trained.
    #[arg(long, conflicts_with = "grid")]
    pub plan: Option<PathBuf>,
    /// Take the plan although it was made for another model.
    #[arg(long, requires = "plan")]
    pub any_model: bool,
    /// How the matrices lie in the file. Default: gptq for integers, mlx for integers with offsets, gguf for blocks, bitsandbytes for its grids, else
    /// compressed-tensors.
    #[arg(long, value_enum)]
    pub container: Option<ContainerArg>,
    /// Float model to learn from, of the same architecture and vocabulary. Default: the model itself.
    #[arg(long)]
    pub teacher: Option<PathBuf>,
    /// Towards what a whole model is trained.
    #[arg(long, value_enum, default_value_t = ObjectiveArg::Teacher)]
    pub objective: ObjectiveArg,
    /// Rank of the adapters of --method lora.
    #[arg(long, default_value_t = 16)]
    pub rank: usize,
    /// What the product of their factors is multiplied by, times the rank. Default: twice the rank.
    #[arg(long)]
    pub alpha: Option<f32>,
    /// Round the inputs of few-bit layers too, as engines with integer products do; for full, e2e and norms. The file is then compressed-tensors, "W8A8", with
    /// --bits 8, --group-size channel and --symmetric unless a grid is named.
    #[arg(long, value_enum, default_value_t = InputsArg::Float)]
    pub inputs: InputsArg,
    /// From where training begins: "gptq", "nearest", or a folder that this program or quantize wrote with the same grids.
    #[arg(long, default_value = "gptq")]
    pub init: String,
    /// Steps; of each block where blocks are trained. Default: 100 for the demo model, else 500.
    #[arg(long)]
    pub steps: Option<u64>,
    /// Windows of text of a step.
    #[arg(long, default_value_t = 8)]
    pub batch: usize,
    /// Passes whose gradients make a step.
    #[arg(long, default_value_t = 1)]
    pub accumulate: usize,
    /// Tokens of a window.
    #[arg(long, default_value_t = 256)]
    pub window: usize,
    /// Windows that block-wise training holds as hidden states.
    #[arg(long, default_value_t = 256)]
    pub windows: usize,
    /// Multiplies all learning rates.
    #[arg(long, default_value_t = 1.0)]
    pub rate: f32,
    /// Which windows each step sees.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Documents of the comparison in the end.
    #[arg(long, default_value_t = 128)]
    pub eval_documents: usize,
    /// Threads; default: all cores. The output is the same for any number.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum MethodArg {
    /// Block by block, weights with their grids, towards the float block's output.
    Block,
    /// Block by block, rounding and ranges alone, as AutoRound does.
    Round,
    /// Norms and biases of the whole model under fixed codes and step sizes, towards the teacher's probabilities: the file keeps its grids and size.
    Norms,
    /// Step sizes, norms and biases of the whole model under fixed codes, towards the teacher's probabilities.
    E2e,
    /// Weights with their grids, norms and biases of the whole model, towards the teacher's probabilities.
    Full,
    /// Low-rank adapters on codes that stay as they are (QLoRA where these are nf4): OUT is the merged float model, OUT.adapter the adapters as PEFT has them.
    Lora,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ObjectiveArg {
    /// The float model's probabilities: the same model in fewer bits.
    Teacher,
    /// The next token of the text: a model that has learned from it.
    Text,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum InputsArg {
    /// As they are.
    Float,
    /// To 8 bits, with a step for each token.
    Int8,
    /// To 8 bits, with a step for each layer that is learned and written.
    Int8Static,
}

fn parse_granularity(text: &str) -> Result<Granularity, String> {
    if text == "channel" {
        return Ok(Granularity::Channel);
    }
    match text.parse() {
        Ok(size) if size > 0 => Ok(Granularity::group(size)),
        _ => Err("a positive number, or \"channel\"".into()),
    }
}
