//! Where the reciprocal of a channel's scale goes, so that the float model computes what it did.
//!
//! A layer reads `x_j / s_j` with weights `w_j · s_j`. The division is folded into whatever produces `x`:
//!
//! | producer | fold |
//! |---|---|
//! | norm with gain `g` | `g_j / s_j`; LayerNorm's bias likewise |
//! | norm with gain `1 + g` (Gemma) | `(1 + g_j) / s_j − 1` |
//! | linear layer, directly or times something that does not depend on it (SwiGLU's up) | its row `j` and its bias, divided by `s_j` |
//! | values behind attention with shared heads | rows of the value layer, through a [`ChannelMap`]: heads that share one have equal scales |
//! | GELU, ReLU², softmax | none: not linear in what is before it |

use crate::Scales;

/// Which output of the producing layer each input channel is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelMap {
    producers: Vec<usize>,
    n_produced: usize,
}

impl ChannelMap {
    /// Each its own.
    pub fn identity(n_channels: usize) -> Self {
        Self { producers: (0..n_channels).collect(), n_produced: n_channels }
    }

    /// Outputs of attention, where each run of `n_heads / n_kv_heads` query heads reads the values of one head.
    ///
    /// # Panics
    /// If `n_kv_heads` does not divide `n_heads`.
    pub fn shared_heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Self {
        assert!(n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads), "heads share evenly");
        let sharing = n_heads / n_kv_heads;
        let channel = |c: usize| c / head_dim / sharing * head_dim + c % head_dim;
        Self {
            producers: (0..n_heads * head_dim).map(channel).collect(),
            n_produced: n_kv_heads * head_dim,
        }
    }

    /// Channels of the layer that reads.
    pub fn n_consumed(&self) -> usize {
        self.producers.len()
    }

    /// Outputs of the layer that produces.
    pub fn n_produced(&self) -> usize {
        self.n_produced
    }

    /// The output behind each channel.
    pub fn producers(&self) -> &[usize] {
        &self.producers
    }

    /// Replaces the values of channels that come from one output by their mean: scales made from them are then equal, as folding needs.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn tie(&self, values: &mut [f64]) {
        assert_eq!(values.len(), self.producers.len(), "a value for each channel");
        let mut sums = vec![(0.0, 0usize); self.n_produced];
        for (&producer, &value) in self.producers.iter().zip(&*values) {
            sums[producer].0 += value;
            sums[producer].1 += 1;
        }
        for (&producer, value) in self.producers.iter().zip(values) {
            let (sum, count) = sums[producer];
            *value = sum / count as f64;
        }
    }
}

/// What a norm multiplies by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gain {
    /// The stored value.
    Plain,
    /// One more than the stored value, as Gemma's norms.
    OnePlus,
}

/// Float parameters of a producer that carry the reciprocal of the scales: the gain of a norm, or the bias of a linear layer.
///
/// They are rounded to the type that the file stores, and the scales are corrected for it: with the corrected ones, gain times weight is what it was
/// to f32 rounding, whatever the type. Channels where that cannot be (a gain of zero) get the scale 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// What to store.
    pub stored: Vec<f32>,
    /// The scales that this stands for.
    pub scales: Scales,
}

impl Folded {
    /// Divides `stored`, one value for each output of the producer, by `scales`. `round` rounds to the type of storage.
    ///
    /// # Panics
    /// If the lengths do not fit the map.
    pub fn new(
        stored: &[f32],
        gain: Gain,
        map: &ChannelMap,
        scales: &Scales,
        round: impl Fn(f32) -> f32,
    ) -> Self {
        assert_eq!(stored.len(), map.n_produced(), "a value for each output");
        let offset = match gain {
            Gain::Plain => 0.0,
            Gain::OnePlus => 1.0,
        };
        let fold = |(&stored, s): (&f32, f32)| {
            let effective = offset + stored;
            let folded = round(effective / s - offset);
            let scale = effective / (offset + folded);
            let exact = scale.is_finite() && scale > 0.0 && folded.is_finite();
            if exact { (folded, scale) } else { (stored, 1.0) }
        };
        let producers: Vec<(f32, f32)> =
            stored.iter().zip(scales.of_producers(map)).map(fold).collect();
        let scales = map.producers().iter().map(|&p| producers[p].1).collect();
        Self {
            stored: producers.into_iter().map(|(stored, _)| stored).collect(),
            scales: Scales::new(scales).expect("positive and finite as chosen above"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fewbit_format::bf16;

    #[test]
    fn heads_that_share_values_are_tied() {
        let map = ChannelMap::shared_heads(4, 2, 3);
        assert_eq!((map.n_consumed(), map.n_produced()), (12, 6));
        assert_eq!(map.producers(), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let mut values: Vec<f64> = (0..12).map(f64::from).collect();
        map.tie(&mut values);
        assert_eq!(values, [1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 7.5, 8.5, 9.5, 7.5, 8.5, 9.5]);
        let mut values = vec![3.0, 1.0];
        ChannelMap::identity(2).tie(&mut values);
        assert_eq!(values, [3.0, 1.0]);
    }

    #[test]
    fn gain_times_weight_stays_in_any_storage() {
        let scales = Scales::new(vec![1.7, 0.3, 2.9, 5.0, 0.011]).unwrap();
        let map = ChannelMap::identity(5);
        let round = |v: f32| bf16::from_f32(v).to_f32();
        for gain in [Gain::Plain, Gain::OnePlus] {
            let stored = [0.5, -0.75, 0.0, -1.0, 3.0];
            let offset = if gain == Gain::OnePlus { 1.0 } else { 0.0 };
            let folded = Folded::new(&stored, gain, &map, &scales, round);
            for i in 0..5 {
                assert_eq!(folded.stored[i], round(folded.stored[i]), "stored exactly");
                let scale = folded.scales.as_slice()[i];
                let (before, after) = (offset + stored[i], (offset + folded.stored[i]) * scale);
                assert!((before - after).abs() <= 2e-7 * before.abs(), "{before} {after}");
                // bf16 near −1 has few digits for 1 + g, so Gemma's scales may move more.
                if before != 0.0 && gain == Gain::Plain {
                    assert!((scale / scales.as_slice()[i] - 1.0).abs() < 0.004);
                }
            }
        }
    }
}
