//! The study as one figure.

use std::path::Path;

use anyhow::Result;
use fewbit::{
    checkpoint::write_atomically,
    eval::figure::{BarChart, BarSeries, Scale},
};

use crate::{GranularityErrors, activations::RangeErrors};

/// Errors at 4 bits: of the weights by granularity, symmetry and range; of the output by the ranges of the inputs.
pub fn draw(weights: &[GranularityErrors], inputs: &[RangeErrors], file: &Path) -> Result<()> {
    let n_inputs = inputs.len();
    let series = |name: &str, symmetry: usize, range: usize| BarSeries {
        name: name.into(),
        values: weights
            .iter()
            .map(|w| Some(100.0 * w.errors[symmetry][range]))
            .chain(vec![None; n_inputs])
            .collect(),
        before: vec![],
    };
    let of_inputs = |name: &str, width: usize| BarSeries {
        name: name.into(),
        values: vec![None; weights.len()]
            .into_iter()
            .chain(inputs.iter().map(|i| Some(100.0 * i.errors[width])))
            .collect(),
        before: vec![],
    };
    let categories = weights.iter().map(|w| w.name).chain(inputs.iter().map(|i| i.name));
    let chart = BarChart {
        title: "What rounding costs: weights at 4 bits, inputs at 8 and 4".into(),
        x_label: "scales of the weights; ranges of the inputs".into(),
        y_label: "relative error, percent".into(),
        categories: categories.map(String::from).collect(),
        series: vec![
            series("weights, symmetric, naive", 0, 0),
            series("weights, symmetric, calibrated", 0, 1),
            series("weights, affine, naive", 1, 0),
            series("weights, affine, calibrated", 1, 1),
            of_inputs("inputs, 8 bits", 0),
            of_inputs("inputs, 4 bits", 1),
        ],
        scale: Scale::Log,
        ..BarChart::default()
    };
    write_atomically(file, chart.to_svg()?.as_bytes())?;
    Ok(())
}
