//! What can be wrong with a planning problem.

use thiserror::Error;

/// Errors of this crate.
#[derive(Clone, Debug, PartialEq, Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// A problem without units.
    #[error("there is nothing to plan: the problem has no units")]
    NoUnits,
    /// A unit none of whose choices is allowed.
    #[error("unit {unit} has no allowed choice: allow at least one grid for it")]
    NoChoice {
        /// Name of the unit.
        unit: String,
    },
    /// A loss that is NaN or infinite.
    #[error("choice {choice} of unit {unit} has loss {loss}: losses are finite")]
    Loss {
        /// Name of the unit.
        unit: String,
        /// Index of the choice.
        choice: usize,
        /// The value found.
        loss: f64,
    },
    /// Sizes or times whose sum does not fit 64 bits.
    #[error("the largest sizes or times of all units add up to more than 64 bits hold")]
    Overflow,
    /// Units that cannot share a choice, because they do not have the same ones.
    #[error("unit {unit} has {got} choices where {other} has {expected}: tied units have the same")]
    ChoiceCount {
        /// Name of the unit.
        unit: String,
        /// Its choices.
        got: usize,
        /// The unit that it is tied to.
        other: String,
        /// The choices of that.
        expected: usize,
    },
    /// A budget below the smallest plan.
    #[error("a budget of {budget} {what} is impossible: the smallest plan takes {least}")]
    Impossible {
        /// Bytes or nanoseconds.
        what: &'static str,
        /// The budget.
        budget: u64,
        /// What the smallest plan takes.
        least: u64,
    },
    /// Two limits that can be kept each alone, but not together.
    #[error(
        "no plan takes at most {bytes} bytes and {nanoseconds} ns together: the fastest one within the bytes takes {fastest} ns"
    )]
    Conflict {
        /// Limit of the size.
        bytes: u64,
        /// Limit of the time.
        nanoseconds: u64,
        /// Time of the fastest plan found within the size.
        fastest: u64,
    },
    /// A selection that is not one choice for each unit.
    #[error("a selection of {got} choices does not belong to {expected} units")]
    SelectionLength {
        /// Choices given.
        got: usize,
        /// Units of the problem.
        expected: usize,
    },
    /// A selected choice that does not exist or is forbidden.
    #[error("choice {choice} of unit {unit} does not exist or is forbidden")]
    Forbidden {
        /// Name of the unit.
        unit: String,
        /// Index of the choice.
        choice: usize,
    },
    /// Fractions of tiers that are negative, not finite, or add up to more than 1.
    #[error("tiers cover {total} of the units: fractions are not negative and add up to 1")]
    Tiers {
        /// Sum of the fractions.
        total: f64,
    },
    /// Two slices whose lengths should agree.
    #[error("{what} has {got} values, expected {expected}")]
    Length {
        /// Which slice.
        what: &'static str,
        /// Its length.
        got: usize,
        /// The length it needs.
        expected: usize,
    },
}
