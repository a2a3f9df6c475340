//! Which processes are not what they were, for those who hold something of them.
//!
//! **Out**: each of them once, as it is by then. **Limits**: as many as the table holds; nothing is noted where nobody asks.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Process, ProcessTable};

/// What has become of a process.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// None of this tgid runs.
    Ended,
    /// It runs, and its mappings may have changed.
    Mapped {
        /// It.
        process: &'a Process,
        /// Whether it began a program.
        executed: bool,
    },
}

/// The tgids that have changed, and whether they began a program.
#[derive(Debug, Default)]
pub(super) struct Changes {
    is_noting: bool,
    changed: FxHashMap<u32, bool>,
}

impl Changes {
    pub(super) fn executed(&mut self, tgid: u32) {
        if self.is_noting {
            self.changed.insert(tgid, true);
        }
    }

    /// Its mappings changed, or it ended.
    pub(super) fn other(&mut self, tgid: u32) {
        if self.is_noting {
            self.changed.entry(tgid).or_default();
        }
    }
}

impl ProcessTable {
    /// Whether changes are noted: somebody will take them.
    pub(crate) fn note_changes(&mut self, is_noting: bool) {
        self.changes.is_noting = is_noting;
    }

    /// Hands out what has changed since the last time.
    pub(crate) fn take_changes(&mut self, mut each: impl FnMut(u32, Change<'_>)) {
        for (tgid, executed) in std::mem::take(&mut self.changes.changed) {
            self.adopt_preview(tgid);
            let newest = self.chains.get(&tgid).and_then(|chain| chain.last());
            match newest.filter(|process| process.is_running()) {
                Some(process) => each(tgid, Change::Mapped { process, executed }),
                None => each(tgid, Change::Ended),
            }
        }
    }

    /// The tgids of all that run.
    pub(crate) fn running_tgids(&self) -> FxHashSet<u32> {
        let runs = |chain: &Vec<Process>| chain.last().is_some_and(Process::is_running);
        self.chains.iter().filter(|(_, chain)| runs(chain)).map(|(&tgid, _)| tgid).collect()
    }
}
