//! Table, texts, figures.

use anyhow::Result;
use fewbit::{
    eval::{
        Table,
        figure::{BarChart, BarSeries, Scale},
        units::{bytes, significant},
    },
    kernels::Level,
};

use crate::{Args, Source, measure::Measured, support};

pub fn print(args: &Args, source: &Source, results: &[Measured], words: &[String]) {
    println!("{}\n", setting(args, source));
    println!("{}", table(results));
    for r in results {
        println!("{:26} {}", r.name, one_line(&format!("{} … {}", args.prompt, r.text)));
    }
    println!("\n{}\n", words.join(" "));
}

/// Writes report.md, report.json and the figures; returns their names.
pub fn write(
    args: &Args,
    source: &Source,
    results: &[Measured],
    words: &[String],
) -> Result<Vec<String>> {
    let mut text = format!("# Few bits on a small machine\n\n{}\n\n", setting(args, source));
    text += &table(results).to_markdown();
    text += "\n![time](time.svg)\n\n![quality](quality.svg)\n\n## What each model wrote\n\n";
    for r in results {
        text += &format!("- **{}**: {} … {}\n", r.name, args.prompt, one_line(&r.text));
    }
    text += &format!("\n## Conclusions\n\n{}\n", words.join(" "));
    let files = [
        ("report.md", text.into_bytes()),
        ("report.json", serde_json::to_vec_pretty(results)?),
        ("time.svg", time(args, results)?.into_bytes()),
        ("quality.svg", quality(results)?.into_bytes()),
    ];
    support::write_files(&args.out, files)
}

fn setting(args: &Args, source: &Source) -> String {
    format!(
        "{}, groups of {}; {} tokens after \"{}\", median of {}; {} held-out documents; {}, {} threads. \
         Embedding and head stay in floats; few-bit matrices multiply inputs of 8 bits.",
        source.name,
        args.group_size,
        args.n,
        args.prompt,
        args.repeats,
        source.held_out.len(),
        Level::detect(),
        rayon::current_num_threads(),
    )
}

fn table(results: &[Measured]) -> Table {
    let mut table = Table::new()
        .left("policy")
        .right("bits a weight")
        .right("time")
        .unit("ms")
        .right("speed-up")
        .right("perplexity")
        .right("KL divergence")
        .unit("nats")
        .right("same top token")
        .unit("%")
        .right("in memory")
        .right("file");
    for r in results {
        let d = &r.divergence;
        let error = d.kl.standard_error.filter(|_| d.kl.value > 0.0);
        let error = error.map_or(String::new(), |e| format!(" ± {}", significant(e, 1)));
        table.row([
            r.name.to_owned(),
            format!("{:.2}", r.bits_per_weight),
            format!("{:.2}", r.median * 1e3),
            format!("{:.2}", r.speed_up),
            format!("{:.3}", d.model.perplexity),
            format!("{}{error}", significant(d.kl.value, 3)),
            format!("{:.2}", d.top1_agreement.value * 100.0),
            bytes(r.memory as u64),
            bytes(r.file),
        ]);
    }
    table
}

/// A text without its line breaks.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn time(args: &Args, results: &[Measured]) -> Result<String> {
    let label = |r: &Measured| format!("{}: {}×", r.name, significant(r.speed_up, 3));
    let chart = BarChart {
        title: format!("Time for {} tokens by policy, and speed-up over floats", args.n),
        x_label: "policy, speed-up".into(),
        y_label: "milliseconds".into(),
        categories: results.iter().map(label).collect(),
        series: vec![BarSeries {
            name: "prompt and text".into(),
            values: results.iter().map(|r| Some(r.median * 1e3)).collect(),
            before: vec![],
        }],
        value_labels: true,
        // Bars are compared by their length.
        scale: Scale::Linear,
        ..BarChart::default()
    };
    Ok(chart.to_svg()?)
}

fn quality(results: &[Measured]) -> Result<String> {
    // The floats differ from themselves by nothing, which a logarithm cannot show.
    let others = || results.iter().filter(|r| r.divergence.kl.value > 0.0);
    let label = |r: &Measured| format!("{}: {:.1} bits", r.name, r.bits_per_weight);
    let chart = BarChart {
        title: "Divergence from the floats by policy".into(),
        x_label: "policy, bits a weight".into(),
        y_label: "mean KL divergence, nats a token".into(),
        categories: others().map(label).collect(),
        series: vec![BarSeries {
            name: "held-out text".into(),
            values: others().map(|r| Some(r.divergence.kl.value)).collect(),
            before: vec![],
        }],
        value_labels: true,
        scale: Scale::Log,
        ..BarChart::default()
    };
    Ok(chart.to_svg()?)
}
