//! Progress of a job as a bar: block, matrix, loss, elapsed and remaining time.

use std::time::{Duration, Instant};

use fewbit::pipeline::{Event, Phase, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use super::duration;

/// Steps of a full bar.
const STEPS: u64 = 1000;

/// A bar on the terminal; plain lines per block where there is none.
pub struct Bar {
    bar: ProgressBar,
    started: Instant,
    block: String,
    matrix: String,
}

impl Bar {
    pub fn new() -> Self {
        let bar = ProgressBar::new(STEPS);
        let style =
            ProgressStyle::with_template("{prefix:>9} {bar:32} {msg}").expect("a valid template");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar, started: Instant::now(), block: String::new(), matrix: String::new() }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn show(&self, fraction: f64) {
        let elapsed = self.started.elapsed().as_secs_f64();
        let left = if fraction > 0.02 {
            format!("{} left", duration(elapsed * (1.0 - fraction) / fraction))
        } else {
            "estimating".into()
        };
        self.bar.set_position((fraction * STEPS as f64) as u64);
        self.bar.set_message(format!(
            "{:3.0} %  {}  {}  {}, {left}",
            fraction * 100.0,
            self.block,
            self.matrix,
            duration(elapsed),
        ));
    }

    fn phase(&mut self, name: &'static str) {
        self.bar.set_prefix(name);
        self.started = Instant::now();
        self.block.clear();
        self.matrix.clear();
        self.bar.set_position(0);
        self.bar.set_message("");
    }
}

impl Progress for Bar {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Phase(phase) => self.phase(match phase {
                Phase::Check => "checking",
                Phase::Measure => "measuring",
                Phase::Embed => "embedding",
                Phase::Quantize => "quantizing",
                Phase::Write => "writing",
                Phase::Evaluate => "comparing",
                _ => "working",
            }),
            Event::Resumed { blocks } => {
                self.bar.println(format!("continuing after {blocks} finished blocks"));
            }
            Event::Block { block, n_blocks } => {
                self.block = format!("block {}/{n_blocks}", block + 1)
            }
            Event::MatrixDone(report) => {
                self.matrix = match report.output_error {
                    Some(error) => format!("{} loss {error:.2e}", report.role),
                    None => format!("{} error {:.2e}", report.role, report.weight_error),
                };
            }
            Event::Advanced { fraction } => self.show(fraction),
            _ => {}
        }
    }
}

/// A bar that counts finished items.
pub struct Items(ProgressBar);

impl Items {
    pub fn new(name: impl Into<String>) -> Self {
        let bar = ProgressBar::new(0);
        let style =
            ProgressStyle::with_template("{prefix} {bar:32} {pos}/{len}  {elapsed}, {eta} left")
                .expect("a valid template");
        bar.set_style(style.progress_chars("█▉▊▋▌▍▎▏ "));
        Self(bar.with_prefix(name.into()))
    }

    /// So many of so many are finished.
    pub fn show(&self, done: usize, total: usize) {
        if self.0.length() == Some(0) {
            // Items of an earlier run do not count for the time that is left.
            self.0.set_length(total as u64);
            self.0.set_position(done as u64);
            self.0.reset_eta();
        }
        self.0.set_position(done as u64);
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.0.finish_and_clear();
    }
}
