//! The bytes of a header.

use super::{Array, GgmlType, Metadata, Value};

/// Version that is written.
const VERSION: u32 = 3;

/// A tensor as its header lists it.
pub(super) struct Listed<'a> {
    pub(super) name: &'a str,
    pub(super) dims: &'a [u64],
    pub(super) kind: GgmlType,
    /// From the first data byte.
    pub(super) offset: u64,
}

/// The header of a file, padded with zeros up to its first data byte.
pub(super) fn header(metadata: &Metadata, tensors: &[Listed<'_>], alignment: u64) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        text(&mut out, key);
        out.extend(value.value_type().id().to_le_bytes());
        put(&mut out, value);
    }
    for tensor in tensors {
        text(&mut out, tensor.name);
        out.extend((tensor.dims.len() as u32).to_le_bytes());
        out.extend(tensor.dims.iter().flat_map(|d| d.to_le_bytes()));
        out.extend(tensor.kind.id().to_le_bytes());
        out.extend(tensor.offset.to_le_bytes());
    }
    // Without tensors there is no data, and the file ends with its last key.
    if !tensors.is_empty() {
        out.resize(out.len().next_multiple_of(alignment as usize), 0);
    }
    out
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.extend(v.to_le_bytes()),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::Text(v) => text(out, v),
        Value::Array(array) => put_array(out, array),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.value_type().id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I16(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::U32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F32(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::Bool(v) => out.extend(v.iter().map(|&v| u8::from(v))),
        Array::Text(v) => v.iter().for_each(|v| text(out, v)),
        Array::U64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::I64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Array::F64(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
    }
}
