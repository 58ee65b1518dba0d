//! Lines over a common axis.

use super::axis::{Axis, Kind};
use super::canvas::{Anchor, Canvas, Font, GRID, INK, color, draw};
use super::frame::{Frame, Legend};
use super::{Scale, range_of};
use crate::EvalError;

/// Stroke of a line, pixels.
const STROKE: f64 = 2.0;

/// One line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineSeries {
    /// Name in the legend.
    pub name: String,
    /// Points (x, y) in the order they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Lines with a disc at each point: perplexity over bits per weight, a budget curve.
///
/// ```
/// use fewbit_eval::figure::{LineChart, LineSeries, Scale};
///
/// let svg = LineChart {
///     title: "Perplexity by size".into(),
///     x_label: "bits per weight".into(),
///     y_label: "perplexity".into(),
///     series: vec![LineSeries { name: "GPTQ".into(), points: vec![(2.5, 54.5), (3.5, 32.9), (4.5, 29.8)] }],
///     y_scale: Scale::Log,
///     ..LineChart::default()
/// }
/// .to_svg()?;
/// assert!(svg.contains("bits per weight"));
/// # Ok::<(), fewbit_eval::EvalError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
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
    ///
    /// # Errors
    /// [`EvalError::EmptyFigure`] without points, [`EvalError::FigureData`] for values that are not finite, and values
    /// ≤ 0 on a logarithmic axis.
    pub fn to_svg(&self) -> Result<String, EvalError> {
        let x_axis = self.axis(self.x_scale, |point| point.0)?;
        let y_axis = self.axis(self.y_scale, |point| point.1)?;
        Ok(draw(|canvas| self.paint(canvas, &x_axis, &y_axis)))
    }

    fn axis(&self, scale: Scale, coordinate: fn(&(f64, f64)) -> f64) -> Result<Axis, EvalError> {
        let values = self
            .series
            .iter()
            .flat_map(|s| s.points.iter().map(move |point| (s.name.as_str(), coordinate(point))));
        let (low, high) = range_of(&self.title, scale, values)?.ok_or_else(|| {
            EvalError::EmptyFigure { title: self.title.clone(), what: "no points" }
        })?;
        Ok(Axis::new(scale, low, high, Kind::Lines))
    }

    fn paint(&self, canvas: &mut Canvas<'_>, x_axis: &Axis, y_axis: &Axis) {
        let mut legend = Legend::default();
        if self.series.len() > 1 {
            for (i, series) in self.series.iter().enumerate() {
                legend.add(&series.name, color(i), Some(STROKE));
            }
        }
        let frame = Frame::new(y_axis, &legend);
        frame.paint(canvas, &self.title, &self.y_label, y_axis);
        legend.paint(canvas, &frame);
        for tick in &x_axis.ticks {
            let x = frame.x(x_axis, tick.value);
            canvas.line((x, frame.top), (x, frame.bottom), GRID, 1.0);
            canvas.text(&tick.label, (x, frame.bottom + 14.0), Anchor::Middle, Font::TICK);
        }
        canvas.line((frame.left, frame.bottom), (frame.right, frame.bottom), INK, 1.0);
        for (i, series) in self.series.iter().enumerate() {
            let at = |&(x, y): &(f64, f64)| (frame.x(x_axis, x), frame.y(y_axis, y));
            canvas.path(series.points.iter().map(at), color(i), STROKE);
            for point in &series.points {
                canvas.disc(at(point), 3.5, color(i));
            }
        }
        frame.paint_x_label(canvas, &self.x_label, frame.bottom + 36.0);
    }
}
