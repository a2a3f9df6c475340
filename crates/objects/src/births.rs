//! How often a worker may be started. No clock: time is handed in.
//!
//! **In**: starts. **Out**: whether another one is allowed. **Limits**: [`MOST_BIRTHS`] at once, then one every
//! [`BIRTH_INTERVAL`]; past it requests fail as if there were no worker (`worker_failed_requests`).

use std::time::{Duration, Instant};

/// Workers that may be started one after the other; then one every [`BIRTH_INTERVAL`].
const MOST_BIRTHS: u32 = 64;
const BIRTH_INTERVAL: Duration = Duration::from_millis(500);

/// How many workers may be started: each costs milliseconds, and a target may have found a way to end them.
#[derive(Debug)]
pub(crate) struct Births {
    left: u32,
    since: Instant,
}

impl Births {
    pub(crate) fn new(now: Instant) -> Self {
        Self { left: MOST_BIRTHS, since: now }
    }

    /// Whether another one may be started now.
    pub(crate) fn is_allowed(&mut self, now: Instant) -> bool {
        let new = now.saturating_duration_since(self.since).as_millis() / BIRTH_INTERVAL.as_millis();
        if let Ok(new @ 1..) = u32::try_from(new) {
            self.left = self.left.saturating_add(new).min(MOST_BIRTHS);
            self.since = now;
        }
        self.left > 0
    }

    /// One is started.
    pub(crate) fn count(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_a_trickle() {
        let start = Instant::now();
        let mut births = Births::new(start);
        let mut started = 0;
        for at_ms in 0..60_000 {
            if births.is_allowed(start + Duration::from_millis(at_ms)) {
                births.count();
                started += 1;
            }
        }
        assert_eq!(started, 64 + 119);
        let later = start + Duration::from_secs(3600);
        for _ in 0..64 {
            assert!(births.is_allowed(later));
            births.count();
        }
        assert!(!births.is_allowed(later), "what was not used does not pile up");
    }
}
