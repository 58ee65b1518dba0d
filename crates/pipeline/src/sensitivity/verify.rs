//! Plans as wholes: quantized, and compared on held-out text, document by document.

use std::{convert::Infallible, path::Path};

use fewbit_checkpoint::{Access, Checkpoint};
use fewbit_eval::{
    Estimate, Interval, compare, from_fn,
    statistics::{bootstrap_interval, clustered},
};
use fewbit_format::Plan;
use fewbit_model::{Block, Ends, ModelConfig};

use super::SensitivityError;
use crate::{Event, Job, Phase, PipelineError, Progress, Report, stages::States};

/// A plan, quantized and measured.
#[derive(Clone, Debug)]
pub struct PlanRun {
    /// What the job says.
    pub report: Report,
    /// KL divergence from the original, nats per token; documents are the samples of its error.
    pub kl: Estimate,
    /// Perplexity.
    pub perplexity: f64,
    /// Share of tokens at which both rank the same token first.
    pub top1_agreement: f64,
    /// Sum of KL divergences and number of predicted tokens of each document.
    pub documents: Vec<(f64, usize)>,
}

/// Two plans on the same documents.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDivergence {
    /// Mean KL divergence of the first less that of the second; negative if the first is better.
    pub difference: Estimate,
    /// 1 − the first's over the second's.
    pub reduction: f64,
    /// Its 95 % interval, from resampled documents; `None` of a single document.
    pub interval: Option<Interval>,
}

impl PlanRun {
    /// Against another run on the same documents; `None` if there are none.
    pub fn against(&self, other: &Self) -> Option<PairedDivergence> {
        let pairs: Vec<(f64, f64, usize)> =
            self.documents.iter().zip(&other.documents).map(|(a, b)| (a.0, b.0, a.1)).collect();
        let differences: Vec<(f64, usize)> = pairs.iter().map(|(a, b, n)| (a - b, *n)).collect();
        let reduction = |pairs: &[(f64, f64, usize)]| {
            let sum = |value: fn(&(f64, f64, usize)) -> f64| pairs.iter().map(value).sum::<f64>();
            1.0 - sum(|p| p.0) / sum(|p| p.1).max(f64::MIN_POSITIVE)
        };
        let interval = (pairs.len() > 1).then(|| bootstrap_interval(&pairs, reduction, 2000, 1));
        Some(PairedDivergence {
            difference: clustered(&differences)?,
            reduction: reduction(&pairs),
            interval: interval.flatten(),
        })
    }
}

/// Quantizes a model by each plan, and compares the results with it on held-out documents, each cut to `max_len` tokens.
///
/// `job` makes the job for a plan that writes to a path; results go to a temporary folder and are removed.
///
/// # Errors
/// If a job fails, or outputs cannot be compared.
pub fn compare_plans(
    model: &Path,
    plans: &[Plan],
    job: &mut dyn FnMut(Plan, &Path) -> Job,
    documents: &[Vec<u32>],
    max_len: usize,
    progress: &mut dyn Progress,
) -> Result<Vec<PlanRun>, SensitivityError> {
    let original = Checkpoint::open_with(model, Access::Positioned).map_err(PipelineError::from)?;
    let documents: Vec<&[u32]> = documents.iter().map(|d| &d[..d.len().min(max_len)]).collect();
    let reference = Outputs::of(&original, &original, &documents)?;
    let mut runs = Vec::new();
    for plan in plans {
        let folder =
            tempfile::tempdir().map_err(|e| PipelineError::io(&std::env::temp_dir(), e))?;
        let mut job = job(plan.clone(), &folder.path().join("model"));
        if job.container.name() == "gguf" {
            job.out.set_extension("gguf");
        }
        let out = job.out.clone();
        let report = job.prepare(progress)?.run(progress)?;
        progress.event(Event::Phase(Phase::Evaluate));
        let quantized =
            Checkpoint::open_with(&out, Access::Positioned).map_err(PipelineError::from)?;
        let outputs = Outputs::of(&quantized, &original, &documents)?;
        runs.push(reference.compare(&outputs, &documents, report)?);
        progress.event(Event::Advanced { fraction: 1.0 });
    }
    Ok(runs)
}

/// The last hidden states of a model on some documents, and what makes them logits.
struct Outputs {
    vocab_size: usize,
    ends: Ends,
    states: States,
}

impl Outputs {
    /// The configuration is the original's: containers keep it.
    fn of(
        model: &Checkpoint,
        original: &Checkpoint,
        documents: &[&[u32]],
    ) -> Result<Self, PipelineError> {
        let config = ModelConfig::of(original)?;
        let mut states = States::embed(model, &config, documents)?;
        for layer in 0..config.n_layers {
            states.forward(&Block::load(model, &config, layer)?);
        }
        Ok(Self { vocab_size: config.vocab_size, ends: Ends::load(model, &config)?, states })
    }

    fn compare(
        &self,
        other: &Self,
        documents: &[&[u32]],
        report: Report,
    ) -> Result<PlanRun, SensitivityError> {
        let (mut kl, mut nll, mut same) = (Vec::new(), 0.0, 0.0);
        let pairs = self.states.sequences().zip(other.states.sequences());
        for (document, (a, b)) in documents.iter().zip(pairs) {
            let mut original =
                from_fn(self.vocab_size, |_: &[u32]| Ok::<_, Infallible>(self.ends.head(a)));
            let mut model =
                from_fn(self.vocab_size, |_: &[u32]| Ok::<_, Infallible>(other.ends.head(b)));
            let d = compare(&mut original, &mut model, [document], document.len().max(2))?;
            let tokens = document.len() - 1;
            kl.push((d.kl.value * tokens as f64, tokens));
            nll += d.model.perplexity.ln() * tokens as f64;
            same += d.top1_agreement.value * tokens as f64;
        }
        let tokens: usize = kl.iter().map(|(_, n)| n).sum();
        Ok(PlanRun {
            report,
            kl: clustered(&kl).ok_or(SensitivityError::NoProbes)?,
            perplexity: (nll / tokens as f64).exp(),
            top1_agreement: same / tokens as f64,
            documents: kl,
        })
    }
}
