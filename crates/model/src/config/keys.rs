//! Values of `config.json`.

use serde_json::{Map, Value};

use crate::{ModelError, RopeScaling, RopeSettings};

/// Reads values of a JSON object; null counts as missing.
pub(super) struct Keys<'a>(pub(super) &'a Map<String, Value>);

/// No size of a model is larger; products of two fit in 64 bits.
const LARGEST: u64 = 1 << 28;

impl Keys<'_> {
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, key: &'static str, expected: &'static str) -> ModelError {
        let value = self.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        ModelError::Config { key, value, expected }
    }

    pub(super) fn count(&self, key: &'static str, default: usize) -> Result<usize, ModelError> {
        match self.get(key).map(Value::as_u64) {
            None => Ok(default),
            Some(Some(n)) if (1..=LARGEST).contains(&n) => Ok(n as usize),
            Some(_) => Err(self.wrong(key, "a whole number from 1 to 2^28")),
        }
    }

    pub(super) fn number(&self, key: &'static str, default: f64) -> Result<f64, ModelError> {
        match self.get(key).map(Value::as_f64) {
            None => Ok(default),
            Some(Some(x)) if x.is_finite() && x > 0.0 => Ok(x),
            Some(_) => Err(self.wrong(key, "a positive number")),
        }
    }

    pub(super) fn required(&self, key: &'static str) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Err(self.wrong(key, "given for this kind of rotary scaling")),
            Some(_) => self.number(key, 0.0),
        }
    }

    pub(super) fn flag(&self, key: &'static str, default: bool) -> Result<bool, ModelError> {
        match self.get(key).map(Value::as_bool) {
            None => Ok(default),
            Some(Some(flag)) => Ok(flag),
            Some(None) => Err(self.wrong(key, "true or false")),
        }
    }

    /// One token or a list of them.
    pub(super) fn tokens(
        &self,
        key: &'static str,
        default: Option<u32>,
    ) -> Result<Vec<u32>, ModelError> {
        let Some(value) = self.0.get(key) else { return Ok(default.into_iter().collect()) };
        token_list(value).ok_or_else(|| self.wrong(key, "a token id, a list of them, or null"))
    }

    /// Base and scaling of the rotary frequencies, of one type of layers where each has its own. `theta_key` is the key of the base in the older form.
    pub(super) fn rope(
        &self,
        theta_key: &'static str,
        default_theta: f64,
        layers: &str,
    ) -> Result<RopeSettings, ModelError> {
        let theta = self.number(theta_key, default_theta)?;
        let (key, value) = match (self.get("rope_parameters"), self.get("rope_scaling")) {
            (Some(value), _) => ("rope_parameters", value),
            // In the older form, layers with a base of their own are not scaled.
            (None, Some(value)) if theta_key == "rope_theta" => ("rope_scaling", value),
            _ => return Ok(RopeSettings { theta, scaling: RopeScaling::Default }),
        };
        let Value::Object(value) = value else {
            return Err(self.wrong(key, "an object or null"));
        };
        let rope = match value.get(layers) {
            Some(Value::Object(value)) => Keys(value),
            _ if theta_key != "rope_theta" => {
                return Ok(RopeSettings { theta, scaling: RopeScaling::Default });
            }
            _ => Keys(value),
        };
        let theta = rope.number("rope_theta", theta)?;
        // `type` is the older spelling.
        let kind = rope.get("rope_type").or_else(|| rope.get("type"));
        let scaling = match kind.and_then(Value::as_str) {
            Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: rope.required("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: rope.required("factor")?,
                low_freq_factor: rope.required("low_freq_factor")?,
                high_freq_factor: rope.required("high_freq_factor")?,
                original_max_positions: rope.required("original_max_position_embeddings")?,
            },
            _ => {
                let value = kind.map_or_else(|| "without rope_type".to_owned(), Value::to_string);
                let supported = "only default, linear and llama3";
                return Err(ModelError::Unsupported { key, value, supported });
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
            && low_freq_factor >= high_freq_factor
        {
            return Err(rope.wrong("low_freq_factor", "less than high_freq_factor"));
        }
        Ok(RopeSettings { theta, scaling })
    }
}

/// The tokens of a JSON value: a number, a list of numbers, or none for null.
pub(crate) fn token_list(value: &Value) -> Option<Vec<u32>> {
    let token = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    match value {
        Value::Null => Some(vec![]),
        Value::Array(list) => list.iter().map(token).collect(),
        _ => token(value).map(|token| vec![token]),
    }
}
