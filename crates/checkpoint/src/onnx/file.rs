//! Reading an ONNX file: where its initialisers lie, and its `MatMulNBits` nodes.
//!
//! Protocol Buffers, as far as they are needed: a message is a run of fields, each a number `key = field · 8 + type` and a value. Numbers are
//! written in 7 bits a byte, lowest first; type 0 is a number, 2 a length and so many bytes, 1 and 5 are 8 and 4 bytes.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Map, Value};

use super::{MatMulNBits, OnnxConfig};
use crate::{
    Access, CheckpointError, Dtype, Item, MAX_RANK, Problem, TensorInfo, checkpoint::is_file_name,
    cursor::Cursor, header::Entry, storage::Storage,
};

/// What errors call such a file.
const FORMAT: &str = "ONNX";
/// The property of a model that holds its `config.json`.
pub(super) const CONFIG: &str = "config.json";
/// Operator set of the nodes.
pub(super) const DOMAIN: &str = "com.microsoft";
/// Their operator.
pub(super) const OPERATOR: &str = "MatMulNBits";

/// Types of elements by their numbers. Others, such as strings, are no weights.
const TYPES: [(u64, Dtype); 13] = [
    (1, Dtype::F32),
    (2, Dtype::U8),
    (3, Dtype::I8),
    (4, Dtype::U16),
    (5, Dtype::I16),
    (6, Dtype::I32),
    (7, Dtype::I64),
    (9, Dtype::BOOL),
    (10, Dtype::F16),
    (11, Dtype::F64),
    (12, Dtype::U32),
    (13, Dtype::U64),
    (16, Dtype::BF16),
];

/// The number of a type; `None` if ONNX lacks it.
pub(super) fn type_id(dtype: Dtype) -> Option<u64> {
    TYPES.iter().find(|(_, other)| *other == dtype).map(|(id, _)| *id)
}

/// What an ONNX file holds.
#[derive(Debug)]
pub(crate) struct OnnxFile {
    /// The file, and those beside it that hold initialisers.
    pub(crate) files: Vec<Storage>,
    /// Initialisers with the number of their file.
    pub(crate) tensors: Vec<(usize, Entry)>,
    pub(crate) nodes: OnnxConfig,
    pub(crate) config: Map<String, Value>,
}

/// A field of a message.
enum Field {
    Number(u64),
    /// Where its bytes end; they begin where the cursor is.
    Bytes(u64),
    /// Of a type that no field of interest has.
    Fixed,
}

impl OnnxFile {
    /// Opens a file: its graph is read, no weight is touched.
    ///
    /// # Errors
    /// If a message does not end where it should, an initialiser has another length than its shape says, or a node cannot be.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, CheckpointError> {
        let storage = Storage::open_any(path, access)?;
        let mut reader = Reader { path, access, others: BTreeMap::new(), out: Vec::new() };
        let (mut nodes, mut config) = (OnnxConfig::default(), Map::new());
        let mut cursor = Cursor::new(&storage, FORMAT);
        let end = storage.bytes();
        while let Some((number, field)) = next(&mut cursor, end)? {
            match (number, field) {
                (7, Field::Bytes(end)) => reader.graph(&mut cursor, end, &mut nodes)?,
                (14, Field::Bytes(end)) => {
                    if let Some((CONFIG, json)) =
                        pair(&mut cursor, end)?.as_ref().map(|(k, v)| (k.as_str(), v))
                    {
                        config = serde_json::from_str(json).map_err(|source| {
                            CheckpointError::Json { file: path.to_owned(), source }
                        })?;
                    }
                }
                (_, field) => pass(&mut cursor, field)?,
            }
        }
        let Reader { others, out, .. } = reader;
        let mut files = vec![storage];
        let mut others: Vec<_> = others.into_values().collect();
        others.sort_by_key(|(number, _)| *number);
        files.extend(others.into_iter().map(|(_, storage)| storage));
        Ok(Self { files, tensors: out, nodes, config })
    }
}

struct Reader<'a> {
    path: &'a Path,
    access: Access,
    /// Files beside this one, by name, with their numbers.
    others: BTreeMap<String, (usize, Storage)>,
    out: Vec<(usize, Entry)>,
}

impl Reader<'_> {
    fn graph(
        &mut self,
        cursor: &mut Cursor<'_>,
        end: u64,
        nodes: &mut OnnxConfig,
    ) -> Result<(), CheckpointError> {
        while let Some((number, field)) = next(cursor, end)? {
            match (number, field) {
                (1, Field::Bytes(end)) => {
                    if let Some(node) = node(cursor, end)? {
                        nodes.nodes.insert(node.module().to_owned(), node);
                    }
                }
                (5, Field::Bytes(end)) => {
                    cursor.item = Item::TensorNumber(self.out.len() as u64);
                    self.initializer(cursor, end)?;
                }
                (_, field) => pass(cursor, field)?,
            }
        }
        Ok(())
    }

    fn initializer(&mut self, cursor: &mut Cursor<'_>, end: u64) -> Result<(), CheckpointError> {
        let begin = cursor.at();
        let (mut dims, mut kind, mut name) = (Vec::new(), 0, String::new());
        let (mut raw, mut external, mut place) = (None, false, BTreeMap::new());
        while let Some((number, field)) = next(cursor, end)? {
            match (number, field) {
                (1, Field::Number(d)) => dims.push(d),
                (1, Field::Bytes(end)) => {
                    while cursor.at() < end && dims.len() <= MAX_RANK {
                        dims.push(varint(cursor)?);
                    }
                    within(cursor, end)?;
                    cursor.skip(end - cursor.at())?;
                }
                (2, Field::Number(id)) => kind = id,
                (8, Field::Bytes(end)) => {
                    name = cursor.text(end - cursor.at())?;
                    cursor.item = Item::Tensor(name.clone());
                }
                (9, Field::Bytes(end)) => {
                    raw = Some((cursor.at(), end - cursor.at()));
                    cursor.skip(end - cursor.at())?;
                }
                (13, Field::Bytes(end)) => place.extend(pair(cursor, end)?),
                (14, Field::Number(location)) => external = location == 1,
                (_, field) => pass(cursor, field)?,
            }
            if dims.len() > MAX_RANK {
                let (rank, limit) = (dims.len() as u32, MAX_RANK as u32);
                return Err(cursor.fail(begin, Problem::Rank { rank, limit }));
            }
        }
        let Some(&(_, dtype)) = TYPES.iter().find(|(id, _)| *id == kind) else { return Ok(()) };
        let element = dtype.bitsize() as u64 / 8;
        let bytes = dims.iter().try_fold(element, |n, &d| n.checked_mul(d));
        let Some(bytes) = bytes.filter(|&n| i64::try_from(n).is_ok()) else {
            return Err(cursor.fail(begin, Problem::Overflow { dims }));
        };
        let (file, at, length) = match (external, raw) {
            (true, _) => self.external(cursor, begin, &place, bytes)?,
            (false, Some((at, length))) => (0, at, length),
            // A few numbers, each a field of its own.
            (false, None) => return Ok(()),
        };
        if length != bytes {
            let (what, value) = ("the length of its data", length as i64);
            let expected = format!("{bytes}, which its shape takes");
            return Err(cursor.fail(begin, Problem::Value { what, value, expected }));
        }
        let shape = dims.iter().map(|&d| d as usize).collect();
        let info = TensorInfo { name, dtype, shape, bytes };
        self.out.push((file, Entry { info, begin: at }));
        Ok(())
    }

    /// Where an initialiser lies in a file of its own.
    fn external(
        &mut self,
        cursor: &Cursor<'_>,
        begin: u64,
        place: &BTreeMap<String, String>,
        bytes: u64,
    ) -> Result<(usize, u64, u64), CheckpointError> {
        let name = place.get("location").map(String::as_str).unwrap_or_default();
        if !is_file_name(name) {
            let problem = "is no file beside this one";
            return Err(cursor.fail(begin, Problem::Name { name: name.to_owned(), problem }));
        }
        let number = |key, default| match place.get(key).map(|value| value.parse::<u64>()) {
            None => Ok(default),
            Some(Ok(value)) => Ok(value),
            Some(Err(_)) => {
                let (name, problem) = (place[key].clone(), "is no number of bytes");
                Err(cursor.fail(begin, Problem::Name { name, problem }))
            }
        };
        let (offset, length) = (number("offset", 0)?, number("length", bytes)?);
        if !self.others.contains_key(name) {
            let storage = Storage::open_any(&self.path.with_file_name(name), self.access)?;
            self.others.insert(name.to_owned(), (1 + self.others.len(), storage));
        }
        let (file, storage) = &self.others[name];
        if offset.checked_add(length).is_none_or(|end| end > storage.bytes()) {
            let left = storage.bytes().saturating_sub(offset);
            return Err(cursor.fail(begin, Problem::Truncated { needed: length, left }));
        }
        Ok((*file, offset, length))
    }
}

/// A `MatMulNBits` node; `None` for any other.
fn node(cursor: &mut Cursor<'_>, end: u64) -> Result<Option<MatMulNBits>, CheckpointError> {
    let (mut inputs, mut attributes) = (Vec::new(), BTreeMap::new());
    let (mut operator, mut domain) = (String::new(), String::new());
    while let Some((number, field)) = next(cursor, end)? {
        match (number, field) {
            (1, Field::Bytes(end)) => inputs.push(cursor.text(end - cursor.at())?),
            (4, Field::Bytes(end)) => operator = cursor.text(end - cursor.at())?,
            (5, Field::Bytes(end)) => attributes.extend(attribute(cursor, end)?),
            (7, Field::Bytes(end)) => domain = cursor.text(end - cursor.at())?,
            (_, field) => pass(cursor, field)?,
        }
    }
    if operator != OPERATOR || domain != DOMAIN {
        return Ok(None);
    }
    let at = inputs.get(1).cloned().unwrap_or_default();
    MatMulNBits::new(&inputs, &attributes, &at).map(Some)
}

/// Name and value of an integer attribute.
fn attribute(cursor: &mut Cursor<'_>, end: u64) -> Result<Option<(String, i64)>, CheckpointError> {
    let (mut name, mut value) = (String::new(), None);
    while let Some((number, field)) = next(cursor, end)? {
        match (number, field) {
            (1, Field::Bytes(end)) => name = cursor.text(end - cursor.at())?,
            (3, Field::Number(number)) => value = Some(number as i64),
            (_, field) => pass(cursor, field)?,
        }
    }
    Ok(value.map(|value| (name, value)))
}

/// Key and value of a property.
fn pair(cursor: &mut Cursor<'_>, end: u64) -> Result<Option<(String, String)>, CheckpointError> {
    let (mut key, mut value) = (String::new(), String::new());
    while let Some((number, field)) = next(cursor, end)? {
        match (number, field) {
            (1, Field::Bytes(end)) => key = cursor.text(end - cursor.at())?,
            (2, Field::Bytes(end)) => value = cursor.text(end - cursor.at())?,
            (_, field) => pass(cursor, field)?,
        }
    }
    Ok(Some((key, value)))
}

/// The next field of a message that ends at `end`.
fn next(cursor: &mut Cursor<'_>, end: u64) -> Result<Option<(u64, Field)>, CheckpointError> {
    let at = cursor.at();
    if at == end {
        return Ok(None);
    }
    let key = varint(cursor)?;
    let field = match key & 7 {
        0 => Field::Number(varint(cursor)?),
        1 => {
            cursor.skip(8)?;
            Field::Fixed
        }
        2 => {
            let length = varint(cursor)?;
            let left = end.saturating_sub(cursor.at());
            if length > left {
                return Err(cursor.fail(at, Problem::Truncated { needed: length, left }));
            }
            Field::Bytes(cursor.at() + length)
        }
        5 => {
            cursor.skip(4)?;
            Field::Fixed
        }
        other => {
            let (what, expected) = ("the type of a field", "0, 1, 2 or 5".to_owned());
            return Err(cursor.fail(at, Problem::Value { what, value: other as i64, expected }));
        }
    };
    within(cursor, end)?;
    Ok(Some((key >> 3, field)))
}

/// Refuses a number that goes on after the end of its field.
fn within(cursor: &Cursor<'_>, end: u64) -> Result<(), CheckpointError> {
    match cursor.at().checked_sub(end) {
        None | Some(0) => Ok(()),
        Some(needed) => Err(cursor.fail(end, Problem::Truncated { needed, left: 0 })),
    }
}

/// Moves past a field.
fn pass(cursor: &mut Cursor<'_>, field: Field) -> Result<(), CheckpointError> {
    match field {
        Field::Bytes(end) => cursor.skip(end - cursor.at()),
        Field::Number(_) | Field::Fixed => Ok(()),
    }
}

/// A number of 7 bits a byte, lowest first.
fn varint(cursor: &mut Cursor<'_>) -> Result<u64, CheckpointError> {
    let (at, mut value) = (cursor.at(), 0);
    for shift in (0..64).step_by(7) {
        let [byte] = cursor.take()?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    let (what, expected) = ("a number", "at most ten bytes long".to_owned());
    Err(cursor.fail(at, Problem::Value { what, value: -1, expected }))
}
