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
    /// By /proc: in clock ticks and on a clock that counts the machine's sleep too, so between two times.
    Scanned { from: u64, to: u64 },
}

/// Whether a time lies between two, but for the coarseness of clock ticks.
fn about(from: u64, to: u64, time: u64) -> bool {
    from.saturating_sub(SCAN_SLACK_NS) <= time && time <= to.saturating_add(SCAN_SLACK_NS)
}

impl Start {
    /// Whether a process that started at `start` can be this one.
    pub(crate) fn matches(self, start: u64) -> bool {
        match self {
            Self::Exact(known) => known == start,
            Self::Forked { at, after } => after < start && start <= at,
            Self::Scanned { from, to } => about(from, to, start),
        }
    }

    /// Whether what /proc says can be this process.
    pub(crate) fn matches_scan(self, from: u64, to: u64) -> bool {
        match self {
            Self::Forked { at, after } => {
                after < to.saturating_add(SCAN_SLACK_NS) && from <= at.saturating_add(SCAN_SLACK_NS)
            }
            Self::Exact(known) => about(from, to, known),
            // The machine may have slept between the two readings: then both ends have moved.
            Self::Scanned { to: known, .. } => about(to, to, known),
        }
    }

    /// Whether a fork record of this time can be this process's own.
    pub(crate) fn matches_fork(self, at: u64) -> bool {
        match self {
            Self::Forked { .. } => false,
            Self::Exact(known) => known <= at && at - known <= FORK_DELAY_NS,
            Self::Scanned { from, to } => {
                from.saturating_sub(SCAN_SLACK_NS) <= at && at <= to.saturating_add(FORK_DELAY_NS)
            }
        }
    }

    /// The latest time that it can be. Whoever has the tgid after this process started later.
    pub(crate) fn latest_mono_ns(self) -> u64 {
        match self {
            Self::Exact(known) => known,
            Self::Scanned { to, .. } => to.saturating_add(SCAN_SLACK_NS),
            Self::Forked { at, .. } => at,
        }
    }

    /// The best number for it.
    pub(crate) fn mono_ns(self) -> u64 {
        match self {
            Self::Exact(known) => known,
            Self::Scanned { from, .. } => from,
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
        let scanned = Start::Scanned { from: 1_000_000_000, to: 1_000_000_000 };
        assert!(scanned.matches(1_009_999_999));
        assert!(!scanned.matches(1_500_000_000));
        assert!(scanned.matches_fork(1_009_000_000));
        assert!(!scanned.matches_fork(3_000_000_000));
        assert!(scanned.matches_scan(1_000_000_000, 1_000_000_000));
        assert!(!scanned.matches_scan(2_000_000_000, 2_000_000_000));
        let forked = Start::Forked { at: 1_009_000_000, after: 0 };
        assert!(forked.matches_scan(1_000_000_000, 1_000_000_000));
        assert!(!forked.matches_scan(2_000_000_000, 2_000_000_000));
    }

    #[test]
    fn a_machine_that_slept_leaves_a_range() {
        // Asleep for 50 s in all, some of it perhaps before the start.
        let (from, to) = (100_000_000_000, 150_000_000_000);
        let scanned = Start::Scanned { from, to };
        assert!(
            scanned.matches(100_000_000_000) && scanned.matches(130_000_000_000) && scanned.matches(150_000_000_000)
        );
        assert!(!scanned.matches(99_000_000_000) && !scanned.matches(151_000_000_000));
        assert!(Start::Exact(130_000_000_000).matches_scan(from, to));
        // Asleep for another minute, then read again.
        assert!(scanned.matches_scan(from - 60_000_000_000, to));
    }
}
