//! Which entries there are, and which have to go. No I/O, no clock: time is handed in.
//!
//! **In**: names, sizes, times of use. **Out**: candidates, and what has to be deleted. **Units**: bytes, nanoseconds since the
//! Unix epoch. **Limits**: the bytes handed in, [`MAX_ENTRIES`], [`MAX_CANDIDATES`] of one key and producer: entries of other
//! producers go first, then those used longest ago.

use std::collections::BTreeMap;

use rustc_hash::FxHashSet;

use super::entry::{Name, Producer};
use crate::shared::{Key, MAX_CANDIDATES};

/// Entries in all.
pub(crate) const MAX_ENTRIES: usize = 16 * 1024;

#[derive(Clone, Copy, Debug)]
struct Known {
    bytes: u64,
    used: u64,
}

/// The entries.
#[derive(Debug)]
pub(crate) struct Index {
    entries: BTreeMap<Name, Known>,
    bytes: u64,
    limit: u64,
    producer: Producer,
}

impl Index {
    pub(crate) fn new(limit: u64, producer: Producer) -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, limit, producer }
    }

    /// Bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// An entry is there.
    pub(crate) fn add(&mut self, name: Name, bytes: u64, used: u64) {
        self.remove(&name);
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries.insert(name, Known { bytes, used });
    }

    /// An entry is not there any more.
    pub(crate) fn remove(&mut self, name: &Name) {
        if let Some(known) = self.entries.remove(name) {
            self.bytes = self.bytes.saturating_sub(known.bytes);
        }
    }

    /// An entry was used.
    pub(crate) fn touch(&mut self, name: &Name, used: u64) {
        if let Some(known) = self.entries.get_mut(name) {
            known.used = used;
        }
    }

    pub(crate) fn has(&self, name: &Name) -> bool {
        self.entries.contains_key(name)
    }

    /// Our producer's entries of a key, the last used first.
    pub(crate) fn candidates(&self, key: Key) -> Vec<Name> {
        let first = Name { key, fingerprint: [0; 16], producer: Producer([0; 8]) };
        let of_key = self.entries.range(first..).take_while(|(name, _)| name.key == key);
        let mut found: Vec<_> = of_key.filter(|(name, _)| name.producer == self.producer).collect();
        found.sort_by_key(|(_, known)| std::cmp::Reverse(known.used));
        found.into_iter().map(|(name, _)| *name).take(MAX_CANDIDATES).collect()
    }

    /// The halves of fingerprints that names have, of our producer's entries.
    pub(crate) fn fingerprints(&self) -> FxHashSet<[u8; 16]> {
        self.entries.keys().filter(|name| name.producer == self.producer).map(|name| name.fingerprint).collect()
    }

    /// Our producer's entry with the half of a fingerprint that names have.
    pub(crate) fn of(&self, fingerprint: [u8; 16]) -> Option<Name> {
        let mut names = self.entries.keys();
        names.find(|name| name.fingerprint == fingerprint && name.producer == self.producer).copied()
    }

    /// Entries with the half of a fingerprint that names have.
    pub(crate) fn with_fingerprint(&self, fingerprint: [u8; 16]) -> Vec<Name> {
        self.entries.keys().filter(|name| name.fingerprint == fingerprint).copied().collect()
    }

    /// What has to be deleted before an entry of so many bytes is added. None where it is larger than all may be.
    pub(crate) fn make_room(&self, name: &Name, bytes: u64) -> Option<Vec<Name>> {
        if bytes > self.limit {
            return None;
        }
        let candidates = self.candidates(name.key);
        let crowded = candidates.get(MAX_CANDIDATES - 1..).unwrap_or_default();
        let mut surplus: Vec<Name> = crowded.iter().filter(|old| *old != name).copied().collect();
        let is_full = |entries: usize, held: u64| entries >= MAX_ENTRIES || held.saturating_add(bytes) > self.limit;
        if is_full(self.entries.len(), self.bytes) {
            let mut oldest: Vec<_> = self.entries.iter().collect();
            oldest.sort_by_key(|(name, known)| (name.producer == self.producer, known.used));
            // An eighth more than is needed, so that this is rare.
            let (enough, enough_bytes) = (MAX_ENTRIES - MAX_ENTRIES / 8, self.limit - self.limit / 8);
            let (mut entries, mut held) = (self.entries.len(), self.bytes);
            for (old, known) in oldest {
                if entries <= enough && held.saturating_add(bytes) <= enough_bytes.max(bytes) {
                    break;
                }
                (entries, held) = (entries - 1, held.saturating_sub(known.bytes));
                surplus.push(*old);
            }
        }
        Some(surplus)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OURS: Producer = Producer([1; 8]);

    fn name(key: u8, fingerprint: u8) -> Name {
        Name { key: Key([key; 16]), fingerprint: [fingerprint; 16], producer: OURS }
    }

    #[test]
    fn other_producers_go_first_then_what_was_used_longest_ago() {
        let mut index = Index::new(100, OURS);
        let foreign = Name { producer: Producer([2; 8]), ..name(1, 1) };
        index.add(name(1, 1), 30, 5);
        index.add(name(2, 1), 30, 7);
        index.add(foreign, 30, 100);
        assert_eq!(index.candidates(Key([1; 16])), [name(1, 1)]);
        assert_eq!(index.make_room(&name(3, 1), 10).unwrap(), []);
        assert_eq!(index.make_room(&name(3, 1), 15).unwrap(), [foreign]);
        assert_eq!(index.make_room(&name(3, 1), 40).unwrap(), [foreign, name(1, 1)]);
        index.touch(&name(1, 1), 8);
        assert_eq!(index.make_room(&name(3, 1), 40).unwrap(), [foreign, name(2, 1)]);
        assert_eq!(index.make_room(&name(3, 1), 101), None);
    }

    #[test]
    fn files_that_look_alike_are_few() {
        let mut index = Index::new(1000, OURS);
        for fingerprint in 0..10 {
            for old in index.make_room(&name(1, fingerprint), 1).unwrap() {
                index.remove(&old);
            }
            index.add(name(1, fingerprint), 1, fingerprint.into());
        }
        assert_eq!(index.candidates(Key([1; 16])), [9, 8, 7, 6].map(|fingerprint| name(1, fingerprint)));
        assert_eq!(index.bytes(), 4);
    }

    proptest! {
        #[test]
        fn the_limit_holds(steps in proptest::collection::vec((0_u8..20, 0_u8..3, 1_u64..50), 1..200)) {
            let mut index = Index::new(100, OURS);
            for (now, (key, fingerprint, bytes)) in (0..).zip(steps) {
                let name = name(key, fingerprint);
                for old in index.make_room(&name, bytes).unwrap() {
                    index.remove(&old);
                }
                index.add(name, bytes, now);
                prop_assert!(index.bytes() <= 100);
                prop_assert_eq!(index.bytes(), index.entries.values().map(|known| known.bytes).sum::<u64>());
            }
        }
    }
}
