//! What is printed and drawn.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Instant,
};

use fewbit::{
    eval::{
        Divergence, Table,
        figure::{BarChart, LayerError},
        units::bytes,
    },
    pipeline::{Estimate, Prepared, Report},
};

use crate::{Evaluation, Source, best::Candidates, support::duration};

pub fn announce(source: &Source, prepared: &Prepared, candidates: Option<&Candidates>) {
    let config = prepared.config();
    let (before, after) = prepared.bytes();
    let e: &Estimate = candidates.map_or(prepared.estimate(), |c| &c.estimate);
    let name = if source.demo {
        "the embedded demo model".into()
    } else {
        source.model.display().to_string()
    };
    println!(
        "model      {name}: {} blocks of {}, {} matrices",
        config.n_layers,
        config.model_type(),
        prepared.modules().len()
    );
    let method = match candidates {
        None => prepared.method().name().to_owned(),
        Some(c) => format!("best of {}", c.names.join("; ")),
    };
    println!("method     {method}: {}", grids(prepared));
    if let Some(c) = candidates.map_or(prepared.calibration(), Candidates::calibration) {
        let choice = match source.choice.len() {
            0 => String::new(),
            n => format!("{n} documents to choose by, "),
        };
        println!(
            "text       {} windows of {} tokens to calibrate, {choice}{} documents held out",
            c.n_windows(),
            c.window(),
            source.held_out.len()
        );
    }
    println!(
        "output     {} as {}: {} → {}",
        source.out.display(),
        prepared.container().name(),
        bytes(before),
        bytes(after)
    );
    println!(
        "estimate   {}, {} of memory, {} of disk while it runs",
        duration(e.seconds),
        bytes(e.peak_memory),
        bytes(e.work_bytes + e.output_bytes)
    );
    for caveat in prepared.caveats() {
        println!("note       {caveat}");
    }
    println!();
}

/// The grids of the plan, the most frequent first.
fn grids(prepared: &Prepared) -> String {
    let mut counts: Vec<(String, usize)> = Vec::new();
    for module in prepared.modules().iter().filter(|m| m.is_quantized()) {
        let grid = module.scheme.scheme.to_string();
        match counts.iter_mut().find(|(other, _)| *other == grid) {
            Some((_, count)) => *count += 1,
            None => counts.push((grid, 1)),
        }
    }
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    match &counts[..] {
        [(grid, _)] => grid.clone(),
        all => {
            all.iter().map(|(g, n)| format!("{g} ({n} matrices)")).collect::<Vec<_>>().join(", ")
        }
    }
}

/// A file that belongs to the output: in the folder, or beside the file.
pub fn beside(out: &Path, name: &str) -> PathBuf {
    if out.is_dir() {
        return out.join(name);
    }
    let mut path = out.as_os_str().to_owned();
    path.push(".");
    path.push(name);
    path.into()
}

/// A folder beside the output.
pub fn beside_folder(out: &Path, ending: &str) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".");
    path.push(ending);
    path.into()
}

pub fn print_matrices(report: &Report) {
    let mut table = Table::new()
        .left("matrix")
        .right("shape")
        .right("bits")
        .unit("per weight")
        .right("plain rounding")
        .unit("output error")
        .right(&report.method)
        .unit("output error")
        .right("damping")
        .right("clipped")
        .unit("%")
        .right("time")
        .unit("s");
    let mut block = 0;
    for m in &report.matrices {
        if m.block != block {
            table.rule();
            block = m.block;
        }
        let error = |e: Option<f64>| e.map_or("–".into(), |e| format!("{e:.2e}"));
        table.row([
            m.module.clone(),
            format!("{}×{}", m.out_features, m.in_features),
            format!("{:.3}", m.bits_per_weight),
            error(m.output_error_plain),
            error(m.output_error.or(Some(m.weight_error))),
            m.damping.map_or("–".into(), |d| format!("{d}")),
            format!("{:.1}", m.clipped * 100.0),
            format!("{:.2}", m.seconds),
        ]);
    }
    println!("{table}");
    for (module, repair) in report.repairs() {
        println!("repaired: {module}: {repair}");
    }
}

/// The scales of each input, where a transform chose some.
pub fn print_sites(report: &Report) {
    if report.sites.is_empty() {
        return;
    }
    let mut table = Table::new()
        .left("inputs of")
        .left("folded into")
        .right("exponent")
        .right("scales")
        .right("unscaled")
        .unit("unit's error")
        .right("scaled")
        .unit("unit's error");
    let mut block = 0;
    for s in &report.sites {
        if s.block != block {
            table.rule();
            block = s.block;
        }
        table.row([
            format!("{}: {}", s.block, s.site.join(", ")),
            s.folded_into.clone(),
            format!("{:.2}{}", s.ratio, if s.by_weights { ", weights" } else { "" }),
            format!("{:.2} to {:.2}", s.smallest, s.largest),
            format!("{:.2e}", s.loss_before),
            format!("{:.2e}", s.loss_after),
        ]);
    }
    println!("{table}");
}

pub fn print_summary(
    source: &Source,
    report: &Report,
    evaluation: Option<&Evaluation>,
    started: Instant,
) {
    if let Some(e) = evaluation {
        let mut table = Table::new()
            .left(format!("on {} held-out documents", e.documents))
            .right("perplexity")
            .right("KL divergence")
            .unit("nats")
            .right("same top token")
            .unit("%");
        let kl = |d: &Divergence| {
            let error = d.kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.5}"));
            format!("{:.5}{error}", d.kl.value)
        };
        table.row([
            "original".to_owned(),
            format!("{:.3}", e.quantized.baseline.perplexity),
            "–".into(),
            "–".into(),
        ]);
        for (name, d) in
            [("plain rounding", &e.plain_rounding), (report.method.as_str(), &e.quantized)]
        {
            table.row([
                name.to_owned(),
                format!("{:.3}", d.model.perplexity),
                kl(d),
                format!("{:.1}", d.top1_agreement.value * 100.0),
            ]);
        }
        println!("{table}");
        if let Some(s) = &e.speed {
            let decode = |t: &fewbit::eval::Throughput| {
                t.decode.as_ref().map_or(0.0, |d| d.tokens_per_second)
            };
            println!(
                "speed      prefill {:.0} → {:.0} tokens/s, decode {:.0} → {:.0} tokens/s ({} threads)",
                s.before.prefill.tokens_per_second,
                s.after.prefill.tokens_per_second,
                decode(&s.before),
                decode(&s.after),
                s.threads,
            );
        }
    }
    println!(
        "size       {} → {}: {:.3} bits per quantized weight, {:.3} per parameter",
        bytes(report.bytes_before),
        bytes(report.bytes_after),
        report.bits_per_weight,
        report.bits_per_parameter,
    );
    if let Some(peak) = report.peak_memory {
        println!(
            "memory     {} at the peak (estimated {})",
            bytes(peak),
            bytes(report.estimate.peak_memory)
        );
    }
    println!(
        "time       {} to quantize (estimated {}), {} in all",
        duration(report.seconds),
        duration(report.estimate.seconds),
        duration(started.elapsed().as_secs_f64()),
    );
    let out = source.out.display();
    println!(
        "written    {out}, verified; report in {}, figure in {}",
        beside(&source.out, "report.json").display(),
        beside(&source.out, "report.svg").display()
    );
    // A file of weights alone has no tokenizer to generate text with.
    if source.out.extension() != Some(OsStr::new("onnx")) {
        println!();
        println!(
            "next       cargo run --release --example generate -- --model {out} --prompt \"The future of artificial intelligence is\""
        );
    }
}

/// Output error of every matrix (weight error where nothing was calibrated), one group of bars per block.
pub fn error_by_layer(report: &Report) -> BarChart {
    let calibrated = report.calibration_tokens > 0;
    let label = if calibrated { "relative squared output error" } else { "relative weight error" };
    BarChart::error_by_layer(
        format!("Error by layer: {}, {:.2} bits per weight", report.method, report.bits_per_weight),
        label,
        (&report.method, "plain rounding"),
        report.matrices.iter().map(|m| LayerError {
            matrix: &m.role,
            layer: m.block,
            before: m.output_error_plain,
            after: m.output_error.or(Some(m.weight_error)),
        }),
    )
}
