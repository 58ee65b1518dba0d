//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{
    format::Granularity,
    gptq::GptqSpec,
    pipeline::{AwqSpec, Method, Rounding, Transform},
};

use crate::support;

#[derive(Parser)]
#[command(
    about = "GPTQ, AWQ and floats on some models: tasks, speed, memory, and how much calibration matters"
)]
pub struct Args {
    /// Model folders with float weights. Without them: the embedded demo model.
    #[arg(long, value_delimiter = ',')]
    pub model: Vec<PathBuf>,
    /// Calibration text as NAME=FILE, or NAME=FILE+FILE for a mixture document by document; may be given several times, and each method runs on each. Documents
    /// are separated by <|endoftext|>. For the demo model: stories, questions, and both, of its own.
    #[arg(long)]
    pub calibration: Vec<String>,
    /// Text for perplexity and KL divergence; default: the last tenth of the first calibration text, which then is not learned from.
    #[arg(long)]
    pub text: Option<PathBuf>,
    /// Methods beside the floats.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "gptq,awq,awq-gptq")]
    pub methods: Vec<MethodArg>,
    /// Bits of a code: 2, 3, 4 or 8.
    #[arg(long, default_value_t = 4)]
    pub bits: u32,
    /// Weights that share a scale. For the demo model 32, unless given.
    #[arg(long)]
    pub group_size: Option<u32>,
    /// Windows of calibration text; default: 128, for the demo model 32.
    #[arg(long)]
    pub windows: Option<usize>,
    /// Tokens of a window of calibration text.
    #[arg(long, default_value_t = 512)]
    pub window: usize,
    /// File of HellaSwag items, JSON lines as in hellaswag_val.jsonl.
    #[arg(long)]
    pub hellaswag: Option<PathBuf>,
    /// Folder of MMLU: dev/ and test/ with CSV files, or dev.jsonl and test.jsonl.
    #[arg(long)]
    pub mmlu: Option<PathBuf>,
    /// Folder of LongBench: data sets as JSON lines in it or in data/, dataset2prompt.json in it or in config/.
    #[arg(long)]
    pub longbench: Option<PathBuf>,
    /// Solved examples before each question of MMLU.
    #[arg(long, default_value_t = 5)]
    pub shots: usize,
    /// Use the first so many items of HellaSwag, of each subject of MMLU, of each data set of LongBench.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Documents for perplexity and KL divergence.
    #[arg(long, default_value_t = 100)]
    pub documents: usize,
    /// Most tokens that a model reads at once; default: what its configuration says.
    #[arg(long)]
    pub context: Option<usize>,
    /// Folder for models, journals, report.md, report.json and the figures.
    #[arg(long, default_value = "target/fewbit-study-sllm")]
    pub out: PathBuf,
    /// Threads; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Measures a model's speed and prints it as JSON: what the program asks of itself.
    #[arg(long, hide = true)]
    pub speed_of: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum MethodArg {
    /// Plain rounding, which needs no text.
    Rtn,
    /// Codes that mend each other's errors.
    Gptq,
    /// Scales that protect what inputs make large.
    Awq,
    /// The scales of AWQ, then GPTQ.
    AwqGptq,
}

impl MethodArg {
    pub fn name(self) -> &'static str {
        match self {
            Self::Rtn => "RTN",
            Self::Gptq => "GPTQ",
            Self::Awq => "AWQ",
            Self::AwqGptq => "AWQ+GPTQ",
        }
    }

    pub fn method(self) -> Method {
        let gptq = Rounding::Gptq { spec: GptqSpec::default(), mismatch: 1.0 };
        match self {
            Self::Rtn => Method::nearest(),
            Self::Gptq => Method { transform: Transform::None, rounding: gptq },
            Self::Awq => Method {
                transform: Transform::Awq(AwqSpec::default()),
                rounding: Rounding::Nearest,
            },
            Self::AwqGptq => {
                Method { transform: Transform::Awq(AwqSpec::before_gptq()), rounding: gptq }
            }
        }
    }
}

impl Args {
    /// Whether everything comes from the demo.
    pub fn is_demo(&self) -> bool {
        self.model.is_empty()
    }

    pub fn models(&self) -> Result<Vec<PathBuf>> {
        match self.is_demo() {
            true => Ok(vec![support::demo_model()?]),
            false => Ok(self.model.clone()),
        }
    }

    /// Windows of calibration text.
    pub fn windows(&self) -> usize {
        self.windows.unwrap_or(if self.is_demo() { 32 } else { 128 })
    }

    /// Weights that share a scale.
    pub fn granularity(&self) -> Result<Granularity> {
        match self.group_size.unwrap_or(if self.is_demo() { 32 } else { 128 }) {
            0 => bail!("--group-size: at least 1"),
            size => Ok(Granularity::group(size)),
        }
    }
}
