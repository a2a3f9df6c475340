//! Who is published, and with what: processes share sets of mappings, sets share files.
//!
//! **In**: [`News`](super::News), files that were opened, tables. **Out**: calls of [`Kernel`], in an order in which no walk ever
//! reads what is being written. **Limits**: as many processes as the kernel side holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use profile::{ObjectId, ObjectInfo};
use rustc_hash::{FxHashMap, FxHashSet};
use sampler_abi::ProcessEntry;
use unwind_table::{Arena, SHARD_BYTES};

use super::desk::{Mapped, Why};
use super::files::{File, Object, Progress};
use super::queue::Queue;
use super::sets::Set;
use super::shared::Shared;
use super::{Kernel, TablesCounted};
use crate::kernel::KernelError;
use crate::process::MapFile;

/// A published process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) started_by_mono_ns: u64,
    /// Its set of mappings.
    pub(super) serial: u64,
}

/// All that the thread knows.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) arena: Arena,
    /// Whose tables are in the arena.
    pub(super) shared: Shared,
    /// Those that are published: all that the kernel side holds, but for some that executed a program a moment ago.
    pub(super) processes: FxHashMap<u32, Process>,
    pub(super) sets: FxHashMap<u64, Set>,
    /// Files that sets map, by their names.
    pub(super) files: FxHashMap<Arc<MapFile>, File>,
    pub(super) objects: FxHashMap<ObjectId, Object>,
    pub(super) queue: Queue,
    /// Sets whose files are not what they were when the set was written.
    pub(super) stale: BTreeSet<u64>,
    /// Grows with each wait for walks: what was retired with a smaller number is read by nobody then.
    pub(super) epoch: u64,
    pub(super) evicted: u64,
    pub(super) refused_files: u64,
    pub(super) taken_off: u64,
    pub(super) refused_processes: u64,
    /// Those that found no room in this window: their samples do not have it looked for again and again.
    pub(super) refused: FxHashSet<u32>,
    /// Windows that were closed.
    pub(super) windows: u32,
    /// Said once.
    has_failed: bool,
}

impl State {
    /// Nothing is published.
    pub(crate) fn new() -> Self {
        Self {
            arena: Arena::new(0),
            shared: Shared::default(),
            processes: FxHashMap::default(),
            sets: FxHashMap::default(),
            files: FxHashMap::default(),
            objects: FxHashMap::default(),
            queue: Queue::default(),
            stale: BTreeSet::new(),
            epoch: 1,
            evicted: 0,
            refused_files: 0,
            taken_off: 0,
            refused_processes: 0,
            refused: FxHashSet::default(),
            windows: 0,
            has_failed: false,
        }
    }

    /// Which of a process's files are to be looked up before [`State::mapped`]: places in its list of mappings, one for each file.
    pub(crate) fn unlooked(&self, news: &Mapped) -> Vec<usize> {
        if self.is_of_no_concern(news) {
            return Vec::new();
        }
        let mut seen = FxHashSet::default();
        let list = news.maps.list().iter().enumerate();
        list.filter(|(_, mapping)| super::sets::has_file(mapping))
            // A program that begins may map what was changed since others mapped it.
            .filter(|(_, m)| news.why == Why::Executed || !self.files.get(&m.file).is_some_and(File::is_known))
            .filter(|(_, mapping)| seen.insert(Arc::as_ptr(&mapping.file)))
            .map(|(index, _)| index)
            .collect()
    }

    /// A process runs with these mappings. `known`: files among them that were looked up.
    pub(crate) fn mapped(
        &mut self,
        news: &Mapped,
        known: &[(Arc<MapFile>, Arc<ObjectInfo>)],
        kernel: &mut impl Kernel,
    ) {
        if self.is_of_no_concern(news) {
            return;
        }
        let (tgid, serial) = (news.tgid, news.maps.serial());
        let before = self.processes.get(&tgid).map(|process| process.serial);
        let is_published = before.is_some() && self.is_published(tgid, kernel);
        let is_as_known =
            |known: &Process| known.serial == serial && known.started_by_mono_ns >= news.started_by_mono_ns;
        if is_published && self.processes.get(&tgid).is_some_and(is_as_known) {
            return;
        }
        if before.is_some() && !is_published {
            // It has executed another program, and news of that are under way, or these.
            self.forget(tgid);
            if news.why == Why::Changed {
                return;
            }
        }
        if news.maps.list().is_empty() {
            return self.gone(tgid, kernel);
        }
        self.enter_set(&news.maps);
        for (file, info) in known {
            self.resolve(file, info);
        }
        let is_placed = self.is_placed(serial) || self.write_set(serial, true, kernel);
        if !is_placed || !self.publish(tgid, news.started_by_mono_ns, serial, kernel) {
            self.refused_processes += 1;
            self.refused.insert(tgid);
            self.gone(tgid, kernel);
            return self.leave_set_if_unused(serial);
        }
        let process = Process { started_by_mono_ns: news.started_by_mono_ns, serial };
        let old = self.processes.insert(tgid, process).map(|old| old.serial);
        if let Some(set) = self.sets.get_mut(&serial) {
            set.processes.insert(tgid);
        }
        if let Some(old) = old.filter(|&old| old != serial) {
            self.leave_set(old, tgid);
        }
    }

    /// A process has ended.
    pub(crate) fn gone(&mut self, tgid: u32, kernel: &mut impl Kernel) {
        if self.processes.contains_key(&tgid) {
            let result = kernel.withdraw(tgid);
            self.check(result);
            self.forget(tgid);
        }
    }

    /// Only these run.
    pub(crate) fn only_these_run(&mut self, running: &FxHashSet<u32>, kernel: &mut impl Kernel) {
        let ended: Vec<u32> = self.processes.keys().copied().filter(|tgid| !running.contains(tgid)).collect();
        for tgid in ended {
            self.gone(tgid, kernel);
        }
    }

    /// Publishes a process, or again. False where it is not published now.
    pub(super) fn publish(
        &mut self,
        tgid: u32,
        started_by_mono_ns: u64,
        serial: u64,
        kernel: &mut impl Kernel,
    ) -> bool {
        let Some((place, count)) = self.sets.get(&serial).and_then(|set| set.placed) else { return false };
        let entry = ProcessEntry {
            leader_start_mono_ns: started_by_mono_ns.max(1),
            serial,
            mappings: place.0,
            mapping_count: count,
        };
        let result = kernel.publish(tgid, &entry);
        self.check(result).unwrap_or(false)
    }

    /// Whether a process is in the kernel side's hands.
    pub(super) fn is_published(&mut self, tgid: u32, kernel: &impl Kernel) -> bool {
        let result = kernel.is_published(tgid);
        self.check(result).unwrap_or(false)
    }

    /// A process that is not published any more.
    pub(super) fn forget(&mut self, tgid: u32) {
        if let Some(process) = self.processes.remove(&tgid) {
            self.leave_set(process.serial, tgid);
        }
    }

    /// Whether news change nothing.
    fn is_of_no_concern(&self, news: &Mapped) -> bool {
        match news.why {
            Why::Changed => !self.processes.contains_key(&news.tgid),
            Why::Sampled => self.refused.contains(&news.tgid),
            Why::Executed => false,
        }
    }

    /// An error of the kernel side is said once; what it was about stays unpublished.
    pub(super) fn check<T>(&mut self, result: Result<T, KernelError>) -> Option<T> {
        result
            .inspect_err(|error| {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::warn!(%error, "the kernel refuses unwind tables: samples carry pieces of stacks instead");
                }
            })
            .ok()
    }

    /// Whether there is something to do without news.
    pub(crate) fn has_work(&self) -> bool {
        self.queue.len() > 0 || !self.stale.is_empty()
    }

    /// Publishes the numbers.
    pub(crate) fn count(&self, kernel: &impl Kernel, counted: &TablesCounted) {
        let store = |counter: &std::sync::atomic::AtomicU64, value: u64| counter.store(value, Ordering::Relaxed);
        let arena = self.arena.stats();
        let loaded = self.objects.values().filter(|object| object.progress == Progress::Loaded);
        store(&counted.files_loaded, loaded.count() as u64);
        store(&counted.files_pending, self.queue.len() as u64);
        store(&counted.files_evicted, self.evicted);
        store(&counted.files_refused, self.refused_files);
        store(&counted.files_taken_off, self.taken_off);
        let without = self.objects.values().filter(|object| object.is_without_table()).count();
        store(&counted.files_without_table, without as u64);
        store(&counted.unsupported_rows, self.shared.unsupported_rows());
        store(&counted.processes_published, self.processes.len() as u64);
        store(&counted.processes_refused, self.refused_processes);
        store(&counted.table_bytes, arena.total_bytes - arena.free_bytes);
        store(&counted.table_limit_bytes, u64::from(kernel.max_shards()) * u64::from(SHARD_BYTES));
        store(&counted.shards, u64::from(self.arena.shards()));
    }
}
