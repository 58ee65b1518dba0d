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
use crate::{Access, CheckpointError, storage::Storage, write_atomically};

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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importance {
    /// Sum over tokens of the square of each input: in_features of them for each matrix, one matrix (expert) after another. Finite and not negative.
    pub sums: Vec<f32>,
    /// Tokens (in the older form of file, chunks) that were summed over: one number for each matrix, or one for all.
    pub counts: Vec<u64>,
}

impl Importance {
    /// Mean square of each input. 1 for a matrix that saw no token.
    ///
    /// # Panics
    /// If the sums are no multiple of the counts; a read matrix never is.
    pub fn means(&self) -> Vec<f32> {
        let mut means = self.sums.clone();
        for (means, &count) in means.chunks_mut(self.stride()).zip(&self.counts) {
            match count {
                0 => means.fill(1.0),
                _ => means.iter_mut().for_each(|mean| *mean /= count as f32),
            }
        }
        means
    }

    /// Whether any token was summed over.
    pub(super) fn saw_tokens(&self) -> bool {
        self.counts.iter().any(|&count| count > 0)
    }

    /// Sums that share a count.
    ///
    /// # Panics
    /// If the sums are no multiple of the counts.
    pub(super) fn stride(&self) -> usize {
        let (sums, counts) = (self.sums.len(), self.counts.len());
        assert!(counts > 0 && sums > 0 && sums % counts == 0, "{sums} sums and {counts} counts");
        sums / counts
    }
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

    /// Writes the GGUF form, which llama.cpp reads since 2025.
    ///
    /// # Errors
    /// If there are no entries, the file exists, a name with its suffix is longer than 63 bytes, or it cannot be written.
    ///
    /// # Panics
    /// If the sums of an entry are no multiple of its counts.
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
            let (stride, n_matrices) = (entry.stride() as u64, entry.counts.len() as u64);
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
    ///
    /// # Panics
    /// If the sums of an entry are no multiple of its counts.
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
    let invalid = |tensor: &str, what, value, expected| {
        let (file, tensor) = (file.path().to_owned(), format!("{name}{tensor}"));
        Err(CheckpointError::Importance { file, tensor, what, value, expected })
    };
    let sums = read(file, &format!("{name}{SUMS}"))?;
    if let Some(value) = sums.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
        return invalid(SUMS, "a sum of squares", *value, "finite and not negative");
    }
    let mut counts = Vec::new();
    for value in read(file, &format!("{name}{COUNTS}"))? {
        if !(value >= 0.0 && value.fract() == 0.0 && value < u64::MAX as f32) {
            return invalid(COUNTS, "a count", value, "a whole number");
        }
        counts.push(value as u64);
    }
    if counts.is_empty() || sums.is_empty() || sums.len() % counts.len() != 0 {
        return invalid(
            COUNTS,
            "the number of counts",
            counts.len() as f32,
            "a divisor of the number of sums",
        );
    }
    Ok(Importance { sums, counts })
}

fn read(file: &Gguf, tensor: &str) -> Result<Vec<f32>, CheckpointError> {
    match file.tensor(tensor).map(|tensor| tensor.kind) {
        None | Some(GgmlType::F32) => file.read_f32(tensor),
        Some(kind) => {
            Err(CheckpointError::Kind { tensor: tensor.to_owned(), kind, expected: "F32" })
        }
    }
}
