//! What the log says about delivery: the first of a kind at once, then at most one line a minute with a count.

use profile::DropReason;

/// At most one line of a kind in this time.
const QUIET_NS: u64 = 60_000_000_000;

/// One kind of line.
#[derive(Debug, Default)]
struct Line {
    last_mono_ns: Option<u64>,
    untold: u64,
}

impl Line {
    /// How many have gone untold, this one included, if it is time to speak.
    fn tell(&mut self, count: u64, now_mono_ns: u64) -> Option<u64> {
        self.untold = self.untold.saturating_add(count);
        if self.last_mono_ns.is_some_and(|last| now_mono_ns.saturating_sub(last) < QUIET_NS) {
            return None;
        }
        self.last_mono_ns = Some(now_mono_ns);
        Some(std::mem::take(&mut self.untold))
    }
}

/// The log's memory.
#[derive(Debug, Default)]
pub(crate) struct Report {
    failing: Line,
    refused: Line,
    warned: Line,
    dropped: [Line; DropReason::ALL.len()],
    /// Failed attempts since the last success.
    failures: u64,
    /// Whether the log has heard of them.
    told: bool,
}

impl Report {
    pub(crate) fn failed(&mut self, endpoint: &str, message: &str, now_mono_ns: u64) {
        self.failures += 1;
        if let Some(attempts) = self.failing.tell(1, now_mono_ns) {
            self.told = true;
            tracing::warn!(
                endpoint,
                error = message,
                attempts,
                "cannot deliver profiles; they wait and are sent again"
            );
        }
    }

    pub(crate) fn refused(&mut self, endpoint: &str, message: &str, now_mono_ns: u64) {
        if let Some(requests) = self.refused.tell(1, now_mono_ns) {
            tracing::warn!(endpoint, error = message, requests, "the collector refuses profiles for good");
        }
    }

    pub(crate) fn accepted(&mut self, endpoint: &str, message: &str, now_mono_ns: u64) {
        if self.told {
            tracing::info!(endpoint, failed_attempts = self.failures, "profiles are delivered again");
        }
        (self.failures, self.told) = (0, false);
        if !message.is_empty()
            && let Some(times) = self.warned.tell(1, now_mono_ns)
        {
            tracing::warn!(endpoint, message, times, "the collector took profiles and warns");
        }
    }

    pub(crate) fn dropped(&mut self, reason: DropReason, samples: u64, now_mono_ns: u64) {
        if reason != DropReason::Shutdown
            && let Some(samples) = self.dropped.get_mut(reason as usize).and_then(|l| l.tell(samples, now_mono_ns))
        {
            tracing::warn!(reason = reason.label(), samples, "samples were dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_at_once_then_a_count_a_minute() {
        let mut line = Line::default();
        assert_eq!(line.tell(1, 5), Some(1));
        for i in 0..100 {
            assert_eq!(line.tell(2, 6 + i), None);
        }
        assert_eq!(line.tell(1, 5 + QUIET_NS), Some(201));
    }
}
