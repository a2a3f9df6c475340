//! Who has cost a worker, or held it up, and is left alone for a while. No I/O, no clock: time is handed in.
//!
//! **In**: keys (of processes, of devices). **Out**: whether one is left alone. **Units**: time since the room was
//! opened. **Limits**: [`MAX_OFFENDERS`]; past that, all are forgiven. A rest doubles from [`FIRST_REST`] to
//! [`LONGEST_REST`].

use std::hash::Hash;
use std::time::Duration;

use rustc_hash::FxHashMap;

/// Offenders remembered.
const MAX_OFFENDERS: usize = 1024;
/// How long one is left alone, at first.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// Offenders of one kind.
#[derive(Debug)]
pub(crate) struct Offenders<K> {
    /// Offences until one is left alone for the first time.
    tolerated: u32,
    /// How many offences, and until when it is left alone.
    known: FxHashMap<K, (u32, Duration)>,
}

impl<K: Eq + Hash> Offenders<K> {
    pub(crate) fn new(tolerated: u32) -> Self {
        Self { tolerated, known: FxHashMap::default() }
    }

    /// Whether nobody is known at all: the usual case, and cheap to tell.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(crate) fn is_left_alone(&self, key: &K, now: Duration) -> bool {
        self.known.get(key).is_some_and(|(_, until)| now < *until)
    }

    /// One more offence.
    pub(crate) fn blame(&mut self, key: K, now: Duration) {
        if self.known.len() >= MAX_OFFENDERS {
            self.known.clear();
        }
        let (offences, until) = self.known.entry(key).or_default();
        *offences = offences.saturating_add(1);
        if let Some(again) = offences.checked_sub(self.tolerated) {
            *until = now + (FIRST_REST * 2_u32.saturating_pow(again.min(10))).min(LONGEST_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_get_longer() {
        let mut offenders = Offenders::new(2);
        let mut now = Duration::ZERO;
        offenders.blame("a", now);
        assert!(!offenders.is_left_alone(&"a", now));
        for rest in [60, 120, 240, 480, 960, 1920, 3600, 3600] {
            offenders.blame("a", now);
            assert!(offenders.is_left_alone(&"a", now + Duration::from_secs(rest - 1)));
            assert!(!offenders.is_left_alone(&"b", now));
            now += Duration::from_secs(rest);
            assert!(!offenders.is_left_alone(&"a", now));
        }
    }

    #[test]
    fn their_number_is_bounded() {
        let mut offenders = Offenders::new(1);
        for key in 0..5000 {
            offenders.blame(key, Duration::ZERO);
            assert!(offenders.is_left_alone(&key, Duration::ZERO));
            assert!(offenders.known.len() <= MAX_OFFENDERS);
        }
    }
}
