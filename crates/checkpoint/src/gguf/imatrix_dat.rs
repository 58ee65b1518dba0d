//! The older form of an importance matrix, `.dat`.
//!
//! ```text
//! | entries i32 | entries times: | length i32 | name | calls i32 | values i32 | values × f32 |
//! | chunks i32 | length i32 | dataset |                                  absent in the oldest files
//! ```
//!
//! Everything is little-endian. A value is the mean square of an input times `calls`, the number of chunks; what `calls` counts differs between
//! entries where experts see different numbers of tokens. An expert that saw none has ones.

use super::imatrix::{Importance, ImportanceMatrix, unsound};
use crate::{CheckpointError, Item, Problem, cursor::Cursor, storage::Storage};

/// What errors call such a file.
pub(super) const FORMAT: &str = "importance matrix";

pub(super) fn read(storage: &Storage) -> Result<ImportanceMatrix, CheckpointError> {
    let mut cursor = Cursor::new(storage, FORMAT);
    let mut matrix = ImportanceMatrix::default();
    // At least a name of one byte and one value.
    let n_entries = size(&mut cursor, "entries", 1, 4 + 1 + 4 + 4 + 4)?;
    for number in 0..n_entries {
        cursor.item = Item::TensorNumber(number);
        let at = cursor.at();
        let length = size(&mut cursor, "bytes of name", 1, 1)?;
        let name = cursor.text(length)?;
        cursor.item = Item::Tensor(name.clone());
        if matrix.entries.contains_key(&name) {
            return Err(cursor.fail(at, Problem::Duplicate));
        }
        // Some tools wrote 0 for values that are means already.
        let calls = size(&mut cursor, "calls", 0, 0)?.max(1);
        let n_values = size(&mut cursor, "values", 1, 4)?;
        let at = cursor.at();
        let sums = cursor.numbers(n_values, f32::from_le_bytes)?;
        let entry = match unsound(&sums) {
            Some((index, problem)) => Err(cursor.fail(at + 4 * index as u64, problem)),
            None => Importance::new(sums, vec![calls]).map_err(|problem| cursor.fail(at, problem)),
        };
        matrix.entries.insert(name, entry?);
    }
    cursor.item = Item::Header;
    if cursor.left() > 0 {
        matrix.chunk_count = size(&mut cursor, "chunks", 0, 0)? as u32;
    }
    if cursor.left() > 0 {
        let length = size(&mut cursor, "bytes of dataset", 0, 1)?;
        if length > 0 {
            matrix.datasets.push(cursor.text(length)?);
        }
    }
    match cursor.left() {
        0 => Ok(matrix),
        bytes => Err(cursor.fail(cursor.at(), Problem::Trailing { bytes })),
    }
}

/// A number of at least `least`; where `bytes` is not 0, of things that take so many bytes each and must follow.
fn size(
    cursor: &mut Cursor<'_>,
    what: &'static str,
    least: i32,
    bytes: u64,
) -> Result<u64, CheckpointError> {
    let at = cursor.at();
    let value = cursor.i32()?;
    if value < least {
        let (value, expected) = (value.into(), format!("at least {least}"));
        return Err(cursor.fail(at, Problem::Value { what, value, expected }));
    }
    match bytes {
        0 => Ok(value as u64),
        _ => cursor.count(at, what, value as u64, bytes),
    }
}

/// The bytes of such a file. Entries that saw no token are left out.
pub(super) fn bytes(matrix: &ImportanceMatrix) -> Result<Vec<u8>, CheckpointError> {
    let entries = || matrix.entries.iter().filter(|(_, entry)| entry.saw_tokens());
    let mut out = Vec::new();
    let size = |out: &mut Vec<u8>, what, count: u64| match i32::try_from(count) {
        Ok(count) => {
            out.extend(count.to_le_bytes());
            Ok(())
        }
        Err(_) => {
            let problem = Problem::Count { what, count, limit: i32::MAX as u64 };
            Err(CheckpointError::Unwritable { item: Item::Header, problem })
        }
    };
    size(&mut out, "entries", entries().count() as u64)?;
    for (name, entry) in entries() {
        let refuse = |problem| {
            let item = Item::Tensor(name.clone());
            Err(CheckpointError::Unwritable { item, problem })
        };
        if name.is_empty() {
            return refuse(Problem::Name { name: name.clone(), problem: "is empty" });
        }
        size(&mut out, "bytes of name", name.len() as u64)?;
        out.extend(name.as_bytes());
        let most = entry.counts().iter().copied().max().unwrap_or(0);
        let calls = most.div_ceil(u64::from(matrix.chunk_size.max(1)));
        size(&mut out, "calls", calls)?;
        size(&mut out, "values", entry.sums().len() as u64)?;
        for (sums, count) in entry.matrices() {
            let value = |sum: &f32| match count {
                0 => calls as f32,
                // What was read from such a file is written as it was.
                _ if count == calls => *sum,
                _ => sum / count as f32 * calls as f32,
            };
            let values: Vec<f32> = sums.iter().map(value).collect();
            if let Some((_, problem)) = unsound(&values) {
                return refuse(problem);
            }
            out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    size(&mut out, "chunks", matrix.chunk_count.into())?;
    let dataset = matrix.datasets.last().map_or("", String::as_str);
    size(&mut out, "bytes of dataset", dataset.len() as u64)?;
    out.extend(dataset.as_bytes());
    Ok(out)
}
