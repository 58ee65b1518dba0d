//! The solver alone, with nothing but matrices: what an engine would call that has its own model and its own calibration.
//!
//! ```text
//! cargo run --release --example embed-solver                                   # a random layer whose inputs have outliers
//! cargo run --release --example embed-solver -- layers.safetensors --bits 3 --group-size 128 --json errors.json
//! ```
//!
//! The file holds, for each layer NAME, `NAME.weight (out_features, in_features)`, `NAME.inputs (n_tokens, in_features)` and, if there are such, other inputs
//! to judge by, `NAME.held_out`, all f32.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Parser;
use fewbit::{
    eval::Table,
    format::{Bits, Granularity, IntGrid, IntParams, IntScheme, MatrixShape, ScaleType, Symmetry},
    gptq::{GptqSpec, Hessian, Prepared, Solution, quantize, round_to_nearest},
};
use fewbit_testkit::Random;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

#[path = "support/mod.rs"]
mod support;

#[derive(Parser)]
#[command(about = "Quantize single layers by their inputs")]
struct Args {
    /// Layers and their inputs. Without it: one of random numbers.
    file: Option<PathBuf>,
    /// Bits of a code: 2, 3, 4, 5, 6 or 8.
    #[arg(long, default_value_t = 4)]
    bits: u32,
    /// Weights that share a scale.
    #[arg(long, default_value_t = 128)]
    group_size: u32,
    /// Write the errors as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// A layer and what passes through it, row-major.
struct Layer {
    name: String,
    shape: MatrixShape,
    weight: Vec<f32>,
    inputs: Vec<f32>,
    held_out: Vec<f32>,
}

#[derive(Serialize)]
struct Errors {
    layer: String,
    /// Mean squared error of the outputs on held-out inputs, relative to the outputs.
    plain: f64,
    gptq: f64,
    /// Largest ratio of a row's error on the inputs that were solved for, GPTQ's to plain rounding's.
    worst_row: f64,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let scheme = IntScheme {
        bits: Bits::try_from(args.bits)?,
        symmetry: Symmetry::Affine,
        granularity: Granularity::group(args.group_size.max(1)),
        scale_type: ScaleType::F16,
    };
    let layers = match &args.file {
        Some(path) => read(path)?,
        None => vec![random_layer()],
    };
    let mut rows = Vec::new();
    for layer in &layers {
        rows.push(solve(layer, scheme).with_context(|| layer.name.clone())?);
    }
    let mut table = Table::new()
        .left("layer")
        .right("plain rounding")
        .unit("output error")
        .right("GPTQ")
        .unit("output error")
        .right("worst row")
        .unit("of plain's");
    for row in &rows {
        table.row([
            row.layer.clone(),
            format!("{:.3e}", row.plain),
            format!("{:.3e}", row.gptq),
            format!("{:.2}", row.worst_row),
        ]);
    }
    println!("{table}");
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn solve(layer: &Layer, scheme: IntScheme) -> Result<Errors> {
    // What a solver needs: the second moments of the inputs, and a grid.
    let mut hessian = Hessian::new(layer.shape.in_features);
    hessian.add(&layer.inputs)?;
    let prepared = Prepared::new(&hessian, &GptqSpec::default())?;
    let grid = IntGrid::new(scheme);
    let (weight, shape, groups) = (&layer.weight, layer.shape, scheme.granularity);
    let solved = quantize(weight, shape, &prepared, &grid, groups)?;
    let plain = round_to_nearest(weight, shape, &hessian, &IntGrid::plain(scheme), groups)?;

    let errors = [&plain, &solved].map(|solution| difference(layer, solution, scheme));
    let power = squares(&layer.held_out, weight, shape).iter().sum::<f64>();
    let [plain, gptq] =
        [0, 1].map(|i| squares(&layer.held_out, &errors[i], shape).iter().sum::<f64>() / power);
    let [before, after] = [0, 1].map(|i| squares(&layer.inputs, &errors[i], shape));
    let ratios = after.iter().zip(&before).filter(|(_, plain)| **plain > 0.0);
    let worst_row = ratios.map(|(after, before)| after / before).fold(0.0, f64::max);
    Ok(Errors { layer: layer.name.clone(), plain, gptq, worst_row })
}

/// What rounding changed.
fn difference(layer: &Layer, solution: &Solution<IntParams>, scheme: IntScheme) -> Vec<f32> {
    let (width, group) =
        (layer.shape.in_features, scheme.granularity.group_size(layer.shape.in_features));
    let n_groups = width.div_ceil(group);
    let value = |i: usize, code: u8| {
        let params = solution.params[i / width * n_groups + i % width / group];
        (f32::from(code) - f32::from(params.zero_point)) * params.scale
    };
    let codes = solution.codes.iter().enumerate();
    codes.map(|(i, &code)| value(i, code) - layer.weight[i]).collect()
}

/// Σ over tokens of the squared output of each row of a matrix.
fn squares(inputs: &[f32], matrix: &[f32], shape: MatrixShape) -> Vec<f64> {
    let rows = matrix.chunks(shape.in_features);
    rows.map(|row| {
        let outputs = inputs.chunks_exact(shape.in_features).map(|x| {
            let products = x.iter().zip(row).map(|(x, w)| f64::from(*x) * f64::from(*w));
            products.sum::<f64>()
        });
        outputs.map(|y| y * y).sum()
    })
    .collect()
}

/// Correlated inputs of which some channels are twenty times as large.
fn random_layer() -> Layer {
    let (shape, n_tokens, rank) = (MatrixShape::new(256, 512), 2048, 8);
    let mut random = Random::new(42);
    let weight = random.normals(shape.len()).iter().map(|w| 0.02 * w).collect();
    let mix = random.normals(rank * shape.in_features);
    let mut inputs = |n: usize| {
        let mut x = random.normals(n * shape.in_features);
        for x in x.chunks_mut(shape.in_features) {
            let shares = random.normals(rank);
            for (share, mix) in shares.iter().zip(mix.chunks(shape.in_features)) {
                x.iter_mut().zip(mix).for_each(|(x, m)| *x += share * m / (rank as f32).sqrt());
            }
            x.iter_mut().step_by(97).for_each(|x| *x *= 20.0);
        }
        x
    };
    let (inputs, held_out) = (inputs(n_tokens), inputs(n_tokens));
    Layer { name: "random, with outliers".into(), shape, weight, inputs, held_out }
}

fn read(path: &PathBuf) -> Result<Vec<Layer>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).context("not a safetensors file")?;
    let matrix = |name: &str| -> Result<(Vec<f32>, usize, usize)> {
        let tensor = file.tensor(name).with_context(|| format!("{name} is missing"))?;
        let &[rows, columns] = tensor.shape() else { bail!("{name} is no matrix") };
        if tensor.dtype() != Dtype::F32 {
            bail!("{name} is {:?}, expected F32", tensor.dtype());
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        Ok((values.iter().map(|&b| f32::from_le_bytes(b)).collect(), rows, columns))
    };
    let mut names: Vec<&str> =
        file.names().into_iter().filter_map(|name| name.strip_suffix(".weight")).collect();
    names.sort_unstable();
    let layers = names.into_iter().map(|name| {
        let (weight, out_features, in_features) = matrix(&format!("{name}.weight"))?;
        let (inputs, _, width) = matrix(&format!("{name}.inputs"))?;
        let held_out = match file.tensor(&format!("{name}.held_out")) {
            Ok(_) => matrix(&format!("{name}.held_out"))?.0,
            Err(_) => inputs.clone(),
        };
        if width != in_features {
            bail!("{name}: inputs of {width} features for a weight of {in_features}");
        }
        let shape = MatrixShape::new(out_features, in_features);
        Ok(Layer { name: name.into(), shape, weight, inputs, held_out })
    });
    layers.collect()
}
