//! Units, choices, and what was chosen.

use crate::{Budget, PlannerError};

/// One way to store a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// Size, metadata included.
    pub bytes: u64,
    /// Time for one token.
    pub nanoseconds: u64,
    /// What the model loses by it, in any unit that adds up over units, such as KL divergence in nats.
    pub loss: f64,
    /// Whether it may be chosen at all.
    pub allowed: bool,
}

impl Choice {
    /// An allowed choice that takes no time.
    pub const fn new(bytes: u64, loss: f64) -> Self {
        Self { bytes, nanoseconds: 0, loss, allowed: true }
    }

    /// One that may not be chosen. Keeps its place, so that the indices of all units mean the same grids.
    pub const fn forbidden() -> Self {
        Self { bytes: 0, nanoseconds: 0, loss: 0.0, allowed: false }
    }

    /// The same with the time for one token.
    #[must_use]
    pub const fn with_nanoseconds(self, nanoseconds: u64) -> Self {
        Self { nanoseconds, ..self }
    }
}

/// One or more matrices that take the same grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Name, for messages.
    pub name: String,
    /// What it can take.
    pub choices: Vec<Choice>,
}

impl Unit {
    /// A unit.
    pub fn new(name: impl Into<String>, choices: impl Into<Vec<Choice>>) -> Self {
        Self { name: name.into(), choices: choices.into() }
    }

    /// One unit out of several that must take the same choice, as engines want of query, key and value, or of gate and up. Sizes, times and
    /// losses add up; a choice is allowed if all of them allow it.
    ///
    /// # Errors
    /// If there are none, or they do not have the same number of choices.
    pub fn fuse(name: impl Into<String>, units: &[Self]) -> Result<Self, PlannerError> {
        let first = units.first().ok_or(PlannerError::NoUnits)?;
        let mut fused = Self { name: name.into(), choices: first.choices.clone() };
        for unit in &units[1..] {
            if unit.choices.len() != fused.choices.len() {
                return Err(PlannerError::ChoiceCount {
                    unit: unit.name.clone(),
                    got: unit.choices.len(),
                    other: first.name.clone(),
                    expected: fused.choices.len(),
                });
            }
            for (sum, choice) in fused.choices.iter_mut().zip(&unit.choices) {
                sum.bytes = sum.bytes.checked_add(choice.bytes).ok_or(PlannerError::Overflow)?;
                let time = sum.nanoseconds.checked_add(choice.nanoseconds);
                sum.nanoseconds = time.ok_or(PlannerError::Overflow)?;
                sum.loss += choice.loss;
                sum.allowed &= choice.allowed;
            }
        }
        Ok(fused)
    }

    /// The allowed choices with their indices.
    pub fn allowed(&self) -> impl Iterator<Item = (usize, &Choice)> {
        self.choices.iter().enumerate().filter(|(_, choice)| choice.allowed)
    }
}

/// Units that passed all checks.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    units: Vec<Unit>,
}

/// One choice for each unit of a problem.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// Index of the choice of each unit.
    pub choices: Vec<usize>,
    /// Size of all units.
    pub bytes: u64,
    /// Time of all units.
    pub nanoseconds: u64,
    /// Loss of all units.
    pub loss: f64,
}

impl Problem {
    /// Checks the units.
    ///
    /// # Errors
    /// If there are none, one has no allowed choice, a loss is not finite, or sizes or times overflow.
    pub fn new(units: Vec<Unit>) -> Result<Self, PlannerError> {
        if units.is_empty() {
            return Err(PlannerError::NoUnits);
        }
        let (mut bytes, mut nanoseconds) = (0u64, 0u64);
        for unit in &units {
            if unit.allowed().next().is_none() {
                return Err(PlannerError::NoChoice { unit: unit.name.clone() });
            }
            if let Some((choice, c)) = unit.allowed().find(|(_, c)| !c.loss.is_finite()) {
                let (unit, loss) = (unit.name.clone(), c.loss);
                return Err(PlannerError::Loss { unit, choice, loss });
            }
            let most = |value: fn(&Choice) -> u64| {
                unit.allowed().map(|(_, c)| value(c)).max().unwrap_or(0)
            };
            let sums = bytes
                .checked_add(most(|c| c.bytes))
                .zip(nanoseconds.checked_add(most(|c| c.nanoseconds)));
            (bytes, nanoseconds) = sums.ok_or(PlannerError::Overflow)?;
        }
        Ok(Self { units })
    }

    /// The units.
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// A selection with its sums.
    ///
    /// # Errors
    /// If it is not one allowed choice for each unit.
    pub fn selection(&self, choices: Vec<usize>) -> Result<Selection, PlannerError> {
        if choices.len() != self.units.len() {
            let (got, expected) = (choices.len(), self.units.len());
            return Err(PlannerError::SelectionLength { got, expected });
        }
        for (unit, &choice) in self.units.iter().zip(&choices) {
            if !unit.choices.get(choice).is_some_and(|c| c.allowed) {
                return Err(PlannerError::Forbidden { unit: unit.name.clone(), choice });
            }
        }
        Ok(self.sum(choices))
    }

    /// The sums of choices that are known to exist.
    pub(crate) fn sum(&self, choices: Vec<usize>) -> Selection {
        let mut sum = Selection { choices: Vec::new(), bytes: 0, nanoseconds: 0, loss: 0.0 };
        for (unit, &choice) in self.units.iter().zip(&choices) {
            let c = &unit.choices[choice];
            sum.bytes += c.bytes;
            sum.nanoseconds += c.nanoseconds;
            sum.loss += c.loss;
        }
        Selection { choices, ..sum }
    }

    /// The least size that any plan takes.
    pub fn least_bytes(&self) -> u64 {
        self.least(|c| c.bytes)
    }

    /// The least time that any plan takes.
    pub fn least_nanoseconds(&self) -> u64 {
        self.least(|c| c.nanoseconds)
    }

    fn least(&self, cost: fn(&Choice) -> u64) -> u64 {
        let least = |unit: &Unit| unit.allowed().map(|(_, c)| cost(c)).min().unwrap_or(0);
        self.units.iter().map(least).sum()
    }

    /// # Errors
    /// If a limit is below what the smallest plan takes.
    pub(crate) fn check(&self, budget: &Budget) -> Result<(), PlannerError> {
        let limits = [
            ("bytes", budget.bytes, self.least_bytes()),
            ("ns", budget.nanoseconds, self.least_nanoseconds()),
        ];
        for (what, limit, least) in limits {
            if let Some(budget) = limit.filter(|&limit| limit < least) {
                return Err(PlannerError::Impossible { what, budget, least });
            }
        }
        Ok(())
    }
}
