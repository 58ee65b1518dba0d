//! Numbers as people read them.

use std::time::Duration;

/// `value` with `digits` significant digits, without exponent between 1e-4 and 1e6.
///
/// ```
/// use fewbit_eval::units::significant;
///
/// assert_eq!(significant(29.397, 4), "29.40");
/// assert_eq!(significant(0.039541, 3), "0.0395");
/// assert_eq!(significant(1225.6, 3), "1226");
/// assert_eq!(significant(0.0000123, 3), "1.23e-5");
/// ```
pub fn significant(value: f64, digits: usize) -> String {
    let digits = digits.max(1);
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_string() } else { format!("{value}") };
    }
    // Rounding may carry into the next power of ten, so the exponent is read from the rounded form.
    let scientific = format!("{value:.*e}", digits - 1);
    let exponent: i32 = scientific.split_once('e').and_then(|(_, e)| e.parse().ok()).unwrap_or(0);
    if !(-4..6).contains(&exponent) {
        return scientific;
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    format!("{value:.decimals$}")
}

/// A share of 0..=1 in percent, with `decimals` decimals: `percent(0.9312, 1)` is `93.1 %`.
pub fn percent(share: f64, decimals: usize) -> String {
    format!("{:.decimals$} %", share * 100.0)
}

/// A number of bytes in B, KiB, MiB, GiB or TiB (powers of 1024).
///
/// ```
/// use fewbit_eval::units::bytes;
///
/// assert_eq!(bytes(999), "999 B");
/// assert_eq!(bytes(1536), "1.50 KiB");
/// assert_eq!(bytes(123 << 20), "123 MiB");
/// ```
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.6 would be printed as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// A duration in the one or two largest units that tell something.
///
/// ```
/// use fewbit_eval::units::duration;
/// use std::time::Duration;
///
/// assert_eq!(duration(Duration::from_micros(12_340)), "12 ms");
/// assert_eq!(duration(Duration::from_millis(8_240)), "8.2 s");
/// assert_eq!(duration(Duration::from_secs(95)), "1 min 35 s");
/// assert_eq!(duration(Duration::from_secs(7_500)), "2 h 5 min");
/// ```
pub fn duration(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs_f64(), duration.as_secs_f64() * 1e3);
    let whole = seconds.round() as u64;
    if milliseconds < 9.95 {
        format!("{milliseconds:.1} ms")
    } else if milliseconds < 999.5 {
        format!("{milliseconds:.0} ms")
    } else if seconds < 59.95 {
        format!("{seconds:.1} s")
    } else if whole < 3600 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        let minutes = (seconds / 60.0).round() as u64;
        format!("{} h {} min", minutes / 60, minutes % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn significant_digits_survive_a_carry() {
        assert_eq!(significant(9.9996, 4), "10.00");
        assert_eq!(significant(0.00099999, 2), "0.0010");
        assert_eq!(significant(999_999.9, 3), "1.00e6");
        assert_eq!(significant(-0.5, 1), "-0.5");
        assert_eq!(significant(0.0, 3), "0");
        assert_eq!(significant(f64::INFINITY, 3), "inf");
        assert_eq!(significant(12.0, 0), "12");
    }

    #[test]
    fn byte_units_change_before_four_digits() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1024), "1.00 KiB");
        assert_eq!(bytes(10 * 1024), "10.0 KiB");
        assert_eq!(bytes((1 << 20) - 1), "1.00 MiB");
        assert_eq!(bytes(u64::MAX), "16777216 TiB");
    }

    #[test]
    fn durations_round_into_the_next_unit() {
        let of = |seconds: f64| duration(Duration::from_secs_f64(seconds));
        assert_eq!(of(0.0), "0.0 ms");
        assert_eq!(of(0.9996), "1.0 s");
        assert_eq!(of(59.97), "1 min 0 s");
        assert_eq!(of(3599.7), "1 h 0 min");
        assert_eq!(percent(0.99987, 1), "100.0 %");
    }
}
