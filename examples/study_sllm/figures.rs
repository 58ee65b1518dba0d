//! HellaSwag as bars, LongBench as curves over the length of the context, calibration sets as bars.

use anyhow::Result;
use fewbit::eval::figure::{BarChart, BarSeries, LineChart, LineSeries, Scale};

use crate::{measure::Measured, report::Studied};

/// Points of a curve over lengths.
const BINS: usize = 6;

/// Contestants that stand for their method: those on the first calibration set, and those without one.
pub fn representatives(results: &[Measured]) -> impl Iterator<Item = &Measured> {
    let first = results.iter().find_map(|r| r.calibration.clone());
    results.iter().filter(move |r| r.calibration.is_none() || r.calibration == first)
}

fn methods(studied: &[Studied]) -> Vec<&'static str> {
    studied.first().map_or(vec![], |s| representatives(&s.results).map(|r| r.method).collect())
}

/// Accuracy by the length of the choice, for each model and method.
pub fn hellaswag(studied: &[Studied]) -> Result<String> {
    let accuracy = |studied: &Studied, method: &str| {
        let found = representatives(&studied.results).find(|r| r.method == method)?;
        Some(100.0 * found.hellaswag.as_ref()?.report.acc_norm.value)
    };
    let series = methods(studied).into_iter().map(|method| BarSeries {
        name: method.into(),
        values: studied.iter().map(|s| accuracy(s, method)).collect(),
        before: vec![],
    });
    let chart = BarChart {
        title: "HellaSwag by model and method".into(),
        x_label: "model".into(),
        y_label: "acc_norm, percent".into(),
        categories: studied.iter().map(|s| s.name.clone()).collect(),
        series: series.collect(),
        value_labels: true,
        // Bars are compared by their length.
        scale: Scale::Linear,
        ..BarChart::default()
    };
    Ok(chart.to_svg()?)
}

/// Score by the length of the context: means of as many items each, a curve for each model and method.
pub fn longbench(studied: &[Studied]) -> Result<String> {
    let mut series = vec![];
    for model in studied {
        for r in representatives(&model.results) {
            let mut items = r.by_length.clone();
            items.sort_unstable_by_key(|(length, _)| *length);
            let size = items.len().div_ceil(BINS).max(1);
            let point = |bin: &[(usize, f64)]| {
                let n = bin.len() as f64;
                let length: usize = bin.iter().map(|(length, _)| length).sum();
                let score: f64 = bin.iter().map(|(_, score)| score).sum();
                (length as f64 / n, 100.0 * score / n)
            };
            let name = match studied.len() {
                1 => r.method.to_owned(),
                _ => format!("{}, {}", model.name, r.method),
            };
            series.push(LineSeries { name, points: items.chunks(size).map(point).collect() });
        }
    }
    let chart = LineChart {
        title: "LongBench by the length of the context".into(),
        x_label: "words of the context".into(),
        y_label: "score".into(),
        series,
        ..LineChart::default()
    };
    Ok(chart.to_svg()?)
}

/// Divergence by calibration set, for each method; of the first model.
pub fn calibration(studied: &Studied, sets: &[String]) -> Result<String> {
    let mut methods: Vec<&str> =
        studied.results.iter().filter(|r| r.calibration.is_some()).map(|r| r.method).collect();
    methods.dedup();
    let divergence = |method: &str, set: &String| {
        let of = |r: &&Measured| r.method == method && r.calibration.as_ref() == Some(set);
        studied.results.iter().find(of).map(|r| r.divergence.kl.value)
    };
    let chart = BarChart {
        title: format!("{}: divergence by calibration text", studied.name),
        x_label: "calibration text".into(),
        y_label: "mean KL divergence, nats a token".into(),
        categories: sets.to_vec(),
        series: methods
            .iter()
            .map(|&method| BarSeries {
                name: method.into(),
                values: sets.iter().map(|set| divergence(method, set)).collect(),
                before: vec![],
            })
            .collect(),
        value_labels: true,
        scale: Scale::Linear,
        ..BarChart::default()
    };
    Ok(chart.to_svg()?)
}
