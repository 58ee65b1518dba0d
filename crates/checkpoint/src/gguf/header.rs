//! The header of one file, read and checked.

use std::collections::HashSet;

use fewbit_format::MatrixShape;

use super::{
    ALIGNMENT, Array, FORMAT, GgmlType, MAX_RANK, Metadata, Value, ValueType, key_problem,
    name_problem,
};
use crate::{CheckpointError, Item, Problem, cursor::Cursor, storage::Storage};

/// A tensor that a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GgufTensor {
    /// Name, such as `blk.0.attn_q.weight`.
    pub name: String,
    /// Dimensions, fastest first: in_features, out_features. Empty for a scalar.
    pub dims: Vec<u64>,
    /// What it is made of.
    pub kind: GgmlType,
    /// Which of the files of a split model holds it, from 0.
    pub part: usize,
    /// Its first byte in that file.
    pub offset: u64,
    /// Bytes it takes.
    pub bytes: u64,
}

impl GgufTensor {
    /// Number of weights.
    pub fn len(&self) -> u64 {
        self.bytes / self.kind.block_bytes() * self.kind.block_weights()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// As a matrix: the first dimension is in_features, the product of the others out_features.
    pub fn matrix_shape(&self) -> MatrixShape {
        let in_features = self.dims.first().copied().unwrap_or(1) as usize;
        let rows = self.dims.iter().skip(1).fold(1, |n: u64, &d| n.saturating_mul(d));
        let out_features = usize::try_from(rows).unwrap_or(usize::MAX);
        MatrixShape { out_features, in_features }
    }
}

/// What a header says.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    /// In the order of the file.
    pub(super) tensors: Vec<GgufTensor>,
}

/// Reads the header of a file, which is the given part of a split model.
pub(super) fn read(storage: &Storage, part: usize) -> Result<Header, CheckpointError> {
    let mut cursor = Cursor::new(storage, FORMAT);
    let version = version(&mut cursor)?;
    let mut reader = Reader { cursor, version, alignment_at: 0 };
    let (n_tensors, n_keys) = reader.counts()?;
    let metadata = reader.metadata(n_keys)?;
    let alignment = reader.alignment(&metadata)?;
    let tensors = reader.tensors(n_tensors, alignment, part)?;
    Ok(Header { version, metadata, tensors })
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, CheckpointError> {
    let found: [u8; 4] = cursor.take()?;
    if found != *b"GGUF" {
        return Err(cursor.fail(0, Problem::Magic { found, expected: "GGUF" }));
    }
    match cursor.u32()? {
        version @ 1..=3 => Ok(version),
        version if version & 0xffff == 0 && version != 0 => Err(cursor.fail(4, Problem::BigEndian)),
        version => Err(cursor.fail(4, Problem::Version { version, supported: "1 to 3" })),
    }
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    version: u32,
    /// Where the value of the alignment lies, if there is one.
    alignment_at: u64,
}

impl Reader<'_> {
    /// A count, length or dimension: 32 bits in version 1, 64 since.
    fn size(&mut self) -> Result<u64, CheckpointError> {
        if self.version == 1 { self.cursor.u32().map(u64::from) } else { self.cursor.u64() }
    }

    /// Bytes of a size.
    fn size_bytes(&self) -> u64 {
        if self.version == 1 { 4 } else { 8 }
    }

    fn text(&mut self) -> Result<String, CheckpointError> {
        let at = self.cursor.at();
        let length = self.size()?;
        let length = self.cursor.count(at, "bytes of text", length, 1)?;
        self.cursor.text(length)
    }

    /// Numbers of tensors and keys.
    fn counts(&mut self) -> Result<(u64, u64), CheckpointError> {
        let size = self.size_bytes();
        let at = self.cursor.at();
        let (n_tensors, n_keys) = (self.size()?, self.size()?);
        // At least a name of one byte, rank, type and offset; a key of one byte, type and value.
        let n_tensors = self.cursor.count(at, "tensors", n_tensors, size + 1 + 4 + 4 + 8)?;
        let n_keys = self.cursor.count(at + size, "keys", n_keys, size + 1 + 4 + 1)?;
        Ok((n_tensors, n_keys))
    }

    fn metadata(&mut self, n_keys: u64) -> Result<Metadata, CheckpointError> {
        let mut metadata = Metadata::new();
        for number in 0..n_keys {
            self.cursor.item = Item::Entry(number);
            let at = self.cursor.at();
            let key = self.text()?;
            if let Some(problem) = key_problem(&key) {
                return Err(self.cursor.fail(at, Problem::Name { name: key, problem }));
            }
            self.cursor.item = Item::Key(key.clone());
            if key == ALIGNMENT {
                self.alignment_at = self.cursor.at();
            }
            let value = self.value()?;
            if metadata.insert(key, value).is_some() {
                return Err(self.cursor.fail(at, Problem::Duplicate));
            }
        }
        Ok(metadata)
    }

    fn value_type(&mut self) -> Result<ValueType, CheckpointError> {
        let at = self.cursor.at();
        let id = self.cursor.u32()?;
        ValueType::from_id(id).ok_or_else(|| self.cursor.fail(at, Problem::ValueType { id }))
    }

    fn value(&mut self) -> Result<Value, CheckpointError> {
        Ok(match self.value_type()? {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.cursor.take()?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.cursor.take()?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.cursor.take()?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.cursor.take()?)),
            ValueType::U32 => Value::U32(self.cursor.u32()?),
            ValueType::I32 => Value::I32(self.cursor.i32()?),
            ValueType::F32 => Value::F32(self.cursor.f32()?),
            ValueType::Bool => Value::Bool(self.bools(1)?[0]),
            ValueType::Text => Value::Text(self.text()?),
            ValueType::Array => Value::Array(self.array()?),
            ValueType::U64 => Value::U64(self.cursor.u64()?),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.cursor.take()?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.cursor.take()?)),
        })
    }

    fn array(&mut self) -> Result<Array, CheckpointError> {
        let type_at = self.cursor.at();
        let kind = self.value_type()?;
        let least = match kind {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => 1,
            ValueType::U16 | ValueType::I16 => 2,
            ValueType::U32 | ValueType::I32 | ValueType::F32 => 4,
            ValueType::U64 | ValueType::I64 | ValueType::F64 => 8,
            ValueType::Text => self.size_bytes(),
            ValueType::Array => return Err(self.cursor.fail(type_at, Problem::Nested)),
        };
        let at = self.cursor.at();
        let count = self.size()?;
        let count = self.cursor.count(at, "array elements", count, least)?;
        let cursor = &mut self.cursor;
        Ok(match kind {
            ValueType::U8 => Array::U8(cursor.bytes(count)?),
            ValueType::I8 => Array::I8(cursor.numbers(count, i8::from_le_bytes)?),
            ValueType::U16 => Array::U16(cursor.numbers(count, u16::from_le_bytes)?),
            ValueType::I16 => Array::I16(cursor.numbers(count, i16::from_le_bytes)?),
            ValueType::U32 => Array::U32(cursor.numbers(count, u32::from_le_bytes)?),
            ValueType::I32 => Array::I32(cursor.numbers(count, i32::from_le_bytes)?),
            ValueType::F32 => Array::F32(cursor.numbers(count, f32::from_le_bytes)?),
            ValueType::U64 => Array::U64(cursor.numbers(count, u64::from_le_bytes)?),
            ValueType::I64 => Array::I64(cursor.numbers(count, i64::from_le_bytes)?),
            ValueType::F64 => Array::F64(cursor.numbers(count, f64::from_le_bytes)?),
            ValueType::Bool => Array::Bool(self.bools(count)?),
            ValueType::Text => {
                Array::Text((0..count).map(|_| self.text()).collect::<Result<_, _>>()?)
            }
            ValueType::Array => unreachable!("refused above"),
        })
    }

    fn bools(&mut self, count: u64) -> Result<Vec<bool>, CheckpointError> {
        let at = self.cursor.at();
        let bytes = self.cursor.bytes(count)?;
        if let Some(i) = bytes.iter().position(|&byte| byte > 1) {
            return Err(self.cursor.fail(at + i as u64, Problem::Bool { byte: bytes[i] }));
        }
        Ok(bytes.into_iter().map(|byte| byte == 1).collect())
    }

    fn alignment(&mut self, metadata: &Metadata) -> Result<u64, CheckpointError> {
        super::alignment(metadata).map_err(|problem| {
            self.cursor.item = Item::Key(ALIGNMENT.to_owned());
            self.cursor.fail(self.alignment_at, problem)
        })
    }

    /// The tensors, each where the one before it ends.
    fn tensors(
        &mut self,
        n_tensors: u64,
        alignment: u64,
        part: usize,
    ) -> Result<Vec<GgufTensor>, CheckpointError> {
        let mut tensors = Vec::new();
        let mut names = HashSet::new();
        let mut expected = 0u64;
        for number in 0..n_tensors {
            self.cursor.item = Item::TensorNumber(number);
            let at = self.cursor.at();
            let name = self.text()?;
            if let Some(problem) = name_problem(&name) {
                return Err(self.cursor.fail(at, Problem::Name { name, problem }));
            }
            self.cursor.item = Item::Tensor(name.clone());
            if !names.insert(name.clone()) {
                return Err(self.cursor.fail(at, Problem::Duplicate));
            }
            let (dims, kind, bytes) = self.shape()?;
            let at = self.cursor.at();
            let offset = self.cursor.u64()?;
            if offset != expected {
                return Err(self.cursor.fail(at, Problem::Offset { offset, expected }));
            }
            expected = (offset.saturating_add(bytes))
                .checked_next_multiple_of(alignment)
                .unwrap_or(u64::MAX);
            tensors.push(GgufTensor { name, dims, kind, part, offset, bytes });
        }
        self.locate(&mut tensors, alignment)?;
        Ok(tensors)
    }

    fn shape(&mut self) -> Result<(Vec<u64>, GgmlType, u64), CheckpointError> {
        let at = self.cursor.at();
        let rank = self.cursor.u32()?;
        if rank as usize > MAX_RANK {
            let limit = MAX_RANK as u32;
            return Err(self.cursor.fail(at, Problem::Rank { rank, limit }));
        }
        let dims = (0..rank).map(|_| self.size()).collect::<Result<Vec<_>, _>>()?;
        let type_at = self.cursor.at();
        let id = self.cursor.u32()?;
        let kind = GgmlType::from_id(id).map_err(|p| self.cursor.fail(type_at, p))?;
        let bytes = kind.tensor_bytes(&dims).map_err(|p| self.cursor.fail(at, p))?;
        Ok((dims, kind, bytes))
    }

    /// Turns offsets in the data section into offsets in the file.
    fn locate(
        &mut self,
        tensors: &mut [GgufTensor],
        alignment: u64,
    ) -> Result<(), CheckpointError> {
        let data = self.cursor.at().next_multiple_of(alignment);
        let file = self.cursor.at() + self.cursor.left();
        for tensor in tensors {
            let at = data.saturating_add(tensor.offset);
            let (needed, left) = (tensor.bytes, file.saturating_sub(at));
            if needed > left {
                self.cursor.item = Item::Tensor(tensor.name.clone());
                return Err(self.cursor.fail(at, Problem::Truncated { needed, left }));
            }
            tensor.offset = at;
        }
        Ok(())
    }
}
