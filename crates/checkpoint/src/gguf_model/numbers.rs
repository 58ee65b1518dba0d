//! Numbers of configurations: sizes and 32-bit floats.

use serde_json::Value;

use crate::{CheckpointError, ConfigProblem, config::Keys};

/// No size of a model is larger; products of two fit in 64 bits.
pub(super) const LARGEST: u64 = 1 << 28;
/// No model has more blocks.
pub(super) const MOST_LAYERS: u32 = 1 << 16;

impl Keys<'_> {
    /// A size: a whole number of 1 to 2²⁸.
    pub(super) fn count(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=LARGEST).contains(&n) => Ok(Some(n as u32)),
            _ => {
                Err(self
                    .error(key, ConfigProblem::expected(value, "a whole number from 1 to 2^28")))
            }
        }
    }

    /// A positive number, rounded to the 32-bit float that metadata has room for.
    pub(super) fn number(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64().map(|number| number as f32) {
            Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            _ => Err(self.error(key, ConfigProblem::expected(value, "a positive number"))),
        }
    }
}

/// A 32-bit float as the shortest decimal that gives it back, so that 1e-5 does not become 9.99999974737875e-6.
pub(super) fn json_number(value: f32) -> Value {
    let shortest: f64 = value.to_string().parse().expect("a float prints as a number");
    Value::from(shortest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_print_as_they_were_written() {
        for text in ["1e-5", "1e-6", "500000.0", "0.1"] {
            let value: f64 = text.parse().unwrap();
            assert_eq!(json_number(value as f32).as_f64(), Some(value));
        }
    }
}
