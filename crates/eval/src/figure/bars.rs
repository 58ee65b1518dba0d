//! Grouped bars.

use plotters::style::RGBColor;

use super::axis::{Axis, Kind};
use super::canvas::{
    Anchor, BAND, Canvas, Font, INK, SOFT_INK, WHITE, color, draw, pale, text_width,
};
use super::frame::{Frame, Legend};
use super::{Scale, range_of};
use crate::EvalError;
use crate::units::significant;

/// Height of the mark of a value on a logarithmic axis, pixels.
const MARK: f64 = 6.0;

/// The bars of one colour.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BarSeries {
    /// Name in the legend.
    pub name: String,
    /// One value per category; `None` leaves a gap.
    pub values: Vec<Option<f64>>,
    /// One value per category to compare with, drawn pale behind the bar; empty if there is none.
    pub before: Vec<Option<f64>>,
}

/// Grouped bars: methods side by side, error by layer.
///
/// ```
/// use fewbit_eval::figure::{BarChart, BarSeries};
///
/// let svg = BarChart {
///     title: "Divergence from the float model".into(),
///     y_label: "mean KL divergence (nats per token)".into(),
///     x_label: "bits per weight".into(),
///     categories: ["2", "3", "4"].map(String::from).to_vec(),
///     series: vec![
///         BarSeries { name: "RTN".into(), values: vec![Some(1.99), Some(0.232), Some(0.045)], before: vec![] },
///         BarSeries { name: "GPTQ".into(), values: vec![None, Some(0.123), Some(0.028)], before: vec![] },
///     ],
///     value_labels: true,
///     ..BarChart::default()
/// }
/// .to_svg()?;
/// assert!(svg.contains("GPTQ"));
/// # Ok::<(), fewbit_eval::EvalError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Writes the value above each bar, if there is room.
    pub value_labels: bool,
}

/// Error of one matrix, for [`BarChart::error_by_layer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerError<S> {
    /// Kind of the matrix, the same in all layers, such as `q_proj`.
    pub matrix: S,
    /// Number of its layer.
    pub layer: usize,
    /// Error of the method to compare with, such as plain rounding.
    pub before: Option<f64>,
    /// Error of the method itself.
    pub after: Option<f64>,
}

impl BarChart {
    /// One group per layer, one colour per kind of matrix in order of appearance, `names` for the two methods (after,
    /// before). A matrix that comes twice keeps the last value.
    pub fn error_by_layer<S: AsRef<str>>(
        title: impl Into<String>,
        y_label: impl Into<String>,
        names: (&str, &str),
        errors: impl IntoIterator<Item = LayerError<S>>,
    ) -> Self {
        let errors: Vec<LayerError<S>> = errors.into_iter().collect();
        let mut layers: Vec<usize> = errors.iter().map(|e| e.layer).collect();
        layers.sort_unstable();
        layers.dedup();
        let mut series: Vec<BarSeries> = Vec::new();
        for error in &errors {
            let name = error.matrix.as_ref();
            let at = series.iter().position(|s| s.name == name).unwrap_or_else(|| {
                let empty = vec![None; layers.len()];
                series.push(BarSeries { name: name.into(), values: empty.clone(), before: empty });
                series.len() - 1
            });
            let layer = layers.partition_point(|&layer| layer < error.layer);
            series[at].values[layer] = error.after;
            series[at].before[layer] = error.before;
        }
        let compared = errors.iter().any(|e| e.before.is_some());
        Self {
            title: title.into(),
            x_label: "layer".into(),
            y_label: y_label.into(),
            categories: layers.iter().map(usize::to_string).collect(),
            series,
            after_before: compared.then(|| (names.0.into(), names.1.into())),
            ..Self::default()
        }
    }

    /// The figure as SVG text.
    ///
    /// # Errors
    /// [`EvalError::EmptyFigure`] without categories, series or values, [`EvalError::FigureData`] for a series of another
    /// length than the categories, values that are not finite, and values ≤ 0 on a logarithmic axis.
    pub fn to_svg(&self) -> Result<String, EvalError> {
        let (low, high) = self.check()?;
        // Spans between two values need no room below the smallest one; bars do.
        let spans = self.series.iter().all(|s| !s.before.is_empty());
        let axis = Axis::new(self.scale, low, high, if spans { Kind::Spans } else { Kind::Bars });
        Ok(draw(|canvas| self.paint(canvas, &axis)))
    }

    fn check(&self) -> Result<(f64, f64), EvalError> {
        let empty = |what| EvalError::EmptyFigure { title: self.title.clone(), what };
        if self.categories.is_empty() {
            return Err(empty("no categories"));
        }
        for series in &self.series {
            let wanted = self.categories.len();
            let (values, before) = (series.values.len(), series.before.len());
            if values != wanted || (before != wanted && before != 0) {
                return Err(EvalError::FigureData {
                    title: self.title.clone(),
                    series: series.name.clone(),
                    what: format!(
                        "{values} values and {before} values before for {wanted} categories"
                    ),
                });
            }
        }
        let values = self.series.iter().flat_map(|series| {
            let all = series.values.iter().chain(&series.before);
            all.filter_map(|value| Some((series.name.as_str(), (*value)?)))
        });
        range_of(&self.title, self.scale, values)?.ok_or_else(|| empty("no values"))
    }

    fn paint(&self, canvas: &mut Canvas<'_>, axis: &Axis) {
        let mut legend = Legend::default();
        if self.series.len() > 1 || self.after_before.is_some() {
            for (i, series) in self.series.iter().enumerate() {
                legend.add(&series.name, color(i), None);
            }
        }
        if let Some((after, before)) = &self.after_before {
            legend.gap();
            legend.add(after, SOFT_INK, None);
            legend.add(before, pale(SOFT_INK), None);
        }
        let frame = Frame::new(axis, &legend);
        let slots = Slots::new(&frame, self.categories.len(), self.series.len());
        if self.series.len() > 1 {
            for group in (1..self.categories.len()).step_by(2) {
                let left = slots.left(group);
                canvas.rect(left, frame.top, left + slots.width, frame.bottom, BAND);
            }
        }
        frame.paint(canvas, &self.title, &self.y_label, axis);
        legend.paint(canvas, &frame);
        let base = frame.y(axis, axis.base());
        for (i, series) in self.series.iter().enumerate() {
            for group in 0..self.categories.len() {
                let before = series.before.get(group).copied().flatten();
                let [value, before] =
                    [series.values[group], before].map(|v| Some(frame.y(axis, v?)));
                paint_bar(canvas, slots.bar(group, i), value, before, base, color(i), axis.log);
            }
        }
        canvas.line((frame.left, base), (frame.right, base), INK, 1.0);
        if self.value_labels {
            self.paint_values(canvas, axis, &frame, &slots);
        }
        self.paint_categories(canvas, &frame, &slots);
    }

    /// Values above the bars: level if they fit, else upwards, else none.
    fn paint_values(&self, canvas: &mut Canvas<'_>, axis: &Axis, frame: &Frame, slots: &Slots) {
        let label = |value: f64| significant(value, 3);
        let values = self.series.iter().flat_map(|s| s.values.iter().flatten());
        let widest = values.map(|&v| text_width(&label(v), Font::VALUE.size)).fold(0.0, f64::max);
        let vertical = widest > slots.bar_pitch - 2.0;
        if vertical && slots.bar_pitch < Font::VALUE.size + 1.0 {
            return;
        }
        for (i, series) in self.series.iter().enumerate() {
            for (group, value) in series.values.iter().enumerate() {
                let Some(value) = *value else { continue };
                let (x0, x1) = slots.bar(group, i);
                let x = (x0 + x1) / 2.0;
                let (up, y) = (value >= 0.0, frame.y(axis, value));
                let (anchor, offset) = match (vertical, up) {
                    (false, true) => (Anchor::Middle, -8.0),
                    (false, false) => (Anchor::Middle, 8.0),
                    (true, true) => (Anchor::Start, -4.0),
                    (true, false) => (Anchor::End, 4.0),
                };
                let font = Font { vertical, ..Font::VALUE };
                canvas.text(&label(value), (x, y + offset), anchor, font);
            }
        }
    }

    /// Names under the groups: thinned out if they are numbers, else wrapped and if need be shrunk.
    fn paint_categories(&self, canvas: &mut Canvas<'_>, frame: &Frame, slots: &Slots) {
        let font = Font::TICK;
        let widest =
            self.categories.iter().map(|c| text_width(c, font.size) + 8.0).fold(0.0, f64::max);
        let numbers = self.categories.iter().all(|c| c.parse::<f64>().is_ok());
        let mut lines = 1;
        if numbers {
            let step = [1, 2, 5, 10, 20, 50, 100, 1000]
                .into_iter()
                .find(|&step| widest <= step as f64 * slots.width)
                .unwrap_or(1000);
            for (group, name) in self.categories.iter().enumerate().step_by(step) {
                canvas.text(name, (slots.middle(group), frame.bottom + 14.0), Anchor::Middle, font);
            }
        } else {
            let words = self.categories.iter().flat_map(|c| c.split_whitespace());
            let longest = words.map(|w| text_width(w, font.size)).fold(0.0, f64::max);
            let size = (font.size * (slots.width - 4.0) / longest.max(1.0)).clamp(8.0, font.size);
            for (group, name) in self.categories.iter().enumerate() {
                let wrapped = wrap(name, slots.width - 4.0, size);
                lines = lines.max(wrapped.len());
                for (k, line) in wrapped.iter().enumerate() {
                    let y = frame.bottom + 14.0 + k as f64 * (size + 2.0);
                    canvas.text(line, (slots.middle(group), y), Anchor::Middle, font.of_size(size));
                }
            }
        }
        let below = frame.bottom + 36.0 + (lines.min(3) - 1) as f64 * 12.0;
        frame.paint_x_label(canvas, &self.x_label, below);
    }
}

/// One bar by the heights of its value, the value before, and the base.
///
/// On a linear axis a solid bar stands in front of a pale one. A logarithmic axis has no zero to stand on: there a pale
/// span joins both values, so that its length is their ratio, and a solid mark ends it.
fn paint_bar(
    canvas: &mut Canvas<'_>,
    (x0, x1): (f64, f64),
    value: Option<f64>,
    before: Option<f64>,
    base: f64,
    color: RGBColor,
    log: bool,
) {
    match (value, before) {
        (Some(value), Some(before)) if log => {
            canvas.rect(x0, value, x1, before, pale(color));
            canvas.rect(x0, value - MARK / 2.0, x1, value + MARK / 2.0, color);
        }
        (Some(value), Some(before)) => {
            canvas.rect(x0, base, x1, before, pale(color));
            canvas.rect(x0, base, x1, value, color);
            // A pale bar that the solid one hides leaves its mark on it.
            if (base - before) / (base - value) < 1.0 {
                canvas.line((x0, before), (x1, before), WHITE, 1.5);
            }
        }
        (Some(value), None) => canvas.rect(x0, base, x1, value, color),
        (None, Some(before)) => canvas.rect(x0, base, x1, before, pale(color)),
        (None, None) => {}
    }
}

/// Breaks a name at white space into lines of at most `width` pixels, where that is possible.
fn wrap(name: &str, width: f64, size: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in name.split_whitespace() {
        match lines.last_mut() {
            Some(line) if text_width(line, size) + text_width(word, size) + 4.0 <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// Where the groups and their bars stand.
struct Slots {
    left: f64,
    /// Width of a group with the room around it.
    width: f64,
    /// Distance of neighbouring bars of a group.
    bar_pitch: f64,
    n_series: f64,
}

impl Slots {
    fn new(frame: &Frame, n_groups: usize, n_series: usize) -> Self {
        let (width, n_series) = ((frame.right - frame.left) / n_groups as f64, n_series as f64);
        Self { left: frame.left, width, bar_pitch: (0.84 * width / n_series).min(56.0), n_series }
    }

    fn left(&self, group: usize) -> f64 {
        self.left + group as f64 * self.width
    }

    fn middle(&self, group: usize) -> f64 {
        self.left(group) + self.width / 2.0
    }

    fn bar(&self, group: usize, series: usize) -> (f64, f64) {
        let start = self.middle(group) - self.bar_pitch * self.n_series / 2.0;
        let left = start + series as f64 * self.bar_pitch;
        let gap = if self.bar_pitch < 5.0 { 0.3 } else { 0.1 * self.bar_pitch };
        (left + gap / 2.0, left + self.bar_pitch - gap / 2.0)
    }
}
