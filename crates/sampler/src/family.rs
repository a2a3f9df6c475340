//! The listed processes, as fork records tell: children to be listed where the kernel side cannot do that itself, and
//! pids that came round and now mean another process.
//!
//! **In**: fork records. **Out**: what to change in the kernel side's list. **Limits**: `MAX_FILTERED_TGIDS`, as there.

use rustc_hash::FxHashSet;
use sampler_abi::MAX_FILTERED_TGIDS;

/// What a fork record means for the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A child of a listed process.
    Add(u32),
    /// A listed pid was given to a process that has nothing to do with it.
    Remove(u32),
}

/// The listed processes.
#[derive(Debug)]
pub(crate) struct Family {
    listed: FxHashSet<u32>,
    children: bool,
}

impl Family {
    /// `children`: those of listed processes are to be listed.
    pub(crate) fn new(listed: FxHashSet<u32>, children: bool) -> Self {
        Self { listed, children }
    }

    /// A process was forked.
    pub(crate) fn forked(&mut self, tgid: u32, parent_tgid: u32) -> Option<Change> {
        if tgid == parent_tgid {
            return None;
        }
        if self.children && self.listed.contains(&parent_tgid) {
            let has_room = self.listed.len() < MAX_FILTERED_TGIDS as usize;
            return (has_room && self.listed.insert(tgid)).then_some(Change::Add(tgid));
        }
        self.listed.remove(&tgid).then_some(Change::Remove(tgid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_listed_only_where_that_is_wanted() {
        let mut with = Family::new(FxHashSet::from_iter([10]), true);
        assert_eq!(with.forked(11, 10), Some(Change::Add(11)));
        assert_eq!(with.forked(12, 11), Some(Change::Add(12)), "a child's child");
        assert_eq!(with.forked(13, 1), None);
        assert_eq!(with.forked(10, 10), None, "a thread");
        let mut without = Family::new(FxHashSet::from_iter([10]), false);
        assert_eq!(without.forked(11, 10), None);
    }

    #[test]
    fn a_pid_that_comes_round_is_not_the_listed_process() {
        for children in [false, true] {
            let mut family = Family::new(FxHashSet::from_iter([10]), children);
            assert_eq!(family.forked(10, 1), Some(Change::Remove(10)));
            assert_eq!(family.forked(11, 10), None);
            assert_eq!(family.forked(10, 1), None, "once");
        }
    }

    #[test]
    fn the_list_is_bounded() {
        let mut family = Family::new(FxHashSet::from_iter([1]), true);
        let added = (2..MAX_FILTERED_TGIDS + 100).filter(|&tgid| family.forked(tgid, 1).is_some()).count();
        assert_eq!(added, MAX_FILTERED_TGIDS as usize - 1);
    }
}
