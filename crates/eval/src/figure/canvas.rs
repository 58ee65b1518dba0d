//! Shapes and text in pixels, written as SVG.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    FontFamily, FontStyle, FontTransform, IntoFont, RGBColor, ShapeStyle, TextStyle,
};

use super::{HEIGHT, WIDTH};

/// The backend counts in whole numbers; a tenth of a pixel keeps thin bars even.
const UNITS_PER_PIXEL: f64 = 10.0;
/// The backend divides font sizes by this.
const FONT_SIZE_FACTOR: f64 = 1.24;

pub(super) const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);
pub(super) const SOFT_INK: RGBColor = RGBColor(0x55, 0x55, 0x55);
pub(super) const GRID: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);
pub(super) const BAND: RGBColor = RGBColor(0xf4, 0xf5, 0xf7);
pub(super) const WHITE: RGBColor = RGBColor(0xff, 0xff, 0xff);

/// Okabe and Ito's palette (jfly.uni-koeln.de/color), its yellow last because it is weak on white.
const PALETTE: [RGBColor; 8] = [
    RGBColor(0x00, 0x72, 0xb2),
    RGBColor(0xe6, 0x9f, 0x00),
    RGBColor(0x00, 0x9e, 0x73),
    RGBColor(0xd5, 0x5e, 0x00),
    RGBColor(0x56, 0xb4, 0xe9),
    RGBColor(0xcc, 0x79, 0xa7),
    RGBColor(0x4d, 0x4d, 0x4d),
    RGBColor(0xf0, 0xe4, 0x42),
];

/// Colour of a series; they repeat after eight.
pub(super) fn color(series: usize) -> RGBColor {
    PALETTE[series % PALETTE.len()]
}

/// A third of the colour, the rest white.
pub(super) fn pale(color: RGBColor) -> RGBColor {
    let mix = |c: u8| ((u16::from(c) + 2 * 255) / 3) as u8;
    RGBColor(mix(color.0), mix(color.1), mix(color.2))
}

/// Estimated width of a text in pixels: there are no fonts here to measure it.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    text.chars().count() as f64 * size * 0.58
}

/// Size, colour and direction of a text.
#[derive(Clone, Copy)]
pub(super) struct Font {
    pub(super) size: f64,
    pub(super) color: RGBColor,
    pub(super) bold: bool,
    /// Reads upwards.
    pub(super) vertical: bool,
}

impl Font {
    pub(super) const TITLE: Self = Self { size: 17.0, color: INK, bold: true, vertical: false };
    pub(super) const LABEL: Self =
        Self { size: 13.0, color: SOFT_INK, bold: false, vertical: false };
    pub(super) const TICK: Self =
        Self { size: 12.0, color: SOFT_INK, bold: false, vertical: false };
    pub(super) const VALUE: Self = Self { size: 10.0, color: INK, bold: false, vertical: false };

    pub(super) fn of_size(self, size: f64) -> Self {
        Self { size, ..self }
    }
}

/// Which point of a text lies at its coordinates.
#[derive(Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

pub(super) struct Canvas<'a>(SVGBackend<'a>);

/// Draws on white and returns the SVG text.
pub(super) fn draw(paint: impl FnOnce(&mut Canvas<'_>)) -> String {
    let units = |pixels: f64| (pixels * UNITS_PER_PIXEL) as u32;
    let mut svg = String::new();
    let mut canvas = Canvas(SVGBackend::with_string(&mut svg, (units(WIDTH), units(HEIGHT))));
    canvas.rect(0.0, 0.0, WIDTH, HEIGHT, WHITE);
    paint(&mut canvas);
    canvas.0.present().expect(INFALLIBLE);
    drop(canvas);
    // The view box stays in units, the size on the page is in pixels.
    let in_units = format!("width=\"{}\" height=\"{}\"", units(WIDTH), units(HEIGHT));
    svg.replacen(&in_units, &format!("width=\"{WIDTH}\" height=\"{HEIGHT}\""), 1)
}

const INFALLIBLE: &str = "the backend writes to a string, which cannot fail";

fn point(x: f64, y: f64) -> (i32, i32) {
    ((x * UNITS_PER_PIXEL).round() as i32, (y * UNITS_PER_PIXEL).round() as i32)
}

/// A colour and a stroke width in pixels, as the backend wants them.
fn style(color: RGBColor, width: f64) -> ShapeStyle {
    let stroke_width = (width * UNITS_PER_PIXEL).round() as u32;
    ShapeStyle { color: color.into(), filled: true, stroke_width }
}

impl Canvas<'_> {
    /// A filled rectangle between two corners.
    pub(super) fn rect(&mut self, x0: f64, y0: f64, x1: f64, y1: f64, fill: RGBColor) {
        let (left, top) = point(x0.min(x1), y0.min(y1));
        let (right, bottom) = point(x0.max(x1), y0.max(y1));
        self.0.draw_rect((left, top), (right, bottom), &style(fill, 0.0), true).expect(INFALLIBLE);
    }

    /// A straight line.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), color: RGBColor, width: f64) {
        self.path([from, to], color, width);
    }

    /// A line through points.
    pub(super) fn path(
        &mut self,
        points: impl IntoIterator<Item = (f64, f64)>,
        color: RGBColor,
        width: f64,
    ) {
        let points = points.into_iter().map(|(x, y)| point(x, y));
        self.0.draw_path(points, &style(color, width)).expect(INFALLIBLE);
    }

    /// A filled disc.
    pub(super) fn disc(&mut self, (x, y): (f64, f64), radius: f64, fill: RGBColor) {
        let radius = (radius * UNITS_PER_PIXEL).round() as u32;
        self.0.draw_circle(point(x, y), radius, &style(fill, 0.0), true).expect(INFALLIBLE);
    }

    /// A line of text, vertically centred at `y` (or horizontally at `x` if it reads upwards).
    pub(super) fn text(&mut self, text: &str, (x, y): (f64, f64), anchor: Anchor, font: Font) {
        // Control characters are not allowed in XML.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let weight = if font.bold { FontStyle::Bold } else { FontStyle::Normal };
        let size = font.size * UNITS_PER_PIXEL * FONT_SIZE_FACTOR;
        let face = (FontFamily::SansSerif, size, weight).into_font();
        let face = if font.vertical { face.transform(FontTransform::Rotate270) } else { face };
        let h_pos = match anchor {
            Anchor::Start => HPos::Left,
            Anchor::Middle => HPos::Center,
            Anchor::End => HPos::Right,
        };
        let style = TextStyle::from(face).color(&font.color).pos(Pos::new(h_pos, VPos::Center));
        self.0.draw_text(&text, &style, point(x, y)).expect(INFALLIBLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_in_pixels_and_the_view_box_in_tenths() {
        let svg = draw(|canvas| canvas.rect(1.0, 2.06, 3.0, 4.0, INK));
        assert!(
            svg.starts_with("<svg width=\"900\" height=\"480\" viewBox=\"0 0 9000 4800\""),
            "{svg}"
        );
        assert!(svg.contains("x=\"10\" y=\"21\" width=\"20\" height=\"19\""), "{svg}");
    }

    #[test]
    fn text_is_escaped() {
        let svg =
            draw(|canvas| canvas.text("a<b>&\"\u{0}c", (0.0, 0.0), Anchor::Start, Font::LABEL));
        assert!(svg.contains("a&lt;b&gt;&amp;&quot; c"), "{svg}");
        assert!(svg.contains("font-size=\"130\""), "{svg}");
    }

    #[test]
    fn pale_colors_are_between_the_color_and_white() {
        assert_eq!(pale(RGBColor(0, 90, 255)), RGBColor(170, 200, 255));
    }
}
