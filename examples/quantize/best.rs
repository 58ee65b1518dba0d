//! The best of several methods, by held-out text.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail};
use fewbit::{
    eval::Table,
    pipeline::{Calibration, Entry, Estimate, Outcome, Prepared, Report, contest},
};
use serde::Serialize;

use crate::{
    Source,
    args::Args,
    job,
    report::beside_folder,
    support::{bar::Bar, duration},
};

/// What was tried, the chosen one named.
#[derive(Serialize)]
pub struct Choice {
    pub documents: usize,
    pub chosen: String,
    pub tried: Vec<Outcome>,
}

/// The jobs, with what they will take together.
pub struct Candidates {
    pub names: Vec<&'static str>,
    pub estimate: Estimate,
    entries: Vec<Entry>,
    folder: PathBuf,
}

impl Candidates {
    /// `prepared` is any job on the plan.
    pub fn of(args: &Args, source: &Source, prepared: &Prepared) -> Result<Self> {
        let folder = beside_folder(&source.out, "candidates");
        let mut bar = Bar::new();
        let (mut names, mut entries) = (vec![], vec![]);
        let mut estimate = prepared.estimate().clone();
        estimate.seconds = 0.0;
        for (number, contestant) in job::contestants(args, prepared).into_iter().enumerate() {
            let out = folder.join(format!("{number}{}", job::ending(args)));
            let job = job::contest_job(args, source, contestant, out, &mut bar)?;
            let own = job.estimate()?;
            estimate.seconds += own.seconds;
            estimate.peak_memory = estimate.peak_memory.max(own.peak_memory);
            estimate.work_bytes = estimate.work_bytes.max(own.work_bytes);
            names.push(contestant.name);
            entries.push(Entry { name: contestant.name.into(), job });
        }
        bar.finish();
        // Results of all candidates lie beside each other until one is chosen.
        estimate.work_bytes += (entries.len() as u64 - 1) * estimate.output_bytes;
        Ok(Self { names, estimate, entries, folder })
    }

    /// The text that they calibrate on.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.entries.iter().find_map(|entry| entry.job.calibration.as_ref())
    }

    /// Does all jobs and leaves the output of the best at its place.
    pub fn run(self, source: &Source) -> Result<(Report, Choice)> {
        if source.choice.is_empty() {
            bail!(
                "there is no text to choose a method on: give more calibration text, or name a --method"
            );
        }
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let mut bar = Bar::new();
        let tried = contest(self.entries, &source.choice, 512, &mut bar)?;
        bar.finish();
        let kl = |o: &Outcome| o.divergence.kl.value;
        let best = tried.iter().min_by(|a, b| kl(a).total_cmp(&kl(b))).expect("a candidate");
        best.keep(&source.out)?;
        let (report, chosen) = (best.report.clone(), best.name.clone());
        for other in tried.iter().filter(|other| other.name != chosen) {
            other.clone().discard()?;
        }
        fs::remove_dir(&self.folder)?;
        Ok((report, Choice { documents: source.choice.len(), chosen, tried }))
    }
}

/// What was tried, and what won.
pub fn print_choice(choice: &Choice) {
    let mut table = Table::new()
        .left(format!("on {} documents to choose by", choice.documents))
        .right("KL divergence")
        .unit("nats")
        .right("time");
    for outcome in &choice.tried {
        let kl = outcome.divergence.kl;
        let error = kl.standard_error.map_or(String::new(), |s| format!(" ± {s:.5}"));
        let won = if outcome.name == choice.chosen { ", chosen" } else { "" };
        table.row([
            format!("{}{won}", outcome.name),
            format!("{:.5}{error}", kl.value),
            duration(outcome.report.seconds),
        ]);
    }
    println!("{table}");
}
