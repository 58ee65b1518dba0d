//! What the example programs share.
#![allow(dead_code, reason = "each program uses its part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use fewbit::{
    checkpoint::write_atomically,
    eval::units,
    model::{Activations, CacheType, Tokenizer},
};

pub mod bar;
pub mod container;
pub mod demo_tasks;
pub mod float32;
pub mod grid;
pub mod scorer;
pub mod speed;
pub mod training;

/// In what the inputs of few-bit layers are multiplied.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Inputs {
    /// Exact to rounding.
    Float,
    /// 8 bits, made on the way: the fast way, where the grid has it.
    Int8,
}

impl From<Inputs> for Activations {
    fn from(inputs: Inputs) -> Self {
        match inputs {
            Inputs::Float => Self::Float,
            Inputs::Int8 => Self::Int8,
        }
    }
}

/// A type of cached keys and values by its name.
pub fn parse_cache(name: &str) -> Result<CacheType, String> {
    let names = CacheType::ALL.map(CacheType::name).join(", ");
    CacheType::from_name(name).ok_or_else(|| format!("no such type; one of {names}"))
}

/// Text between two documents of a text file, unless another separator is given.
pub const SEPARATOR: &str = "<|endoftext|>";

/// Says what went wrong, if anything did.
pub fn exit_code(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Computes with so many threads; all cores if none are asked for.
pub fn use_threads(threads: Option<usize>) -> Result<()> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    }
    Ok(())
}

/// The demo model as a folder in the system's temporary directory.
pub fn demo_model() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(concat!("fewbit-demo-", env!("CARGO_PKG_VERSION")));
    // Written beside and renamed, because another program may be reading it.
    let fresh = tempfile::Builder::new().prefix("fewbit-demo-").tempdir()?;
    fewbit_demo::write_model(fresh.path())?;
    let same = || {
        let equal = |(name, bytes): &(&str, &[u8])| {
            fs::read(folder.join(name)).is_ok_and(|found| found == *bytes)
        };
        fewbit_demo::files().iter().all(equal)
    };
    if !same() {
        let _ = fs::remove_dir_all(&folder);
        let fresh = fresh.keep();
        if let Err(error) = fs::rename(&fresh, &folder) {
            let _ = fs::remove_dir_all(&fresh);
            // Another program may have come first, and then all is well.
            if !same() {
                bail!("cannot place the demo model at {}: {error}", folder.display());
            }
        }
    }
    Ok(folder)
}

/// Splits a text at [`SEPARATOR`] lines into documents and encodes each after the beginning-of-text token `bos`. Documents of fewer than
/// two tokens are dropped: nothing can be predicted in them.
pub fn encode_documents(
    tokenizer: &Tokenizer,
    bos: Option<u32>,
    text: &str,
) -> Result<Vec<Vec<u32>>> {
    let mut documents = Vec::new();
    for document in fewbit::eval::split_documents(text, SEPARATOR) {
        let tokens = tokenizer.encode_with_bos(document, bos)?;
        if tokens.len() >= 2 {
            documents.push(tokens);
        }
    }
    Ok(documents)
}

/// Reads a text file.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(error) => bail!("{}: not UTF-8 ({error}); convert it first", path.display()),
    }
}

/// Writes the files of a report; returns their paths.
pub fn write_files(
    folder: &Path,
    files: impl IntoIterator<Item = (impl AsRef<Path>, Vec<u8>)>,
) -> Result<Vec<String>> {
    let mut written = vec![];
    for (name, content) in files {
        let file = folder.join(name);
        write_atomically(&file, &content)?;
        written.push(file.display().to_string());
    }
    Ok(written)
}

/// Seconds for people.
pub fn duration(seconds: f64) -> String {
    units::duration(Duration::from_secs_f64(seconds.max(0.0)))
}
