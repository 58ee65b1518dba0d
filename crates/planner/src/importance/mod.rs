//! How important a matrix is, by measures that need no second model.
//!
//! | measure | needs | says |
//! | --- | --- | --- |
//! | [`WeightStatistics`] | weights | which grids fit; little about the damage |
//! | [`InputStatistics`] | inputs | whether few channels carry most |
//! | [`BlockInfluence`] | states before and after a block | whether a block can be removed; not how many bits it needs (Men et al., ShortGPT, 2024) |
//! | [`weighted_error`], [`output_error`] | weights, rounded weights, inputs | the damage within one kind of matrix |
//!
//! Only a measured loss compares matrices of different kinds: see [`factors_from_sums`](crate::factors_from_sums).

mod block;
mod inputs;
mod output;
mod weights;

pub use block::BlockInfluence;
pub use inputs::InputStatistics;
pub use output::{output_error, weighted_error};
pub use weights::WeightStatistics;
