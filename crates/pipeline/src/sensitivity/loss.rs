//! From the output error of a matrix to what the model loses.

use serde::{Deserialize, Serialize};

/// What the model lost when one matrix was in error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probe {
    /// Grid that the matrix was rounded to.
    pub grid: String,
    /// Relative output error of the matrix.
    pub error: f64,
    /// KL divergence from the float model, nats.
    pub kl: f64,
}

/// The loss at an output error: for small errors proportional to it, because KL divergence is quadratic around its minimum and the error is a mean
/// square; between probes, and beyond the last, by the power that joins them.
pub(super) fn of_error(probes: &[Probe], error: f64) -> f64 {
    let sound = |p: &&Probe| p.kl > 0.0 && p.error > 0.0;
    let probes: Vec<&Probe> = probes.iter().filter(sound).collect();
    let (Some(first), Some(last)) = (probes.first(), probes.last()) else { return error };
    if error <= first.error {
        return first.kl * error / first.error;
    }
    let mut pairs = probes.windows(2).map(|pair| (pair[0], pair[1]));
    let power = |(a, b): (&Probe, &Probe)| {
        // Errors grow with each other; noise must not turn that around.
        ((b.kl / a.kl).ln() / (b.error / a.error).ln()).clamp(0.25, 2.0)
    };
    let distinct = |(a, b): &(&Probe, &Probe)| b.error > 1.001 * a.error;
    for pair in pairs.clone().filter(distinct) {
        if error <= pair.1.error {
            return pair.0.kl * (error / pair.0.error).powf(power(pair));
        }
    }
    let beyond = pairs.rfind(distinct).map_or(1.0, power);
    last.kl * (error / last.error).powf(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(error: f64, kl: f64) -> Probe {
        Probe { grid: String::new(), error, kl }
    }

    #[test]
    fn one_probe_is_a_line_through_the_origin() {
        let probes = [probe(0.1, 0.02)];
        assert_eq!(of_error(&probes, 0.0), 0.0);
        assert!((of_error(&probes, 0.05) - 0.01).abs() < 1e-12);
        assert!((of_error(&probes, 0.3) - 0.06).abs() < 1e-12);
        assert_eq!(of_error(&[], 0.3), 0.3);
    }

    #[test]
    fn two_probes_are_met_and_joined_by_a_power() {
        let probes = [probe(0.01, 0.002), probe(0.16, 0.008)];
        assert!((of_error(&probes, 0.01) - 0.002).abs() < 1e-12);
        assert!((of_error(&probes, 0.04) - 0.004).abs() < 1e-12);
        assert!((of_error(&probes, 0.16) - 0.008).abs() < 1e-12);
        assert!((of_error(&probes, 0.64) - 0.016).abs() < 1e-12);
        assert!((of_error(&probes, 0.005) - 0.001).abs() < 1e-12);
    }

    #[test]
    fn noise_does_not_make_less_error_worse() {
        let probes = [probe(0.01, 0.004), probe(0.02, 0.003)];
        let losses: Vec<f64> = (0..100).map(|i| of_error(&probes, f64::from(i) * 5e-4)).collect();
        assert!(losses[..40].is_sorted(), "{losses:?}");
        assert_eq!(of_error(&[probe(0.1, -1e-9)], 0.2), 0.2);
    }
}
