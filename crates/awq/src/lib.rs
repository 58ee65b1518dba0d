//! Channel scaling before rounding: matrices in, matrices out. It knows neither models nor files.
//!
//! Multiplying an input channel's weights by `s` and dividing its inputs by `s` changes nothing in floating point, but a rounding error of these
//! weights then counts `1/s` times. AWQ (Lin et al., 2023) gives the channels with large inputs more of the grid in this way: `s = x̄^r`, with `x̄` the mean |x| of
//! each channel and the exponent `r` found by trying. SmoothQuant (Xiao et al., 2022) moves large activations into the weights by the same means, so
//! that both can be rounded. The division is [folded](Folded) into what produces the inputs, so that the file stays as it was in kind.
//!
//! ```
//! use fewbit_awq::{ChannelStatistics, Scales, candidates, choose, round_fitted};
//! use fewbit_format::{Bits, Granularity, IntGrid, IntScheme, MatrixShape, ScaleType, Symmetry};
//!
//! let (shape, granularity) = (MatrixShape::new(8, 64), Granularity::group(32));
//! let wave = |i: usize, f: f32| (i as f32 * f).sin();
//! let weight: Vec<f32> = (0..8 * 64).map(|i| 0.1 * wave(i, 1.7)).collect();
//! let loud = |i: usize| if i % 64 % 16 == 3 { 20.0 } else { 1.0 };
//! let inputs: Vec<f32> = (0..100 * 64).map(|i| loud(i) * wave(i, 0.61)).collect();
//!
//! let mut statistics = ChannelStatistics::new(64);
//! statistics.add(&inputs)?;
//! let grid = IntGrid::plain(IntScheme { bits: Bits::B3, symmetry: Symmetry::Affine, granularity, scale_type: ScaleType::F16 });
//! // The caller's measure: here the output of one layer, in a model that of the block around it.
//! let loss = |scales: &Scales| {
//!     let mut rounded = weight.clone();
//!     scales.multiply_columns(&mut rounded);
//!     let mut rounded = round_fitted(&rounded, shape, None, &grid, granularity)?;
//!     scales.divide_columns(&mut rounded);
//!     let change = |x: &[f32], row: usize| -> f64 {
//!         (0..64).map(|j| f64::from(x[j] * (rounded[row * 64 + j] - weight[row * 64 + j]))).sum()
//!     };
//!     Ok::<_, fewbit_awq::AwqError>(inputs.chunks(64).map(|x| (0..8).map(|r| change(x, r).powi(2)).sum::<f64>()).sum())
//! };
//! let choice = choose(candidates(&statistics.mean_abs(), None, 20), loss)?;
//! assert!(choice.loss_after < 0.5 * choice.loss_before);
//! # Ok::<(), fewbit_awq::AwqError>(())
//! ```
//!
//! # Contracts
//!
//! * The identity is always a candidate: on the caller's loss, scaling is never worse than none.
//! * No group's loss comes out above that of plain rounding ([`round_clipped`]).
//! * Folded parameters are what a file stores; the scales follow them, so the float function is unchanged to f32 rounding whatever the storage type.
//! * Results are the same, to the bit, for any number of threads and at every level of the CPU.
//!
//! # Map
//!
//! `statistics`: magnitudes of channels · `scales`: the formulas · `search` · `fold`: where the reciprocals go · `moments`: products of inputs within groups ·
//! `round`: ranges of groups · `half_quadratic`: HQQ, without inputs · `lanes`: the one inner loop.

mod checks;
mod error;
mod fold;
mod half_quadratic;
mod lanes;
mod moments;
mod round;
mod scales;
mod search;
mod statistics;

pub use error::AwqError;
pub use fold::{ChannelMap, Folded, Gain};
pub use half_quadratic::{HqqSpec, ZeroPoint, round_half_quadratic};
pub use moments::GroupMoments;
pub use round::{Rounded, round_clipped, round_fitted};
pub use scales::{Scales, weight_magnitude, weight_maxima};
pub use search::{Candidate, Choice, Rule, candidates, choose, smoothing};
pub use statistics::ChannelStatistics;
