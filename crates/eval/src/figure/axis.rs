//! Ranges, ticks and labels of an axis.

use super::Scale;
use crate::units::significant;

/// Where `Scale::Auto` turns logarithmic.
const LOG_FROM_FACTOR: f64 = 30.0;
/// A logarithmic axis up to this many decades has ticks at 1, 2 and 5, a longer one at powers of ten.
const DENSE_DECADES: f64 = 3.0;

/// A value and how it is written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    pub(super) value: f64,
    pub(super) label: String,
}

/// What is drawn along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bars, which stand on zero or on a value below the smallest one of a logarithmic axis.
    Bars,
    /// Bars which become spans between two values on a logarithmic axis.
    Spans,
    /// Lines, which stand on nothing.
    Lines,
}

/// A range of values with round ends, and its ticks.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    pub(super) log: bool,
    pub(super) ticks: Vec<Tick>,
}

impl Axis {
    /// An axis for values from `low` to `high`, both of which [`range_of`](super::range_of) has checked.
    ///
    pub(super) fn new(scale: Scale, low: f64, high: f64, kind: Kind) -> Self {
        let log = match scale {
            Scale::Auto => low > 0.0 && high / low > LOG_FROM_FACTOR,
            Scale::Linear => false,
            Scale::Log => true,
        };
        match (log, kind) {
            (true, Kind::Bars) => Self::logarithmic(low / 1.5, high),
            (true, Kind::Spans) => Self::logarithmic(low / 1.15, high),
            (true, Kind::Lines) => Self::logarithmic(low, high),
            (false, Kind::Lines) => Self::linear(low, high),
            (false, _) => Self::linear(low.min(0.0), high.max(0.0)),
        }
    }

    /// Share of the way from the low to the high end.
    pub(super) fn position(&self, value: f64) -> f64 {
        if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        }
    }

    /// Where bars stand.
    pub(super) fn base(&self) -> f64 {
        if self.log { self.low } else { 0.0 }
    }

    fn linear(low: f64, high: f64) -> Self {
        let size = low.abs().max(high.abs());
        // A range of nothing gets some room around it.
        let room = if high - low <= 1e-9 * size || size == 0.0 {
            if size == 0.0 { 1.0 } else { 0.1 * size }
        } else {
            0.0
        };
        let (low, high) = if size == 0.0 { (0.0, room) } else { (low - room, high + room) };
        let step = nice_at_least((high - low) / 6.0);
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let count = (last - first).round() as u32;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let plain = decimals <= 4 && last.abs().max(first.abs()) * step < 1e6;
        let ticks = (0..=count)
            .map(|k| {
                let value = (first + f64::from(k)) * step;
                let label = match (plain, value == 0.0) {
                    (_, true) => "0".to_string(),
                    (true, _) => format!("{value:.decimals$}"),
                    (false, _) => scientific(value, step),
                };
                Tick { value, label }
            })
            .collect();
        Self { low: first * step, high: last * step, log: false, ticks }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let low = nice_at_most(low);
        let mut high = nice_at_least(high);
        if high <= low {
            high = nice_at_least(1.5 * low);
        }
        let (first, last) = (decade(low), decade(high));
        let dense = (high / low).log10() <= DENSE_DECADES;
        let every = 1 + (last - first) / 9;
        let mantissas: &[f64] = if dense { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ticks = (first..=last)
            .filter(|exponent| exponent % every == 0)
            .flat_map(|exponent| mantissas.iter().map(move |m| m * 10f64.powi(exponent)))
            .filter(|value| (low * (1.0 - 1e-9)..=high * (1.0 + 1e-9)).contains(value))
            .map(|value| Tick { value, label: significant(value, 1) })
            .collect();
        Self { low, high, log: true, ticks }
    }
}

/// As many digits as tell neighbours `step` apart.
fn scientific(value: f64, step: f64) -> String {
    format!("{value:.*e}", (decade(value.abs()) - decade(step)).max(0) as usize)
}

/// Exponent of the power of ten at or below a positive value.
fn decade(value: f64) -> i32 {
    (value * (1.0 + 1e-9)).log10().floor() as i32
}

/// The smallest of 1, 2, 5 times a power of ten at or above a positive value.
fn nice_at_least(value: f64) -> f64 {
    let power = 10f64.powi(decade(value));
    let mantissa = value / power;
    let nice = [1.0, 2.0, 5.0].into_iter().find(|m| mantissa <= m * (1.0 + 1e-9)).unwrap_or(10.0);
    nice * power
}

/// The largest of 1, 2, 5 times a power of ten at or below a positive value.
fn nice_at_most(value: f64) -> f64 {
    let power = 10f64.powi(decade(value));
    let mantissa = value / power * (1.0 + 1e-9);
    let nice = [5.0, 2.0, 1.0].into_iter().find(|m| *m <= mantissa).unwrap_or(1.0);
    nice * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|t| t.label.as_str()).collect()
    }

    #[test]
    fn linear_ticks_are_round() {
        let axis = Axis::new(Scale::Linear, 0.012, 0.083, Kind::Bars);
        assert_eq!(labels(&axis), ["0", "0.02", "0.04", "0.06", "0.08", "0.10"]);
        assert_eq!(axis.position(0.0), 0.0);
        assert!((axis.position(0.05) - 0.5).abs() < 1e-12);
        let axis = Axis::new(Scale::Linear, 103.0, 128.0, Kind::Lines);
        assert_eq!(labels(&axis), ["100", "105", "110", "115", "120", "125", "130"]);
        let axis = Axis::new(Scale::Linear, -3.0, 4.0, Kind::Bars);
        assert_eq!(labels(&axis), ["-4", "-2", "0", "2", "4"]);
        assert_eq!(axis.base(), 0.0);
    }

    #[test]
    fn very_small_and_large_values_are_scientific() {
        let axis = Axis::new(Scale::Linear, 0.0, 3.1e-6, Kind::Bars);
        assert_eq!(labels(&axis), ["0", "1e-6", "2e-6", "3e-6", "4e-6"]);
        let axis = Axis::new(Scale::Linear, 0.0, 2.4e9, Kind::Bars);
        assert_eq!(labels(&axis), ["0", "5e8", "1.0e9", "1.5e9", "2.0e9", "2.5e9"]);
    }

    #[test]
    fn logarithmic_ticks() {
        let axis = Axis::new(Scale::Auto, 0.004, 0.3, Kind::Bars);
        assert_eq!(labels(&axis), ["0.002", "0.005", "0.01", "0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!((axis.position(axis.base()), axis.position(0.5)), (0.0, 1.0));
        let axis = Axis::new(Scale::Log, 3e-4, 20.0, Kind::Lines);
        assert_eq!(labels(&axis), ["0.001", "0.01", "0.1", "1", "10"]);
        let axis = Axis::new(Scale::Log, 1.0, 1e30, Kind::Lines);
        assert!(axis.ticks.len() <= 10, "{axis:?}");
    }

    #[test]
    fn auto_turns_logarithmic_above_a_factor_of_thirty() {
        assert_eq!(Axis::new(Scale::Auto, 1.0, 29.0, Kind::Bars).base(), 0.0);
        assert!(Axis::new(Scale::Auto, 1.0, 31.0, Kind::Bars).base() > 0.0);
        assert_eq!(Axis::new(Scale::Auto, 0.0, 31.0, Kind::Bars).base(), 0.0);
    }

    #[test]
    fn every_range_has_ticks_and_contains_its_values() {
        let values = [0.0, 1e-100, 1e-9, 0.999999999, 1.0, 1.0 + 1e-12, 3.0, 1e6, 1e100];
        for (i, &low) in values.iter().enumerate() {
            for &high in &values[i..] {
                for (scale, kind) in [
                    (Scale::Linear, Kind::Bars),
                    (Scale::Linear, Kind::Lines),
                    (Scale::Log, Kind::Bars),
                    (Scale::Log, Kind::Spans),
                ] {
                    if scale == Scale::Log && low == 0.0 {
                        continue;
                    }
                    let axis = Axis::new(scale, low, high, kind);
                    assert!((1..=16).contains(&axis.ticks.len()), "{low} {high} {axis:?}");
                    for value in [low, high] {
                        let at = axis.position(value);
                        assert!((-1e-6..=1.0 + 1e-6).contains(&at), "{low} {high}: {at} {axis:?}");
                    }
                }
            }
        }
    }
}
