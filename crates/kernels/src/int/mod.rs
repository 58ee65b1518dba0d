//! Products of few-bit weights with activations that are quantized on the way: integers all along a group.
//!
//! Where to look: `layout` and `strips` say how weights lie in memory, `codes` how their bits do; `panel` quantizes activations; `kernel` has the inner loop, `flat` and
//! `supers` what happens at the end of a group or part; `prepare` and `blocks` bring weights into the layout; `llm_int8` keeps outliers out of the integers; `simd` is what a vector unit has to offer.

mod blocks;
mod codes;
mod flat;
mod kernel;
mod layout;
mod line;
mod lines;
mod llm_int8;
mod matrix;
mod panel;
mod prepare;
pub(crate) mod simd;
mod strips;
mod supers;

pub(crate) use codes::{Codes, Plain, Width};
pub(crate) use line::Line;
pub(crate) use lines::Lines;
pub use llm_int8::LlmInt8Linear;
pub use matrix::{IntMatrix, Scratch};
pub use panel::ActivationScales;
pub(crate) use prepare::power_of_two;
