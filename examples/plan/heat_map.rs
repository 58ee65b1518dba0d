//! Layers × matrices: what each loses per weight, and what it got.

use std::fmt::Write as _;

use fewbit::{pipeline::sensitivity::grid_name, planner::Selection};

use crate::choose::{Planner, roles};

/// Pixels of a cell, of the row names, of the column names.
const CELL: (f64, f64) = (96.0, 26.0);
const LEFT: f64 = 70.0;
const TOP: f64 = 62.0;

pub fn svg(planner: &Planner<'_>, selection: &Selection) -> String {
    let roles = roles(planner.sensitivities);
    let blocks = &planner.sensitivities.blocks;
    let weights = planner.weights() as f64;
    // ln of the loss at the coarser probe over the share of the weights.
    let heat = |block: usize, column: usize| {
        let m = &blocks[block].matrices.get(column)?;
        let kl = m.probes.last()?.kl;
        Some((kl.max(1e-9) / (m.shape().len() as f64 / weights)).ln())
    };
    let all: Vec<f64> =
        (0..blocks.len()).flat_map(|b| (0..roles.len()).filter_map(move |c| heat(b, c))).collect();
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (width, height) =
        (LEFT + CELL.0 * roles.len() as f64 + 20.0, TOP + CELL.1 * blocks.len() as f64 + 40.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" font-weight=\"bold\" fill=\"#222222\">KL divergence per share of the weights (colour, logarithmic), and the grid chosen</text>\n"
    );
    let text = |svg: &mut String, x: f64, y: f64, anchor: &str, fill: &str, words: &str| {
        let words = words.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{y}\" font-size=\"12\" text-anchor=\"{anchor}\" fill=\"{fill}\">{words}</text>"
        );
    };
    for (column, role) in roles.iter().enumerate() {
        let x = LEFT + CELL.0 * (column as f64 + 0.5);
        text(&mut svg, x, TOP - 8.0, "middle", "#555555", role);
    }
    for (row, block) in blocks.iter().enumerate() {
        let y = TOP + CELL.1 * row as f64;
        text(&mut svg, LEFT - 8.0, y + 17.0, "end", "#555555", &format!("block {row}"));
        for (column, m) in block.matrices.iter().enumerate() {
            let x = LEFT + CELL.0 * column as f64;
            let share = heat(row, column).map_or(0.0, |h| (h - low) / (high - low).max(1e-9));
            let fill = color(share);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" stroke=\"#ffffff\"/>",
                CELL.0, CELL.1
            );
            let grid = grid_name(&planner.grid(selection, &m.module));
            let ink = if share > 0.55 { "#ffffff" } else { "#222222" };
            text(&mut svg, x + CELL.0 / 2.0, y + 17.0, "middle", ink, &grid);
        }
    }
    let y = TOP + CELL.1 * blocks.len() as f64 + 24.0;
    let range = format!("from {:.2e} (pale) to {:.2e} (dark) nats", low.exp(), high.exp());
    text(&mut svg, LEFT, y, "start", "#555555", &range);
    svg + "</svg>\n"
}

/// White to dark blue.
fn color(share: f64) -> String {
    let mix = |from: f64, to: f64| (from + (to - from) * share.clamp(0.0, 1.0)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(240.0, 0.0), mix(245.0, 60.0), mix(250.0, 120.0))
}
