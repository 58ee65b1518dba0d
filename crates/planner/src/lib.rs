//! How many bits each matrix gets: sensitivities and a budget in, a plan and the Pareto frontier out.
//!
//! It knows only numbers. A [`Unit`] is one or more matrices that share a grid; each of its [`Choice`]s has a size, a time and a loss. To pick
//! one choice per unit for the least total loss within a budget is the multiple-choice knapsack problem, which [`solve`] answers exactly and
//! [`Frontier`] for every budget at once.
//!
//! ```
//! use fewbit_planner::{Budget, Choice, Frontier, Problem, Unit, solve};
//!
//! // Two matrices under 2, 4 and 8 bits. The first is small and sensitive.
//! let unit = |name: &str, kib: u64, loss: f64| {
//!     let choice = |bits: u64| Choice::new(kib * 128 * bits, loss / f64::from(1u32 << (2 * bits)));
//!     Unit::new(name, [2, 4, 8].map(choice))
//! };
//! let problem = Problem::new(vec![unit("attn_v", 64, 90.0), unit("ffn_up", 512, 10.0)])?;
//! let plan = solve(&problem, &Budget::bytes(330_000))?;
//! assert_eq!(plan.selection.choices, [2, 1]); // 8 bits for attn_v, 4 bits for ffn_up
//! assert!(plan.selection.bytes <= 330_000);
//! assert!(Frontier::new(&problem).points().is_sorted_by(|a, b| a.loss > b.loss));
//! # Ok::<(), fewbit_planner::PlannerError>(())
//! ```
//!
//! # Map
//!
//! | question | answer |
//! | --- | --- |
//! | What is to be decided? | [`Problem`] of [`Unit`]s and their [`Choice`]s; [`Unit::fuse`] ties matrices that an engine wants on one grid |
//! | The best plan for a budget | [`solve`]: exact, on real bytes; [`Frontier::within`]: within one step of a unit, for any budget |
//! | All of them | [`Frontier`]: the convex hull; [`pareto`]: every plan that no other beats |
//! | Simpler rules | [`best_uniform`], [`tiers`] |
//! | A plan that is almost as good | [`neighbours`]: swaps to be tried by measurement |
//! | How important is a matrix? | [`importance`]: weights, inputs, blocks, output errors |
//! | From cheap errors to measured loss | [`factors_from_sums`] |
//!
//! # Contracts
//!
//! No selection exceeds its budget by a byte. A larger budget never gives a larger loss. Results depend on nothing but the arguments.
//!
//! # Features
//!
//! `serde`: the statistics of [`importance`] can be stored.

mod budget;
mod calibrate;
mod error;
mod frontier;
pub mod importance;
mod neighbours;
mod pareto;
mod policy;
mod problem;
mod solve;

pub use budget::Budget;
pub use calibrate::factors_from_sums;
pub use error::PlannerError;
pub use frontier::{Frontier, FrontierPoint, Step};
pub use neighbours::neighbours;
pub use pareto::{Pareto, pareto};
pub use policy::{Tier, best_uniform, tiers};
pub use problem::{Choice, Problem, Selection, Unit};
pub use solve::{Solution, solve};
