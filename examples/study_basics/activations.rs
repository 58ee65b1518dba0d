//! Ranges of activations: learned beforehand, or measured on the way.

use anyhow::Result;
use fewbit::{
    eval::{
        Table,
        ndarray::{Array2, ArrayView2},
        units::percent,
    },
    format::{
        Bits, Granularity, Grid, IntGrid, IntParams, IntScheme, MatrixShape, QuantMatrix, Range,
        Symmetry,
    },
};

use crate::{layer::Layer, relative_error, scheme};

/// Errors of a layer's output with rounded inputs, at 8 and at 4 bits.
pub struct RangeErrors {
    pub name: &'static str,
    pub errors: [f64; 2],
}

const WIDTHS: [Bits; 2] = [Bits::B8, Bits::B4];

/// Where a range comes from.
#[derive(Clone, Copy)]
enum Source {
    /// The values of each token.
    Token,
    /// The first values of the calibration text, all of them, or those with the least squared error.
    Calibration { n_tokens: usize, range: Range },
}

pub fn study(layer: &Layer) -> Result<Vec<RangeErrors>> {
    let (n_calibration, n_test) = (layer.calibration.nrows(), layer.test.nrows());
    println!(
        "4. Activations: static and dynamic ranges\n\n\
         Weights are known when a model is quantized; its activations are not. A static range is learned from\n\
         calibration text and kept. A dynamic one is measured for each token on the way, which costs a pass over the\n\
         values but always fits. Inputs of {}, symmetric; ranges from {n_calibration} tokens,\n\
         judged on {n_test} others by the error of the layer's output:\n",
        layer.name
    );
    let exact = output(layer, layer.test.view());
    let mut table = Table::new()
        .left("range")
        .right("8 bits")
        .unit("error")
        .right("4 bits")
        .unit("error")
        .right("clipped")
        .unit("at 4 bits");
    let all = Source::Calibration { n_tokens: n_calibration, range: Range::MinMax };
    let mut found = vec![];
    for (name, source) in [
        ("dynamic, each token", Source::Token),
        ("static, naive", all),
        (
            "static, calibrated",
            Source::Calibration { n_tokens: n_calibration, range: Range::Search },
        ),
        (
            "static, 99.9 % of the values",
            Source::Calibration {
                n_tokens: n_calibration,
                range: Range::Percentile { outside: 500 },
            },
        ),
        ("static, 16 tokens", Source::Calibration { n_tokens: 16, range: Range::MinMax }),
    ] {
        let mut errors = [0.0; 2];
        let mut clipped = 0.0;
        for (error, bits) in errors.iter_mut().zip(WIDTHS) {
            let (rounded, share) =
                round(layer, source, scheme(bits, Symmetry::Symmetric, Granularity::Channel))?;
            let rounded = output(layer, rounded.view());
            *error = relative_error(flat(&exact), flat(&rounded));
            clipped = share;
        }
        let cells = errors.map(|error| percent(error, 2));
        table.row([name.to_string()].into_iter().chain(cells).chain([percent(clipped, 3)]));
        found.push(RangeErrors { name, errors });
    }
    println!("{table}");
    let [dynamic, naive, few] = [0, 1, 4].map(|i| found[i].errors[1]);
    let rest = if few < naive {
        "That even helps here: the rare large values cost less clipped than the wide steps they\nwould bring"
    } else {
        "That costs more than the finer steps bring"
    };
    println!(
        "The naive static range is as wide as the rarest outlier; the calibrated one gives outliers up for finer steps,\n\
         as many as the least squared error asks for; a percentile gives up a fixed share.\n\
         A range from 16 tokens has not seen the largest values and clips them. {rest}.\n\
         The dynamic range needs no calibration at all; at 4 bits its error is {:.1} times smaller than that of the naive static one.\n",
        naive / dynamic
    );
    Ok(found)
}

/// The test inputs after rounding, and the share of them that lay outside the range.
fn round(layer: &Layer, source: Source, scheme: IntScheme) -> Result<(Array2<f32>, f64)> {
    let (n_tokens, n_features) = layer.test.dim();
    let shape = MatrixShape::new(n_tokens, n_features);
    let values = flat(&layer.test);
    let matrix = match source {
        // A row of the matrix is a token.
        Source::Token => QuantMatrix::round_to_nearest_on(values, shape, &IntGrid::plain(scheme))?,
        Source::Calibration { n_tokens: n, range } => {
            let grid = IntGrid { range, ..IntGrid::new(scheme) };
            let known = &flat(&layer.calibration)[..n * n_features];
            let params: IntParams = grid.fit(known, &vec![1.0; known.len()]);
            let codes = values.iter().map(|&x| grid.encode(params, 0, x)).collect();
            QuantMatrix::from_params(shape, scheme, codes, &vec![params; n_tokens], None)?
        }
    };
    let back = matrix.dequantize();
    // A value in the range is at most half a step away.
    let step = |i: usize| matrix.params(i / n_features, 0).scale.abs();
    let outside = |&i: &usize| (values[i] - back[i]).abs() > 0.51 * step(i);
    let clipped = (0..values.len()).filter(outside).count() as f64 / values.len() as f64;
    Ok((Array2::from_shape_vec((n_tokens, n_features), back)?, clipped))
}

fn output(layer: &Layer, x: ArrayView2<'_, f32>) -> Array2<f32> {
    let shape = (layer.shape.out_features, layer.shape.in_features);
    let weight = ArrayView2::from_shape(shape, &layer.weight).expect("as large as its shape");
    x.dot(&weight.t())
}

fn flat(x: &Array2<f32>) -> &[f32] {
    x.as_slice().expect("a contiguous array")
}
