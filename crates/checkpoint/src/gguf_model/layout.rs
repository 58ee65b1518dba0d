//! What a model becomes as a GGUF file, known before any weight is touched.

use std::{borrow::Cow, collections::BTreeMap};

use safetensors::Dtype;
use serde_json::{Map, Value};

use crate::{
    CheckpointError, Item,
    config::Keys,
    container::le_bytes,
    gguf::{GgmlType, GgufSpec, Metadata},
};

use super::{
    CONFIG, Caveat, FileType, Hparams, ROPE_FREQS, Relay, Renamed, TokenizerFiles, Towards,
    Vocabulary,
    floats::{convert, is_float},
    names::{is_buffer, stays_f32},
};

/// A tensor of a Hugging Face model, and what it will be in the GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedTensor {
    /// Its name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its shape in the Hugging Face model, slowest dimension first.
    pub shape: Vec<usize>,
    /// Type of its elements there: F32, F16 or BF16. Without meaning where `kind` is a type of blocks.
    pub dtype: Dtype,
    /// What it becomes. Vectors and norms become F32 whatever float type this says.
    pub kind: GgmlType,
}

/// A model that is to be written as a GGUF file.
#[derive(Clone, Copy, Debug)]
pub struct GgufPlan<'a> {
    /// `config.json`.
    pub config: &'a Map<String, Value>,
    /// Its tokenizer.
    pub tokenizer: &'a TokenizerFiles,
    /// What `general.name` will say.
    pub name: &'a str,
    /// What `general.file_type` will say.
    pub file_type: FileType,
    /// All tensors, in any order.
    pub tensors: &'a [PlannedTensor],
}

/// Metadata and tensors of a GGUF file, and the way of each tensor into it.
#[derive(Clone, Debug)]
pub struct GgufLayout {
    metadata: Metadata,
    /// By the name in the Hugging Face model.
    places: BTreeMap<String, Place>,
    /// In the order of the file.
    specs: Vec<GgufSpec>,
    /// Tensors of the file that the model does not have, with their bytes.
    extra: Vec<(String, Vec<u8>)>,
    caveats: Vec<Caveat>,
}

#[derive(Clone, Debug)]
struct Place {
    /// Name in the file.
    gguf: String,
    relay: Relay,
    shape: Vec<usize>,
    dtype: Dtype,
    kind: GgmlType,
}

impl GgufLayout {
    /// Lays out a file: all that can be refused is refused here.
    ///
    /// Buffers that old models carry and the head of a tied model are left out. Tensors come in the order in which llama.cpp writes them: those
    /// outside of the blocks first, then block after block, each by name.
    ///
    /// # Errors
    /// If configuration or tokenizer are of a kind that llama.cpp lacks, or a tensor is unknown, missing, or of another shape than the
    /// configuration says.
    pub fn new(plan: &GgufPlan<'_>) -> Result<Self, CheckpointError> {
        let mut hparams = Hparams::of_config(plan.config)?;
        let names = hparams.names();
        let mut places = BTreeMap::new();
        let mut by_gguf = BTreeMap::new();
        for tensor in plan.tensors.iter().filter(|tensor| !is_buffer(&tensor.name)) {
            let Some(Renamed { name, relay }) = names.to_gguf(&tensor.name) else {
                return refuse(&tensor.name, "has no place in a GGUF file of this architecture");
            };
            if by_gguf.insert(name.clone(), tensor.name.clone()).is_some() {
                return refuse(&tensor.name, "is there under two names");
            }
            let PlannedTensor { name: hf, shape, dtype, kind } = tensor.clone();
            places.insert(hf, Place { gguf: name, relay, shape, dtype, kind });
        }
        settle_head(&mut hparams, &mut places, &mut by_gguf);
        if let Some(hf) = by_gguf.get("token_embd.weight")
            && let Some(&rows) = places[hf].shape.first()
        {
            // Embeddings have more rows than the configuration says in some models; llama.cpp wants as many tokens as rows.
            hparams.vocab_size = u32::try_from(rows).unwrap_or(u32::MAX);
        }
        for required in names.required(hparams.n_layers as usize) {
            if !by_gguf.contains_key(&required) {
                let tensor = names.to_hugging_face(&required).map_or(required, |hf| hf.name);
                return refuse(&tensor, "is missing");
            }
        }
        let mut specs = Vec::with_capacity(places.len() + 1);
        for (hf, place) in &mut places {
            specs.push(place.spec(hf, &hparams)?);
        }
        let mut extra = Vec::new();
        if let Some(freqs) = hparams.rope.and_then(|rope| rope.freqs(hparams.head_dim)) {
            specs.push(GgufSpec::new(ROPE_FREQS, GgmlType::F32, [freqs.len() as u64]));
            extra.push((ROPE_FREQS.to_owned(), le_bytes(freqs, f32::to_le_bytes)));
        }
        specs.sort_by_cached_key(|spec| order(&spec.name));
        let rows = hparams.vocab_size as usize;
        let (vocabulary, mut caveats) =
            Vocabulary::of_tokenizer(plan.tokenizer, plan.config, hparams.arch, rows)?;
        caveats.extend(sliding_window(plan.config)?);
        let metadata = metadata(plan.name, plan.file_type, &hparams, &vocabulary, &specs);
        Ok(Self { metadata, places, specs, extra, caveats })
    }

    /// Metadata of the file.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Metadata of the file, to add keys of your own.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// Tensors of the file, in their order.
    pub fn specs(&self) -> &[GgufSpec] {
        &self.specs
    }

    /// Tensors of the file that the model does not have, by name, with their bytes.
    pub fn extra(&self) -> &[(String, Vec<u8>)] {
        &self.extra
    }

    /// What the file does not carry over exactly.
    pub fn caveats(&self) -> &[Caveat] {
        &self.caveats
    }

    /// The name that a tensor of the model has in the file; `None` if it is left out.
    pub fn gguf_name(&self, name: &str) -> Option<&str> {
        self.places.get(name).map(|place| place.gguf.as_str())
    }

    /// Bytes of a tensor as they lie in the file.
    ///
    /// Where the tensor becomes blocks, `bytes` are the encoded rows of the matrix `(out_features, in_features)`, GPT-2's included, which
    /// lie transposed in the model. Otherwise they are those of the model's tensor, and are converted to the type in the file.
    ///
    /// # Errors
    /// If the layout has no such tensor, `bytes` is not as long as planned, or a number is too large for the type in the file.
    pub fn relay<'a>(&self, name: &str, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, CheckpointError> {
        let place = self.place(name)?;
        let expected = place.row_bytes() * place.n_rows() as u64;
        if bytes.len() as u64 != expected {
            let (tensor, got) = (name.to_owned(), bytes.len() as u64);
            return Err(CheckpointError::TensorLength { tensor, got, expected });
        }
        place.relay_rows(name, bytes)
    }

    /// Rows of a tensor of the model that [`relay_part`](Self::relay_part) needs together: 1, those of an attention head, or all of a matrix that is
    /// transposed. `None` if the tensor is left out.
    pub fn row_unit(&self, name: &str) -> Option<usize> {
        self.places.get(name).map(Place::row_unit)
    }

    /// [`relay`](Self::relay) of rows in the middle of a tensor, whole [units](Self::row_unit) from byte `offset` on. Returns where in the tensor of
    /// the file they begin.
    ///
    /// # Errors
    /// As [`relay`](Self::relay), and if begin or end is within a unit.
    pub fn relay_part<'a>(
        &self,
        name: &str,
        offset: u64,
        bytes: &'a [u8],
    ) -> Result<(u64, Cow<'a, [u8]>), CheckpointError> {
        let place = self.place(name)?;
        let (unit, length) = (place.row_unit() as u64 * place.row_bytes(), bytes.len() as u64);
        if unit == 0 || !offset.is_multiple_of(unit) || !length.is_multiple_of(unit) {
            let (tensor, end) = (name.to_owned(), offset.saturating_add(length));
            let length = place.row_bytes() * place.n_rows() as u64;
            return Err(CheckpointError::TensorRange { tensor, begin: offset, end, length });
        }
        // Types of floats differ in their length alone.
        let begin = match is_float(place.kind) {
            true => offset / (place.dtype.bitsize() as u64 / 8) * place.kind.block_bytes(),
            false => offset,
        };
        Ok((begin, place.relay_rows(name, bytes)?))
    }

    fn place(&self, name: &str) -> Result<&Place, CheckpointError> {
        match self.places.get(name) {
            Some(place) => Ok(place),
            None => refuse(name, "has no place in the file"),
        }
    }
}

impl Place {
    fn n_rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    fn row_unit(&self) -> usize {
        match self.relay {
            // Encoded rows lie as the file has them.
            Relay::Transpose if !is_float(self.kind) => 1,
            relay => relay.row_unit(self.n_rows()),
        }
    }

    /// Bytes of a row as they are given.
    fn row_bytes(&self) -> u64 {
        let elements: usize = self.shape.iter().skip(1).product();
        match is_float(self.kind) {
            true => elements as u64 * self.dtype.bitsize() as u64 / 8,
            false => elements as u64 / self.kind.block_weights() * self.kind.block_bytes(),
        }
    }

    /// Rows as they lie in the file, whole units.
    fn relay_rows<'a>(
        &self,
        name: &str,
        bytes: &'a [u8],
    ) -> Result<Cow<'a, [u8]>, CheckpointError> {
        if bytes.is_empty() {
            return Ok(bytes.into());
        }
        let rows = bytes.len() / self.row_bytes() as usize;
        let relay = self.relay.of_part(rows, self.n_rows());
        if !is_float(self.kind) {
            return Ok(match relay {
                Relay::Interleave { .. } => relay.rows(Towards::Gguf, bytes.into(), rows),
                _ => bytes.into(),
            });
        }
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first = rows;
        }
        let element = self.dtype.bitsize() / 8;
        let bytes = relay.numbers(Towards::Gguf, bytes.into(), &shape, element);
        convert(name, bytes, relay, self.dtype, self.kind)
    }

    /// The tensor in the file. Settles its type and checks its shape.
    fn spec(&mut self, hf: &str, hparams: &Hparams) -> Result<GgufSpec, CheckpointError> {
        let mut shape = self.shape.clone();
        if self.relay == Relay::Transpose {
            shape.reverse();
        }
        let expected = hparams.shape(&self.gguf);
        if let Some(mut expected) = expected
            && expected != shape
        {
            if self.relay == Relay::Transpose {
                expected.reverse();
            }
            let (tensor, got) = (hf.to_owned(), self.shape.clone());
            return Err(CheckpointError::Shape { tensor, got, expected });
        }
        if let Relay::Interleave { heads } = self.relay
            && !shape[0].is_multiple_of(2 * heads)
        {
            return refuse(hf, "has heads of an odd number of rows");
        }
        if !is_float(self.kind) {
            // Encoded rows lie as the file has them.
            self.shape.clone_from(&shape);
        }
        let plain = matches!(self.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if stays_f32(&self.gguf, shape.len()) {
            if !is_float(self.kind) {
                return refuse(hf, "must stay in floating point");
            }
            self.kind = GgmlType::F32;
        }
        if is_float(self.kind) && !plain {
            let (tensor, got) = (hf.to_owned(), self.dtype);
            return Err(CheckpointError::Dtype { tensor, got, expected: "F32, F16 or BF16" });
        }
        let dims: Vec<u64> = shape.iter().rev().map(|&d| d as u64).collect();
        if let Err(problem) = self.kind.tensor_bytes(&dims) {
            let item = Item::Tensor(self.gguf.clone());
            return Err(CheckpointError::Unwritable { item, problem });
        }
        Ok(GgufSpec::new(self.gguf.as_str(), self.kind, dims))
    }
}

/// Decides whether the head is the embedding, and leaves out what then is there twice.
fn settle_head(
    hparams: &mut Hparams,
    places: &mut BTreeMap<String, Place>,
    by_gguf: &mut BTreeMap<String, String>,
) {
    const EMBEDDING: &str = "token_embd.weight";
    const HEAD: &str = "output.weight";
    if !by_gguf.contains_key(HEAD) {
        hparams.tied = true;
    }
    if !hparams.tied {
        return;
    }
    let Some(head) = by_gguf.remove(HEAD) else { return };
    if by_gguf.contains_key(EMBEDDING) {
        places.remove(&head);
    } else if let Some(place) = places.get_mut(&head) {
        // Stored under the head's name alone.
        place.gguf = EMBEDDING.to_owned();
        by_gguf.insert(EMBEDDING.to_owned(), head);
    }
}

/// All keys of a file.
pub(crate) fn metadata(
    name: &str,
    file_type: FileType,
    hparams: &Hparams,
    vocabulary: &Vocabulary,
    specs: &[GgufSpec],
) -> Metadata {
    let parameters = specs.iter().map(|spec| spec.dims.iter().product::<u64>()).sum();
    let mut metadata = Metadata::new();
    metadata.insert("general.architecture", hparams.arch.name());
    metadata.insert("general.type", "model");
    metadata.insert("general.name", name);
    metadata.insert("general.size_label", size_label(parameters));
    hparams.write(&mut metadata, file_type.id());
    // Of the layouts of blocks, all of which are of version 2.
    metadata.insert("general.quantization_version", 2u32);
    vocabulary.write(&mut metadata);
    metadata
}

/// A number of parameters with two digits at least: 260K, 3.7M, 1.2B.
fn size_label(parameters: u64) -> String {
    let (unit, suffix) = match parameters {
        0..=1_000_000 => (1e3, 'K'),
        1_000_001..=1_000_000_000 => (1e6, 'M'),
        1_000_000_001..=1_000_000_000_000 => (1e9, 'B'),
        _ => (1e12, 'T'),
    };
    let scaled = parameters as f64 / unit;
    let digits = match scaled.round_ties_even() as u64 {
        0 => 0,
        rounded => rounded.ilog10() as usize + 1,
    };
    format!("{scaled:.*}{suffix}", 2usize.saturating_sub(digits))
}

/// Where llama.cpp puts a tensor: by block, those outside of them first, then by name.
fn order(name: &str) -> (i64, String) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')?.0.parse().ok());
    (layer.unwrap_or(-1), name.to_owned())
}

/// Attention within a window, which the llama and qwen graphs of llama.cpp do not have.
fn sliding_window(config: &Map<String, Value>) -> Result<Option<Caveat>, CheckpointError> {
    let keys = Keys::new(config, CONFIG.as_ref());
    let window = match keys.text("model_type")? {
        // Null switches it off, but a missing key does not.
        Some("mistral") if !config.contains_key("sliding_window") => Some(4096),
        Some("mistral") => keys.count("sliding_window")?,
        Some("qwen2" | "qwen3") if keys.boolean("use_sliding_window")? == Some(true) => {
            keys.count("sliding_window")?
        }
        _ => None,
    };
    let longest = keys.count("max_position_embeddings")?.unwrap_or(u32::MAX);
    Ok(window.filter(|&width| width < longest).map(|width| Caveat::SlidingWindow { width }))
}

fn refuse<T>(tensor: &str, problem: &'static str) -> Result<T, CheckpointError> {
    Err(CheckpointError::GgufTensor { tensor: tensor.to_owned(), problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels() {
        for (parameters, label) in [
            (260_032, "260K"),
            (656_000, "656K"),
            (3_670_000, "3.7M"),
            (1_235_814_400, "1.2B"),
            (70_553_706_496, "71B"),
            (999, "1.0K"),
        ] {
            assert_eq!(size_label(parameters), label);
        }
    }

    #[test]
    fn blocks_come_in_the_order_of_their_numbers() {
        let mut names = ["blk.10.a.weight", "token_embd.weight", "blk.9.z.weight", "blk.9.b.bias"];
        names.sort_by_cached_key(|name| order(name));
        let sorted = ["token_embd.weight", "blk.9.b.bias", "blk.9.z.weight", "blk.10.a.weight"];
        assert_eq!(names, sorted);
    }
}
