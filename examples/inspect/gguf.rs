//! GGUF files as they are: metadata and tensors.

use anyhow::Result;
use fewbit::{
    checkpoint::gguf::{Array, Gguf, GgufTensor, Value},
    eval::{Table, units::bytes},
};

use crate::{Distributions, Summary};

/// Weights decoded at a time; a multiple of every block.
const PIECE: usize = 1 << 20;

pub fn print(file: &Gguf, distributions: &mut Distributions) -> Result<()> {
    println!(
        "{}: GGUF version {}, {} keys, {} tensors, {}",
        file.path().display(),
        file.version(),
        file.metadata().len(),
        file.tensors().len(),
        bytes(file.file_bytes()),
    );
    let parts = file.paths().len();
    if parts > 1 {
        println!("split into {parts} files");
    }
    println!();
    let mut keys = Table::new().left("key").left("type").left("value");
    for (key, value) in file.metadata().iter() {
        keys.row([key.to_owned(), kind(value), shortened(&show(value), 72)]);
    }
    println!("{keys}");
    tensors(file, distributions)
}

fn tensors(file: &Gguf, distributions: &mut Distributions) -> Result<()> {
    let mut table = Table::new()
        .left("tensor")
        .left("type")
        .right("shape")
        .right("bits")
        .unit("per weight")
        .right("size")
        .right("min")
        .right("max")
        .right("std")
        .left("histogram");
    let (mut stored, mut weights) = (0u64, 0u64);
    for tensor in file.tensors() {
        let shape: Vec<String> = tensor.dims.iter().rev().map(u64::to_string).collect();
        let mut row = vec![
            tensor.name.clone(),
            tensor.kind.name().to_owned(),
            shape.join("×"),
            format!("{:.3}", tensor.kind.bits_per_weight()),
            bytes(tensor.bytes),
        ];
        stored += tensor.bytes;
        weights += tensor.len();
        match summary(file, tensor)? {
            Some(s) => {
                row.push(format!("{:.3}", s.min));
                row.push(format!("{:.3}", s.max));
                row.push(format!("{:.4}", s.std()));
                row.push(s.histogram());
                if tensor.dims.len() > 1
                    && let Some(layer) = layer(&tensor.name)
                {
                    distributions.add(layer, &s);
                }
            }
            None => row.extend(["–".into(), "–".into(), "–".into(), "cannot be decoded".into()]),
        }
        table.row(row);
    }
    println!("{table}");
    println!("{weights} weights at {:.3} bits on average", stored as f64 * 8.0 / weights as f64);
    Ok(())
}

/// `None` if the type cannot be decoded.
fn summary(file: &Gguf, tensor: &GgufTensor) -> Result<Option<Summary>> {
    if !tensor.kind.decodes() {
        return Ok(None);
    }
    let len = tensor.len() as usize;
    let mut summary = Summary::new(len);
    let mut piece = vec![0.0; PIECE.min(len)];
    for begin in (0..len).step_by(PIECE) {
        let piece = &mut piece[..PIECE.min(len - begin)];
        file.read_f32_into(&tensor.name, begin as u64, piece)?;
        summary.add(piece);
    }
    Ok(Some(summary))
}

/// Layer of a tensor, with the place of its kind within a layer as a fraction.
fn layer(name: &str) -> Option<f64> {
    const ORDER: [&str; 9] = [
        "attn_qkv",
        "attn_q",
        "attn_k",
        "attn_v",
        "attn_output",
        "ffn_gate",
        "ffn_up",
        "ffn_down",
        "",
    ];
    let (number, kind) = name.strip_prefix("blk.")?.split_once('.')?;
    let kind = kind.strip_suffix(".weight")?;
    let place = ORDER.iter().position(|&k| k == kind).unwrap_or(ORDER.len() - 1);
    Some(number.parse::<f64>().ok()? + place as f64 / ORDER.len() as f64)
}

fn kind(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("{} × {}", array.len(), array.value_type()),
        other => other.value_type().to_string(),
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::U8(v) => v.to_string(),
        Value::I8(v) => v.to_string(),
        Value::U16(v) => v.to_string(),
        Value::I16(v) => v.to_string(),
        Value::U32(v) => v.to_string(),
        Value::I32(v) => v.to_string(),
        Value::F32(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::Text(v) => format!("{v:?}"),
        Value::U64(v) => v.to_string(),
        Value::I64(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Array(array) => elements(array),
    }
}

fn elements(array: &Array) -> String {
    fn first<T: std::fmt::Debug>(values: &[T]) -> String {
        let shown: Vec<String> = values.iter().take(8).map(|v| format!("{v:?}")).collect();
        let more = if values.len() > shown.len() { ", …" } else { "" };
        format!("[{}{more}]", shown.join(", "))
    }
    match array {
        Array::U8(v) => first(v),
        Array::I8(v) => first(v),
        Array::U16(v) => first(v),
        Array::I16(v) => first(v),
        Array::U32(v) => first(v),
        Array::I32(v) => first(v),
        Array::F32(v) => first(v),
        Array::Bool(v) => first(v),
        Array::Text(v) => first(v),
        Array::U64(v) => first(v),
        Array::I64(v) => first(v),
        Array::F64(v) => first(v),
    }
}

fn shortened(text: &str, width: usize) -> String {
    match text.char_indices().nth(width) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
