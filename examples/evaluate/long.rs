//! LongBench.

use std::{ops::ControlFlow, time::Instant};

use anyhow::Result;
use fewbit::eval::tasks::{
    longbench::{LongBenchAnswer, LongBenchReport, LongBenchSpec, LongBenchTask, answer_longbench},
    run,
};
use fewbit::eval::{Estimate, statistics};
use serde::Serialize;

use crate::{
    args::Args,
    models::{Contestant, Models},
    support::bar::Items,
};

/// What came out for a model, and for its baseline.
#[derive(Serialize)]
pub struct LongCompared {
    pub model: LongBenchReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<LongBenchReport>,
    /// Mean difference of the scores of all items.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub difference: Option<Estimate>,
    /// Most tokens of a prompt.
    pub max_prompt: usize,
    /// Time to answer with the model, less what a journal held already.
    pub seconds: f64,
    /// Where the items come from.
    pub data: String,
    /// Name of the data set of each item, with both answers.
    #[serde(skip)]
    pub items: Vec<(String, LongBenchAnswer, Option<LongBenchAnswer>)>,
}

pub fn longbench(
    args: &Args,
    models: &Models,
    data: String,
    tasks: &[LongBenchTask],
) -> Result<LongCompared> {
    let max_prompt = max_prompt(args, models.model.context(args));
    let started = Instant::now();
    let model = answers(args, models, &models.model, "", tasks, max_prompt)?;
    let seconds = started.elapsed().as_secs_f64();
    let baseline = match &models.baseline {
        Some(baseline) => Some(answers(args, models, baseline, "-baseline", tasks, max_prompt)?),
        None => None,
    };
    let report = |all: &[Vec<LongBenchAnswer>]| {
        let all = all.iter().map(|answers| &**answers);
        LongBenchReport::of(tasks.iter().zip(all)).expect("there is an item")
    };
    let scores = |all: &[Vec<LongBenchAnswer>]| -> Vec<f64> {
        all.iter().flatten().map(|answer| answer.score).collect()
    };
    let difference = match &baseline {
        Some(baseline) => Some(statistics::paired(&scores(&model), &scores(baseline))?),
        None => None,
    };
    let mut items = vec![];
    for (t, task) in tasks.iter().enumerate() {
        for (i, answer) in model[t].iter().enumerate() {
            let other = baseline.as_ref().map(|all| all[t][i].clone());
            items.push((task.name(), answer.clone(), other));
        }
    }
    Ok(LongCompared {
        model: report(&model),
        baseline: baseline.as_deref().map(report),
        difference,
        max_prompt,
        seconds,
        data,
        items,
    })
}

/// The original leaves 500 tokens for prediction and message; where that is more than half, half.
fn max_prompt(args: &Args, context: usize) -> usize {
    args.max_prompt.unwrap_or(context.saturating_sub(500).max(context / 2)).max(2)
}

fn answers(
    args: &Args,
    models: &Models,
    contestant: &Contestant,
    end: &str,
    tasks: &[LongBenchTask],
    max_prompt: usize,
) -> Result<Vec<Vec<LongBenchAnswer>>> {
    let text = models.text(args);
    let mut scorer = contestant.scorer(args);
    let spec = LongBenchSpec {
        max_prompt,
        max_len: contestant.context(args),
        end_tokens: &models.end_tokens,
        message: None,
    };
    let one = |task: &LongBenchTask| {
        let name = task.name();
        let items = &task.items[..task.items.len().min(args.limit.unwrap_or(usize::MAX))];
        let asked = (items, &task.prompt, task.max_new_tokens);
        let mut journal = contestant.journal(args, &format!("longbench-{name}{end}"), &asked)?;
        let bar = Items::new(name);
        let progress = |done, total| {
            bar.show(done, total);
            ControlFlow::Continue(())
        };
        let answers = run(items, &mut journal, progress, |number, item| {
            answer_longbench(&mut scorer, &text, number, task, item, &spec)
        })?;
        bar.finish();
        Ok(answers.to_vec())
    };
    tasks.iter().map(one).collect()
}
