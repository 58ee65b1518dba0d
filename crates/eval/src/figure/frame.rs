//! What stands around a plot: title, axis labels, grid and legend.

use plotters::style::RGBColor;

use super::axis::Axis;
use super::canvas::{Anchor, Canvas, Font, GRID, INK, text_width};
use super::{HEIGHT, WIDTH};

/// Names beside colours, to the right of the plot.
#[derive(Default)]
pub(super) struct Legend {
    entries: Vec<Option<Entry>>,
}

struct Entry {
    name: String,
    color: RGBColor,
    /// Width of a line instead of a box.
    line: Option<f64>,
}

impl Legend {
    const FONT: Font = Font { color: INK, ..Font::TICK };
    const LINE: f64 = 20.0;

    /// A colour as a box, or as a line of some width.
    pub(super) fn add(&mut self, name: &str, color: RGBColor, line: Option<f64>) {
        self.entries.push(Some(Entry { name: name.to_string(), color, line }));
    }

    /// Room between two blocks of entries.
    pub(super) fn gap(&mut self) {
        self.entries.push(None);
    }

    /// Pixels it takes, room included.
    fn width(&self) -> f64 {
        let widths = self.entries.iter().flatten().map(|e| text_width(&e.name, Self::FONT.size));
        let widest = widths.fold(0.0, f64::max);
        if widest == 0.0 { 24.0 } else { (widest + 62.0).min(WIDTH / 3.0) }
    }

    pub(super) fn paint(&self, canvas: &mut Canvas<'_>, frame: &Frame) {
        let (x, mut y) = (frame.right + 20.0, frame.top + 8.0);
        for entry in &self.entries {
            let Some(entry) = entry else {
                y += Self::LINE / 2.0;
                continue;
            };
            match entry.line {
                Some(width) => {
                    canvas.line((x - 2.0, y), (x + 16.0, y), entry.color, width);
                    canvas.disc((x + 7.0, y), 3.5, entry.color);
                }
                None => canvas.rect(x, y - 6.0, x + 12.0, y + 6.0, entry.color),
            }
            canvas.text(&entry.name, (x + 20.0, y), Anchor::Start, Self::FONT);
            y += Self::LINE;
        }
    }
}

/// The rectangle of the plot, and what stands around it.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

impl Frame {
    const MARGIN: f64 = 24.0;

    pub(super) fn new(y_axis: &Axis, legend: &Legend) -> Self {
        let labels = y_axis.ticks.iter().map(|t| text_width(&t.label, Font::TICK.size));
        let left = Self::MARGIN + labels.fold(0.0, f64::max) + 8.0;
        Self { left, right: WIDTH - legend.width(), top: 78.0, bottom: HEIGHT - 64.0 }
    }

    pub(super) fn x(&self, axis: &Axis, value: f64) -> f64 {
        self.left + axis.position(value) * (self.right - self.left)
    }

    pub(super) fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.bottom - axis.position(value) * (self.bottom - self.top)
    }

    /// Title, label and grid of the y axis.
    pub(super) fn paint(&self, canvas: &mut Canvas<'_>, title: &str, y_label: &str, y_axis: &Axis) {
        let room = WIDTH - 2.0 * Self::MARGIN;
        let size = Font::TITLE.size * (room / text_width(title, Font::TITLE.size)).clamp(0.5, 1.0);
        canvas.text(title, (Self::MARGIN, 26.0), Anchor::Start, Font::TITLE.of_size(size));
        canvas.text(y_label, (Self::MARGIN, 54.0), Anchor::Start, Font::LABEL);
        for tick in &y_axis.ticks {
            let y = self.y(y_axis, tick.value);
            canvas.line((self.left, y), (self.right, y), GRID, 1.0);
            canvas.text(&tick.label, (self.left - 8.0, y), Anchor::End, Font::TICK);
        }
    }

    pub(super) fn paint_x_label(&self, canvas: &mut Canvas<'_>, label: &str, y: f64) {
        let middle = (self.left + self.right) / 2.0;
        canvas.text(label, (middle, y), Anchor::Middle, Font::LABEL);
    }
}
