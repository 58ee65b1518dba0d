//! Writing a GGUF file, or the files of a split model, tensor by tensor.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use super::{
    ALIGNMENT, Array, GgmlType, MAX_RANK, Metadata, Value,
    encode::{self, Listed},
    key_problem, name_problem,
    split::{self, PartName},
};
use crate::{
    CheckpointError, Item, Problem,
    atomic::{refuse_existing, rename_new, reserve, sync_folder, write_error},
    cursor::MAX_COUNT,
    error::io,
    free_bytes,
    places::Places,
    writer::Partial,
};

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufSpec {
    /// Name, such as `blk.0.attn_q.weight`; at most 63 bytes.
    pub name: String,
    /// Dimensions, fastest first: in_features, out_features. At most four.
    pub dims: Vec<u64>,
    /// What it is made of.
    pub kind: GgmlType,
}

impl GgufSpec {
    /// A tensor of this name, type and dimensions, fastest first.
    pub fn new(name: impl Into<String>, kind: GgmlType, dims: impl Into<Vec<u64>>) -> Self {
        Self { name: name.into(), dims: dims.into(), kind }
    }
}

/// Writes a GGUF file, or the files of a split model, without ever holding more than it is given.
///
/// All tensors are announced at the beginning, so that every file is laid out, and its space reserved, before the first byte arrives. They
/// come in any order, each at once ([`write`](Self::write)) or in pieces ([`write_part`](Self::write_part)), and go to their places in a folder
/// `.<name>.partial` beside the output; [`finish`](Self::finish) gives the files their names. The bytes depend on metadata, announcement and
/// tensors alone. Dropped before that, all is removed; what a killed process left behind is removed by the next one that writes the same
/// output.
#[derive(Debug)]
pub struct GgufWriter {
    partial: Partial,
    parts: Vec<Part>,
    places: Places,
}

/// A file of the output.
#[derive(Debug)]
struct Part {
    out: PathBuf,
    path: PathBuf,
    file: File,
}

impl GgufWriter {
    /// Lays out `out`, or, where the tensors take more than `split_bytes`, the files `-00001-of-00003.gguf` and so on that llama.cpp
    /// finds by these names. Tensors are put into files in the order given; one that is larger than `split_bytes` has a file of its own. The
    /// metadata lies in the first file; its keys `split.no`, `split.count` and `split.tensors.count` are replaced by what is true of the new files.
    ///
    /// # Errors
    /// If an output exists or is being written by another process, a name, key, shape or alignment is one that llama.cpp would refuse, or the disk has
    /// no space for all.
    pub fn create(
        out: &Path,
        metadata: &Metadata,
        specs: Vec<GgufSpec>,
        split_bytes: Option<u64>,
    ) -> Result<Self, CheckpointError> {
        let alignment = check_metadata(metadata)?;
        let parts = cut(specs, alignment, split_bytes)?;
        let count = parts.len();
        let outs: Vec<PathBuf> = match count {
            1 => vec![out.to_owned()],
            _ => {
                let name = PartName::new(out, 0, count);
                (0..count).map(|number| name.path(number)).collect()
            }
        };
        for out in &outs {
            refuse_existing(out)?;
        }
        let partial = Partial::create(&outs[0])?;
        let headers = headers(metadata, &parts, alignment);
        let total = parts.iter().map(|part| part.bytes).zip(&headers);
        let total = total.fold(0u64, |n, (bytes, h)| n.saturating_add(bytes + h.len() as u64));
        if free_bytes(&partial.path).is_some_and(|free| free < total) {
            return Err(CheckpointError::DiskFull { path: out.to_owned(), bytes: total });
        }
        let mut writer = Self { partial, parts: Vec::new(), places: Places::default() };
        for ((part, header), out) in parts.into_iter().zip(headers).zip(outs) {
            writer.lay_out(out, &header, part)?;
        }
        Ok(writer)
    }

    /// Creates a file with its header, and its data as zeros.
    fn lay_out(
        &mut self,
        out: PathBuf,
        header: &[u8],
        layout: Layout,
    ) -> Result<(), CheckpointError> {
        let path = self.partial.path.join(out.file_name().unwrap_or_default());
        let length = header.len() as u64 + layout.bytes;
        let create = || {
            let mut file = File::create_new(&path)?;
            reserve(&file, length)?;
            file.write_all(header)?;
            Ok(file)
        };
        let file = create().map_err(|error| write_error(error, &path, length))?;
        let part = self.parts.len();
        self.parts.push(Part { out, path, file });
        for (spec, Span { offset, bytes }) in layout.tensors {
            let begin = header.len() as u64 + offset;
            self.places.announce(spec.name, part, begin, bytes);
        }
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
            let Part { path, file, .. } = &mut self.parts[index];
            (file, path)
        })
    }

    /// Makes what was written durable; returns the temporary file, or the first of them, to read it back before it gets its final name.
    ///
    /// # Errors
    /// If a tensor was never written, or not to its end, or the system refuses.
    pub fn complete(&mut self) -> Result<&Path, CheckpointError> {
        self.places.check_complete()?;
        for Part { path, file, .. } in &self.parts {
            file.sync_all().map_err(io("finish writing", path))?;
        }
        Ok(&self.parts[0].path)
    }

    /// Makes the files durable and gives them their final names, which are returned. The first file, by which a model is opened, gets its name last.
    ///
    /// # Errors
    /// If a tensor was never written, an output came into being meanwhile, or the system refuses; nothing is then left under the final names.
    pub fn finish(mut self) -> Result<Vec<PathBuf>, CheckpointError> {
        self.complete()?;
        let mut renamed = Vec::new();
        while let Some(Part { out, path, file }) = self.parts.pop() {
            drop(file);
            let result = rename_new(&path, &out);
            renamed.push(out);
            if let Err(error) = result {
                // The last was not ours.
                renamed.pop();
                for out in &renamed {
                    let _ = fs::remove_file(out);
                }
                return Err(error);
            }
        }
        renamed.reverse();
        let parent = renamed[0].parent().filter(|parent| *parent != Path::new(""));
        let parent = parent.unwrap_or(Path::new("."));
        sync_folder(parent).map_err(io("finish writing", parent))?;
        Ok(renamed)
    }
}

/// What goes into one file.
#[derive(Debug, Default)]
struct Layout {
    tensors: Vec<(GgufSpec, Span)>,
    /// Bytes of the data, padding included.
    bytes: u64,
}

/// Where a tensor lies in the data.
#[derive(Clone, Copy, Debug)]
struct Span {
    offset: u64,
    bytes: u64,
}

/// Cuts a list of tensors where the next one would exceed `split_bytes`. At least one part, be it empty.
fn cut(
    specs: Vec<GgufSpec>,
    alignment: u64,
    split_bytes: Option<u64>,
) -> Result<Vec<Layout>, CheckpointError> {
    let mut names = HashSet::new();
    let mut parts = vec![Layout::default()];
    for spec in specs {
        let bytes = check_spec(&spec)?;
        if !names.insert(spec.name.clone()) {
            return Err(refuse(Item::Tensor(spec.name), Problem::Duplicate));
        }
        let overflow = || {
            refuse(Item::Tensor(spec.name.clone()), Problem::Overflow { dims: spec.dims.clone() })
        };
        let padded = bytes.checked_next_multiple_of(alignment).ok_or_else(overflow)?;
        let last = parts.len() - 1;
        let end = parts[last].bytes.checked_add(padded).ok_or_else(overflow)?;
        if split_bytes.is_some_and(|limit| end > limit) && !parts[last].tensors.is_empty() {
            parts.push(Layout::default());
        }
        let part = parts.last_mut().expect("at least one part");
        let offset = part.bytes;
        part.bytes += padded;
        part.tensors.push((spec, Span { offset, bytes }));
    }
    let limits =
        [("files", parts.len(), split::MAX_COUNT), ("tensors", names.len(), i32::MAX as usize)];
    for (what, count, limit) in limits {
        if count > limit {
            let (count, limit) = (count as u64, limit as u64);
            return Err(refuse(Item::Header, Problem::Count { what, count, limit }));
        }
    }
    Ok(parts)
}

/// The header of each part.
fn headers(metadata: &Metadata, parts: &[Layout], alignment: u64) -> Vec<Vec<u8>> {
    let n_tensors: usize = parts.iter().map(|part| part.tensors.len()).sum();
    let header = |(number, part): (usize, &Layout)| {
        let mut keys = match number {
            0 => metadata.clone(),
            _ => metadata
                .get(ALIGNMENT)
                .map(|value| (ALIGNMENT, value.clone()))
                .into_iter()
                .collect(),
        };
        for key in [split::NUMBER, split::COUNT, split::TENSORS] {
            keys.remove(key);
        }
        if parts.len() > 1 {
            keys.insert(split::NUMBER, number as u16);
            keys.insert(split::COUNT, parts.len() as u16);
            keys.insert(split::TENSORS, n_tensors as i32);
        }
        let tensors = part.tensors.iter().map(|(spec, span)| Listed {
            name: &spec.name,
            dims: &spec.dims,
            kind: spec.kind,
            offset: span.offset,
        });
        let tensors: Vec<Listed<'_>> = tensors.collect();
        encode::header(&keys, &tensors, alignment)
    };
    parts.iter().enumerate().map(header).collect()
}

fn refuse(item: Item, problem: Problem) -> CheckpointError {
    CheckpointError::Unwritable { item, problem }
}

/// Refuses what readers would; returns the alignment.
fn check_metadata(metadata: &Metadata) -> Result<u64, CheckpointError> {
    for (key, value) in metadata.iter() {
        if let Some(problem) = key_problem(key) {
            let name = key.to_owned();
            return Err(refuse(Item::Header, Problem::Name { name, problem }));
        }
        let bytes_of_text = |text: &String| ("bytes of text", text.len() as u64);
        let longest = match value {
            Value::Text(text) => Some(bytes_of_text(text)),
            Value::Array(Array::Text(texts)) => texts.iter().map(bytes_of_text).max_by_key(|l| l.1),
            _ => None,
        };
        let elements = match value {
            Value::Array(array) => Some(("array elements", array.len() as u64)),
            _ => None,
        };
        for (what, count) in longest.into_iter().chain(elements) {
            if count > MAX_COUNT {
                let problem = Problem::Count { what, count, limit: MAX_COUNT };
                return Err(refuse(Item::Key(key.to_owned()), problem));
            }
        }
    }
    let item = || Item::Key(ALIGNMENT.to_owned());
    super::alignment(metadata).map_err(|problem| refuse(item(), problem))
}

/// Refuses what readers would; returns the bytes of the tensor.
fn check_spec(spec: &GgufSpec) -> Result<u64, CheckpointError> {
    let refuse = |problem| Err(refuse(Item::Tensor(spec.name.clone()), problem));
    if let Some(problem) = name_problem(&spec.name) {
        return refuse(Problem::Name { name: spec.name.clone(), problem });
    }
    if spec.dims.len() > MAX_RANK {
        let (rank, limit) = (spec.dims.len() as u32, MAX_RANK as u32);
        return refuse(Problem::Rank { rank, limit });
    }
    spec.kind.tensor_bytes(&spec.dims).or_else(refuse)
}
