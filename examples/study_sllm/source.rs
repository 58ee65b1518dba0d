//! Texts, items and models.

use std::{fs, path::Path, path::PathBuf};

use anyhow::{Context, Result, bail};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{
        split_documents,
        tasks::{
            ChoiceItem, MmluSubject,
            longbench::{LongBenchTask, read_longbench},
            read_hellaswag, read_mmlu,
        },
    },
    model::{ModelConfig, Tokenizer, end_tokens},
};
use fewbit_demo::Split;

use crate::{
    args::Args,
    support::{self, demo_tasks},
};

/// What does not depend on the model.
pub struct Data {
    /// Calibration sets: name and documents.
    pub calibration: Vec<(String, Vec<String>)>,
    /// Text to measure on.
    pub held_out: Vec<String>,
    pub hellaswag: Vec<ChoiceItem>,
    pub mmlu: Vec<MmluSubject>,
    pub longbench: Vec<LongBenchTask>,
}

impl Data {
    pub fn of(args: &Args) -> Result<Self> {
        let demo = args.is_demo();
        let limit = args.limit.unwrap_or(usize::MAX);
        let mut hellaswag = match &args.hellaswag {
            Some(file) => read_hellaswag(file)?,
            None if demo => demo_tasks::hellaswag(),
            None => vec![],
        };
        hellaswag.truncate(limit);
        let mut mmlu = match &args.mmlu {
            Some(folder) => read_mmlu(folder)?,
            None if demo => demo_tasks::mmlu(),
            None => vec![],
        };
        mmlu.iter_mut().for_each(|subject| subject.test.truncate(limit));
        let mut longbench = match &args.longbench {
            Some(folder) => read_longbench(folder)?,
            None if demo => demo_tasks::longbench(),
            None => vec![],
        };
        longbench.iter_mut().for_each(|task| task.items.truncate(limit));

        let mut calibration = vec![];
        for set in &args.calibration {
            let Some((name, files)) = set.split_once('=') else {
                bail!("--calibration {set}: write NAME=FILE or NAME=FILE+FILE");
            };
            let read = |file: &str| Ok(documents(&support::read_text(Path::new(file))?));
            let texts = files.split('+').map(read).collect::<Result<Vec<_>>>()?;
            calibration.push((name.to_owned(), mixed(texts)));
        }
        if calibration.is_empty() {
            if !demo {
                bail!("--calibration is missing: NAME=FILE of a text that methods learn from");
            }
            let stories = documents(&fewbit_demo::text(Split::Calibration, 400_000));
            let questions = questions();
            calibration.push(("stories".into(), stories.clone()));
            calibration.push(("questions".into(), questions.clone()));
            calibration.push(("both".into(), mixed(vec![stories, questions])));
        }
        let held_out = match &args.text {
            Some(file) => documents(&support::read_text(file)?),
            None if demo && args.calibration.is_empty() => {
                documents(&fewbit_demo::text(Split::Validation, 60_000))
            }
            None => {
                let last = calibration[0].1.len() - calibration[0].1.len() / 10;
                let held_out = calibration[0].1.split_off(last);
                // Mixtures of the same text must not see it either.
                for (_, documents) in &mut calibration {
                    documents.retain(|document| !held_out.contains(document));
                }
                held_out
            }
        };
        Ok(Self { calibration, held_out, hellaswag, mmlu, longbench })
    }
}

fn documents(text: &str) -> Vec<String> {
    split_documents(text, support::SEPARATOR).map(str::to_owned).collect()
}

/// The demo's questions with their answers, four together.
fn questions() -> Vec<String> {
    let one = |q: fewbit_demo::Question| format!("{}\n{}", q.question, q.choices[q.right]);
    let all: Vec<String> = fewbit_demo::questions(Split::Calibration).take(4000).map(one).collect();
    all.chunks(4).map(|four| four.join("\n")).collect()
}

/// Documents of each text in turn, so that the beginning of the mixture is a mixture.
fn mixed(texts: Vec<Vec<String>>) -> Vec<String> {
    let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|i| texts.iter().filter_map(move |text| text.get(i).cloned())).collect()
}

/// A model in floats with what belongs to it.
pub struct Source {
    pub name: String,
    pub folder: PathBuf,
    /// Where its results go.
    pub out: PathBuf,
    pub config: ModelConfig,
    pub tokenizer: Tokenizer,
    pub end_tokens: Vec<u32>,
    /// Calibration sets in tokens.
    pub calibration: Vec<Vec<Vec<u32>>>,
    pub held_out: Vec<Vec<u32>>,
}

impl Source {
    pub fn of(args: &Args, data: &Data, folder: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open_with(folder, Access::Positioned)?;
        let config = ModelConfig::of(&checkpoint)?;
        let tokenizer = Tokenizer::load(&checkpoint)
            .with_context(|| format!("{} has no tokenizer", folder.display()))?;
        let encode = |documents: &[String]| -> Result<Vec<Vec<u32>>> {
            let mut encoded = vec![];
            for document in documents {
                let tokens = tokenizer.encode_with_bos(document, config.bos_token)?;
                if tokens.len() >= 2 {
                    encoded.push(tokens);
                }
            }
            Ok(encoded)
        };
        let name = match args.is_demo() {
            true => "the embedded demo model".to_owned(),
            false => folder.file_name().map_or_else(
                || folder.display().to_string(),
                |name| name.to_string_lossy().into_owned(),
            ),
        };
        let out = args.out.join(if args.is_demo() { "demo" } else { &name });
        fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
        let mut held_out = encode(&data.held_out)?;
        held_out.truncate(args.documents);
        Ok(Self {
            end_tokens: end_tokens(&checkpoint, &config)?,
            calibration: data
                .calibration
                .iter()
                .map(|(_, documents)| encode(documents))
                .collect::<Result<_>>()?,
            held_out,
            name,
            folder: folder.to_path_buf(),
            out,
            config,
            tokenizer,
        })
    }
}
