//! How a caller follows and stops long work. The libraries never print.

/// Something that happened. Fractions are of the whole job, by estimated arithmetic, so `elapsed · (1 − f) / f` estimates the time left.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase begins.
    Phase(Phase),
    /// A job of a contest begins.
    Entry {
        /// Its name.
        name: &'a str,
        /// Its number, from 0.
        number: usize,
        /// How many there are.
        n_entries: usize,
    },
    /// Work continues from `blocks` finished blocks of an earlier run.
    Resumed {
        /// Blocks that need not be done again.
        blocks: usize,
    },
    /// A block begins.
    Block {
        /// Its number, from 0.
        block: usize,
        /// How many there are.
        n_blocks: usize,
    },
    /// A matrix is being quantized.
    Matrix {
        /// Its module name.
        module: &'a str,
    },
    /// A matrix is done.
    MatrixDone(&'a crate::MatrixReport),
    /// The scales of some inputs are chosen.
    SiteDone(&'a crate::SiteReport),
    /// Part of the work is done.
    Advanced {
        /// Share of the whole job that is done, in 0..=1.
        fraction: f64,
    },
}

/// The parts of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Every tensor is read once: finite values, and the fingerprint.
    Check,
    /// Calibration text passes through the float model, to see which inputs matter.
    Measure,
    /// A copy of the model is written in other coordinates.
    Rotate,
    /// Calibration text becomes hidden states.
    Embed,
    /// Blocks are calibrated and quantized.
    Quantize,
    /// The output folder is written, reopened and compared.
    Write,
    /// Original and result are compared on held-out text.
    Evaluate,
}

/// What a caller does about events.
pub trait Progress {
    /// Called on the thread that runs the job.
    fn event(&mut self, event: Event<'_>);

    /// Asked between steps; `true` ends the job with [`PipelineError::Cancelled`](crate::PipelineError::Cancelled). What is finished stays in the work folder.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event<'_>) {}
}
