//! Which process a tgid means at a time: pids are reused, start times are not.

/// Between a task's start time and its fork record lie 1 to 90 microseconds, more where the parent was preempted in
/// between. Pids cannot come round within this.
const FORK_DELAY_NS: u64 = 1_000_000_000;
/// `/proc/PID/stat` counts in clock ticks (10 ms), and is off by one now and then.
const SCAN_SLACK_NS: u64 = 20_000_000;

/// What is known of a process's start. Monotonic nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The kernel's own number, from a sample.
    Exact(u64),
    /// By its fork record: not later than `at`, and after `after`, the last sign of the tgid's process before.
    Forked { at: u64, after: u64 },
    /// By /proc, in clock ticks.
    Scanned(u64),
}

impl Start {
    /// Whether a process that started at `start` can be this one.
    pub(crate) fn matches(self, start: u64) -> bool {
        match self {
            Self::Exact(known) => known == start,
            Self::Forked { at, after } => after < start && start <= at,
            Self::Scanned(about) => about.abs_diff(start) <= SCAN_SLACK_NS,
        }
    }

    /// Whether what /proc says (in ticks) can be this process.
    pub(crate) fn matches_scan(self, about: u64) -> bool {
        match self {
            Self::Forked { at, after } => {
                after < about.saturating_add(SCAN_SLACK_NS) && about <= at.saturating_add(SCAN_SLACK_NS)
            }
            Self::Exact(known) | Self::Scanned(known) => known.abs_diff(about) <= SCAN_SLACK_NS,
        }
    }

    /// Whether a fork record of this time can be this process's own.
    pub(crate) fn matches_fork(self, at: u64) -> bool {
        match self {
            Self::Forked { .. } => false,
            Self::Exact(known) => known <= at && at - known <= FORK_DELAY_NS,
            Self::Scanned(about) => {
                about.saturating_sub(SCAN_SLACK_NS) <= at && at <= about.saturating_add(FORK_DELAY_NS)
            }
        }
    }

    /// The best number for it.
    pub(crate) fn mono_ns(self) -> u64 {
        match self {
            Self::Exact(known) | Self::Scanned(known) => known,
            Self::Forked { at, .. } => at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fork_at_or_after_the_start_is_its_own() {
        let second = Start::Forked { at: 5_000, after: 1_000 };
        assert!(second.matches(4_999) && second.matches(5_000));
        assert!(!second.matches(1_000), "the process before");
        assert!(!second.matches(5_001), "a later one");
    }

    #[test]
    fn ticks_of_proc_are_coarse() {
        assert!(Start::Scanned(1_000_000_000).matches(1_009_999_999));
        assert!(!Start::Scanned(1_000_000_000).matches(1_500_000_000));
        assert!(Start::Scanned(1_000_000_000).matches_fork(1_009_000_000));
        assert!(!Start::Scanned(1_000_000_000).matches_fork(3_000_000_000));
        assert!(Start::Forked { at: 1_009_000_000, after: 0 }.matches_scan(1_000_000_000));
        assert!(!Start::Forked { at: 1_009_000_000, after: 0 }.matches_scan(2_000_000_000));
    }
}
