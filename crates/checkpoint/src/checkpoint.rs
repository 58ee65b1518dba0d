//! A model folder, opened for reading.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    ops::Range,
    path::{Path, PathBuf},
};

use fewbit_format::{MatrixShape, Quantized, bf16, f16};
use half::slice::HalfFloatSliceExt;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{
    Access, CheckpointError, ConfigProblem, ContainerConfig, Dtype, MlxConfig, TensorInfo,
    TensorSource,
    config::CONFIG_KEYS,
    error::io,
    gguf_model::{GgufModel, TokenizerFiles, find_gguf},
    header::{Entries, Entry},
    mlx,
    onnx::OnnxFile,
    storage::Storage,
    tensor::row_bytes,
};

/// A single weight file.
pub(crate) const SINGLE: &str = "model.safetensors";
/// The index of several.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// A model folder, or a single safetensors, GGUF or ONNX file, opened for reading.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    /// The model that a GGUF file stands for. Its tensors are among `tensors`; `files` is then empty.
    gguf: Option<GgufModel>,
    config: Map<String, Value>,
    container: Option<ContainerConfig>,
    files: Vec<Storage>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Place {
    file: usize,
    entry: Entry,
}

/// The weight of a linear layer.
#[derive(Clone, Debug, PartialEq)]
pub enum Weight {
    /// In floating point, widened to f32.
    Float {
        /// Shape.
        shape: MatrixShape,
        /// Element type in the file: F32, F16 or BF16.
        dtype: Dtype,
        /// `(out_features, in_features)` row-major.
        data: Vec<f32>,
    },
    /// On a grid.
    Quant(Quantized),
}

impl Weight {
    /// Shape of the matrix.
    pub fn shape(&self) -> MatrixShape {
        match self {
            Self::Float { shape, .. } => *shape,
            Self::Quant(matrix) => matrix.shape(),
        }
    }
}

impl Checkpoint {
    /// Opens a Hugging Face folder, or one `.safetensors`, `.gguf` or `.onnx` file, mapped where the feature `mmap` is on: [`Access::Mapped`].
    ///
    /// A folder holds `model.safetensors`, or shards with `model.safetensors.index.json`, or one file of another name, and `config.json`.
    /// Beside a single file, `config.json` is optional. A folder with a GGUF model and no safetensors stands for that model, and a split one for
    /// its first file. All headers and the configuration are read and checked; no weight is touched.
    ///
    /// # Errors
    /// If a file is missing, truncated or contradicts itself or another, or if the weights are quantized in a way that cannot be read.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_with(path, Access::default())
    }

    /// [`open`](Self::open) with a choice of how weight files are reached.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let metadata = fs::metadata(path).map_err(io("open", path))?;
        if let Some(file) = find_gguf(path, metadata.is_dir())? {
            return Self::open_gguf(&file, access);
        }
        if path.extension() == Some(OsStr::new("onnx")) {
            return Self::open_onnx(path, access);
        }
        let (folder, index) = if metadata.is_dir() {
            (path.to_owned(), Index::find(path)?)
        } else {
            let folder = path.parent().unwrap_or(Path::new("")).to_owned();
            (folder, Index { path: path.to_owned(), shards: vec![(path.to_owned(), Vec::new())] })
        };
        let config = read_object(&folder.join("config.json"))?.unwrap_or_default();
        let container = read_container(&folder, &config)?;
        let (files, tensors) = index.open(access)?;
        Ok(Self { folder, gguf: None, config, container, files, tensors })
    }

    fn open_onnx(file: &Path, access: Access) -> Result<Self, CheckpointError> {
        let OnnxFile { files, tensors: entries, nodes, config } = OnnxFile::open(file, access)?;
        let mut tensors = BTreeMap::new();
        for (number, entry) in entries {
            let tensor = entry.info.name.clone();
            if tensors.insert(tensor.clone(), Place { file: number, entry }).is_some() {
                return Err(CheckpointError::Unexpected { tensor, problem: "is there twice" });
            }
        }
        Ok(Self {
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            gguf: None,
            config,
            container: Some(ContainerConfig::Onnx(nodes)),
            files,
            tensors,
        })
    }

    fn open_gguf(file: &Path, access: Access) -> Result<Self, CheckpointError> {
        let gguf = GgufModel::open(file, access)?;
        let place = |info: &TensorInfo| {
            (info.name.clone(), Place { file: 0, entry: Entry { info: info.clone(), begin: 0 } })
        };
        Ok(Self {
            folder: file.parent().unwrap_or(Path::new("")).to_owned(),
            config: gguf.config().clone(),
            container: None,
            files: Vec::new(),
            tensors: gguf.tensors().map(place).collect(),
            gguf: Some(gguf),
        })
    }

    /// The model of a GGUF file, if that is what was opened.
    pub fn gguf(&self) -> Option<&GgufModel> {
        self.gguf.as_ref()
    }

    /// `tokenizer.json` as it is, or as it follows from the metadata of a GGUF file; `None` if there is no tokenizer.
    ///
    /// # Errors
    /// If the file cannot be read, or a GGUF file has a vocabulary of a kind that `tokenizer.json` has no form for.
    pub fn tokenizer_json(&self) -> Result<Option<Vec<u8>>, CheckpointError> {
        if let Some(gguf) = &self.gguf {
            let files = gguf.tokenizer()?.map(|(files, _)| Value::Object(files.tokenizer));
            return Ok(files.map(|json| json.to_string().into_bytes()));
        }
        let file = self.folder.join("tokenizer.json");
        match fs::read(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(io("read", file)),
        }
    }

    /// The files of the tokenizer, or what follows from the metadata of a GGUF file; `None` if there is no tokenizer.
    ///
    /// # Errors
    /// If a file cannot be read, or a GGUF file has a vocabulary of a kind that `tokenizer.json` has no form for.
    pub fn tokenizer_files(&self) -> Result<Option<TokenizerFiles>, CheckpointError> {
        match &self.gguf {
            Some(gguf) => Ok(gguf.tokenizer()?.map(|(files, _)| files)),
            None if self.folder.join("tokenizer.json").is_file() => {
                TokenizerFiles::read(&self.folder).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The folder; of a single file, the one that it lies in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// `config.json` as it is, or as it follows from the metadata of a GGUF file; empty if there is none.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// What `quantization_config` says, if there is one.
    pub fn container(&self) -> Option<&ContainerConfig> {
        self.container.as_ref()
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.values().map(|place| &place.entry.info)
    }

    /// The tensor of this name, if there is one.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|place| &place.entry.info)
    }

    /// The file that holds this tensor, if there is such a tensor.
    pub fn file_of(&self, name: &str) -> Option<&Path> {
        if let Some(gguf) = &self.gguf {
            return gguf.file_of(name);
        }
        self.tensors.get(name).map(|place| self.files[place.file].path())
    }

    /// Size of all weight files, headers included.
    pub fn file_bytes(&self) -> u64 {
        match &self.gguf {
            Some(gguf) => gguf.gguf().file_bytes(),
            None => self.files.iter().map(Storage::bytes).sum(),
        }
    }

    /// The little-endian bytes of a tensor, in row-major order and of any alignment. Mapped bytes are not copied.
    ///
    /// # Errors
    /// If there is no such tensor, or its file cannot be read.
    pub fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        if let Some(gguf) = &self.gguf {
            return gguf.read(name);
        }
        let (storage, entry) = self.place(name)?;
        storage.read(entry.begin, entry.info.bytes as usize)
    }

    /// Reads some rows of a tensor, with its first dimension counted as its rows, as [`read`](Self::read) gives them, so that a large one can be handled
    /// piece by piece. What `out` held before is dropped. Copies even where files are mapped, so that no page of the file stays resident.
    ///
    /// # Errors
    /// If there is no such tensor, it has fewer rows, or its file cannot be read.
    pub fn read_rows_into(
        &self,
        name: &str,
        rows: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(), CheckpointError> {
        if let Some(gguf) = &self.gguf {
            return gguf.read_rows_into(name, rows, out);
        }
        let (storage, entry) = self.place(name)?;
        let row = row_bytes(&entry.info, &rows)?;
        out.resize(rows.len() * row, 0);
        storage.read_into(entry.begin + (rows.start * row) as u64, out)
    }

    /// The values of an F32, F16 or BF16 tensor, widened to f32. Reads through a small buffer even where files are mapped, so that no page of
    /// the file stays resident.
    ///
    /// # Errors
    /// If there is no such tensor, it has another type, or its file cannot be read.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        if let Some(gguf) = &self.gguf {
            return gguf.read_f32(name);
        }
        let (storage, entry) = self.place(name)?;
        let (begin, dtype) = (entry.begin, entry.info.dtype);
        check_float(&entry.info)?;
        let mut values = vec![0f32; entry.info.bytes as usize * 8 / dtype.bitsize()];
        match dtype {
            Dtype::F32 => {
                storage.read_into(begin, bytemuck::cast_slice_mut(&mut values))?;
                for value in &mut values {
                    *value = f32::from_bits(u32::from_le(value.to_bits()));
                }
            }
            _ => {
                /// Values converted at a time.
                const CHUNK: usize = 1 << 16;
                let mut buffer = vec![0u16; CHUNK.min(values.len())];
                for (i, values) in values.chunks_mut(CHUNK).enumerate() {
                    let buffer = &mut buffer[..values.len()];
                    let at = begin + (i * CHUNK * 2) as u64;
                    storage.read_into(at, bytemuck::cast_slice_mut(buffer))?;
                    for bits in buffer.iter_mut() {
                        *bits = u16::from_le(*bits);
                    }
                    match dtype {
                        Dtype::F16 => {
                            bytemuck::cast_slice::<_, f16>(buffer).convert_to_f32_slice(values)
                        }
                        _ => bytemuck::cast_slice::<_, bf16>(buffer).convert_to_f32_slice(values),
                    }
                }
            }
        }
        Ok(values)
    }

    /// The weight of a linear layer, such as `model.layers.0.mlp.down_proj`, float or quantized.
    ///
    /// # Errors
    /// If the layer has no weight or two, or its tensors contradict each other or the configuration.
    pub fn weight(&self, module: &str) -> Result<Weight, CheckpointError> {
        if let Some(gguf) = &self.gguf
            && let Some(blocks) = gguf.blocks(module)?
        {
            return Ok(Weight::Quant(Quantized::Block(blocks)));
        }
        let tensor = format!("{module}.weight");
        let float = self.tensor(&tensor);
        let ambiguous = |tensor, problem| {
            Err(CheckpointError::Ambiguous { module: module.to_owned(), tensor, problem })
        };
        if let Some(container) = &self.container
            && let Some(codes) = container.codes(self, module)
        {
            if float.is_some() && codes != ".weight" {
                return ambiguous(tensor, "it is quantized as well: remove one of the two");
            }
            return container.decode(self, module).map(Weight::Quant);
        }
        if float.is_none_or(|info| check_float(info).is_err()) {
            for mark in ContainerConfig::MARKS {
                let tensor = format!("{module}{mark}");
                if self.tensor(&tensor).is_some() {
                    return ambiguous(tensor, "the configuration does not say how it is quantized");
                }
            }
        }
        let Some(info) = float else { return self.missing(&tensor) };
        let &[out_features, in_features] = info.shape.as_slice() else {
            return Err(CheckpointError::Rank { tensor, got: info.shape.len(), expected: 2 });
        };
        let shape = MatrixShape { out_features, in_features };
        Ok(Weight::Float { shape, dtype: info.dtype, data: self.read_f32(&tensor)? })
    }

    /// The bias of a linear layer, if it has one.
    ///
    /// # Errors
    /// If it is no float vector, or its file cannot be read.
    pub fn bias(&self, module: &str) -> Result<Option<Vec<f32>>, CheckpointError> {
        let tensor = format!("{module}.bias");
        match self.tensor(&tensor) {
            None => Ok(None),
            Some(info) if info.shape.len() != 1 => {
                Err(CheckpointError::Rank { got: info.shape.len(), expected: 1, tensor })
            }
            Some(_) => self.read_f32(&tensor).map(Some),
        }
    }

    /// Paths of the tokenizer, generation and similar files that belong to the model; `config.json` is not among them. A GGUF file has none.
    pub fn companions(&self) -> Vec<PathBuf> {
        match self.gguf {
            Some(_) => Vec::new(),
            None => crate::writer::companions(&self.folder),
        }
    }

    /// The modules whose weights are quantized, sorted by name.
    pub fn quantized_modules(&self) -> impl Iterator<Item = &str> {
        let nodes = match &self.container {
            Some(ContainerConfig::Onnx(nodes)) => Some(nodes.modules()),
            _ => None,
        };
        let marked = self.tensors.keys().filter_map(|name| {
            if self.gguf.is_some() {
                return name.strip_suffix(GgufModel::BLOCKS);
            }
            let module = ContainerConfig::MARKS.iter().find_map(|mark| name.strip_suffix(mark))?;
            self.container.as_ref()?.holds(self, module).then_some(module)
        });
        marked.chain(nodes.into_iter().flatten()).collect::<BTreeSet<_>>().into_iter()
    }

    /// Reads and decodes every quantized module once, and so finds what the headers cannot show.
    ///
    /// # Errors
    /// The first error of [`weight`](Self::weight).
    pub fn check(&self) -> Result<(), CheckpointError> {
        self.quantized_modules().try_for_each(|module| self.weight(module).map(drop))
    }

    fn place(&self, name: &str) -> Result<(&Storage, &Entry), CheckpointError> {
        match self.tensors.get(name) {
            Some(place) => Ok((&self.files[place.file], &place.entry)),
            None => self.missing(name),
        }
    }

    fn missing<T>(&self, tensor: &str) -> Result<T, CheckpointError> {
        let (tensor, folder) = (tensor.to_owned(), self.folder.clone());
        Err(CheckpointError::MissingTensor { tensor, folder })
    }
}

impl TensorSource for Checkpoint {
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        Self::tensor(self, name)
    }

    fn read(&self, name: &str) -> Result<Cow<'_, [u8]>, CheckpointError> {
        Self::read(self, name)
    }
}

/// Refuses element types other than F32, F16 and BF16.
fn check_float(info: &TensorInfo) -> Result<(), CheckpointError> {
    match info.dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(()),
        got => {
            let tensor = info.name.clone();
            Err(CheckpointError::Dtype { tensor, got, expected: "F32, F16 or BF16" })
        }
    }
}

/// Which files hold the weights.
struct Index {
    /// The index file, or the single weight file.
    path: PathBuf,
    /// Each file with the tensors that it has to hold, in the order of the index.
    shards: Vec<(PathBuf, Vec<String>)>,
}

impl Index {
    fn find(folder: &Path) -> Result<Self, CheckpointError> {
        let index = folder.join(INDEX);
        if index.is_file() {
            return Self::read(index);
        }
        let mut path = folder.join(SINGLE);
        if !path.is_file() {
            // AutoGPTQ names its only file otherwise.
            let mut others = Vec::new();
            for entry in fs::read_dir(folder).map_err(io("list", folder))? {
                let other = entry.map_err(io("list", folder))?.path();
                if other.extension() == Some(OsStr::new("safetensors")) {
                    others.push(other);
                }
            }
            match <[PathBuf; 1]>::try_from(others) {
                Ok([other]) => path = other,
                Err(_) => return Err(CheckpointError::NoModel { folder: folder.to_owned() }),
            }
        }
        Ok(Self { shards: vec![(path.clone(), Vec::new())], path })
    }

    fn read(path: PathBuf) -> Result<Self, CheckpointError> {
        #[derive(Deserialize)]
        struct File {
            weight_map: Entries<String>,
        }
        let text = fs::read(&path).map_err(io("read", &path))?;
        let file: File = serde_json::from_slice(&text)
            .map_err(|source| CheckpointError::Json { file: path.clone(), source })?;
        let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (tensor, shard) in file.weight_map.0 {
            if !is_file_name(&shard) {
                return Err(CheckpointError::ShardPath { index: path, tensor, shard });
            }
            shards.entry(shard).or_default().push(tensor);
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        let shards = shards.into_iter().map(|(shard, tensors)| (folder.join(shard), tensors));
        Ok(Self { shards: shards.collect(), path })
    }

    fn open(
        self,
        access: Access,
    ) -> Result<(Vec<Storage>, BTreeMap<String, Place>), CheckpointError> {
        for (shard, tensors) in &self.shards {
            if *shard != self.path && !shard.is_file() {
                let (shard, tensor) = (shard.clone(), tensors[0].clone());
                let others = tensors.len() - 1;
                return Err(CheckpointError::MissingShard { shard, tensor, others });
            }
        }
        let mut files = Vec::<Storage>::new();
        let mut places = BTreeMap::<String, Place>::new();
        for (shard, tensors) in self.shards {
            let (storage, entries) = Storage::open(&shard, access)?;
            for entry in entries {
                let place = Place { file: files.len(), entry };
                let tensor = place.entry.info.name.clone();
                if let Some(other) = places.insert(tensor.clone(), place) {
                    let first = files[other.file].path().to_owned();
                    return Err(CheckpointError::TensorInTwoShards {
                        tensor,
                        first,
                        second: shard,
                    });
                }
            }
            let here = |name: &String| places.get(name).is_some_and(|p| p.file == files.len());
            if let Some(tensor) = tensors.into_iter().find(|name| !here(name)) {
                return Err(CheckpointError::AbsentFromShard { tensor, shard });
            }
            files.push(storage);
        }
        Ok((files, places))
    }
}

/// Whether a name stays in its folder: one plain component, on every system.
pub(crate) fn is_file_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\\', ':', '\0'])
}

/// A JSON object in a file; `None` if there is no such file.
fn read_object(path: &Path) -> Result<Option<Map<String, Value>>, CheckpointError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("read", path)(error)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| CheckpointError::Json { file: path.to_owned(), source })
}

/// The quantization configuration: in `config.json`, or in the file that GPTQ tools write beside it.
fn read_container(
    folder: &Path,
    config: &Map<String, Value>,
) -> Result<Option<ContainerConfig>, CheckpointError> {
    let file = folder.join("config.json");
    // MLX's stands first, as its readers take it, and may stand under the usual key as well.
    for key in CONFIG_KEYS {
        match config.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Object(object)) if key == mlx::KEY => {
                return MlxConfig::parse(object, &file).map(ContainerConfig::Mlx).map(Some);
            }
            Some(Value::Object(object)) => {
                return ContainerConfig::parse(object, &file).map(Some);
            }
            Some(other) => {
                let problem = ConfigProblem::expected(other, "an object");
                return Err(CheckpointError::Config { file, key: key.to_owned(), problem });
            }
        }
    }
    for name in ["quantize_config.json", "quant_config.json"] {
        let file = folder.join(name);
        if let Some(object) = read_object(&file)? {
            return ContainerConfig::parse(&object, &file).map(Some);
        }
    }
    Ok(None)
}
