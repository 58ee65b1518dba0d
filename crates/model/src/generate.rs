//! Text generation.

use std::{collections::BTreeSet, path::PathBuf};

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

/// How tokens are chosen, and from which.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// The rule.
    pub choice: Choice,
    /// Divides the positive logits of every token that the text holds, prompt included, and multiplies the negative ones (Keskar et al., 2019);
    /// positive, 1 for none.
    pub repetition_penalty: f64,
    /// Only tokens below this: embeddings may have more rows than the tokenizer knows tokens.
    pub vocab_size: usize,
}

impl From<&Choice> for Sampling {
    fn from(choice: &Choice) -> Self {
        Self { choice: choice.clone(), repetition_penalty: 1.0, vocab_size: usize::MAX }
    }
}

impl From<&Sampling> for Sampling {
    fn from(sampling: &Sampling) -> Self {
        sampling.clone()
    }
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
    /// The model has learned no further positions.
    EndOfPositions,
}

/// Feeds `prompt` to the session and chooses tokens until something stops it. `on_token` sees each chosen token, before the next is
/// computed; it stops by returning false. Returns the chosen tokens and why they end. The last of them has not been fed.
///
/// # Errors
/// If the prompt is empty, longer than the model has learned positions, or has a token that is not in the vocabulary; if settings are out of range.
pub fn generate(
    session: &mut Session<'_>,
    prompt: &[u32],
    sampling: impl Into<Sampling>,
    stop: &Stop,
    mut on_token: impl FnMut(u32) -> bool,
) -> Result<(Vec<u32>, StopReason), ModelError> {
    let mut chooser = Chooser::new(sampling.into())?;
    let mut chosen = Vec::new();
    chooser.saw(prompt);
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
            if session.room() == Some(0) {
                return Ok((chosen, StopReason::EndOfPositions));
            }
            chooser.saw(&[token]);
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

struct Chooser {
    sampling: Sampling,
    random: u64,
    /// Tokens of the text, where they are penalized.
    seen: BTreeSet<u32>,
    penalized: Vec<f32>,
}

impl Chooser {
    fn new(sampling: Sampling) -> Result<Self, ModelError> {
        let wrong =
            |setting, value, expected| Err(ModelError::Sampling { setting, value, expected });
        let mut random = 0;
        if let Choice::Sample { temperature, top_p, seed, .. } = sampling.choice {
            if !(temperature > 0.0 && temperature.is_finite()) {
                let expected = "positive (for none, choose greedily)";
                return wrong("temperature", temperature, expected);
            }
            if !(0.0..=1.0).contains(&top_p) {
                return wrong("top_p", top_p, "a probability");
            }
            random = seed;
        }
        let penalty = sampling.repetition_penalty;
        if !(penalty > 0.0 && penalty.is_finite()) {
            return wrong("repetition_penalty", penalty, "positive (1 for none)");
        }
        if sampling.vocab_size == 0 {
            return wrong("vocab_size", 0.0, "at least 1");
        }
        Ok(Self { sampling, random, seen: BTreeSet::new(), penalized: Vec::new() })
    }

    /// Tokens that from now on are part of the text.
    fn saw(&mut self, tokens: &[u32]) {
        if self.sampling.repetition_penalty != 1.0 {
            self.seen.extend(tokens);
        }
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let logits = &logits[..logits.len().min(self.sampling.vocab_size)];
        if self.seen.is_empty() {
            return self.pick(logits);
        }
        let mut penalized = std::mem::take(&mut self.penalized);
        penalized.clear();
        penalized.extend_from_slice(logits);
        let penalty = self.sampling.repetition_penalty as f32;
        for &token in &self.seen {
            if let Some(logit) = penalized.get_mut(token as usize) {
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
        let token = self.pick(&penalized);
        self.penalized = penalized;
        token
    }

    fn pick(&mut self, logits: &[f32]) -> u32 {
        let Choice::Sample { temperature, top_k, top_p, .. } = self.sampling.choice else {
            return argmax(logits) as u32;
        };
        // The likeliest first, the first of equals first.
        let by_logit =
            |&a: &usize, &b: &usize| logits[b].total_cmp(&logits[a]).then_with(|| a.cmp(&b));
        let mut order: Vec<usize> = (0..logits.len()).collect();
        if (1..order.len()).contains(&top_k) {
            order.select_nth_unstable_by(top_k - 1, by_logit);
            order.truncate(top_k);
        }
        order.sort_unstable_by(by_logit);
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
        let mut chooser = Chooser::new(choice.into()).unwrap();
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
    fn what_was_said_and_what_is_no_token_is_not_chosen() {
        let logits = [3.0, 2.0, -1.0, 1.5, 9.0];
        let greedy = Sampling::from(&Choice::Greedy);
        let sampling = Sampling { repetition_penalty: 1.6, vocab_size: 4, ..greedy };
        let mut chooser = Chooser::new(sampling).unwrap();
        // 3 / 1.6 < 2, then 2 / 1.6 and 3 / 1.6 compete with 1.5; more often does not count more.
        let mut chosen = vec![];
        for _ in 0..3 {
            let token = chooser.choose(&logits);
            chooser.saw(&[token, token]);
            chosen.push(token);
        }
        assert_eq!(chosen, [0, 1, 0]);
        // Of the negative, the penalty makes more negative ones.
        let mut chooser =
            Chooser::new(Sampling { repetition_penalty: 2.0, ..Sampling::from(&Choice::Greedy) })
                .unwrap();
        chooser.saw(&[0]);
        assert_eq!(chooser.choose(&[-1.0, -1.5]), 1);
    }

    #[test]
    fn the_few_most_likely_are_found_without_order() {
        let mut random = fewbit_testkit::Random::new(3);
        let logits: Vec<f32> = random.normals(500).iter().map(|x| (x * 4.0).round()).collect();
        let mut sorted: Vec<usize> = (0..500).collect();
        sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
        let choice = Choice::Sample { temperature: 50.0, top_k: 7, top_p: 1.0, seed: 1 };
        let mut chooser = Chooser::new((&choice).into()).unwrap();
        let mut seen: Vec<u32> = (0..500).map(|_| chooser.choose(&logits)).collect();
        seen.sort_unstable();
        seen.dedup();
        let mut expected: Vec<u32> = sorted[..7].iter().map(|&i| i as u32).collect();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }

    #[test]
    fn senseless_settings_are_refused() {
        for (temperature, top_p) in [(0.0, 1.0), (f64::NAN, 1.0), (1.0, 1.5), (1.0, -0.1)] {
            let choice = Choice::Sample { temperature, top_k: 0, top_p, seed: 0 };
            assert!(Chooser::new((&choice).into()).is_err());
        }
        for repetition_penalty in [0.0, -1.0, f64::INFINITY] {
            let sampling = Sampling { repetition_penalty, ..Sampling::from(&Choice::Greedy) };
            assert!(Chooser::new(sampling).is_err());
        }
    }
}
