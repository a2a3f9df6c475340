//! What is due in the pipeline, and what was done when.
//!
//! **In**: the times of batches. **Out**: what may be done now. **Units**: monotonic nanoseconds. **Limits**:
//! [`REREADS_PER_SECOND`].

use super::SECOND_NS;

/// Single processes read again in a second at the most: some milliseconds of work.
pub(super) const REREADS_PER_SECOND: u64 = 20;

/// What is due, and what was done when.
#[derive(Debug, Default)]
pub(super) struct Unsettled {
    /// Time of the batch at hand.
    pub(super) now_mono_ns: u64,
    pub(super) lost: bool,
    pub(super) next_rescan_mono_ns: u64,
    pub(super) next_check_mono_ns: u64,
    reread_second: u64,
    rereads_in_second: u64,
}

impl Unsettled {
    /// With the first look for processes that are gone.
    pub(super) fn new(next_check_mono_ns: u64) -> Self {
        Self { next_check_mono_ns, ..Self::default() }
    }

    /// Whether one more reading fits into this second; it is counted.
    pub(super) fn may_reread(&mut self) -> bool {
        let second = self.now_mono_ns / SECOND_NS;
        if second != self.reread_second {
            (self.reread_second, self.rereads_in_second) = (second, 0);
        }
        self.rereads_in_second += 1;
        self.rereads_in_second <= REREADS_PER_SECOND
    }
}

/// Whether so much time has passed since the last time.
pub(super) fn is_due(last: Option<u64>, now: u64, interval: u64) -> bool {
    last.is_none_or(|last| now >= last.saturating_add(interval))
}
