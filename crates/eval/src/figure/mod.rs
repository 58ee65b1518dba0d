//! Figures as SVG text: grouped bars and lines, 900 × 480, on white.
//!
//! The colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart; the legend stands
//! beside the plot in the order of the series, so that it also reads in grey.
//!
//! ```
//! use fewbit_eval::figure::{BarChart, LayerError};
//!
//! let errors = [("q_proj", 0, 0.031, 0.012), ("q_proj", 1, 0.045, 0.020), ("down_proj", 0, 0.09, 0.07)];
//! let chart = BarChart::error_by_layer(
//!     "Relative error by layer, 4 bit, groups of 128",
//!     "relative output error",
//!     ("GPTQ", "RTN"),
//!     errors.map(|(matrix, layer, before, after)| LayerError { matrix, layer, before: Some(before), after: Some(after) }),
//! );
//! let svg = chart.to_svg()?;
//! assert!(svg.starts_with("<svg") && svg.contains("down_proj"));
//! # Ok::<(), fewbit_eval::EvalError>(())
//! ```

mod axis;
mod bars;
mod canvas;
mod frame;
mod lines;

pub use bars::{BarChart, BarSeries, LayerError};
pub use lines::{LineChart, LineSeries};

use crate::EvalError;

/// How values are mapped to an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Logarithmic if all values are positive and span more than a factor of 30, else linear.
    #[default]
    Auto,
    /// Linear; from zero for bars.
    Linear,
    /// Logarithmic; values must be positive.
    Log,
}

/// Width of a figure in pixels.
const WIDTH: f64 = 900.0;
/// Height of a figure in pixels.
const HEIGHT: f64 = 480.0;

/// Beyond this, positions can no longer be computed without overflow.
const LARGEST: f64 = 1e100;

/// Smallest and largest value of all series, each checked; `None` if there is none.
fn range_of<'a>(
    title: &str,
    scale: Scale,
    values: impl Iterator<Item = (&'a str, f64)>,
) -> Result<Option<(f64, f64)>, EvalError> {
    let mut range: Option<(f64, f64)> = None;
    for (series, value) in values {
        let refuse = |why: &str| EvalError::FigureData {
            title: title.to_string(),
            series: series.to_string(),
            what: format!("the value {value} {why}"),
        };
        if value.is_nan() || value.abs() > LARGEST {
            return Err(refuse("cannot be drawn; leave out what was not measured"));
        }
        if scale == Scale::Log && value <= 0.0 {
            return Err(refuse("has no place on a logarithmic axis; use a linear one"));
        }
        let (low, high) = range.unwrap_or((value, value));
        range = Some((low.min(value), high.max(value)));
    }
    Ok(range)
}
