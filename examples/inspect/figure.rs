//! The weight distributions of a whole model in one figure.

use anyhow::Result;
use fewbit::eval::figure::{LineChart, LineSeries};

use crate::summary::Summary;

/// Quantiles of each matrix, in the order of the model.
#[derive(Default)]
pub struct Distributions {
    matrices: Vec<(f64, [f64; 5])>,
}

/// Shares of the weights, and the lines they make.
const SHARES: [f64; 5] = [0.001, 0.159, 0.5, 0.841, 0.999];
const NAMES: [&str; 5] =
    ["0.1 %", "15.9 % (−1 σ of a normal)", "median", "84.1 % (+1 σ)", "99.9 %"];

impl Distributions {
    /// `layer` counts matrices within a layer as fractions, so that the lines follow the model.
    pub fn add(&mut self, layer: f64, summary: &Summary) {
        self.matrices.push((layer, summary.quantiles(SHARES)));
    }

    pub fn is_empty(&self) -> bool {
        self.matrices.is_empty()
    }

    pub fn to_svg(&self, title: String) -> Result<String> {
        let line = |i: usize| LineSeries {
            name: NAMES[i].into(),
            points: self.matrices.iter().map(|(layer, q)| (*layer, q[i])).collect(),
        };
        let chart = LineChart {
            title,
            x_label: "layer (its matrices in order)".into(),
            y_label: "weight below which this share of the matrix lies".into(),
            series: (0..NAMES.len()).rev().map(line).collect(),
            ..LineChart::default()
        };
        Ok(chart.to_svg()?)
    }
}
