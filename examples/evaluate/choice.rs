//! HellaSwag and MMLU.

use std::{ops::ControlFlow, time::Instant};

use anyhow::Result;
use fewbit::eval::tasks::{
    Accuracy, ChoiceItem, ChoiceScore, MmluReport, MmluSubject, PairedAccuracy, mmlu_items,
    run_batches, score_choices,
};
use serde::Serialize;

use crate::{
    args::Args,
    models::{Contestant, Models},
    support::bar::Items,
};

/// What came out of a task for a model, and for its baseline.
#[derive(Serialize)]
pub struct Compared<R> {
    pub model: R,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<R>,
    /// Differences of accuracy over all items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<PairedAccuracy>,
    /// Differences of accuracy by the length of the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired_norm: Option<PairedAccuracy>,
    /// Time to score the model, less what a journal held already.
    pub seconds: f64,
    /// Where the items come from.
    pub data: String,
    /// The items with what both models made of them.
    #[serde(skip)]
    pub items: Vec<ScoredItem>,
}

/// One item with what both models made of it.
pub struct ScoredItem {
    pub group: String,
    pub model: ChoiceScore,
    pub baseline: Option<ChoiceScore>,
}

/// HellaSwag.
pub fn hellaswag(
    args: &Args,
    models: &Models,
    data: String,
    mut items: Vec<ChoiceItem>,
) -> Result<Compared<Accuracy>> {
    items.truncate(args.limit.unwrap_or(usize::MAX));
    let groups = vec![(String::new(), items)];
    let compared = score(args, models, "hellaswag", data, groups, |scores| {
        Accuracy::of(&scores.concat()).expect("there is an item")
    })?;
    Ok(compared)
}

/// MMLU.
pub fn mmlu(
    args: &Args,
    models: &Models,
    data: String,
    subjects: &[MmluSubject],
) -> Result<Compared<MmluReport>> {
    let protocol = args.mmlu_protocol.into();
    let mut groups = vec![];
    for subject in subjects {
        let mut subject = subject.clone();
        subject.test.truncate(args.limit.unwrap_or(usize::MAX));
        let contestant = &models.model;
        let text = models.text(args);
        let items = mmlu_items(&subject, protocol, args.shots, &text, contestant.context(args))?;
        groups.push((subject.name, items));
    }
    let names: Vec<String> = groups.iter().map(|(name, _)| name.clone()).collect();
    score(args, models, "mmlu", data, groups, |scores| {
        let scores = names.iter().map(String::as_str).zip(scores.iter().map(|s| &**s));
        MmluReport::of(scores, protocol).expect("there is a question")
    })
}

fn score<R>(
    args: &Args,
    models: &Models,
    task: &str,
    data: String,
    groups: Vec<(String, Vec<ChoiceItem>)>,
    report: impl Fn(&[Vec<ChoiceScore>]) -> R,
) -> Result<Compared<R>> {
    let lens: Vec<usize> = groups.iter().map(|(_, items)| items.len()).collect();
    let names = groups.iter().flat_map(|(name, items)| vec![name.clone(); items.len()]);
    let names: Vec<String> = names.collect();
    let items: Vec<ChoiceItem> = groups.into_iter().flat_map(|(_, items)| items).collect();
    let started = Instant::now();
    let model = scores(args, models, &models.model, task, &items)?;
    let seconds = started.elapsed().as_secs_f64();
    let baseline = match &models.baseline {
        Some(baseline) => {
            Some(scores(args, models, baseline, &format!("{task}-baseline"), &items)?)
        }
        None => None,
    };
    let split = |scores: &[ChoiceScore]| -> Vec<Vec<ChoiceScore>> {
        let mut rest = scores;
        let mut take = |len: &usize| rest.split_off(..*len).expect("as many").to_vec();
        lens.iter().map(&mut take).collect()
    };
    let paired = |predicted| {
        let pair = |b: &Vec<_>| PairedAccuracy::of(&model, b, predicted);
        baseline.as_ref().map(pair).transpose()
    };
    Ok(Compared {
        paired: paired(ChoiceScore::predicted)?,
        paired_norm: paired(ChoiceScore::predicted_by_chars)?,
        baseline: baseline.as_ref().map(|scores| report(&split(scores))),
        seconds,
        data,
        items: {
            let other = |i: usize| baseline.as_ref().map(|scores| scores[i].clone());
            let names = names.into_iter().zip(&model).enumerate();
            let item = |(i, (group, score)): (usize, (String, &ChoiceScore))| ScoredItem {
                group,
                model: score.clone(),
                baseline: other(i),
            };
            names.map(item).collect()
        },
        model: report(&split(&model)),
    })
}

fn scores(
    args: &Args,
    models: &Models,
    contestant: &Contestant,
    task: &str,
    items: &[ChoiceItem],
) -> Result<Vec<ChoiceScore>> {
    let mut journal = contestant.journal(args, task, items)?;
    let text = models.text(args);
    let mut scorer = contestant.scorer(args);
    let max_len = contestant.context(args);
    let bar = Items::new(task);
    let progress = |done, total| {
        bar.show(done, total);
        ControlFlow::Continue(())
    };
    let scores = run_batches(items, &mut journal, progress, |number, left| {
        score_choices(&mut scorer, &text, number, left, max_len)
    })?;
    bar.finish();
    Ok(scores.to_vec())
}
