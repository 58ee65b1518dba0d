//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use fewbit::{
    checkpoint::gguf_model::FileType,
    format::{Granularity, Scheme},
    gptq::GptqSpec,
    pipeline::AwqSpec,
};

use crate::support::{container::ContainerArg, grid::parse_grid};

#[derive(Parser)]
#[command(about = "Quantize a Hugging Face model folder on the CPU")]
pub struct Args {
    /// Model folder (config.json, model.safetensors or shards, tokenizer.json). Without it: the embedded demo model.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Folder, or GGUF file, to write; must not exist. For the demo model: target/fewbit-demo, replaced.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// How codes are chosen.
    #[arg(long, value_enum, default_value_t = MethodArg::Best)]
    pub method: MethodArg,
    /// Which values the weights of every linear layer can take, in place of --bits, --group-size and --symmetric: q4_0, q4_k, iq4_nl and the other
    /// GGML block types, nf4, fp4, nf4-double, fp8, mxfp4, nvfp4, llm-int8, or int4-g128 and the like.
    #[arg(long, value_parser = parse_grid)]
    pub grid: Option<Scheme>,
    /// A standard mix of llama.cpp, embedding and head included: q4_k_m, q3_k_m, q2_k, iq4_xs, q8_0 and so on.
    #[arg(long, value_parser = parse_mix, conflicts_with = "grid")]
    pub mix: Option<FileType>,
    /// A plan from the example "plan", perhaps edited: the grid of each matrix, and its container unless --container says otherwise.
    #[arg(long, conflicts_with_all = ["grid", "mix"])]
    pub plan: Option<PathBuf>,
    /// Take the plan although it was made for another model.
    #[arg(long, requires = "plan")]
    pub any_model: bool,
    /// Rotate the residual stream and the values of heads first, which spreads outliers over all channels: for models that have them, at few bits. A head that
    /// was the embedding becomes a matrix of its own. Needs room for the model in 32 bits beside the output.
    #[arg(long, conflicts_with_all = ["plan", "mix", "imatrix"])]
    pub rotate: bool,
    /// Importance matrix, from this program or llama.cpp: weighs errors of plain rounding into blocks. Measured on --calibration if that is given instead.
    #[arg(long)]
    pub imatrix: Option<PathBuf>,
    /// Write the importance matrix that was measured, as a GGUF file that llama.cpp reads.
    #[arg(long)]
    pub save_imatrix: Option<PathBuf>,
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    #[arg(long, default_value_t = 4)]
    pub bits: u32,
    /// Weights that share a scale: a number, or "channel".
    #[arg(long, default_value = "128", value_parser = parse_granularity)]
    pub group_size: Granularity,
    /// A zero point per group. Default: whatever is better at this width, affine.
    #[arg(long)]
    pub symmetric: bool,
    /// Order in which columns are rounded.
    #[arg(long, value_enum, default_value_t = ActOrder::Static)]
    pub act_order: ActOrder,
    /// Added to the Hessian's diagonal, as a fraction of its mean.
    #[arg(long, default_value_t = GptqSpec::default().damping)]
    pub damping: f64,
    /// Precision in which inputs enter the Hessian.
    #[arg(long, value_enum, default_value_t = HessianInputs::F32)]
    pub hessian_inputs: HessianInputs,
    /// Passes of coordinate descent after GPTQ.
    #[arg(long, default_value_t = GptqSpec::default().refine_passes)]
    pub refine: u32,
    /// How much of the errors of earlier layers a layer makes up for, 0 to 1. Less if the calibration text is short.
    #[arg(long)]
    pub mismatch: Option<f32>,
    /// Exponents that AWQ tries for each set of channels; default 20, in front of GPTQ 5.
    #[arg(long)]
    pub ratios: Option<u32>,
    /// Share of the difficulty that SmoothQuant moves from inputs to weights, 0 to 1. Default: the best of some, for each input.
    #[arg(long)]
    pub strength: Option<f32>,
    /// Calibration tokens on which AWQ and SmoothQuant compare scales.
    #[arg(long, default_value_t = AwqSpec::default().tokens)]
    pub search_tokens: usize,
    /// How the matrices lie in the file. Default: gptq for integers, mlx for integers with offsets, gguf for blocks, bitsandbytes for its grids, else
    /// compressed-tensors.
    #[arg(long, value_enum)]
    pub container: Option<ContainerArg>,
    /// Text to calibrate on, documents separated by <|endoftext|>.
    #[arg(long)]
    pub calibration: Option<PathBuf>,
    /// Windows of calibration text.
    #[arg(long, default_value_t = 128)]
    pub windows: usize,
    /// Tokens of a window; default 384 for the demo model, else 512.
    #[arg(long)]
    pub window: Option<usize>,
    /// Held-out text to compare on. Default: the last tenth of the calibration text, which is then not calibrated on.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Documents of held-out text that are used.
    #[arg(long, default_value_t = 128)]
    pub eval_documents: usize,
    /// Skip perplexity, divergence and speed.
    #[arg(long)]
    pub no_eval: bool,
    /// Skip the measurement of tokens per second, which loads both models whole.
    #[arg(long)]
    pub no_speed: bool,
    /// Fail if there is no work folder to continue. Without it the job continues if there is one, else begins.
    #[arg(long)]
    pub resume: bool,
    /// Turn every repair into an error.
    #[arg(long)]
    pub strict: bool,
    /// Threads; default: all cores. The output is the same for any number.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum MethodArg {
    /// Several, of which the one that is nearest to the model on text of its own wins: GPTQ with all and with half of the mismatch correction, and behind AWQ; where
    /// the grid has no GPTQ, AWQ and plain rounding.
    Best,
    /// Every weight to its nearest value. Needs no calibration text, which yet weighs errors if blocks are written.
    Rtn,
    /// Every weight to its nearest value, around zero points that care little for outliers. Needs no calibration text; affine grids.
    Hqq,
    /// Errors of each column compensated by the columns after it.
    Gptq,
    /// Channels with large inputs scaled up, then every weight to its nearest value, under ranges that suit the inputs.
    Awq,
    /// The scaling of AWQ, then GPTQ.
    #[value(name = "awq+gptq", alias = "awq-gptq")]
    AwqGptq,
    /// Large inputs moved into the weights, so that both can be rounded to 8 bits: by default signed bytes with a scale per row, as compressed-tensors, for
    /// engines that round inputs too.
    Smoothquant,
}

impl MethodArg {
    /// Whether it cannot do without calibration text.
    pub fn needs_text(self) -> bool {
        !matches!(self, Self::Rtn | Self::Hqq)
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum ActOrder {
    /// Most important columns first, groups of neighbours: no cost at run time.
    Static,
    /// Most important columns first, groups in that order: the file then needs a group map (gptq only).
    Ordered,
    /// As stored.
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum HessianInputs {
    /// As they are.
    F32,
    /// Rounded to bfloat16, as processors with bf16 dot products would take them.
    Bf16,
}

fn parse_mix(text: &str) -> Result<FileType, String> {
    let names: Vec<_> = FileType::ALL.iter().map(|t| t.name()).collect();
    FileType::of_name(text).ok_or_else(|| format!("one of {}", names.join(", ")))
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
