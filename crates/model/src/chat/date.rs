//! Today, as templates ask for it.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// The present time in UTC by a format of C's `strftime`: `%Y %m %d %B %b %H %M %S`. Other letters stay as they are.
pub(super) fn now(format: &str) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    at(seconds, format)
}

fn at(seconds: u64, format: &str) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let name = MONTHS[month as usize - 1];
    let mut text = format.replace("%Y", &year.to_string()).replace("%B", name);
    text = text.replace("%b", &name[..3]);
    for (key, number) in [("%m", month), ("%d", day), ("%H", hour), ("%M", minute), ("%S", second)]
    {
        text = text.replace(key, &format!("{number:02}"));
    }
    text
}

/// Year, month and day of the Gregorian calendar, of days since 1 January 1970. Years begin in March here, so that the leap day comes last
/// (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::at;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 01 Jan"),
            (951_782_400 + 86_399, "2000-02-29 23:59:59 29 Feb"),
            (1_709_251_199, "2024-02-29 23:59:59 29 Feb"),
            (1_709_251_200, "2024-03-01 00:00:00 01 Mar"),
            (4_102_444_799, "2099-12-31 23:59:59 31 Dec"),
            (4_107_542_400, "2100-03-01 00:00:00 01 Mar"),
        ] {
            assert_eq!(at(seconds, "%Y-%m-%d %H:%M:%S %d %b"), expected);
        }
        assert_eq!(at(1_709_251_200, "%B %d, %Y"), "March 01, 2024");
    }
}
