//! Quantization from the beginning, with the numbers of a real matrix: documentation that runs.
//!
//! ```text
//! cargo run --release --example study-basics
//! ```

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use fewbit::{
    checkpoint::Checkpoint,
    eval::{Table, units::percent},
    format::{
        Bits, Granularity, Grid, IntGrid, IntScheme, QuantMatrix, Range, ScaleType, Symmetry,
    },
};

mod activations;
mod figure;
mod layer;
#[path = "../support/mod.rs"]
mod support;

use layer::Layer;

#[derive(Parser)]
#[command(
    about = "Quantization from the beginning, with the numbers of a matrix of the demo model"
)]
struct Args {
    /// Where the figure goes.
    #[arg(long, default_value = "study-basics.svg")]
    svg: PathBuf,
}

fn main() -> ExitCode {
    support::exit_code(run(&Args::parse()))
}

fn run(args: &Args) -> Result<()> {
    let checkpoint = Checkpoint::open(&support::demo_model()?)?;
    let layer = Layer::read(&checkpoint)?;
    to_codes_and_back(&layer)?;
    let granularities = ranges_and_groups(&layer)?;
    let inputs = activations::study(&layer)?;
    figure::draw(&granularities, &inputs, &args.svg)?;
    println!("The last two tables are drawn in {}.", args.svg.display());
    Ok(())
}

fn scheme(bits: Bits, symmetry: Symmetry, granularity: Granularity) -> IntScheme {
    IntScheme { bits, symmetry, granularity, scale_type: ScaleType::F16 }
}

/// How to name the two rules for a range.
const RANGES: [(Range, &str); 2] = [(Range::MinMax, "naive"), (Range::Search, "calibrated")];

/// Root of the squared error over that of zeros in place of the weights.
fn relative_error(exact: &[f32], rounded: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = exact.iter().zip(rounded).map(|(a, b)| square(f64::from(a - b))).sum();
    let norm: f64 = exact.iter().map(|a| square(f64::from(*a))).sum();
    (error / norm).sqrt()
}

fn to_codes_and_back(layer: &Layer) -> Result<()> {
    let (weight, shape) = (&layer.weight, layer.shape);
    println!(
        "1. A float matrix to int8 and back\n\n\
         {} of the demo model is {} x {} floats. With 8 bits a weight becomes one of 256 codes:\n\
         weight ~ (code - zero point) * scale. With one scale for the whole matrix and the zero point in the\n\
         middle (\"symmetric\"), the scale is the largest magnitude over the codes on one side:\n",
        layer.name, shape.out_features, shape.in_features
    );
    let scheme = scheme(Bits::B8, Symmetry::Symmetric, Granularity::Tensor);
    let matrix = QuantMatrix::round_to_nearest_on(weight, shape, &IntGrid::plain(scheme))?;
    let back = matrix.dequantize();
    let params = matrix.params(0, 0);
    let largest = weight.iter().fold(0f32, |most, w| most.max(w.abs()));
    println!(
        "largest magnitude {largest:.4}, scale {:.6}, zero point {}\n",
        params.scale, params.zero_point
    );
    let mut table =
        Table::new().left("weight").right("value").right("code").right("back").right("error");
    for i in 0..6 {
        table.row([
            format!("[0, {i}]"),
            format!("{:+.5}", weight[i]),
            matrix.codes()[i].to_string(),
            format!("{:+.5}", back[i]),
            format!("{:+.5}", back[i] - weight[i]),
        ]);
    }
    println!("{table}");
    println!(
        "No error is larger than half a scale, {:.5}. Over the whole matrix the error is {} of the weights'\n\
         own size, and a weight costs {:.2} bits in place of 32.\n",
        params.scale / 2.0,
        percent(relative_error(weight, &back), 2),
        matrix.bits_per_weight(),
    );
    Ok(())
}

/// Error of a granularity at 4 bits: by symmetry, then by range.
pub struct GranularityErrors {
    pub name: &'static str,
    pub errors: [[f64; 2]; 2],
}

const SYMMETRIES: [(Symmetry, &str); 2] =
    [(Symmetry::Symmetric, "symmetric"), (Symmetry::Affine, "affine")];

fn ranges_and_groups(layer: &Layer) -> Result<Vec<GranularityErrors>> {
    println!(
        "2. Fewer bits: naive and calibrated ranges\n\n\
         The naive range reaches from the smallest to the largest weight. A few large weights then stretch the\n\
         steps of all others. The calibrated range is the one with the least squared error: it clips some\n\
         weights so that the steps are finer. One scale for the whole matrix, symmetric:\n"
    );
    let mut table =
        Table::new().left("bits").right("naive").unit("error").right("calibrated").unit("error");
    for (bits, name) in
        [(Bits::B8, "8"), (Bits::B6, "6"), (Bits::B4, "4"), (Bits::B3, "3"), (Bits::B2, "2")]
    {
        let mut cells = vec![name.to_string()];
        for (range, _) in RANGES {
            let scheme = scheme(bits, Symmetry::Symmetric, Granularity::Tensor);
            cells.push(percent(rounding(layer, scheme, range)?.0, 2));
        }
        table.row(cells);
    }
    println!("{table}");

    println!(
        "3. Symmetric and affine; per tensor, per channel, per group\n\n\
         Every scale serves the weights that share it. With a scale for each row (output channel), or for each\n\
         group of a row, large weights stretch only the steps of their neighbours. An affine grid also stores a\n\
         zero point, so that a group with more room on one side loses no codes. Both cost bits. At 4 bits:\n"
    );
    let mut table = Table::new().left("scales");
    for (_, symmetry) in SYMMETRIES {
        for (_, range) in RANGES {
            table = table.right(symmetry).unit(range);
        }
    }
    table = table.right("bits").unit("symmetric").right("bits").unit("affine");
    let mut all = vec![];
    for (granularity, name) in [
        (Granularity::Tensor, "per tensor"),
        (Granularity::Channel, "per channel"),
        (Granularity::group(128), "groups of 128"),
        (Granularity::group(32), "groups of 32"),
    ] {
        let (mut errors, mut bits) = ([[0.0; 2]; 2], [0.0; 2]);
        for (s, (symmetry, _)) in SYMMETRIES.into_iter().enumerate() {
            for (r, (range, _)) in RANGES.into_iter().enumerate() {
                let scheme = scheme(Bits::B4, symmetry, granularity);
                (errors[s][r], bits[s]) = rounding(layer, scheme, range)?;
            }
        }
        let cells = errors.iter().flatten().map(|&error| percent(error, 2));
        let bits = bits.map(|bits| format!("{bits:.2}"));
        table.row([name.to_string()].into_iter().chain(cells).chain(bits));
        all.push(GranularityErrors { name, errors });
    }
    println!("{table}");
    Ok(all)
}

/// Error of rounding to nearest, and bits for each weight.
fn rounding(layer: &Layer, scheme: IntScheme, range: Range) -> Result<(f64, f64)> {
    let (weight, shape) = (&layer.weight, layer.shape);
    let grid = IntGrid { range, ..IntGrid::new(scheme) };
    // Groups lie within a row, unless all rows share one.
    let (row, group) = match scheme.granularity {
        Granularity::Tensor => (shape.len(), shape.len()),
        other => (shape.in_features, other.group_size(shape.in_features)),
    };
    let (mut codes, mut params) = (vec![], vec![]);
    for group in weight.chunks(row).flat_map(|row| row.chunks(group)) {
        let fitted = grid.fit(group, &vec![1.0; group.len()]);
        codes.extend(group.iter().map(|&w| grid.encode(fitted, 0, w)));
        params.push(fitted);
    }
    let matrix = QuantMatrix::from_params(shape, scheme, codes, &params, None)?;
    Ok((relative_error(weight, &matrix.dequantize()), matrix.bits_per_weight()))
}
