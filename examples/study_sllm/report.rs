//! Tables and words.

use anyhow::Result;
use fewbit::eval::{
    Estimate, Table,
    tasks::PairedAccuracy,
    units::{bytes, significant},
};
use serde::Serialize;

use crate::{
    args::Args,
    figures::{self, representatives},
    measure::Measured,
    source::Data,
    support,
};

/// A model with its contestants, floats first.
#[derive(Serialize)]
pub struct Studied {
    pub name: String,
    pub results: Vec<Measured>,
}

pub fn table(results: &[Measured]) -> Table {
    let any = |has: fn(&Measured) -> bool| results.iter().any(has);
    let tasks =
        [any(|r| r.mmlu.is_some()), any(|r| r.hellaswag.is_some()), any(|r| r.longbench.is_some())];
    let mut table = Table::new().left("").right("perplexity").right("KL divergence").unit("nats");
    if tasks[0] {
        table = table.right("MMLU").unit("%").right("difference");
    }
    if tasks[1] {
        table = table.right("HellaSwag").unit("acc_norm, %").right("difference");
    }
    if tasks[2] {
        table = table.right("LongBench");
    }
    table = table
        .right("prefill")
        .unit("tokens/s")
        .right("decode")
        .unit("tokens/s")
        .right("weights")
        .unit("in memory")
        .right("resident")
        .right("file");
    for r in results {
        let d = &r.divergence;
        let mut cells = vec![
            r.name.clone(),
            format!("{:.3}", d.model.perplexity),
            if r.method == "floats" { "–".into() } else { with_error(d.kl) },
        ];
        if tasks[0] {
            let task = r.mmlu.as_ref();
            cells.push(task.map_or("–".into(), |task| percent(task.report.micro)));
            cells.push(points(task.and_then(|task| task.paired.as_ref())));
        }
        if tasks[1] {
            let task = r.hellaswag.as_ref();
            cells.push(task.map_or("–".into(), |task| percent(task.report.acc_norm)));
            cells.push(points(task.and_then(|task| task.paired.as_ref())));
        }
        if tasks[2] {
            cells.push(r.longbench.as_ref().map_or("–".into(), |report| percent(report.overall)));
        }
        let running = &r.running;
        cells.extend([
            significant(running.prefill, 3),
            significant(running.decode, 3),
            bytes(running.weights as u64),
            running.resident.map_or("–".into(), bytes),
            bytes(r.file),
        ]);
        table.row(cells);
    }
    table
}

fn with_error(estimate: Estimate) -> String {
    let error =
        estimate.standard_error.map_or(String::new(), |e| format!(" ± {}", significant(e, 1)));
    format!("{}{error}", significant(estimate.value, 3))
}

/// A share in percent with its standard error.
fn percent(share: Estimate) -> String {
    let error = share.standard_error.map_or(String::new(), |e| format!(" ± {:.1}", e * 100.0));
    format!("{:.1}{error}", share.value * 100.0)
}

/// A paired difference in points of percent.
fn points(paired: Option<&PairedAccuracy>) -> String {
    let Some(paired) = paired else { return "–".into() };
    let d = paired.difference;
    let error = d.standard_error.map_or(String::new(), |e| format!(" ± {:.1}", e * 100.0));
    format!("{:+.1}{error}", d.value * 100.0)
}

/// What the numbers say.
pub fn conclusions(studied: &[Studied]) -> Vec<String> {
    let mut lines = vec![];
    for Studied { name, results } in studied {
        let kl = |r: &&Measured| r.divergence.kl.value;
        let mut methods: Vec<&Measured> =
            representatives(results).filter(|r| r.method != "floats").collect();
        methods.sort_by(|a, b| kl(a).total_cmp(&kl(b)));
        if let [best, .., worst] = &methods[..] {
            let all = methods.iter().map(|r| format!("{} {}", r.method, significant(kl(r), 3)));
            lines.push(format!(
                "{name}: nearest to the floats is {}, farthest {} ({}).",
                best.method,
                worst.method,
                all.collect::<Vec<_>>().join(", "),
            ));
        }
        // Two standard errors, as is usual.
        let far = |p: Option<&PairedAccuracy>| {
            p.is_some_and(|p| {
                p.difference.standard_error.is_some_and(|e| p.difference.value.abs() > 2.0 * e)
            })
        };
        let differs = |r: &&Measured| {
            far(r.mmlu.as_ref().and_then(|t| t.paired.as_ref()))
                || far(r.hellaswag.as_ref().and_then(|t| t.paired.as_ref()))
        };
        let differing: Vec<&str> =
            results.iter().filter(differs).map(|r| r.name.as_str()).collect();
        if results.iter().any(|r| r.mmlu.is_some() || r.hellaswag.is_some()) {
            lines.push(match &differing[..] {
                [] => format!(
                    "{name}: no method moves MMLU or HellaSwag by more than two standard errors of the paired difference; these tasks cannot tell the methods apart here."
                ),
                some => format!(
                    "{name}: MMLU or HellaSwag moves by more than two standard errors of the paired difference under {}.",
                    some.join("; ")
                ),
            });
        }
        let mut names: Vec<&str> =
            results.iter().filter(|r| r.calibration.is_some()).map(|r| r.method).collect();
        names.dedup();
        for method in names {
            let of = results.iter().filter(|r| r.method == method);
            let mut all: Vec<&Measured> = of.collect();
            all.sort_by(|a, b| kl(a).total_cmp(&kl(b)));
            if let [best, .., worst] = &all[..] {
                let set = |r: &Measured| r.calibration.clone().unwrap_or_default();
                lines.push(format!(
                    "{name}: {method} depends on its calibration text by a factor of {} in divergence (best {}, worst {}).",
                    significant(kl(worst) / kl(best), 3),
                    set(best),
                    set(worst),
                ));
            }
        }
    }
    lines
}

/// Writes report.md, report.json and the figures; returns their names.
pub fn write(args: &Args, data: &Data, studied: &[Studied]) -> Result<Vec<String>> {
    let sets: Vec<String> = data.calibration.iter().map(|(name, _)| name.clone()).collect();
    let mut text = format!(
        "# GPTQ and AWQ on small language models\n\n{} bits, {:?}; {} windows of {} tokens of calibration text ({}); \
         {} held-out documents; speed with inputs of 8 bits and {} threads, tasks with float inputs; differences from the floats are paired.\n",
        args.bits,
        args.granularity()?,
        args.windows(),
        args.window,
        sets.join(", "),
        args.documents,
        rayon::current_num_threads(),
    );
    if args.is_demo() {
        text += "\nThe items are made by the grammar of the demo's stories: they are no standard tasks and compare with none.\n";
    }
    for Studied { name, results } in studied {
        text += &format!("\n## {name}\n\n{}", table(results).to_markdown());
    }
    text += "\n## Conclusions\n\n";
    for line in conclusions(studied) {
        text += &format!("- {line}\n");
    }
    let mut files = vec![];
    let some = |has: fn(&Measured) -> bool| studied.iter().any(|s| s.results.iter().any(has));
    text += "\n## Figures\n";
    if some(|r| r.hellaswag.is_some()) {
        text += "\n![HellaSwag](hellaswag.svg)\n";
        files.push(("hellaswag.svg".to_owned(), figures::hellaswag(studied)?.into_bytes()));
    }
    if some(|r| !r.by_length.is_empty()) {
        text += "\n![LongBench](longbench.svg)\n";
        files.push(("longbench.svg".to_owned(), figures::longbench(studied)?.into_bytes()));
    }
    for (number, model) in studied.iter().enumerate() {
        if model.results.iter().any(|r| r.calibration.is_some()) {
            let name = format!("calibration-{}.svg", number + 1);
            text += &format!("\n![calibration]({name})\n");
            files.push((name, figures::calibration(model, &sets)?.into_bytes()));
        }
    }
    files.push(("report.json".to_owned(), serde_json::to_vec_pretty(studied)?));
    files.insert(0, ("report.md".to_owned(), text.into_bytes()));
    support::write_files(&args.out, files)
}
