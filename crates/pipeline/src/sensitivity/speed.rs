//! How long a layer takes for one token under each grid, on this machine.

use std::{collections::BTreeMap, time::Instant};

use fewbit_checkpoint::{Dtype, Weight};
use fewbit_format::{FormatError, MatrixShape, Quantized, Scheme};
use fewbit_model::{Linear, ndarray::Array2};

use super::grid_name;

/// Nanoseconds of a product with one token, by shape and grid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerSpeeds(BTreeMap<(usize, usize, String), u64>);

/// Products that are timed; the fastest counts, since others can only be slowed down.
const TIMES: usize = 15;

impl LayerSpeeds {
    /// Time of a layer of this shape under a grid; `None` if it was not measured.
    pub fn nanoseconds(&self, shape: MatrixShape, grid: &Scheme) -> Option<u64> {
        self.0.get(&(shape.out_features, shape.in_features, grid_name(grid))).copied()
    }
}

/// Times a layer of each shape under each grid, and in the float type of the model, with weights that are made up. Grids that do not fit a shape are
/// left out.
pub fn measure_speeds(shapes: &[MatrixShape], grids: &[Scheme], float: Dtype) -> LayerSpeeds {
    let mut speeds = LayerSpeeds::default();
    for &shape in shapes {
        for grid in grids.iter().chain([&Scheme::Float]) {
            let key = (shape.out_features, shape.in_features, grid_name(grid));
            if speeds.0.contains_key(&key) {
                continue;
            }
            if let Ok(layer) = layer(shape, *grid, float) {
                speeds.0.insert(key, time(&layer, shape.in_features));
            }
        }
    }
    speeds
}

fn layer(shape: MatrixShape, grid: Scheme, float: Dtype) -> Result<Linear, FormatError> {
    // Any weights do: no kernel looks at them.
    let data: Vec<f32> =
        (0..shape.len()).map(|i| ((i * 7919) % 255) as f32 / 128.0 - 1.0).collect();
    let weight = match grid {
        Scheme::Float => Weight::Float { shape, dtype: float, data },
        grid => Weight::Quant(Quantized::round_to_nearest(&data, shape, grid)?),
    };
    Ok(Linear::from_weight(weight, None))
}

fn time(layer: &Linear, in_features: usize) -> u64 {
    let x = Array2::from_elem((1, in_features), 0.5);
    let fastest = (0..TIMES).map(|_| {
        let started = Instant::now();
        std::hint::black_box(layer.forward(x.view()));
        started.elapsed().as_nanos() as u64
    });
    fastest.min().unwrap_or(0)
}
