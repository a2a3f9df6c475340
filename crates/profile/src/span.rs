//! The time that a window or a profile covers.

/// From (inclusive) and to (exclusive), on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Start, `CLOCK_MONOTONIC` nanoseconds.
    pub from_mono_ns: u64,
    /// End, `CLOCK_MONOTONIC` nanoseconds.
    pub to_mono_ns: u64,
    /// Start, nanoseconds since the Unix epoch.
    pub from_unix_ns: u64,
    /// End, nanoseconds since the Unix epoch.
    pub to_unix_ns: u64,
}

impl Span {
    /// Nanoseconds from start to end; 0 where the end lies before the start.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.to_mono_ns.saturating_sub(self.from_mono_ns)
    }

    /// The smallest span that covers both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            from_mono_ns: self.from_mono_ns.min(other.from_mono_ns),
            to_mono_ns: self.to_mono_ns.max(other.to_mono_ns),
            from_unix_ns: self.from_unix_ns.min(other.from_unix_ns),
            to_unix_ns: self.to_unix_ns.max(other.to_unix_ns),
        }
    }
}
