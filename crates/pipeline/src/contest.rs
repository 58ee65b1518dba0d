//! Several jobs on one model, compared on text that none of them has seen.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fewbit_checkpoint::{Access, Checkpoint, write_atomically};
use fewbit_eval::Divergence;
use serde::{Deserialize, Serialize};

use crate::{
    Candidate, Event, Job, PipelineError, Progress, Report, compare_streamed, job::sibling,
    work::Fingerprint,
};

/// A job of a contest.
#[derive(Debug)]
pub struct Entry {
    /// Names it in events and results.
    pub name: String,
    /// The job. Its output stays.
    pub job: Job,
}

/// What came of a job of a contest.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The entry's name.
    pub name: String,
    /// The output.
    #[serde(skip)]
    pub out: PathBuf,
    /// The job's report.
    pub report: Report,
    /// The result's distance from the original on the held-out documents.
    pub divergence: Divergence,
}

/// What is kept beside a finished output, so that a contest goes on where it was interrupted.
#[derive(Serialize, Deserialize)]
struct Record {
    fingerprint: Fingerprint,
    report: Report,
}

/// Does the jobs one after another, then compares all outputs with the model they were made from, one block of each in memory: divergences on
/// `documents`, each cut to `max_len` tokens. Outcomes are in the order of the entries.
///
/// A contest that was interrupted goes on when it is called again: an output is taken as it is if the record beside it is of the same job.
///
/// # Errors
/// Those of [`Job::prepare`], [`Prepared::run`](crate::Prepared::run) and [`compare_streamed`]. [`PipelineError::OutputExists`] if an output is there without a
/// record of the same job.
///
/// # Panics
/// If there is no entry, or the entries are of several models.
pub fn contest(
    entries: Vec<Entry>,
    documents: &[Vec<u32>],
    max_len: usize,
    progress: &mut dyn Progress,
) -> Result<Vec<Outcome>, PipelineError> {
    let model = entries.first().expect("an entry").job.model.clone();
    assert!(entries.iter().all(|entry| entry.job.model == model), "one model");
    let n_entries = entries.len();
    let mut done = Vec::new();
    for (number, Entry { name, job }) in entries.into_iter().enumerate() {
        progress.event(Event::Entry { name: &name, number, n_entries });
        let out = job.out.clone();
        let report = finished(job, progress)?;
        done.push((name, out, report));
    }
    let open = |path: &Path| Checkpoint::open_with(path, Access::Positioned);
    let outputs = done.iter().map(|(_, out, _)| open(out)).collect::<Result<Vec<_>, _>>()?;
    let candidates: Vec<_> = outputs.iter().map(Candidate::Checkpoint).collect();
    let divergences = compare_streamed(&open(&model)?, &candidates, documents, max_len, progress)?;
    let outcomes = done.into_iter().zip(divergences);
    Ok(outcomes
        .map(|((name, out, report), divergence)| Outcome { name, out, report, divergence })
        .collect())
}

/// Does a job unless its output is there already.
fn finished(mut job: Job, progress: &mut dyn Progress) -> Result<Report, PipelineError> {
    let out = job.out.clone();
    let record = sibling(&out, "record.json");
    // Under another name until there is a record, so that an output without one is somebody else's.
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    job.out = out.with_file_name(format!("unrecorded-{name}"));
    let earlier = fs::read(&record).ok().and_then(|b| serde_json::from_slice::<Record>(&b).ok());
    remove(&job.out)?;
    let unrecorded = job.out.clone();
    let prepared = job.prepare(progress)?;
    let fingerprint = prepared.fingerprint.clone();
    match earlier {
        Some(earlier) if out.exists() && earlier.fingerprint == fingerprint => {
            return Ok(earlier.report);
        }
        _ if out.exists() => return Err(PipelineError::OutputExists { folder: out }),
        _ => {}
    }
    let report = prepared.run(progress)?;
    let json = serde_json::to_vec(&Record { fingerprint, report: report.clone() })
        .expect("reports serialize");
    write_atomically(&record, &json)?;
    fs::rename(&unrecorded, &out).map_err(|e| PipelineError::io(&out, e))?;
    Ok(report)
}

/// Removes an output, be it a folder or a file.
fn remove(path: &Path) -> Result<(), PipelineError> {
    let removed = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false if path.exists() => fs::remove_file(path),
        false => Ok(()),
    };
    removed.map_err(|e| PipelineError::io(path, e))
}

impl Outcome {
    /// Removes output and record.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn discard(self) -> Result<(), PipelineError> {
        remove(&self.out)?;
        remove(&sibling(&self.out, "record.json"))
    }

    /// Moves the output to a place of its own, which must be free, and removes the record.
    ///
    /// # Errors
    /// [`PipelineError::OutputExists`], and if the disk refuses.
    pub fn keep(&self, out: &Path) -> Result<(), PipelineError> {
        if out.exists() {
            return Err(PipelineError::OutputExists { folder: out.into() });
        }
        fs::rename(&self.out, out).map_err(|e| PipelineError::io(out, e))?;
        remove(&sibling(&self.out, "record.json"))
    }
}
