//! Which containers are not known yet, and when to ask for them again.
//!
//! A container is seen before its runtime or the kubelet tells of it, so one question is rarely enough; and who will never be
//! known must not be asked for for ever. **In**: places, the time. **Out**: which are due, and when. No I/O, no clock of its
//! own. **Limits**: [`MAX_WANTED`], [`MAX_GIVEN_UP`], [`TRIES`] questions; who finds no room is counted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profile::Place;
use rustc_hash::FxHashMap;

/// The most containers that are asked for at a time.
const MAX_WANTED: usize = 4096;
/// The most containers that are remembered as known to nobody.
const MAX_GIVEN_UP: usize = 4096;
/// How long a new container waits for others: they come in groups.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Questions before a container is given up: the last is asked half a minute after it was seen.
const TRIES: u32 = 6;
/// How long nobody asks again for a container that was given up.
const REST: Duration = Duration::from_secs(60);

/// A container that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub(crate) place: Place,
    /// A process in it; 0 where none is known.
    pub(crate) tgid: u32,
    /// When it was seen.
    pub(crate) since: Instant,
    due: Instant,
    tries: u32,
}

impl Wanted {
    /// Its time has come.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.due <= now
    }
}

/// All that are asked for.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    wanted: FxHashMap<Arc<str>, Wanted>,
    given_up: FxHashMap<Arc<str>, Instant>,
    /// The same, the oldest first.
    order: VecDeque<Arc<str>>,
    refused: u64,
    unknown: u64,
}

/// What a place is asked for by: its container's id, else its cgroup.
pub(crate) fn key(place: &Place) -> Arc<str> {
    place.container.as_ref().map_or_else(|| Arc::clone(&place.cgroup), |c| Arc::clone(&c.id))
}

impl Asking {
    /// Asks for a container. Whether it is new.
    pub(crate) fn want(&mut self, place: &Place, tgid: u32, now: Instant) -> bool {
        let key = key(place);
        if let Some(wanted) = self.wanted.get_mut(&key) {
            if wanted.tgid == 0 {
                wanted.tgid = tgid;
            }
            return false;
        }
        if self.given_up.get(&key).is_some_and(|at| now.saturating_duration_since(*at) < REST) {
            return false;
        }
        if self.wanted.len() >= MAX_WANTED {
            self.refused += 1;
            return false;
        }
        self.wanted.insert(key, Wanted { place: place.clone(), tgid, since: now, due: now + DEBOUNCE, tries: 0 });
        true
    }

    /// When the next is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.wanted.values().map(|w| w.due).min()
    }

    /// Those that are due.
    pub(crate) fn due(&self, now: Instant) -> Vec<Wanted> {
        self.wanted.values().filter(|w| w.is_due(now)).cloned().collect()
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Wanted> {
        self.wanted.values().cloned().collect()
    }

    /// It is known now.
    pub(crate) fn found(&mut self, place: &Place) {
        self.wanted.remove(&key(place));
    }

    /// Who was asked answered, and did not know it.
    pub(crate) fn missed(&mut self, place: &Place, now: Instant) {
        let key = key(place);
        let Some(wanted) = self.wanted.get_mut(&key) else { return };
        wanted.tries += 1;
        if wanted.tries < TRIES {
            wanted.due = now + Duration::from_secs(1 << (wanted.tries - 1));
            return;
        }
        self.wanted.remove(&key);
        self.give_up(key, now);
    }

    /// Who was asked did not answer: later, without end, as long as there is room.
    pub(crate) fn postponed(&mut self, place: &Place, until: Instant) {
        if let Some(wanted) = self.wanted.get_mut(&key(place)) {
            wanted.due = wanted.due.max(until);
        }
    }

    /// Distinct containers that nobody knew.
    pub(crate) fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Containers that were not asked for, for want of room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn give_up(&mut self, key: Arc<str>, now: Instant) {
        if let Some(at) = self.given_up.get_mut(&key) {
            *at = now;
            return;
        }
        self.unknown += 1;
        if self.order.len() >= MAX_GIVEN_UP
            && let Some(oldest) = self.order.pop_front()
        {
            self.given_up.remove(&oldest);
        }
        self.order.push_back(Arc::clone(&key));
        self.given_up.insert(key, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place { cgroup: path.into(), ..Place::default() }
    }

    #[test]
    fn asked_again_at_growing_intervals_then_given_up() {
        let start = Instant::now();
        let mut asking = Asking::default();
        assert!(asking.want(&place("/a"), 0, start) && !asking.want(&place("/a"), 7, start));
        assert!(asking.due(start).is_empty());
        let mut now = start;
        let mut waits = Vec::new();
        while let Some(due) = asking.next_due() {
            waits.push((due - now).as_millis());
            now = due;
            assert_eq!(asking.due(now)[0].tgid, 7);
            asking.missed(&place("/a"), now);
        }
        assert_eq!(waits, [200, 1000, 2000, 4000, 8000, 16_000]);
        assert_eq!(asking.unknown(), 1);
        // Not for a while; then again, and it is not counted twice.
        assert!(!asking.want(&place("/a"), 7, now + Duration::from_secs(59)));
        assert!(asking.want(&place("/a"), 7, now + REST));
        for _ in 0..TRIES {
            asking.missed(&place("/a"), now + REST);
        }
        assert_eq!((asking.unknown(), asking.next_due()), (1, None));
    }

    #[test]
    fn nobody_answers_is_no_miss() {
        let start = Instant::now();
        let mut asking = Asking::default();
        asking.want(&place("/a"), 7, start);
        for i in 1..100 {
            asking.postponed(&place("/a"), start + Duration::from_secs(i));
        }
        assert_eq!(asking.next_due(), Some(start + Duration::from_secs(99)));
        asking.found(&place("/a"));
        assert_eq!((asking.next_due(), asking.unknown()), (None, 0));
    }

    #[test]
    fn a_flood_is_bounded() {
        let start = Instant::now();
        let mut asking = Asking::default();
        for i in 0..10_000 {
            asking.want(&place(&format!("/{i}")), 1, start);
        }
        assert_eq!((asking.all().len(), asking.refused()), (MAX_WANTED, 10_000 - MAX_WANTED as u64));
        for i in 0..30_000 {
            asking.give_up(format!("/{i}").into(), start);
        }
        assert_eq!((asking.order.len(), asking.given_up.len(), asking.unknown()), (MAX_GIVEN_UP, MAX_GIVEN_UP, 30_000));
    }
}
