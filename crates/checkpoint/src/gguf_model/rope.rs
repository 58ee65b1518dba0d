//! Rotary embedding: base, scaling, and the tensor that llama.cpp keeps Llama 3's scaling in.

use std::f64::consts::TAU;

use serde_json::{Map, Value, json};

use crate::{CheckpointError, ConfigProblem, config::Keys};

use super::{names::ROPE_FREQS, numbers::json_number};

/// Base and scaling of the rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeParameters {
    /// Base: frequency `i` of `d / 2` is `theta^(-2i/d)`.
    pub theta: f32,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched for longer texts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// YaRN (Peng et al., 2023).
    Yarn {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// Length of the texts that the model was first trained on.
        original_max_positions: u32,
        /// Amplitude; a function of `factor` unless given.
        attention_factor: Option<f32>,
        /// Turns within the original length above which a frequency is kept; 32 unless given.
        beta_fast: Option<f32>,
        /// Turns below which it is divided; 1 unless given.
        beta_slow: Option<f32>,
    },
    /// Llama 3: long wavelengths divided, short ones kept, a blend between.
    Llama3 {
        /// Divisor of the long wavelengths.
        factor: f32,
        /// Turns within the original length below which a frequency is divided.
        low_freq_factor: f32,
        /// Turns above which it is kept.
        high_freq_factor: f32,
        /// Length of the texts that the model was first trained on.
        original_max_positions: u32,
    },
}

impl RopeParameters {
    /// Reads `rope_theta` and `rope_scaling`, or `rope_parameters` of newer files, whose entry `layer_type` counts where it has one for
    /// each type of layer.
    pub(super) fn of_config(
        keys: &Keys<'_>,
        default_theta: f32,
        layer_type: &str,
    ) -> Result<Self, CheckpointError> {
        let theta = keys.number("rope_theta")?.unwrap_or(default_theta);
        let object = match keys.object("rope_parameters")? {
            Some(object) => Some(object),
            None => keys.object("rope_scaling")?,
        };
        let Some(mut object) = object else {
            return Ok(Self { theta, scaling: RopeScaling::Default });
        };
        if let Some(entry) = object.object(layer_type)? {
            object = entry;
        }
        let theta = object.number("rope_theta")?.unwrap_or(theta);
        // `type` is the older spelling.
        let kind = match object.text("rope_type")? {
            Some(kind) => kind,
            None => object.text("type")?.unwrap_or("default"),
        };
        let factor = || object.need("factor", object.number("factor")?);
        let original = || {
            let key = "original_max_position_embeddings";
            object.need(key, object.count(key)?.or(keys.count(key)?))
        };
        let scaling = match kind {
            "default" => RopeScaling::Default,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "yarn" => RopeScaling::Yarn {
                factor: factor()?,
                original_max_positions: match original() {
                    Ok(original) => original,
                    // transformers falls back to the longest text.
                    Err(_) => keys
                        .need("max_position_embeddings", keys.count("max_position_embeddings")?)?,
                },
                attention_factor: object.number("attention_factor")?,
                beta_fast: object.number("beta_fast")?,
                beta_slow: object.number("beta_slow")?,
            },
            "llama3" => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: object.number("low_freq_factor")?.unwrap_or(1.0),
                high_freq_factor: object.number("high_freq_factor")?.unwrap_or(4.0),
                original_max_positions: original()?,
            },
            other => {
                let supported = "default, linear, yarn and llama3";
                return Err(object.unsupported("rope_type", other, supported));
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
            && low_freq_factor >= high_freq_factor
        {
            let value = object.get("low_freq_factor").unwrap_or(&Value::Null);
            let problem = ConfigProblem::expected(value, "less than high_freq_factor");
            return Err(object.error("low_freq_factor", problem));
        }
        Ok(Self { theta, scaling })
    }

    /// Divisors of the `head_dim / 2` frequencies, as the tensor [`ROPE_FREQS`] has them; `None` unless the scaling is Llama 3's.
    pub fn freqs(self, head_dim: u32) -> Option<Vec<f32>> {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } = self.scaling
        else {
            return None;
        };
        let (factor, low, high) =
            (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
        let divisor = |turns: f64| {
            if turns > high {
                1.0
            } else if turns < low {
                factor
            } else {
                let kept = (turns - low) / (high - low);
                1.0 / ((1.0 - kept) / factor + kept)
            }
        };
        let turns = self.turns(head_dim, f64::from(original_max_positions));
        Some(turns.map(|turns| divisor(turns) as f32).collect())
    }

    /// Full turns of each frequency within so many positions.
    fn turns(self, head_dim: u32, positions: f64) -> impl Iterator<Item = f64> {
        let (theta, d) = (f64::from(self.theta), f64::from(head_dim));
        (0..head_dim / 2).map(move |i| positions * theta.powf(-f64::from(2 * i) / d) / TAU)
    }

    /// Finds the parameters of Llama 3's scaling that give these divisors.
    ///
    /// Only ratios matter to the divisors: the original length goes with the low and the high factor. The low one is taken as 1, as in
    /// every published model. Where a head has too few frequencies to tell, parameters are returned that give the same divisors.
    ///
    /// # Errors
    /// If there are none.
    pub fn with_freqs(self, head_dim: u32, freqs: &[f32]) -> Result<Self, CheckpointError> {
        let problem = |problem| CheckpointError::RopeFreqs { tensor: ROPE_FREQS, problem };
        if freqs.len() != head_dim as usize / 2 {
            return Err(problem("has not as many values as a head has frequencies"));
        }
        let factor = freqs.iter().copied().fold(1.0, f32::max);
        if freqs.iter().all(|&value| value == 1.0) {
            return Ok(self);
        }
        let candidate = |high_freq_factor: f64, original: f64| {
            let scaling = RopeScaling::Llama3 {
                factor,
                low_freq_factor: 1.0,
                high_freq_factor: high_freq_factor as f32,
                original_max_positions: original as u32,
            };
            let candidate = Self { scaling, ..self };
            let found = candidate.freqs(head_dim)?;
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs();
            found.iter().zip(freqs).all(close).then_some(candidate)
        };
        // The share that is kept is linear in the turns: two blended values tell both ends of the blend.
        let blended: Vec<(f64, f64)> = (self.turns(head_dim, 1.0).zip(freqs))
            .filter(|&(_, &value)| value > 1.0 && value < factor)
            .map(|(turns, &value)| {
                let (value, factor) = (f64::from(value), f64::from(factor));
                (turns, (1.0 / value - 1.0 / factor) / (1.0 - 1.0 / factor))
            })
            .collect();
        // kept = (original · turns − low) / (high − low), with low = 1
        let solved = match blended[..] {
            [(t0, k0), .., (t1, k1)] => {
                let slope = (k0 - k1) / (t0 - t1);
                let span = 1.0 / (slope * t0 - k0);
                candidate(nice(1.0 + span), nice(slope * span))
            }
            // One leaves a choice, none leaves more: the high factor is 4 in every published model.
            [(turns, kept)] => candidate(4.0, nice((3.0 * kept + 1.0) / turns)),
            [] => (4..24).find_map(|power| candidate(4.0, f64::from(1u32 << power))),
        };
        let found = candidate(4.0, 8192.0).or(solved);
        found.ok_or_else(|| problem("holds divisors that Llama 3's scaling does not give"))
    }

    /// `rope_scaling` as transformers 4 has it.
    pub(super) fn config(self) -> Value {
        match self.scaling {
            RopeScaling::Default => Value::Null,
            RopeScaling::Linear { factor } => {
                json!({ "rope_type": "linear", "factor": json_number(factor) })
            }
            RopeScaling::Yarn {
                factor,
                original_max_positions,
                attention_factor,
                beta_fast,
                beta_slow,
            } => {
                let mut object = Map::new();
                object.insert("rope_type".into(), "yarn".into());
                object.insert("factor".into(), json_number(factor));
                object.insert(
                    "original_max_position_embeddings".into(),
                    original_max_positions.into(),
                );
                for (key, value) in [
                    ("attention_factor", attention_factor),
                    ("beta_fast", beta_fast),
                    ("beta_slow", beta_slow),
                ] {
                    if let Some(value) = value {
                        object.insert(key.into(), json_number(value));
                    }
                }
                Value::Object(object)
            }
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            } => json!({
                "rope_type": "llama3",
                "factor": json_number(factor),
                "low_freq_factor": json_number(low_freq_factor),
                "high_freq_factor": json_number(high_freq_factor),
                "original_max_position_embeddings": original_max_positions,
            }),
        }
    }
}

/// The whole number next to a value computed from rounded ones.
fn nice(value: f64) -> f64 {
    let whole = value.round();
    if (value - whole).abs() <= 1e-3 * whole { whole } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama3(theta: f32, factor: f32, high: f32, original: u32) -> RopeParameters {
        let scaling = RopeScaling::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: high,
            original_max_positions: original,
        };
        RopeParameters { theta, scaling }
    }

    #[test]
    fn divisors_of_a_published_model() {
        let freqs = llama3(5e5, 32.0, 4.0, 8192).freqs(64).unwrap();
        assert!(freqs[..15].iter().all(|&f| f == 1.0) && freqs[18..].iter().all(|&f| f == 32.0));
        for (got, expected) in freqs[15..18].iter().zip([1.65133, 3.29226, 9.66673]) {
            assert!((got - expected).abs() < 1e-5, "{got} instead of {expected}");
        }
    }

    #[test]
    fn parameters_come_back_from_the_divisors() {
        for (parameters, head_dim) in [
            (llama3(5e5, 32.0, 4.0, 8192), 64),
            (llama3(5e5, 8.0, 4.0, 8192), 128),
            (llama3(1e6, 8.0, 4.0, 8192), 80),
            (llama3(5e5, 16.0, 8.0, 4096), 128),
            (llama3(1e4, 8.0, 4.0, 32), 8),
            (llama3(1e4, 8.0, 4.0, 48), 12),
        ] {
            let freqs = parameters.freqs(head_dim).unwrap();
            let plain = RopeParameters { scaling: RopeScaling::Default, ..parameters };
            assert_eq!(plain.with_freqs(head_dim, &freqs).unwrap(), parameters);
        }
    }

    #[test]
    fn other_divisors_are_refused() {
        let plain = RopeParameters { theta: 1e4, scaling: RopeScaling::Default };
        let error = plain.with_freqs(8, &[1.0, 3.0, 2.0, 4.0]).unwrap_err().to_string();
        assert!(error.contains("rope_freqs.weight"), "{error}");
        assert!(plain.with_freqs(8, &[1.0]).is_err());
        assert_eq!(plain.with_freqs(8, &[1.0; 4]).unwrap(), plain);
    }
}
