//! The frontier: size against predicted loss, with uniform plans and the chosen plan marked.

use anyhow::Result;
use fewbit::{
    eval::figure::{LineChart, LineSeries, Scale},
    planner::{Frontier, Selection},
};

use crate::choose::Planner;

pub fn frontier(planner: &Planner<'_>, chosen: &Selection) -> Result<String> {
    let problem = &planner.problem.problem;
    let weights = planner.weights() as f64;
    let width = |bytes: u64| bytes as f64 * 8.0 / weights;
    // KL divergence of 0 has no place on a logarithmic axis.
    let floor = |loss: f64| loss.max(1e-7);
    let at = |s: &Selection| (width(s.bytes), floor(planner.predicted(s)));
    let frontier = Frontier::new(problem);
    let hull = frontier.points().iter().enumerate().map(|(steps, p)| {
        (width(p.bytes), floor(planner.predicted(&frontier.selection(problem, steps))))
    });
    let n_units = problem.units().len();
    let mut uniform: Vec<(f64, f64)> = (0..planner.problem.grids.len())
        .filter_map(|grid| problem.selection(vec![grid; n_units]).ok())
        .map(|s| at(&s))
        .collect();
    uniform.sort_by(|a, b| a.0.total_cmp(&b.0));
    let chart = LineChart {
        title: "Size against predicted loss".into(),
        x_label: "bits per weight of the linear layers, all metadata included".into(),
        y_label: "predicted KL divergence, nats".into(),
        series: vec![
            LineSeries { name: "frontier".into(), points: hull.collect() },
            LineSeries { name: "uniform plans".into(), points: uniform },
            LineSeries { name: "chosen plan".into(), points: vec![at(chosen)] },
        ],
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
    };
    Ok(chart.to_svg()?)
}
