//! Writing a model folder tensor by tensor.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use crate::{
    CheckpointError, TensorSpec,
    atomic::{reserve, sync_folder, write_error},
    checkpoint::{INDEX, SINGLE, is_file_name},
    error::io,
    header::{METADATA, name_problem},
    places::Places,
    total_bytes,
};

/// Files that belong to a model besides its weights and `config.json`, by name.
const COMPANIONS: [&str; 15] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "preprocessor_config.json",
    "LICENSE",
];
/// Held while a folder is written.
const LOCK: &str = ".lock";

/// Tokenizer, generation and similar files of a model folder.
pub(crate) fn companions(folder: &Path) -> Vec<PathBuf> {
    COMPANIONS.iter().map(|name| folder.join(name)).filter(|path| path.is_file()).collect()
}

/// Writes a model folder without ever holding more than it is given.
///
/// All tensors are announced at the beginning, so that every file is laid out, and its space reserved, before the first byte arrives. They
/// come in any order, each at once ([`write`](Self::write)) or in pieces ([`write_part`](Self::write_part)), and go to their places in
/// `.<name>.partial` beside the output; [`finish`](Self::finish) gives that folder its name. The bytes depend on the announcement and the tensors alone. Dropped before that, the folder is removed; what a killed process left behind is
/// removed by the next one that writes the same output.
#[derive(Debug)]
pub struct FolderWriter {
    out: PathBuf,
    partial: Partial,
    shards: Vec<Shard>,
    places: Places,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: File,
}

impl FolderWriter {
    /// Size above which Hugging Face starts a new file: 5 · 10⁹ bytes.
    pub const SHARD_BYTES: u64 = 5_000_000_000;

    /// Lays out the files for `specs`: `model.safetensors`, or shards of at most `shard_bytes` data bytes with an index. Tensors are put into shards in
    /// the order given; one that is larger has a shard of its own.
    ///
    /// # Errors
    /// If `out` exists or is being written by another process, a name occurs twice or cannot be, or the disk has no space for all.
    pub fn create(
        out: &Path,
        specs: Vec<TensorSpec>,
        shard_bytes: u64,
    ) -> Result<Self, CheckpointError> {
        check_names(&specs)?;
        let partial = Partial::create(out)?;
        let mut writer =
            Self { out: out.to_owned(), partial, shards: Vec::new(), places: Places::default() };
        let total = total_bytes(&specs);
        let shards = split(specs, shard_bytes);
        let (count, single) = (shards.len(), shards.len() == 1);
        let mut weight_map = BTreeMap::new();
        for (i, specs) in shards.into_iter().enumerate() {
            let name = match single {
                true => SINGLE.to_owned(),
                false => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            weight_map.extend(specs.iter().map(|spec| (spec.name.clone(), name.clone())));
            writer.lay_out(&name, specs)?;
        }
        if !single {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            writer.write_json(INDEX, &index)?;
        }
        Ok(writer)
    }

    /// Creates a shard with its header, and its data as a hole.
    fn lay_out(&mut self, name: &str, mut specs: Vec<TensorSpec>) -> Result<(), CheckpointError> {
        // As the `safetensors` crate orders them, so that every tensor is aligned to its element.
        specs.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
        let header = header(&specs);
        let path = self.partial.path.join(name);
        let length = header.len() as u64 + total_bytes(&specs);
        let create = || {
            let mut file = File::create_new(&path)?;
            reserve(&file, length)?;
            file.write_all(&header)?;
            Ok(file)
        };
        let file = create().map_err(|error| write_error(error, &path, length))?;
        let shard = self.shards.len();
        let mut begin = header.len() as u64;
        for spec in specs {
            let bytes = spec.bytes();
            self.places.announce(spec.name, shard, begin, bytes);
            begin += bytes;
        }
        self.shards.push(Shard { path, file });
        Ok(())
    }

    /// Writes a tensor at its place. Any order will do; each tensor once.
    ///
    /// # Errors
    /// If the tensor was not announced or was written already, `bytes` is not as long as announced, or the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.places.check_whole(name, bytes)?;
        self.write_part(name, 0, bytes)
    }

    /// Writes a piece of a tensor, from byte `offset` of it on. Pieces of a tensor come one after another, those of several tensors in any order.
    ///
    /// # Errors
    /// If the tensor was not announced, the piece does not begin where the last one ended, it goes beyond the announced length, or the disk is full.
    pub fn write_part(
        &mut self,
        name: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), CheckpointError> {
        self.places.write(name, offset, bytes, |index| {
            let Shard { path, file } = &mut self.shards[index];
            (file, path)
        })
    }

    /// Copies tokenizer, generation and similar files from a model folder; returns their names. `config.json` is not among them.
    ///
    /// # Errors
    /// If a file cannot be read or written.
    pub fn copy_companions(&mut self, from: &Path) -> Result<Vec<String>, CheckpointError> {
        let mut copied = Vec::new();
        for path in companions(from) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let bytes = fs::read(&path).map_err(io("read", &path))?;
            self.write_file(&name, &bytes)?;
            copied.push(name);
        }
        Ok(copied)
    }

    /// Writes a JSON file, such as `config.json`, indented and with the keys in the order of `value`. An earlier one is replaced.
    ///
    /// # Errors
    /// If `name` is no plain file name or that of a weight file, or the file cannot be written.
    pub fn write_json(&mut self, name: &str, value: &Value) -> Result<(), CheckpointError> {
        self.write_file(name, format!("{value:#}\n").as_bytes())
    }

    fn write_file(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.partial.path.join(name);
        if !is_file_name(name) || name == LOCK || self.shards.iter().any(|s| s.path == path) {
            return Err(CheckpointError::FileName { name: name.to_owned() });
        }
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(bytes)?;
            file.sync_all()
        };
        write().map_err(|error| write_error(error, &path, bytes.len() as u64))
    }

    /// Makes what was written durable; returns the temporary folder, to read it back before it gets its final name.
    ///
    /// # Errors
    /// If a tensor was never written, or the system refuses.
    pub fn complete(&mut self) -> Result<&Path, CheckpointError> {
        self.places.check_complete()?;
        for Shard { path, file } in &self.shards {
            file.sync_all().map_err(io("finish writing", path))?;
        }
        Ok(&self.partial.path)
    }

    /// Makes the folder durable and gives it its final name, which is returned.
    ///
    /// # Errors
    /// If a tensor was never written, the output came into being meanwhile, or the system refuses; nothing is then left under the final name.
    pub fn finish(mut self) -> Result<PathBuf, CheckpointError> {
        self.complete()?;
        self.partial.rename(&self.out)?;
        Ok(self.out)
    }
}

/// Refuses names that occur twice or cannot be.
fn check_names(specs: &[TensorSpec]) -> Result<(), CheckpointError> {
    let mut names = BTreeSet::new();
    for TensorSpec { name, .. } in specs {
        if let Some(problem) = name_problem(name) {
            return Err(CheckpointError::TensorName { name: name.clone(), problem });
        }
        if !names.insert(name) {
            let (tensor, problem) = (name.clone(), "is announced twice");
            return Err(CheckpointError::Unexpected { tensor, problem });
        }
    }
    Ok(())
}

/// Cuts a list of tensors where the next one would exceed `shard_bytes`. At least one shard, be it empty.
fn split(specs: Vec<TensorSpec>, shard_bytes: u64) -> Vec<Vec<TensorSpec>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    for spec in specs {
        let bytes = spec.bytes();
        let last = shards.len() - 1;
        if filled + bytes > shard_bytes && !shards[last].is_empty() {
            shards.push(vec![spec]);
            filled = bytes;
        } else {
            shards[last].push(spec);
            filled += bytes;
        }
    }
    shards
}

/// Length and JSON of a header for tensors in this order, padded with spaces to a multiple of 8 bytes.
fn header(specs: &[TensorSpec]) -> Vec<u8> {
    let mut object = Map::new();
    object.insert(METADATA.to_owned(), json!({ "format": "pt" }));
    let mut begin = 0;
    for spec in specs {
        let end = begin + spec.bytes();
        let record = json!({
            "dtype": spec.dtype,
            "shape": spec.shape,
            "data_offsets": [begin, end],
        });
        object.insert(spec.name.clone(), record);
        begin = end;
    }
    let mut json = Value::Object(object).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

/// The temporary folder, locked while it is written and removed unless renamed.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) path: PathBuf,
    /// `None` after the renaming.
    lock: Option<File>,
}

impl Partial {
    pub(crate) fn create(out: &Path) -> Result<Self, CheckpointError> {
        if fs::symlink_metadata(out).is_ok() {
            return Err(CheckpointError::OutputExists { path: out.to_owned() });
        }
        let Some(name) = out.file_name() else {
            return Err(CheckpointError::FileName { name: out.display().to_string() });
        };
        let path = out.with_file_name(format!(".{}.partial", name.to_string_lossy()));
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io("create", path)(error));
            }
            _ => {}
        }
        let lock_path = path.join(LOCK);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(io("create", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(CheckpointError::OutputBusy { path }),
            // No locks on this file system: as if nobody else were there.
            Err(TryLockError::Error(_)) => {}
        }
        let partial = Self { path, lock: Some(lock) };
        partial.clear()?;
        Ok(partial)
    }

    /// Removes what an earlier process left.
    fn clear(&self) -> Result<(), CheckpointError> {
        let failed = || io("clear", &self.path);
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            if entry.file_name() != LOCK {
                let path = entry.path();
                let directory = entry.file_type().is_ok_and(|t| t.is_dir());
                let removed =
                    if directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(io("remove", path))?;
            }
        }
        Ok(())
    }

    fn rename(mut self, out: &Path) -> Result<(), CheckpointError> {
        if fs::symlink_metadata(out).is_ok() {
            return Err(CheckpointError::OutputExists { path: out.to_owned() });
        }
        sync_folder(&self.path).map_err(io("finish writing", &self.path))?;
        if cfg!(windows) {
            // An open file would hold the folder in place.
            self.lock = None;
        }
        fs::rename(&self.path, out).map_err(io("rename to its final name", &self.path))?;
        // The lock goes last: while its name is there, nobody else can take the folder for abandoned.
        self.lock = None;
        self.path = PathBuf::new();
        fs::remove_file(out.join(LOCK)).map_err(io("remove", out.join(LOCK)))?;
        let parent = out.parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        sync_folder(parent).map_err(io("finish writing", parent))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.path != Path::new("") {
            // Nobody is left to tell of a failure; the next writer tries again.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
