//! Resident memory of this process, as Linux tells it.

use serde::Serialize;

/// Resident memory of this process in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ResidentMemory {
    /// Now.
    pub current: u64,
    /// Highest since the start of the process, or since [`reset_peak_memory`].
    pub peak: u64,
    /// Part of `current` that is not backed by a file.
    pub anonymous: Option<u64>,
    /// Part of `current` that is backed by files, such as mapped weights; the system can reclaim it.
    pub file: Option<u64>,
}

/// Resident memory of this process; `None` where the system does not tell (all but Linux and Android).
///
/// ```
/// if let Some(memory) = fewbit_eval::resident_memory() {
///     assert!(0 < memory.current && memory.current <= memory.peak);
/// }
/// ```
pub fn resident_memory() -> Option<ResidentMemory> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        parse(&std::fs::read_to_string("/proc/self/status").ok()?)
    } else {
        None
    }
}

/// Makes the peak start again from the current value, so that a phase can be measured on its own.
///
/// Returns `false` where that is not possible; the peak then still counts from the start of the process.
pub fn reset_peak_memory() -> bool {
    // 5 is "reset the peak resident set size" (proc_pid_clear_refs(5), since Linux 4.0).
    cfg!(any(target_os = "linux", target_os = "android"))
        && std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Reads `/proc/self/status`, whose numbers are in units of 1024 bytes.
fn parse(status: &str) -> Option<ResidentMemory> {
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let (current, peak) = (field("VmRSS")?, field("VmHWM")?);
    // The two counters are read at slightly different moments, and may be off by a few pages.
    let peak = peak.max(current);
    Some(ResidentMemory { current, peak, anonymous: field("RssAnon"), file: field("RssFile") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nVmPeak:\t  9000 kB\nVmHWM:\t    5000 kB\nVmRSS:\t    4000 kB\n\
                          RssAnon:\t    1000 kB\nRssFile:\t    3000 kB\nThreads:\t1\n";

    #[test]
    fn fields_are_found_by_name_and_scaled() {
        let memory = parse(STATUS).unwrap();
        assert_eq!((memory.current, memory.peak), (4000 << 10, 5000 << 10));
        assert_eq!((memory.anonymous, memory.file), (Some(1000 << 10), Some(3000 << 10)));
        assert_eq!(parse(&STATUS.replace("RssAnon", "RssX")).unwrap().anonymous, None);
    }

    #[test]
    fn what_is_missing_or_broken_is_none() {
        assert_eq!(parse(""), None);
        assert_eq!(parse(&STATUS.replace("VmHWM", "VmH")), None);
        assert_eq!(parse(&STATUS.replace("4000 kB", "4000")), None);
        assert_eq!(parse(&STATUS.replace("4000", "-4")), None);
        assert_eq!(parse(&STATUS.replace("4000", "18446744073709551615")), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_sees_memory_that_is_gone() {
        reset_peak_memory();
        let before = resident_memory().unwrap();
        let size = 64 << 20;
        let filled = std::hint::black_box(vec![1u8; size]);
        let during = resident_memory().unwrap();
        assert!(during.current >= before.current + size as u64 / 2, "{before:?} {during:?}");
        drop(filled);
        let after = resident_memory().unwrap();
        assert!(after.peak >= before.current + size as u64 / 2, "{before:?} {after:?}");
        if reset_peak_memory() {
            assert!(resident_memory().unwrap().peak < after.peak, "{after:?}");
        }
    }
}
