//! How long everything takes.

use std::time::Duration;

/// How long the phases are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// The short form: the figures show that all of it works, and no more.
    pub(crate) quick: bool,
    /// What passes before anything is counted.
    pub(crate) warm_up: Duration,
    /// What is counted.
    pub(crate) measured: Duration,
    /// From a profiler's start to the moment at which its start-up counts as over.
    pub(crate) start_up: Duration,
    /// What passes after a load was started, before its samples are counted.
    pub(crate) settle: Duration,
    /// How long samples of one load are counted at 99 Hz.
    pub(crate) cold: Duration,
    /// The same, at the high rate.
    pub(crate) hot: Duration,
}

impl Plan {
    /// The full form, or the short one.
    pub(crate) fn new(quick: bool) -> Self {
        let seconds = |full: u64, short: u64| Duration::from_secs(if quick { short } else { full });
        Self {
            quick,
            warm_up: seconds(30, 5),
            measured: seconds(60, 15),
            start_up: seconds(10, 6),
            settle: seconds(4, 2),
            cold: seconds(15, 4),
            hot: seconds(5, 2),
        }
    }
}
