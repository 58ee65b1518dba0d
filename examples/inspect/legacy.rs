//! Files of llama.cpp before GGUF and of llama2.c: parameters and tensors.

use std::path::Path;

use anyhow::Result;
use fewbit::{
    checkpoint::legacy::LegacyFile,
    eval::{Table, units::bytes},
};

use crate::{Distributions, Summary};

pub fn print(path: &Path, file: &LegacyFile, distributions: &mut Distributions) -> Result<()> {
    let tensors = file.tensors();
    let total: u64 = tensors.iter().map(|t| t.bytes).sum();
    println!(
        "{}: {}, {} tensors, {}\n",
        path.display(),
        file.format(),
        tensors.len(),
        bytes(total)
    );
    let mut parameters = Table::new().left("parameter").right("value");
    for (name, value) in self::parameters(file) {
        parameters.row([name.to_owned(), value.to_string()]);
    }
    println!("{parameters}");
    let mut table = Table::new()
        .left("tensor")
        .left("type")
        .right("shape")
        .right("bits")
        .unit("per weight")
        .right("min")
        .right("max")
        .right("std")
        .left("histogram");
    let mut weights = 0;
    for tensor in &tensors {
        let shape: Vec<String> = tensor.dims.iter().rev().map(u64::to_string).collect();
        let len: u64 = tensor.dims.iter().product();
        let s = Summary::of(&file.read_f32(&tensor.name)?);
        weights += len;
        if let Some(layer) = layer(&tensor.name).filter(|_| tensor.dims.len() > 1) {
            distributions.add(layer, &s);
        }
        table.row([
            tensor.name.clone(),
            tensor.kind.name().to_owned(),
            shape.join("×"),
            format!("{:.3}", tensor.bytes as f64 * 8.0 / len.max(1) as f64),
            format!("{:.3}", s.min),
            format!("{:.3}", s.max),
            format!("{:.4}", s.std()),
            s.histogram(),
        ]);
    }
    println!("{table}");
    println!("{weights} weights at {:.3} bits on average", total as f64 * 8.0 / weights as f64);
    Ok(())
}

/// What the file says of its model.
fn parameters(file: &LegacyFile) -> Vec<(&'static str, u64)> {
    match file {
        LegacyFile::Ggml(file) => {
            let p = file.hyperparameters();
            [
                ("n_vocab", p.n_vocab),
                ("n_embd", p.n_embd),
                ("n_mult", p.n_mult),
                ("n_head", p.n_head),
                ("n_layer", p.n_layer),
                ("n_rot", p.n_rot),
                ("ftype", p.ftype),
            ]
            .map(|(name, value)| (name, value.into()))
            .to_vec()
        }
        LegacyFile::Llama2c(file) => {
            let p = file.parameters();
            vec![
                ("dim", p.dim),
                ("hidden_dim", p.hidden_dim),
                ("n_layers", p.n_layers),
                ("n_heads", p.n_heads),
                ("n_kv_heads", p.n_kv_heads),
                ("vocab_size", p.vocab_size),
                ("seq_len", p.seq_len),
                ("shared_classifier", p.shared_classifier.into()),
            ]
        }
        _ => Vec::new(),
    }
}

/// Layer of a tensor, with the place of its kind within a layer as a fraction.
fn layer(name: &str) -> Option<f64> {
    const ORDER: [&str; 7] = ["wq", "wk", "wv", "wo", "w1", "w3", "w2"];
    let (number, rest) = name.strip_prefix("layers.")?.split_once('.')?;
    let kind = rest.strip_suffix(".weight")?.rsplit('.').next()?;
    let place = ORDER.iter().position(|&k| k == kind)?;
    Some(number.parse::<f64>().ok()? + place as f64 / ORDER.len() as f64)
}
