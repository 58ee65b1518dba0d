//! Text generation.

use std::path::PathBuf;

use fewbit_checkpoint::Checkpoint;
use fewbit_kernels::{Level, vectorize};
use serde_json::{Map, Value};

use crate::{ModelConfig, ModelError, Session, config::token_list, math};

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// The most likely one; the first of several.
    Greedy,
    /// At random.
    Sample {
        /// Divides the logits; positive. Below 1 the likely become likelier.
        temperature: f64,
        /// Only so many of the most likely; 0 for all.
        top_k: usize,
        /// Only the most likely that together reach this probability; in 0..=1, 1 for all.
        top_p: f64,
        /// Same seed, same text.
        seed: u64,
    },
}

/// When to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// After so many tokens.
    pub max_tokens: usize,
    /// At any of these; it is not returned.
    pub end_tokens: Vec<u32>,
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The model chose this end token.
    EndToken(u32),
    /// As many tokens as were asked for.
    MaxTokens,
    /// The callback said so.
    Callback,
}

/// Feeds `prompt` to the session and chooses tokens until something stops it. `on_token` sees each chosen token, before the next is
/// computed; it stops by returning false. Returns the chosen tokens and why they end. The last of them has not been fed.
///
/// # Errors
/// If the prompt is empty or has a token that is not in the vocabulary, or the settings of the choice are out of range.
pub fn generate(
    session: &mut Session<'_>,
    prompt: &[u32],
    choice: &Choice,
    stop: &Stop,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<(Vec<u32>, StopReason), ModelError> {
    let mut chooser = Chooser::new(choice)?;
    let mut chosen = Vec::new();
    let mut token = chooser.choose(session.feed(prompt)?);
    while chosen.len() < stop.max_tokens {
        if stop.end_tokens.contains(&token) {
            return Ok((chosen, StopReason::EndToken(token)));
        }
        chosen.push(token);
        if !on_token(token) {
            return Ok((chosen, StopReason::Callback));
        }
        if chosen.len() < stop.max_tokens {
            token = chooser.choose(session.feed(&[token])?);
        }
    }
    Ok((chosen, StopReason::MaxTokens))
}

/// The tokens that end a text of this model: those of `generation_config.json` where that names some, else the configuration's.
///
/// # Errors
/// If the file is there but cannot be read.
pub fn end_tokens(checkpoint: &Checkpoint, config: &ModelConfig) -> Result<Vec<u32>, ModelError> {
    if checkpoint.gguf().is_some() {
        // A file of that name beside a GGUF file belongs to something else.
        return Ok(config.eos_tokens.clone());
    }
    let file = checkpoint.folder().join("generation_config.json");
    let wrong = |file: PathBuf, reason: String| ModelError::GenerationConfig { file, reason };
    let text = match std::fs::read(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(config.eos_tokens.clone());
        }
        Err(error) => return Err(wrong(file, error.to_string())),
    };
    let object: Map<String, Value> = match serde_json::from_slice(&text) {
        Ok(object) => object,
        Err(error) => return Err(wrong(file, error.to_string())),
    };
    match object.get("eos_token_id").filter(|value| !value.is_null()) {
        None => Ok(config.eos_tokens.clone()),
        Some(value) => token_list(value)
            .ok_or_else(|| wrong(file, format!("eos_token_id is {value}, which is no token id"))),
    }
}

/// Position of the largest value; the first of several, and the first position if all are NaN.
pub fn argmax(values: &[f32]) -> usize {
    let largest = vectorize(
        Level::detect(),
        #[inline(always)]
        || math::largest(values),
    );
    values.iter().position(|&value| value == largest).unwrap_or(0)
}

struct Chooser<'a> {
    choice: &'a Choice,
    random: u64,
}

impl<'a> Chooser<'a> {
    fn new(choice: &'a Choice) -> Result<Self, ModelError> {
        let mut random = 0;
        if let &Choice::Sample { temperature, top_p, seed, .. } = choice {
            if !(temperature > 0.0 && temperature.is_finite()) {
                let (setting, expected) = ("temperature", "positive (for none, choose greedily)");
                return Err(ModelError::Sampling { setting, value: temperature, expected });
            }
            if !(0.0..=1.0).contains(&top_p) {
                let (setting, expected) = ("top_p", "a probability");
                return Err(ModelError::Sampling { setting, value: top_p, expected });
            }
            random = seed;
        }
        Ok(Self { choice, random })
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let &Choice::Sample { temperature, top_k, top_p, .. } = self.choice else {
            return argmax(logits) as u32;
        };
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        if top_k > 0 {
            order.truncate(top_k);
        }
        let largest = f64::from(logits[order[0]]);
        let mut weights: Vec<f64> =
            order.iter().map(|&i| ((f64::from(logits[i]) - largest) / temperature).exp()).collect();
        let enough = top_p * weights.iter().sum::<f64>();
        let mut sum = 0.0;
        let kept = weights.iter().take_while(|&&w| {
            let before = sum;
            sum += w;
            before < enough
        });
        let kept = kept.count().max(1);
        weights.truncate(kept);
        let mut point = self.uniform() * weights.iter().sum::<f64>();
        for (&token, weight) in order.iter().zip(&weights) {
            point -= weight;
            if point < 0.0 {
                return token as u32;
            }
        }
        order[kept - 1] as u32
    }

    /// Uniform in [0, 1): SplitMix64.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argmax_takes_the_first_of_several_and_never_nan() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
        assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), 1);
        assert_eq!(argmax(&[f32::NAN; 3]), 0);
        assert_eq!(argmax(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), 0);
    }

    fn frequencies(choice: &Choice, logits: &[f32]) -> Vec<f64> {
        let mut chooser = Chooser::new(choice).unwrap();
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[chooser.choose(logits) as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    #[test]
    fn sampling_follows_the_probabilities_it_keeps() {
        // Probabilities 0.1, 0.2, 0.3, 0.4.
        let logits = [1.0f32, 2.0, 3.0, 4.0].map(f32::ln);
        let sample =
            |temperature, top_k, top_p| Choice::Sample { temperature, top_k, top_p, seed: 7 };
        for (choice, expected) in [
            (sample(1.0, 0, 1.0), [0.1, 0.2, 0.3, 0.4]),
            (sample(1.0, 2, 1.0), [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            (sample(1.0, 0, 0.5), [0.0, 0.0, 3.0 / 7.0, 4.0 / 7.0]),
            (sample(0.5, 0, 1.0), [1.0 / 30.0, 4.0 / 30.0, 9.0 / 30.0, 16.0 / 30.0]),
            (sample(1.0, 0, 0.0), [0.0, 0.0, 0.0, 1.0]),
        ] {
            for (got, expected) in frequencies(&choice, &logits).iter().zip(expected) {
                assert!((got - expected).abs() < 0.02, "{choice:?}: {got} should be {expected}");
            }
            assert_eq!(frequencies(&choice, &logits), frequencies(&choice, &logits));
        }
    }

    #[test]
    fn senseless_settings_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 1.5), (1.0, -0.1)] {
            let choice = Choice::Sample { temperature, top_k: 0, top_p, seed: 0 };
            assert!(Chooser::new(&choice).is_err());
        }
    }
}
