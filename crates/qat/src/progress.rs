//! How a caller follows and stops training. The library never prints.

/// Something that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A block begins.
    Block {
        /// Its number, from 0.
        block: usize,
        /// How many there are.
        n_blocks: usize,
    },
    /// Work goes on from an earlier run.
    Resumed {
        /// Steps that need not be done again.
        step: u64,
    },
    /// A step was made.
    Step {
        /// Steps made.
        step: u64,
        /// Of so many.
        steps: u64,
        /// Loss on the step's windows.
        loss: f64,
        /// Share of the learning rates at their height.
        rate: f32,
        /// Tokens of the step.
        tokens: usize,
    },
    /// The loss on held-out windows.
    Checked {
        /// Steps made.
        step: u64,
        /// The loss.
        loss: f64,
        /// Whether it is the least so far.
        best: bool,
    },
}

/// What a caller does about events.
pub trait Progress {
    /// Called on the thread that trains.
    fn event(&mut self, event: Event);

    /// Asked between steps; `true` keeps the state and ends with [`QatError::Cancelled`](crate::QatError::Cancelled).
    fn cancelled(&self) -> bool {
        false
    }
}

/// Ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&mut self, _: Event) {}
}
