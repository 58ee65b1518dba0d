//! Figures as SVG text.

use crate::EvalError;

/// How values are mapped to an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scale {
    /// Logarithmic if all values are positive and span more than a factor of 30, else linear.
    #[default]
    Auto,
    /// Linear, from zero for bars.
    Linear,
    /// Logarithmic; values must be positive.
    Log,
}

/// The bars of one colour.
#[derive(Clone, Debug, Default)]
pub struct BarSeries {
    /// Name in the legend.
    pub name: String,
    /// One value per category; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
    /// One value per category to compare with, drawn pale behind the bar; empty if there is none.
    pub before: Vec<Option<f64>>,
}

/// Grouped bars: error by layer, methods side by side.
#[derive(Clone, Debug, Default)]
pub struct BarChart {
    /// Title above the plot.
    pub title: String,
    /// What the categories are.
    pub x_label: String,
    /// What the values are, with the unit.
    pub y_label: String,
    /// Names of the groups along x.
    pub categories: Vec<String>,
    /// The bars of each group.
    pub series: Vec<BarSeries>,
    /// Scale of the values.
    pub scale: Scale,
    /// What the solid and the pale part of a bar are called in the legend, if any series has `before`.
    pub after_before: Option<(String, String)>,
    /// Writes the value above each bar.
    pub value_labels: bool,
}

impl BarChart {
    /// The figure as SVG text.
    pub fn to_svg(&self) -> Result<String, EvalError> {
        unimplemented!()
    }
}

/// One line.
#[derive(Clone, Debug, Default)]
pub struct LineSeries {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y) in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Lines over a common axis.
#[derive(Clone, Debug, Default)]
pub struct LineChart {
    /// Title above the plot.
    pub title: String,
    /// What x is, with the unit.
    pub x_label: String,
    /// What y is, with the unit.
    pub y_label: String,
    /// The lines.
    pub series: Vec<LineSeries>,
    /// Scale of x.
    pub x_scale: Scale,
    /// Scale of y.
    pub y_scale: Scale,
}

impl LineChart {
    /// The figure as SVG text.
    pub fn to_svg(&self) -> Result<String, EvalError> {
        unimplemented!()
    }
}
