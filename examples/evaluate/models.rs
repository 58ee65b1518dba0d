//! The models that take part.

use std::{fs, path::Path, path::PathBuf, time::UNIX_EPOCH};

use anyhow::{Context, Result};
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::tasks::Journal,
    model::{Activations, CacheType, Model, Tokenizer, end_tokens},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    args::Args,
    support::{
        Inputs,
        scorer::{Scorer, Text},
    },
};

/// A model and, if there is one, its baseline, which share a tokenizer.
pub struct Models {
    pub model: Contestant,
    pub baseline: Option<Contestant>,
    /// Tokens that end a text.
    pub end_tokens: Vec<u32>,
    tokenizer: Tokenizer,
}

/// A model in memory with how it runs.
pub struct Contestant {
    path: PathBuf,
    pub model: Model,
    cache: CacheType,
    inputs: Inputs,
}

impl Models {
    /// The baseline runs in floats.
    pub fn load(args: &Args, path: &Path, checkpoint: &Checkpoint) -> Result<Self> {
        let load = |path: &Path, checkpoint: &Checkpoint, inputs: Inputs, cache| -> Result<_> {
            let model = Model::load_with(checkpoint, Activations::from(inputs))?;
            Ok(Contestant { path: path.to_path_buf(), model, cache, inputs })
        };
        let baseline = match &args.baseline {
            Some(path) => {
                let checkpoint = Checkpoint::open_with(path, Access::Positioned)?;
                Some(load(path, &checkpoint, Inputs::Float, CacheType::F32)?)
            }
            None => None,
        };
        let tokenizer = Tokenizer::load(checkpoint).context("tasks need the model's tokenizer")?;
        let model = load(path, checkpoint, args.activations, args.cache)?;
        let end_tokens = end_tokens(checkpoint, model.model.config())?;
        Ok(Self { model, baseline, end_tokens, tokenizer })
    }

    /// The tokenizer as the tasks use it.
    pub fn text(&self, args: &Args) -> Text<'_> {
        let bos = self.model.model.config().bos_token;
        Text { tokenizer: &self.tokenizer, rule: args.bos, bos }
    }
}

impl Contestant {
    pub fn scorer(&self, args: &Args) -> Scorer<'_> {
        Scorer::new(&self.model, self.cache).with_batch_tokens(args.batch_tokens)
    }

    /// Most tokens that it reads at once.
    pub fn context(&self, args: &Args) -> usize {
        args.context.unwrap_or(self.model.config().max_positions)
    }

    /// The journal of a task in the output folder, if there is one.
    pub fn journal<R: Serialize + DeserializeOwned>(
        &self,
        args: &Args,
        task: &str,
        items: &(impl Serialize + ?Sized),
    ) -> Result<Journal<R>> {
        let Some(folder) = &args.out else { return Ok(Journal::in_memory()) };
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let run = json!({
            "model": self.path,
            "files": weight_files(&self.path)?,
            "cache": self.cache.name(),
            "int8": self.inputs == Inputs::Int8,
            "bos": format!("{:?}", args.bos),
            "context": self.context(args),
            "max_prompt": args.max_prompt,
        });
        Ok(Journal::open(&folder.join(format!("{task}.jsonl")), &run, &items)?)
    }
}

/// Name, bytes and time of each file, so that results of other weights under the same name are not taken for these.
fn weight_files(path: &Path) -> Result<Vec<(String, u64, u128)>> {
    let files = if path.is_dir() {
        fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?
    } else {
        vec![path.to_path_buf()]
    };
    let mut described = vec![];
    for file in files {
        let metadata = file.metadata()?;
        let name = file.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
        let weights = [".safetensors", ".gguf", ".json"].iter().any(|end| name.ends_with(end));
        if metadata.is_file() && weights {
            let time = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            described.push((name, metadata.len(), time.as_nanos()));
        }
    }
    described.sort();
    Ok(described)
}
