//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use fewbit::{format::Scheme, gptq::GptqSpec, pipeline::sensitivity::grid_of_name};

#[derive(Parser)]
#[command(about = "Find how many bits each matrix of a model should get, for a budget")]
pub struct Args {
    /// Model folder (config.json, model.safetensors or shards, tokenizer.json). Without it: the embedded demo model.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Text to calibrate on, documents separated by <|endoftext|>.
    #[arg(long)]
    pub calibration: Option<PathBuf>,
    /// Held-out text on which the plan is compared with the uniform plan. Default: the last tenth of the calibration text, which is then not calibrated on.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// What the plan may cost: 4.25bpw (of the linear layers), 600MB or 1.5GiB (of the whole output), 30tok/s (on this machine); several with commas.
    #[arg(long, default_value = "4.25bpw")]
    pub budget: String,
    /// Grids to choose from, such as int2-g64,int3-g128,int4-g128,int8-g128,float or q3_k,q4_k,q6_k. Default: what the container carries.
    #[arg(long, value_delimiter = ',', value_parser = parse_grid)]
    pub grids: Vec<Scheme>,
    /// What the plan is for.
    #[arg(long, value_enum, default_value_t = ContainerArg::Gptq)]
    pub container: ContainerArg,
    /// How codes will be chosen. Default: gptq, for GGUF blocks rtn.
    #[arg(long, value_enum)]
    pub method: Option<MethodArg>,
    /// One grid for query, key and value, and one for gate and up, as engines want that multiply them at once (vLLM).
    #[arg(long)]
    pub tie: bool,
    /// How the plan is made.
    #[arg(long, value_enum, default_value_t = Policy::Best)]
    pub policy: Policy,
    /// Tiers of the policy "tiers", the most important matrices first: share and grid.
    #[arg(long, value_delimiter = ',', default_value = "0.3:float,0.3:int8-g128,0.4:int4-g128")]
    pub tiers: Vec<String>,
    /// By which measure the policy "tiers" ranks matrices.
    #[arg(long, value_enum, default_value_t = Importance::Influence)]
    pub importance: Importance,
    /// Rounds in which nearly as good plans are measured as wholes, and the best one is taken over.
    #[arg(long, default_value_t = 0)]
    pub refine: usize,
    /// Plans that are measured in such a round.
    #[arg(long, default_value_t = 6)]
    pub refine_plans: usize,
    /// The plan, as JSON to read and edit. Figures go beside it.
    #[arg(long, default_value = "plan.json")]
    pub out: PathBuf,
    /// Where measurements are kept. Default: beside the plan.
    #[arg(long)]
    pub cache: Option<PathBuf>,
    /// Do not quantize the model by the plan and by the uniform plan to compare them.
    #[arg(long)]
    pub no_verify: bool,
    /// Windows of calibration text, for the measurement and the comparison.
    #[arg(long, default_value_t = 128)]
    pub windows: usize,
    /// Windows of calibration text from which errors of single matrices are learned.
    #[arg(long, default_value_t = 32)]
    pub measure_windows: usize,
    /// Tokens of a window; default 384 for the demo model, else 512.
    #[arg(long)]
    pub window: Option<usize>,
    /// Tokens on which outputs of disturbed copies are compared.
    #[arg(long, default_value_t = 4096)]
    pub probe_tokens: usize,
    /// Documents of held-out text that are used.
    #[arg(long, default_value_t = 128)]
    pub eval_documents: usize,
    /// Added to the Hessian's diagonal, as a fraction of its mean.
    #[arg(long, default_value_t = GptqSpec::default().damping)]
    pub damping: f64,
    /// Passes of coordinate descent after GPTQ, in the comparison.
    #[arg(long, default_value_t = GptqSpec::default().refine_passes)]
    pub descent: u32,
    /// How much of the errors of earlier layers a layer makes up for, 0 to 1, in the comparison.
    #[arg(long, default_value_t = 1.0)]
    pub mismatch: f32,
    /// Threads; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum ContainerArg {
    /// GPTQ, version 2: zero points as they are, so that widths can differ.
    Gptq,
    /// compressed-tensors, packed.
    CompressedTensors,
    /// compressed-tensors, a byte a code: carries one scale per tensor too.
    CompressedTensorsBytes,
    /// One GGUF file.
    Gguf,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum MethodArg {
    /// Every weight to its nearest value.
    Rtn,
    /// Errors of each column compensated by the columns after it.
    Gptq,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Policy {
    /// The least predicted loss within the budget.
    Best,
    /// The same grid for all: the one of least predicted loss within the budget.
    Uniform,
    /// Shares of the matrices by importance; the budget is not looked at.
    Tiers,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub enum Importance {
    /// How much the block changes what passes through it.
    Influence,
    /// Output error under the coarsest grid.
    Error,
    /// Predicted loss under the coarsest grid.
    Loss,
    /// Kurtosis of the weights.
    Kurtosis,
}

fn parse_grid(text: &str) -> Result<Scheme, String> {
    grid_of_name(text).ok_or_else(|| {
        "grids are named like int4-g128 (2, 3, 4, 5, 6, 8 bits; -g and a group size, -channel or -tensor; -sym), q4_k, nf4, float".into()
    })
}

/// What `--budget` says.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BudgetArg {
    pub bits_per_weight: Option<f64>,
    pub total_bytes: Option<u64>,
    pub tokens_per_second: Option<f64>,
}

impl BudgetArg {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut budget = Self::default();
        for part in text.split(',') {
            let part = part.trim().to_ascii_lowercase();
            let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(part.len());
            let (number, unit) = part.split_at(end);
            let value: f64 = number.trim().parse().map_err(|_| {
                format!("{part:?} is no budget: write 4.25bpw, 600MB, 1.5GiB or 30tok/s")
            })?;
            if !(value > 0.0 && value.is_finite()) {
                return Err(format!("a budget of {part} is impossible: it has to be positive"));
            }
            let bytes = |factor: f64| Some((value * factor) as u64);
            match unit {
                "bpw" => budget.bits_per_weight = Some(value),
                "tok/s" | "t/s" => budget.tokens_per_second = Some(value),
                "b" => budget.total_bytes = bytes(1.0),
                "kb" => budget.total_bytes = bytes(1e3),
                "mb" => budget.total_bytes = bytes(1e6),
                "gb" => budget.total_bytes = bytes(1e9),
                "kib" => budget.total_bytes = bytes(f64::from(1 << 10)),
                "mib" => budget.total_bytes = bytes(f64::from(1 << 20)),
                "gib" => budget.total_bytes = bytes(f64::from(1 << 30)),
                _ => {
                    return Err(format!(
                        "{part:?} is no budget: write 4.25bpw, 600MB, 1.5GiB or 30tok/s"
                    ));
                }
            }
        }
        Ok(budget)
    }
}
