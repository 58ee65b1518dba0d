//! What a plan may cost.

/// Limits of a plan. What is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Most bytes of all units.
    pub bytes: Option<u64>,
    /// Most nanoseconds of all units.
    pub nanoseconds: Option<u64>,
}

impl Budget {
    /// A limit of the size.
    pub const fn bytes(bytes: u64) -> Self {
        Self { bytes: Some(bytes), nanoseconds: None }
    }

    /// A limit of the time.
    pub const fn nanoseconds(nanoseconds: u64) -> Self {
        Self { bytes: None, nanoseconds: Some(nanoseconds) }
    }

    /// Whether a plan of this size and time keeps all limits.
    pub fn allows(&self, bytes: u64, nanoseconds: u64) -> bool {
        self.bytes.is_none_or(|most| bytes <= most)
            && self.nanoseconds.is_none_or(|most| nanoseconds <= most)
    }
}
