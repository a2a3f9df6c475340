//! Who is asked, and what becomes of asking.

pub(crate) mod api;
pub(crate) mod cri;
pub(crate) mod kubelet;
pub(crate) mod state;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait, give or take [`JITTER`].
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Parts of a hundred by which a wait may be shorter: the nodes of a cluster must not ask in step.
const JITTER: u64 = 25;

/// Why a source gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{condition}: {why}")]
pub(crate) struct Failure {
    /// What kind of failure: a new one is worth a line in the log, the same again is not.
    pub(crate) condition: &'static str,
    /// The error's own words.
    pub(crate) why: String,
}

impl Failure {
    pub(crate) fn new(condition: &'static str, why: impl fmt::Display) -> Self {
        Self { condition, why: why.to_string() }
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Many libraries repeat the cause in their own words.
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        source = cause.source();
    }
    out
}

/// How a source does: when it may be asked again, what was said about it.
#[derive(Debug)]
pub(crate) struct Health {
    name: &'static str,
    condition: Option<&'static str>,
    wait: Duration,
    not_before: Option<Instant>,
    random: RandomState,
    answers: u64,
    failures: u64,
}

impl Health {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            condition: None,
            wait: Duration::ZERO,
            not_before: None,
            random: RandomState::new(),
            answers: 0,
            failures: 0,
        }
    }

    /// It answered. A source that failed before is worth a line.
    pub(crate) fn answered(&mut self) {
        self.answers += 1;
        if let Some(condition) = self.condition.take() {
            tracing::info!(source = self.name, was = condition, "names of containers are known again");
        }
        self.wait = Duration::ZERO;
        self.not_before = None;
    }

    /// It did not. Only a new kind of failure is worth a line.
    pub(crate) fn failed(&mut self, failure: &Failure, now: Instant) {
        self.failures += 1;
        if self.condition != Some(failure.condition) {
            self.condition = Some(failure.condition);
            tracing::warn!(
                source = self.name,
                condition = failure.condition,
                why = failure.why,
                "cannot ask for the names of containers"
            );
        }
        self.wait = (self.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
        let less = self.random.hash_one(self.failures) % JITTER;
        self.not_before = Some(now + self.wait - self.wait * u32::try_from(less).unwrap_or_default() / 100);
    }

    /// Whether it may be asked.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|at| at <= now)
    }

    /// When it may be asked again, after a failure.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute() {
        let now = Instant::now();
        let mut health = Health::new("test");
        assert!(health.may_ask(now));
        let mut waits = Vec::new();
        for _ in 0..8 {
            health.failed(&Failure::new("timeout", "slow"), now);
            assert!(!health.may_ask(now));
            waits.push(health.not_before().unwrap() - now);
        }
        for (wait, longest) in waits.iter().zip([1, 2, 4, 8, 16, 30, 30, 30].map(Duration::from_secs)) {
            assert!(*wait <= longest && *wait >= longest * 3 / 4, "{wait:?} {longest:?}");
        }
        health.answered();
        assert!(health.may_ask(now));
        health.failed(&Failure::new("timeout", "slow"), now);
        assert!(health.not_before().unwrap() - now <= Duration::from_secs(1));
    }
}
