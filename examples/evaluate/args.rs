//! What the program is asked for.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use fewbit::{eval::tasks::MmluProtocol, model::CacheType};

use crate::support::{
    self,
    scorer::{Bos, Scorer},
};

#[derive(Parser)]
#[command(
    about = "How good a model is, float or quantized, and how far from its baseline: perplexity, KL divergence, HellaSwag, MMLU, LongBench"
)]
pub struct Args {
    /// Model folder or GGUF file. Without it: the embedded demo model, with text and items of its own.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// The model that it was made from: adds KL divergence and agreement, and paired differences to every task.
    #[arg(long)]
    pub baseline: Option<PathBuf>,
    /// What to measure; without it: what there is data for, and perplexity (with a baseline, KL divergence too).
    #[arg(long, value_enum, value_delimiter = ',')]
    pub tasks: Vec<Task>,
    /// Use the first so many documents or windows; items of HellaSwag, of each subject of MMLU, of each data set of LongBench.
    #[arg(long)]
    pub limit: Option<usize>,
    /// Threads; default: all cores.
    #[arg(long)]
    pub threads: Option<usize>,
    /// Texts are read together until they have so many tokens, or so many logits that they take 128 MiB; 0 or 1: one by one. Results are the same up to
    /// rounding.
    #[arg(long, value_name = "N", default_value_t = Scorer::BATCH_TOKENS)]
    pub batch_tokens: usize,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Folder for report.json, items.csv, and the journals with which the same command goes on where it was interrupted.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// In what the inputs of few-bit layers are multiplied. With int8 and no --baseline, perplexity comes with the distance from float inputs.
    #[arg(long, value_enum, default_value_t = support::Inputs::Float)]
    pub activations: support::Inputs,
    /// How keys and values are cached: f32, f16, q8 or q4. With another than f32 and no --baseline, perplexity comes with the distance from f32.
    #[arg(long, value_parser = support::parse_cache, default_value = "f32")]
    pub cache: CacheType,

    /// Text for perplexity and KL divergence; without it: test text of the demo model.
    #[arg(long, help_heading = "Perplexity, KL divergence")]
    pub text: Option<PathBuf>,
    /// How the text is cut.
    #[arg(long, value_enum, default_value_t = Protocol::Documents, help_heading = "Perplexity, KL divergence")]
    pub protocol: Protocol,
    /// Tokens of a window, or the most tokens of a document.
    #[arg(long, default_value_t = 512, help_heading = "Perplexity, KL divergence")]
    pub window: usize,
    /// Measure tokens per second too.
    #[arg(long, help_heading = "Perplexity, KL divergence")]
    pub speed: bool,

    /// File of HellaSwag items, JSON lines as in hellaswag_val.jsonl.
    #[arg(long, value_name = "FILE", help_heading = "Tasks")]
    pub hellaswag: Option<PathBuf>,
    /// Folder of MMLU: dev/ and test/ with CSV files, or dev.jsonl and test.jsonl.
    #[arg(long, value_name = "FOLDER", help_heading = "Tasks")]
    pub mmlu: Option<PathBuf>,
    /// Solved examples before each question of MMLU.
    #[arg(long, default_value_t = 5, help_heading = "Tasks")]
    pub shots: usize,
    /// Whose prompts and categories of MMLU.
    #[arg(long, value_enum, default_value_t = Mmlu::Harness, help_heading = "Tasks")]
    pub mmlu_protocol: Mmlu,
    /// Folder of LongBench: data sets as JSON lines in it or in data/, dataset2prompt.json in it or in config/.
    #[arg(long, value_name = "FOLDER", help_heading = "Tasks")]
    pub longbench: Option<PathBuf>,
    /// Most tokens of a prompt of LongBench, whose middle is left out; default: the context less 500.
    #[arg(long, help_heading = "Tasks")]
    pub max_prompt: Option<usize>,
    /// How the texts of a task begin.
    #[arg(long, value_enum, default_value_t = Bos::Tokenizer, help_heading = "Tasks")]
    pub bos: Bos,
    /// Most tokens that the model reads at once in a task; default: what its configuration says.
    #[arg(long, help_heading = "Tasks")]
    pub context: Option<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Task {
    /// Perplexity of a text.
    Perplexity,
    /// KL divergence from the baseline, with perplexity.
    Kld,
    /// Everyday scenes with four endings.
    Hellaswag,
    /// School and college questions with four answers.
    Mmlu,
    /// Questions about long texts, answered in words.
    Longbench,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// Each document (between <|endoftext|> lines) on its own, after the beginning-of-text token.
    Documents,
    /// The whole text as one stream, in windows without overlap: the GPTQ papers' protocol for wikitext-2.
    Windows,
    /// As llama.cpp's perplexity: windows without overlap, the first token replaced by the beginning-of-text token if the tokenizer adds one, the second half
    /// predicted.
    LlamaCpp,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mmlu {
    /// lm-evaluation-harness.
    Harness,
    /// The authors' program.
    Original,
}

impl From<Mmlu> for MmluProtocol {
    fn from(protocol: Mmlu) -> Self {
        match protocol {
            Mmlu::Harness => Self::Harness,
            Mmlu::Original => Self::Original,
        }
    }
}

impl Args {
    /// The tasks asked for, by name or by their data.
    pub fn chosen(&self) -> Result<Vec<Task>> {
        let by_data = [
            (&self.hellaswag, Task::Hellaswag),
            (&self.mmlu, Task::Mmlu),
            (&self.longbench, Task::Longbench),
        ];
        let mut tasks = self.tasks.clone();
        tasks.extend(by_data.iter().filter(|(data, _)| data.is_some()).map(|(_, task)| *task));
        if tasks.is_empty() {
            tasks
                .extend([Task::Perplexity].into_iter().chain(self.distance().then_some(Task::Kld)));
        }
        if tasks.contains(&Task::Kld) && !self.distance() {
            bail!(
                "KL divergence needs --baseline, or int8 --activations or a small --cache to compare with floats"
            );
        }
        if self.model.is_some() {
            for (data, task, flag) in [
                (&self.hellaswag, Task::Hellaswag, "--hellaswag FILE"),
                (&self.mmlu, Task::Mmlu, "--mmlu FOLDER"),
                (&self.longbench, Task::Longbench, "--longbench FOLDER"),
            ] {
                if tasks.contains(&task) && data.is_none() {
                    bail!("{flag} is missing: name the data of the task");
                }
            }
        }
        Ok(tasks)
    }

    /// Whether there is something to compare with.
    pub fn distance(&self) -> bool {
        self.baseline.is_some() || self.is_fast()
    }

    /// Whether the model does not run in floats.
    pub fn is_fast(&self) -> bool {
        self.activations == support::Inputs::Int8 || self.cache != CacheType::F32
    }
}
