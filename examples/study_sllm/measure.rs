//! Tasks, divergence, speed and memory of each contestant.

use std::{ops::ControlFlow, path::Path};

use anyhow::Result;
use fewbit::{
    checkpoint::{Access, Checkpoint},
    eval::{
        Divergence,
        tasks::{
            Accuracy, ChoiceItem, ChoiceScore, Journal, MmluProtocol, MmluReport, PairedAccuracy,
            longbench::{LongBenchAnswer, LongBenchReport, LongBenchSpec, answer_longbench},
            mmlu_items, run, run_batches, score_choices,
        },
    },
    model::{CacheType, Model},
    pipeline::{Candidate, compare_streamed},
};
use serde::Serialize;

use crate::{
    args::Args,
    contestants::Contestant,
    source::{Data, Source},
    speed::{Running, measure_apart},
    support::{
        bar::{Bar, Items},
        scorer::{Bos, Scorer, Text},
    },
};

/// What was measured of a contestant.
#[derive(Serialize)]
pub struct Measured {
    /// Method and calibration set; "floats".
    pub name: String,
    /// Name of the method.
    pub method: &'static str,
    /// Name of its calibration set, if it has one.
    pub calibration: Option<String>,
    /// From the floats; of the floats from themselves.
    pub divergence: Divergence,
    pub hellaswag: Option<Task<Accuracy>>,
    pub mmlu: Option<Task<MmluReport>>,
    pub longbench: Option<LongBenchReport>,
    /// Length in words and score of each item of LongBench.
    pub by_length: Vec<(usize, f64)>,
    /// Speed and memory.
    pub running: Running,
    /// Bytes of tensors in the file.
    pub file: u64,
}

/// A task, and how it differs from the floats'.
#[derive(Serialize)]
pub struct Task<R> {
    pub report: R,
    /// Of accuracy; by the length of the choice for HellaSwag.
    pub paired: Option<PairedAccuracy>,
}

/// Everything of every contestant, the floats first.
pub fn all(
    args: &Args,
    data: &Data,
    source: &Source,
    contestants: &[Contestant],
) -> Result<Vec<Measured>> {
    let divergences = divergences(source, contestants)?;
    let mut results: Vec<Measured> = vec![];
    let mut of_floats: [Vec<ChoiceScore>; 2] = Default::default();
    for (contestant, divergence) in contestants.iter().zip(divergences) {
        let checkpoint = Checkpoint::open_with(&contestant.folder, Access::Positioned)?;
        let running = measure_apart(&contestant.folder)?;
        // Tasks are answered with float inputs, so that they tell of the weights alone.
        let model = Model::load(&checkpoint)?;
        let asked = Asked { args, source, contestant, model: &model };
        let mut scores: [Vec<ChoiceScore>; 2] = Default::default();
        let mut hellaswag = None;
        if !data.hellaswag.is_empty() {
            scores[0] = asked.choices("hellaswag", &data.hellaswag)?;
            let paired =
                asked.paired(&scores[0], &of_floats[0], ChoiceScore::predicted_by_chars)?;
            hellaswag = Accuracy::of(&scores[0]).map(|report| Task { report, paired });
        }
        let mut mmlu = None;
        if !data.mmlu.is_empty() {
            let groups = asked.mmlu(data)?;
            let named = data.mmlu.iter().map(|s| &*s.name).zip(groups.iter().map(|g| &**g));
            let report = MmluReport::of(named, MmluProtocol::Harness);
            scores[1] = groups.concat();
            let paired = asked.paired(&scores[1], &of_floats[1], ChoiceScore::predicted)?;
            mmlu = report.map(|report| Task { report, paired });
        }
        let answers = asked.longbench(data)?;
        let named = data.longbench.iter().zip(answers.iter().map(|answers| &**answers));
        let longbench = LongBenchReport::of(named);
        let by_length = answers.iter().flatten().map(|answer| (answer.length, answer.score));
        if contestant.method.is_none() {
            of_floats = scores;
        }
        let calibration = contestant.calibration.map(|set| data.calibration[set].0.clone());
        let method = contestant.method.map_or("floats", |method| method.name());
        results.push(Measured {
            name: match &calibration {
                Some(set) => format!("{method}, {set}"),
                None => method.to_owned(),
            },
            method,
            calibration,
            divergence,
            hellaswag,
            mmlu,
            longbench,
            by_length: by_length.collect(),
            running,
            file: checkpoint.tensors().map(|tensor| tensor.bytes).sum(),
        });
    }
    Ok(results)
}

/// All from the floats, in one pass through the blocks.
fn divergences(source: &Source, contestants: &[Contestant]) -> Result<Vec<Divergence>> {
    let open = |folder: &Path| Checkpoint::open_with(folder, Access::Positioned);
    let opened = contestants.iter().map(|c| open(&c.folder)).collect::<Result<Vec<_>, _>>()?;
    let candidates: Vec<Candidate<'_>> = opened.iter().map(Candidate::Checkpoint).collect();
    let window = source.config.max_positions.min(512);
    let mut bar = Bar::new();
    let found =
        compare_streamed(&open(&source.folder)?, &candidates, &source.held_out, window, &mut bar)?;
    bar.finish();
    Ok(found)
}

/// A contestant that answers.
struct Asked<'a> {
    args: &'a Args,
    source: &'a Source,
    contestant: &'a Contestant,
    model: &'a Model,
}

impl Asked<'_> {
    fn text(&self) -> Text<'_> {
        let (tokenizer, bos) = (&self.source.tokenizer, self.source.config.bos_token);
        Text { tokenizer, rule: Bos::Tokenizer, bos }
    }

    fn context(&self) -> usize {
        self.args.context.unwrap_or(self.source.config.max_positions)
    }

    fn journal<R: Serialize + serde::de::DeserializeOwned>(
        &self,
        task: &str,
        items: &impl Serialize,
    ) -> Result<Journal<R>> {
        let file = self.source.out.join(format!("{}.{task}.jsonl", self.contestant.slug));
        let run = (&self.contestant.folder, self.context());
        Ok(Journal::open(&file, &run, items)?)
    }

    fn choices(&self, task: &str, items: &[ChoiceItem]) -> Result<Vec<ChoiceScore>> {
        let mut journal = self.journal(task, &items)?;
        let (text, mut scorer) = (self.text(), Scorer::new(self.model, CacheType::F32));
        let bar = Items::new(task);
        let progress = |done, total| {
            bar.show(done, total);
            ControlFlow::Continue(())
        };
        let scores = run_batches(items, &mut journal, progress, |number, left| {
            score_choices(&mut scorer, &text, number, left, self.context())
        })?;
        bar.finish();
        Ok(scores.to_vec())
    }

    /// Scores of each subject.
    fn mmlu(&self, data: &Data) -> Result<Vec<Vec<ChoiceScore>>> {
        let mut items = vec![];
        let mut lens = vec![];
        for subject in &data.mmlu {
            let (protocol, shots) = (MmluProtocol::Harness, self.args.shots);
            let of = mmlu_items(subject, protocol, shots, &self.text(), self.context())?;
            lens.push(of.len());
            items.extend(of);
        }
        let scores = self.choices("mmlu", &items)?;
        let mut rest = &scores[..];
        let groups = lens.into_iter().map(|len| {
            let (group, after) = rest.split_at(len);
            rest = after;
            group.to_vec()
        });
        Ok(groups.collect())
    }

    /// Answers to each data set.
    fn longbench(&self, data: &Data) -> Result<Vec<Vec<LongBenchAnswer>>> {
        let (text, mut scorer) = (self.text(), Scorer::new(self.model, CacheType::F32));
        let context = self.context();
        let spec = LongBenchSpec {
            // The original leaves 500 tokens for prediction and message; where that is more than half, half.
            max_prompt: context.saturating_sub(500).max(context / 2).max(2),
            max_len: context,
            end_tokens: &self.source.end_tokens,
            message: None,
        };
        let mut all = vec![];
        for task in &data.longbench {
            let asked = (&task.items, &task.prompt, task.max_new_tokens);
            let mut journal = self.journal(&format!("longbench-{}", task.name()), &asked)?;
            let bar = Items::new(task.name());
            let progress = |done, total| {
                bar.show(done, total);
                ControlFlow::Continue(())
            };
            let answers = run(&task.items, &mut journal, progress, |number, item| {
                answer_longbench(&mut scorer, &text, number, task, item, &spec)
            })?;
            bar.finish();
            all.push(answers.to_vec());
        }
        Ok(all)
    }

    /// Against the floats, if this is not they.
    fn paired(
        &self,
        scores: &[ChoiceScore],
        of_floats: &[ChoiceScore],
        predicted: fn(&ChoiceScore) -> usize,
    ) -> Result<Option<PairedAccuracy>> {
        match self.contestant.method {
            None => Ok(None),
            Some(_) => Ok(Some(PairedAccuracy::of(scores, of_floats, predicted)?)),
        }
    }
}
