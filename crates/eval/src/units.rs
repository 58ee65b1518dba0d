//! Numbers as people read them.

/// `value` with `digits` significant digits.
pub fn significant(_value: f64, _digits: usize) -> String {
    unimplemented!()
}

/// A share of 0..=1 in percent, with `decimals` decimals: `percent(0.9312, 1)` is `93.1 %`.
pub fn percent(share: f64, decimals: usize) -> String {
    format!("{:.decimals$} %", share * 100.0)
}

/// A number of bytes in B, KiB, MiB, GiB or TiB.
pub fn bytes(_bytes: u64) -> String {
    unimplemented!()
}

/// A duration in ms, s, min or h.
pub fn duration(_duration: std::time::Duration) -> String {
    unimplemented!()
}
