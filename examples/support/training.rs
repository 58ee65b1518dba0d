//! Training as a bar, and its losses as a figure.

use std::time::{Duration, Instant};

use anyhow::Result;
use fewbit::{
    eval::figure::{LineChart, LineSeries, Scale},
    qat::{Curve, Event, Progress},
};
use indicatif::{ProgressBar, ProgressStyle};

use super::duration;

/// A bar on the terminal: step, loss, learning rate, tokens per second, time left.
pub struct TrainingBar {
    bar: ProgressBar,
    block: String,
    checked: String,
    /// Since the last beginning, and the steps and tokens since.
    started: Instant,
    steps: u64,
    tokens: usize,
    /// Loss, averaged over the last steps.
    loss: Option<f64>,
    /// Tokens and seconds of all steps.
    pub total: (usize, f64),
}

impl TrainingBar {
    pub fn new() -> Self {
        let bar = ProgressBar::new(1);
        let style =
            ProgressStyle::with_template("{prefix:>9} {bar:24} {msg}").expect("a valid template");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        bar.set_prefix("training");
        bar.enable_steady_tick(Duration::from_millis(250));
        Self {
            bar,
            block: String::new(),
            checked: String::new(),
            started: Instant::now(),
            steps: 0,
            tokens: 0,
            loss: None,
            total: (0, 0.0),
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn begin(&mut self) {
        (self.started, self.steps, self.tokens, self.loss) = (Instant::now(), 0, 0, None);
    }
}

impl Progress for TrainingBar {
    fn event(&mut self, event: Event) {
        match event {
            Event::Block { block, n_blocks } => {
                self.block = format!("block {}/{n_blocks}  ", block + 1);
                self.checked.clear();
                self.begin();
            }
            Event::Resumed { step } => {
                self.bar.println(format!("{}continuing after step {step}", self.block));
                self.begin();
            }
            Event::Checked { step, loss, best } => {
                self.checked =
                    format!("  held out {loss:.5}{}", if best { "" } else { ", not the best" });
                if step == 0 {
                    self.begin();
                }
            }
            Event::Step { step, steps, loss, rate, tokens } => {
                self.steps += 1;
                self.tokens += tokens;
                self.total.0 += tokens;
                let mean = self.loss.map_or(loss, |mean| 0.9 * mean + 0.1 * loss);
                self.loss = Some(mean);
                let elapsed = self.started.elapsed().as_secs_f64();
                let left = elapsed / self.steps as f64 * (steps - step) as f64;
                self.bar.set_length(steps);
                self.bar.set_position(step);
                self.bar.set_message(format!(
                    "{}step {step}/{steps}  loss {mean:.5}{}  rate {:.0} %  {:.0} tokens/s  {} left",
                    self.block,
                    self.checked,
                    rate * 100.0,
                    self.tokens as f64 / elapsed.max(1e-9),
                    duration(left),
                ));
                if step == steps {
                    self.total.1 += elapsed;
                }
            }
            _ => {}
        }
    }
}

/// Losses over the steps, those of training as means of some steps.
pub fn figure(title: &str, label: &str, curves: &[Curve]) -> Result<String> {
    let mut series = Vec::new();
    for (i, curve) in curves.iter().enumerate() {
        let name = |what: &str| match curves.len() {
            1 => what.to_owned(),
            _ => format!("block {}, {what}", i + 1),
        };
        let piece = (curve.steps.len() / 60).max(1);
        let means = curve.steps.chunks(piece).enumerate().map(|(i, losses)| {
            let sum: f32 = losses.iter().sum();
            ((i * piece) as f64 + losses.len() as f64 / 2.0, f64::from(sum / losses.len() as f32))
        });
        let checks = curve.checks.iter().map(|&(step, loss)| (step as f64, loss));
        if curves.len() == 1 {
            series.push(LineSeries { name: name("training"), points: means.collect() });
        }
        series.push(LineSeries { name: name("held out"), points: checks.collect() });
    }
    let positive = series.iter().flat_map(|s| &s.points).all(|(_, loss)| *loss > 0.0);
    let chart = LineChart {
        title: title.into(),
        x_label: "steps".into(),
        y_label: label.into(),
        series,
        y_scale: if positive { Scale::Log } else { Scale::default() },
        ..LineChart::default()
    };
    Ok(chart.to_svg()?)
}
