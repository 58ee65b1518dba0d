//! What is printed.

use std::collections::BTreeMap;

use fewbit::{
    eval::{Table, units::bytes},
    format::Scheme,
    pipeline::sensitivity::{MatrixSensitivity, Measured, PlanRun, Sensitivities, grid_name},
    planner::Selection,
};

use crate::choose::Planner;

/// What is inside of the model.
pub fn print_inside(sensitivities: &Sensitivities, grids: &[Scheme]) {
    let mut table = Table::new()
        .left("matrix")
        .right("shape")
        .right("kurtosis")
        .right("range")
        .unit("σ")
        .right("outliers")
        .unit("ppm")
        .right("inputs")
        .unit("max/median")
        .right("outlier")
        .unit("channels");
    let shown = shown(sensitivities, grids);
    for grid in &shown {
        table = table.right(grid_name(grid)).unit("KL, 1e-3");
    }
    for (number, block) in sensitivities.blocks.iter().enumerate() {
        if number > 0 {
            table.rule();
        }
        for m in &block.matrices {
            let mut row = vec![
                m.module.clone(),
                format!("{}×{}", m.out_features, m.in_features),
                format!("{:.2}", m.weights.kurtosis),
                format!("{:.1}", m.weights.range()),
                format!("{:.0}", m.weights.outliers * 1e6),
                format!("{:.1}", m.inputs.dynamic_range),
                m.inputs.outlier_channels.to_string(),
            ];
            let loss = |grid: &Scheme| {
                m.loss(grid).map_or("–".to_owned(), |loss| format!("{:.3}", loss * 1e3))
            };
            row.extend(shown.iter().map(loss));
            table.row(row);
        }
    }
    println!("{table}");
    let influence: Vec<String> =
        sensitivities.blocks.iter().map(|b| format!("{:.3}", b.influence)).collect();
    println!("influence of the blocks (1 − cosine)  {}", influence.join("  "));
    println!();
}

/// The first grid of each width that was measured.
fn shown(sensitivities: &Sensitivities, grids: &[Scheme]) -> Vec<Scheme> {
    let shape = sensitivities.matrices().map(MatrixSensitivity::shape).max_by_key(|s| s.len());
    let Some(shape) = shape else { return Vec::new() };
    let mut by_width: BTreeMap<u64, Scheme> = BTreeMap::new();
    for grid in grids {
        if let Some(bits) = grid.bits_per_weight(shape) {
            by_width.entry(bits as u64).or_insert(*grid);
        }
    }
    by_width.into_values().collect()
}

/// The plan and the uniform plan as wholes.
pub fn print_runs(planner: &Planner<'_>, selections: &[Selection], runs: &[PlanRun]) {
    let documents = runs.first().map_or(0, |r| r.documents.len());
    let mut table = Table::new()
        .left(format!("on {documents} held-out documents"))
        .right("size")
        .right("bits")
        .unit("per weight")
        .right("predicted KL")
        .unit("nats")
        .right("KL divergence")
        .unit("nats")
        .right("perplexity")
        .right("same top token")
        .unit("%");
    for (selection, run) in selections.iter().zip(runs) {
        let error = run.kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.5}"));
        table.row([
            planner.describe(selection),
            bytes(selection.bytes),
            format!("{:.3}", planner.bits_per_weight(selection)),
            format!("{:.4}", planner.predicted(selection)),
            format!("{:.5}{error}", run.kl.value),
            format!("{:.3}", run.perplexity),
            format!("{:.1}", run.top1_agreement * 100.0),
        ]);
    }
    println!("{table}");
}

pub fn print_comparison(m: &Measured) {
    let [reduction, low, high] = m.reduction.map(|r| 100.0 * r);
    println!(
        "the plan's KL divergence is {reduction:.1} % below that of {} (95 % interval {low:.1} to {high:.1} %)",
        m.uniform
    );
    println!();
}

/// What got how many bits, and why.
pub fn print_words(planner: &Planner<'_>, selection: &Selection) {
    let weights = planner.weights() as f64;
    println!(
        "plan       {} in the linear layers, {:.3} bits per weight, predicted KL divergence {:.4}",
        bytes(selection.bytes),
        planner.bits_per_weight(selection),
        planner.predicted(selection)
    );
    let mut by_grid: BTreeMap<String, (f64, Vec<&MatrixSensitivity>)> = BTreeMap::new();
    for m in planner.sensitivities.matrices() {
        let grid = planner.grid(selection, &m.module);
        let (share, members) = by_grid.entry(grid_name(&grid)).or_default();
        *share += m.shape().len() as f64 / weights;
        members.push(m);
    }
    for (grid, (share, members)) in &by_grid {
        println!("           {grid}: {:.1} % of the weights: {}", 100.0 * share, names(members));
    }
    println!();
    // Why: what a matrix gains per byte by its next larger grid.
    let mut sensitive: Vec<(&MatrixSensitivity, f64)> = planner
        .sensitivities
        .matrices()
        .filter_map(|m| {
            let probe = m.probes.last()?;
            Some((m, probe.kl / (m.shape().len() as f64 / weights)))
        })
        .collect();
    sensitive.sort_by(|a, b| b.1.total_cmp(&a.1));
    let list = |part: &[(&MatrixSensitivity, f64)]| {
        let words = part.iter().map(|(m, _)| {
            format!("{} ({})", short(m), grid_name(&planner.grid(selection, &m.module)))
        });
        words.collect::<Vec<_>>().join(", ")
    };
    let n = sensitive.len().min(4);
    println!("           most lost per weight: {}", list(&sensitive[..n]));
    println!("           least lost per weight: {}", list(&sensitive[sensitive.len() - n..]));
    println!();
}

/// `down_proj 0, 2–5; q_proj 1`.
fn names(members: &[&MatrixSensitivity]) -> String {
    let mut by_role: Vec<(&str, Vec<usize>)> = Vec::new();
    for m in members {
        match by_role.iter_mut().find(|(role, _)| *role == m.role) {
            Some((_, blocks)) => blocks.push(m.block),
            None => by_role.push((&m.role, vec![m.block])),
        }
    }
    let words = by_role.iter().map(|(role, blocks)| format!("{role} {}", ranges(blocks)));
    words.collect::<Vec<_>>().join("; ")
}

fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let words = runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") });
    words.collect::<Vec<_>>().join(", ")
}

fn short(m: &MatrixSensitivity) -> String {
    format!("{} {}", m.role, m.block)
}
