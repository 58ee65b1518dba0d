//! The training loop, the same for blocks and whole models.

use std::path::{Path, PathBuf};

use crate::{
    Curve, Event, Progress, QatError, Student,
    optimizer::{self, Optimization, Rule},
    param::Param,
    pool::Pool,
    state::State,
};

/// How a run goes, besides what it learns.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// From gradients to steps.
    pub optimization: Optimization,
    /// Windows of a pass; as many are in memory.
    pub batch: usize,
    /// Passes whose gradients make a step.
    pub accumulate: usize,
    /// Which windows each step sees.
    pub seed: u64,
    /// Steps between two checks on held-out windows. The best state that a check saw is the result.
    pub check_every: u64,
    /// Held-out windows of a check.
    pub check_windows: usize,
    /// Steps between two states on disk.
    pub keep_every: u64,
}

impl Run {
    /// Sets the rate of embedding and head to `rate` hundredths of the size of the embedding's values: a step moves a value so far at most.
    #[must_use]
    pub fn with_ends(mut self, student: &Student, rate: f32) -> Self {
        self.optimization.rates.ends = 0.01 * rate * student.embedding_size();
        self
    }

    pub(crate) fn check(&self) -> Result<(), QatError> {
        self.optimization.check()?;
        let counts = [
            ("the batch", self.batch),
            ("accumulation", self.accumulate),
            ("the number of held-out windows", self.check_windows),
        ];
        for (setting, value) in counts {
            if value == 0 {
                return Err(QatError::Setting { setting, value: 0.0, expected: "at least 1" });
            }
        }
        Ok(())
    }

    /// What has to be the same for a run to be continued, a line each.
    pub(crate) fn settings(&self) -> String {
        let Self { optimization, batch, accumulate, seed, check_every, check_windows, .. } = self;
        let Optimization { rule, rates, schedule, clip } = optimization;
        format!(
            "rule {rule:?}\nrates {rates:?}\nschedule {schedule:?}\nclip {clip:?}\nbatch {batch}\naccumulate {accumulate}\nseed {seed}\n\
             check every {check_every}\ncheck windows {check_windows}"
        )
    }
}

/// Something to be trained.
pub(crate) trait Task {
    /// What is learned.
    fn learned(&mut self) -> Vec<Param<'_>>;
    /// Loss and gradients of pass `number`.
    fn gradient(&mut self, number: u64) -> (f64, Vec<Vec<f32>>);
    /// Takes gradients back.
    fn recycle(&mut self, grads: Vec<Vec<f32>>);
    /// Loss on held-out windows.
    fn check(&mut self) -> f64;
    /// Tokens of a pass.
    fn tokens(&self) -> usize;
    /// What identifies it, a line each.
    fn settings(&self) -> String;
}

/// Where a run keeps its state.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    pub(crate) file: Option<PathBuf>,
    pub(crate) settings: String,
}

impl Keeper {
    pub(crate) fn new(file: Option<&Path>, run: &Run, task: &dyn Task) -> Self {
        let settings = format!("{}\n{}", run.settings(), task.settings());
        Self { file: file.map(Path::to_owned), settings }
    }

    fn find(&self, task: &mut dyn Task) -> Result<Option<State>, QatError> {
        match &self.file {
            None => Ok(None),
            Some(file) => State::find(file, &self.settings, &mut task.learned()),
        }
    }

    fn keep(&self, state: &State, task: &mut dyn Task) -> Result<(), QatError> {
        match &self.file {
            None => Ok(()),
            Some(file) => state.keep(file, &self.settings, &task.learned()),
        }
    }
}

/// Trains, from the beginning or from a kept state, and leaves the best values that a check saw.
pub(crate) fn train(
    task: &mut dyn Task,
    run: &Run,
    file: Option<&Path>,
    progress: &mut dyn Progress,
) -> Result<Curve, QatError> {
    run.check()?;
    let keeper = Keeper::new(file, run, task);
    let steps = run.optimization.schedule.steps;
    let mut state = match keeper.find(task)? {
        Some(state) if state.step >= steps => return Ok(state.curve),
        Some(state) => {
            progress.event(Event::Resumed { step: state.step });
            state
        }
        None => {
            let loss = task.check();
            if !loss.is_finite() {
                return Err(QatError::Diverged { step: 0, loss, kept: 0 });
            }
            progress.event(Event::Checked { step: 0, loss, best: true });
            let params = task.learned();
            State {
                step: 0,
                curve: Curve { steps: Vec::new(), checks: vec![(0, loss)] },
                best: values(&params),
                moments: optimizer::moments(&params, run.optimization.rule),
            }
        }
    };
    let mut kept = state.step;
    let mut pool = Pool::default();
    while state.step < steps {
        let step = state.step;
        if progress.cancelled() {
            keeper.keep(&state, task)?;
            return Err(QatError::Cancelled { step });
        }
        let (loss, mut grads) = passes(task, run, step);
        let diverged = |loss| QatError::Diverged { step: step + 1, loss, kept };
        if !loss.is_finite() {
            return Err(diverged(loss));
        }
        let length = optimizer::length(&grads) / run.accumulate as f64;
        if !length.is_finite() {
            return Err(diverged(length));
        }
        let clip = match (run.optimization.clip, run.optimization.rule) {
            (Some(clip), Rule::Adam { .. } | Rule::Muon { .. }) => {
                (f64::from(clip) / length.max(1e-30)).min(1.0)
            }
            _ => 1.0,
        };
        let factor = (clip / run.accumulate as f64) as f32;
        optimizer::apply(
            &run.optimization,
            task.learned(),
            &grads,
            factor,
            &mut state.moments,
            step,
            &mut pool,
        );
        task.recycle(std::mem::take(&mut grads));
        state.step += 1;
        state.curve.steps.push(loss as f32);
        progress.event(Event::Step {
            step: state.step,
            steps,
            loss,
            rate: run.optimization.schedule.share(step),
            tokens: task.tokens() * run.accumulate,
        });
        let last = state.step == steps;
        if last || run.check_every > 0 && state.step.is_multiple_of(run.check_every) {
            let loss = task.check();
            if !loss.is_finite() {
                return Err(QatError::Diverged { step: state.step, loss, kept });
            }
            let best = loss < state.curve.best().1;
            state.curve.checks.push((state.step, loss));
            progress.event(Event::Checked { step: state.step, loss, best });
            if best {
                state.best = values(&task.learned());
            }
        }
        if !last && run.keep_every > 0 && state.step.is_multiple_of(run.keep_every) {
            keeper.keep(&state, task)?;
            kept = state.step;
        }
    }
    for (param, best) in task.learned().into_iter().zip(&state.best) {
        param.values.copy_from_slice(best);
    }
    state.best.clear();
    state.moments.clear();
    keeper.keep(&state, task)?;
    Ok(state.curve)
}

/// Mean loss and summed gradients of the passes of a step.
fn passes(task: &mut dyn Task, run: &Run, step: u64) -> (f64, Vec<Vec<f32>>) {
    let n = run.accumulate as u64;
    let (mut loss, mut grads) = task.gradient(step * n);
    for i in 1..n {
        let (more, others) = task.gradient(step * n + i);
        loss += more;
        for (sum, grad) in grads.iter_mut().zip(&others) {
            crate::product::add_parallel(sum, grad);
        }
        task.recycle(others);
    }
    (loss / n as f64, grads)
}

fn values(params: &[Param<'_>]) -> Vec<Vec<f32>> {
    params.iter().map(|param| param.values.to_vec()).collect()
}
