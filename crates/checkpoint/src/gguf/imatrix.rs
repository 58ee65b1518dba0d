//! Importance matrices: the mean square of each input of each weight, as llama.cpp's `imatrix` tool measures it.
//!
//! | in a GGUF file | |
//! | --- | --- |
//! | `general.type` | `imatrix` |
//! | `imatrix.datasets` | array of string |
//! | `imatrix.chunk_count`, `imatrix.chunk_size` | u32 |
//! | tensor `<name>.in_sum2` | F32, `[in_features, n_matrices]` |
//! | tensor `<name>.counts` | F32, `[1, n_matrices]` |
//!
//! The older form is described in `imatrix_dat.rs`.

use std::{collections::BTreeMap, fs, path::Path};

use super::{GgmlType, Gguf, GgufSpec, GgufWriter, Metadata, imatrix_dat};
use crate::{
    Access, CheckpointError, Item, Malformed, Problem, storage::Storage, write_atomically,
};

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// What the inputs of each weight were like on some text, by the names of GGUF tensors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportanceMatrix {
    /// By tensor name, such as `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Importance>,
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Number of chunks of text.
    pub chunk_count: u32,
    /// Tokens in a chunk; 0 where the file does not say.
    pub chunk_size: u32,
}

/// Squares of the inputs of one weight tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    sums: Vec<f32>,
    counts: Vec<u64>,
}

impl Importance {
    /// Takes the sum over tokens of the square of each input, in_features of them for each matrix, one matrix (expert) after another; and the number of
    /// tokens, for each matrix or for all.
    ///
    /// # Errors
    /// If a sum is negative or not finite, or there are none, or the counts do not divide them.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Result<Self, Problem> {
        if let Some((_, problem)) = unsound(&sums) {
            return Err(problem);
        }
        if sums.is_empty() || counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let (what, value) = ("the number of counts", counts.len() as i64);
            let expected = format!("a divisor of {}, the number of sums", sums.len());
            return Err(Problem::Value { what, value, expected });
        }
        Ok(Self { sums, counts })
    }

    /// Sum over tokens of the square of each input, one matrix after another.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// Tokens (as read from the older form of file, chunks) that were summed over: one number for each matrix, or one for all.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Mean square of each input. 1 for a matrix that saw no token.
    pub fn means(&self) -> Vec<f32> {
        let mean = |(sums, count): (&[f32], u64)| match count {
            0 => vec![1.0; sums.len()],
            _ => sums.iter().map(|sum| sum / count as f32).collect(),
        };
        self.matrices().flat_map(mean).collect()
    }

    /// The sums that share a count, and the count.
    pub(super) fn matrices(&self) -> impl Iterator<Item = (&[f32], u64)> {
        let stride = self.sums.len() / self.counts.len();
        self.sums.chunks(stride).zip(self.counts.iter().copied())
    }

    /// Whether any token was summed over.
    pub(super) fn saw_tokens(&self) -> bool {
        self.counts.iter().any(|&count| count > 0)
    }
}

/// The first sum of squares that cannot be.
pub(super) fn unsound(sums: &[f32]) -> Option<(usize, Problem)> {
    let index = sums.iter().position(|sum| !(sum.is_finite() && *sum >= 0.0))?;
    let (what, expected) = ("a sum of squares", "finite and not negative");
    Some((index, Problem::Float { what, value: sums[index], expected }))
}

impl ImportanceMatrix {
    /// Mean square of each input of a weight, one matrix after another. `None` if the weight was not measured; all inputs then count the same.
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        self.entries.get(name).map(Importance::means)
    }

    /// Reads either form of file.
    ///
    /// # Errors
    /// If the file is truncated or contradicts itself, a sum is negative or not finite, or there is nothing in it.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        let storage = Storage::open_any(path, Access::Positioned)?;
        let mut magic = [0; 4];
        if storage.bytes() >= 4 {
            storage.read_into(0, &mut magic)?;
        }
        if magic != *b"GGUF" {
            return imatrix_dat::read(&storage);
        }
        Self::from_gguf(&Gguf::open_with(path, Access::Positioned)?)
    }

    fn from_gguf(file: &Gguf) -> Result<Self, CheckpointError> {
        let metadata = file.metadata();
        let mut matrix = Self {
            entries: BTreeMap::new(),
            datasets: metadata.strings(DATASETS)?.to_vec(),
            chunk_count: metadata.u32(CHUNK_COUNT)?,
            chunk_size: metadata.u32(CHUNK_SIZE)?,
        };
        for tensor in file.tensors() {
            if let Some(name) = tensor.name.strip_suffix(SUMS) {
                matrix.entries.insert(name.to_owned(), entry(file, name)?);
            } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
                read(file, &format!("{name}{SUMS}"))?;
            }
        }
        match matrix.entries.is_empty() {
            true => Err(CheckpointError::NoImportance { file: file.path().to_owned() }),
            false => Ok(matrix),
        }
    }

    /// Writes the GGUF form, which llama.cpp reads since 2025. Counts above 2²⁴ are rounded to f32.
    ///
    /// # Errors
    /// If there are no entries, the file exists, a name with its suffix is longer than 63 bytes, or it cannot be written.
    pub fn write_gguf(&self, path: &Path) -> Result<(), CheckpointError> {
        if self.entries.is_empty() {
            return Err(CheckpointError::NoImportance { file: path.to_owned() });
        }
        let mut metadata = Metadata::new();
        metadata.insert("general.type", "imatrix");
        metadata.insert(DATASETS, self.datasets.clone());
        metadata.insert(CHUNK_COUNT, self.chunk_count);
        metadata.insert(CHUNK_SIZE, self.chunk_size);
        let mut specs = Vec::new();
        for (name, entry) in &self.entries {
            let n_matrices = entry.counts.len() as u64;
            let stride = entry.sums.len() as u64 / n_matrices;
            let mut spec = |suffix, in_features| {
                // Trailing dimensions of 1 are left out, as llama.cpp does.
                let dims = match n_matrices {
                    1 => vec![in_features],
                    _ => vec![in_features, n_matrices],
                };
                specs.push(GgufSpec::new(format!("{name}{suffix}"), GgmlType::F32, dims));
            };
            spec(SUMS, stride);
            spec(COUNTS, 1);
        }
        let mut writer = GgufWriter::create(path, &metadata, specs, None)?;
        for (name, entry) in &self.entries {
            let sums: Vec<u8> = entry.sums.iter().flat_map(|v| v.to_le_bytes()).collect();
            let counts: Vec<u8> =
                entry.counts.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
            writer.write(&format!("{name}{SUMS}"), &sums)?;
            writer.write(&format!("{name}{COUNTS}"), &counts)?;
        }
        writer.finish().map(drop)
    }

    /// Writes the older form, which every llama.cpp reads. It keeps one count for all matrices, in chunks, and the last dataset only.
    ///
    /// # Errors
    /// If there are no entries that saw tokens, the file exists or cannot be written, or a number does not fit its 32 bits.
    pub fn write_dat(&self, path: &Path) -> Result<(), CheckpointError> {
        if !self.entries.values().any(Importance::saw_tokens) {
            return Err(CheckpointError::NoImportance { file: path.to_owned() });
        }
        let bytes = imatrix_dat::bytes(self)?;
        if fs::symlink_metadata(path).is_ok() {
            return Err(CheckpointError::OutputExists { path: path.to_owned() });
        }
        write_atomically(path, &bytes)
    }
}

fn entry(file: &Gguf, name: &str) -> Result<Importance, CheckpointError> {
    let sums_name = format!("{name}{SUMS}");
    let counts_name = format!("{name}{COUNTS}");
    let invalid = |tensor: &str, index, problem| {
        let at = file.tensor(tensor).map_or(0, |tensor| tensor.offset) + 4 * index as u64;
        let source = Box::new(Malformed { at, item: Item::Tensor(tensor.to_owned()), problem });
        let file = file.path().to_owned();
        CheckpointError::Malformed { file, format: imatrix_dat::FORMAT, source }
    };
    let sums = read(file, &sums_name)?;
    if let Some((index, problem)) = unsound(&sums) {
        return Err(invalid(&sums_name, index, problem));
    }
    let mut counts = Vec::new();
    for (index, value) in read(file, &counts_name)?.into_iter().enumerate() {
        if !(value >= 0.0 && value.fract() == 0.0 && value < u64::MAX as f32) {
            let (what, expected) = ("a count", "a whole number");
            return Err(invalid(&counts_name, index, Problem::Float { what, value, expected }));
        }
        counts.push(value as u64);
    }
    Importance::new(sums, counts).map_err(|problem| invalid(&counts_name, 0, problem))
}

fn read(file: &Gguf, tensor: &str) -> Result<Vec<f32>, CheckpointError> {
    match file.tensor(tensor).map(|tensor| tensor.kind) {
        None | Some(GgmlType::F32) => file.read_f32(tensor),
        Some(kind) => {
            Err(CheckpointError::Kind { tensor: tensor.to_owned(), kind, expected: "F32" })
        }
    }
}
