//! Start times that no two profiles of one resource share.
//!
//! Pyroscope keeps one of several profiles with equal labels and an equal millisecond. Parts of one split profile
//! begin at the same time, and a stepped clock may bring a time back, so each start is moved to a free millisecond.
//!
//! **Limits**: the last [`REMEMBERED`] starts are remembered; older ones may be given again.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

/// How many (resource, millisecond) pairs are remembered.
pub(crate) const REMEMBERED: usize = 16_384;

const MILLISECOND_NS: u64 = 1_000_000;

/// The millisecond starts that were given lately.
#[derive(Debug, Default)]
pub(crate) struct Starts {
    given: FxHashSet<(u64, u64)>,
    order: VecDeque<(u64, u64)>,
}

impl Starts {
    /// The first start that is free for `resource`: `unix_ns` itself, or a later millisecond's (`earlier`: an earlier
    /// one's).
    pub(crate) fn take(&mut self, resource: u64, unix_ns: u64, earlier: bool) -> u64 {
        let mut start = unix_ns;
        // As many steps as there are remembered pairs find a free millisecond.
        for _ in 0..=REMEMBERED {
            if !self.given.contains(&(resource, start / MILLISECOND_NS)) {
                break;
            }
            start = if earlier { start.saturating_sub(MILLISECOND_NS) } else { start.saturating_add(MILLISECOND_NS) };
        }
        let pair = (resource, start / MILLISECOND_NS);
        if self.given.insert(pair) {
            self.order.push_back(pair);
        }
        while self.order.len() > REMEMBERED {
            if let Some(old) = self.order.pop_front() {
                self.given.remove(&old);
            }
        }
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_millisecond_is_given_twice() {
        let mut s = Starts::default();
        assert_eq!(s.take(1, 5_300_000, false), 5_300_000);
        assert_eq!(s.take(1, 5_900_000, false), 6_900_000, "the same millisecond");
        assert_eq!(s.take(2, 5_300_000, false), 5_300_000, "another resource");
        assert_eq!(s.take(1, 5_300_000, true), 4_300_000);
        assert_eq!(s.take(1, 5_000_000, false), 7_000_000, "after a step of the clock");
    }

    #[test]
    fn memory_is_bounded() {
        let mut s = Starts::default();
        for i in 0..3 * REMEMBERED as u64 {
            s.take(i % 7, i * 250_000, false);
        }
        assert_eq!(s.order.len(), REMEMBERED);
        assert_eq!(s.given.len(), REMEMBERED);
    }
}
