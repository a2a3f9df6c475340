//! The mappings that walks may have used: what was published last of each process, and what was replaced a while ago.
//!
//! **In**: each set that is handed on to be published. **Units**: monotonic nanoseconds. **Limits**: of what was replaced
//! [`MAX_OLD`] sets, for [`OLD_NS`]: a walk with one that is older, or that had no room, is not believed but for its leaf.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::process::MapSet;

/// Sets kept that were replaced: each costs what the process's mappings cost, one or two kilobytes mostly.
pub(super) const MAX_OLD: usize = 512;
/// How long: the new ones are published within a tenth of a second, but a machine may be busy.
const OLD_NS: u64 = 10_000_000_000;

/// Sets of mappings by process.
#[derive(Debug, Default)]
pub(crate) struct Published {
    last: FxHashMap<u32, Arc<MapSet>>,
    /// When they were replaced, and whose they were; the oldest first.
    old: VecDeque<(u64, u32, Arc<MapSet>)>,
}

impl Published {
    /// A process's mappings are handed on.
    pub(crate) fn handed_on(&mut self, tgid: u32, maps: &Arc<MapSet>, now_mono_ns: u64) {
        let before = self.last.insert(tgid, Arc::clone(maps));
        if let Some(before) = before.filter(|before| before.serial() != maps.serial()) {
            self.replaced(tgid, before, now_mono_ns);
        }
    }

    /// A process has ended or executed. Its samples are on their way still.
    pub(crate) fn withdrawn(&mut self, tgid: u32, now_mono_ns: u64) {
        if let Some(before) = self.last.remove(&tgid) {
            self.replaced(tgid, before, now_mono_ns);
        }
    }

    fn replaced(&mut self, tgid: u32, before: Arc<MapSet>, now_mono_ns: u64) {
        if self.old.len() >= MAX_OLD {
            self.old.pop_front();
        }
        self.old.push_back((now_mono_ns, tgid, before));
    }

    /// Lets go what no walk can have used any more.
    pub(crate) fn expire(&mut self, now_mono_ns: u64) {
        while self.old.pop_front_if(|(at, ..)| at.saturating_add(OLD_NS) < now_mono_ns).is_some() {}
    }

    /// The set of a process that has this serial.
    pub(super) fn find(&self, tgid: u32, serial: u64) -> Option<&MapSet> {
        let last = self.last.get(&tgid).filter(|maps| maps.serial() == serial);
        let old = || self.old.iter().rev().find(|(_, whose, maps)| *whose == tgid && maps.serial() == serial);
        last.or_else(|| old().map(|(.., maps)| maps)).map(|maps| &**maps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::MapBudget;

    fn set(budget: &Arc<MapBudget>) -> Arc<MapSet> {
        Arc::new(MapSet::new(budget))
    }

    #[test]
    fn what_was_replaced_is_found_for_a_while() {
        let budget = Arc::new(MapBudget::default());
        let mut published = Published::default();
        let (first, second) = (set(&budget), set(&budget));
        published.handed_on(7, &first, 10);
        published.handed_on(7, &first, 20);
        published.handed_on(7, &second, 30);
        let has = |published: &Published, tgid, set: &MapSet| published.find(tgid, set.serial()).is_some();
        assert!(has(&published, 7, &first) && has(&published, 7, &second) && !has(&published, 8, &first));
        published.expire(30 + OLD_NS);
        assert!(has(&published, 7, &first));
        published.expire(31 + OLD_NS);
        assert!(!has(&published, 7, &first) && has(&published, 7, &second));
        published.withdrawn(7, 40 + OLD_NS);
        assert!(has(&published, 7, &second), "samples from before its end");
        published.expire(41 + 2 * OLD_NS);
        assert!(!has(&published, 7, &second));
    }

    #[test]
    fn old_sets_are_bounded() {
        let budget = Arc::new(MapBudget::default());
        let mut published = Published::default();
        let sets: Vec<_> = (0..MAX_OLD + 10).map(|_| set(&budget)).collect();
        for maps in &sets {
            published.handed_on(7, maps, 1);
        }
        assert_eq!(published.old.len(), MAX_OLD);
        assert!(published.find(7, sets[0].serial()).is_none() && published.find(7, sets[100].serial()).is_some());
    }
}
