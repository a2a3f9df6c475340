//! Files: what is known of them by name, and the objects that they turn out to be.
//!
//! A name is what mappings say (device, inode, path); an object is a file's content, which several names may have, and which a
//! name may lose to another when the file is written. **Limits**: names and objects of sets that are here, and objects whose
//! tables are loaded; those that nobody used for [`IDLE_WINDOWS`] go.

use std::sync::Arc;

use profile::{ObjectId, ObjectInfo};
use rustc_hash::{FxHashMap, FxHashSet};
use unwind_table::Placed;

use super::State;
use super::queue::{Job, Work};
use super::sets::Use;
use crate::process::MapFile;

/// Heat of one sample.
pub(super) const SAMPLE_HEAT: u64 = 256;
/// A file that could not be opened so many times counts as one without a table.
const MAX_FAILURES: u32 = 3;
/// Windows after which a table goes that no process uses.
const IDLE_WINDOWS: u32 = 12;
/// Windows after which files are tried once more that could not be opened, or whose table could not be had.
const RETRY_WINDOWS: u32 = 12;

/// A name.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) object: Option<ObjectId>,
    /// The sets that map it.
    pub(super) sets: FxHashSet<u64>,
    pub(super) heat: u64,
    pub(super) is_queued: bool,
    failures: u32,
}

impl File {
    pub(super) fn is_known(&self) -> bool {
        self.object.is_some()
    }

    pub(super) fn is_unreadable(&self) -> bool {
        self.failures >= MAX_FAILURES
    }
}

/// How far an object has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nobody has needed its table yet, or it left for others.
    Unloaded,
    Loaded,
    /// It has none, or none was to be had.
    WithoutTable,
    /// There was no room for it, when it was this hot.
    Refused(u64),
    /// Its table is not to be used.
    TakenOff,
}

/// A file's content.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) info: Arc<ObjectInfo>,
    pub(super) names: FxHashSet<Arc<MapFile>>,
    pub(super) progress: Progress,
    /// The arena's key of its table, where that is loaded.
    pub(super) table: Option<u64>,
    pub(super) heat: u64,
    pub(super) is_queued: bool,
    idle_windows: u32,
}

impl Object {
    pub(super) fn can_be_loaded(&self) -> bool {
        matches!(self.progress, Progress::Unloaded | Progress::Refused(_) | Progress::WithoutTable)
    }

    pub(super) fn is_without_table(&self) -> bool {
        self.progress == Progress::WithoutTable
    }
}

/// What is written of a mapping.
pub(super) enum Table {
    At(Use, Placed, u64),
    Pending,
    None,
}

impl State {
    /// The stacks of so many samples led through a file, and had no table of it.
    pub(crate) fn wanted(&mut self, name: &Arc<MapFile>, samples: u64) {
        self.heat(name, samples.saturating_mul(SAMPLE_HEAT));
    }

    /// A file is hotter than it was, and worth work if it is not loaded.
    pub(super) fn heat(&mut self, name: &Arc<MapFile>, heat: u64) {
        let Some(file) = self.files.get_mut(name) else { return };
        file.heat = file.heat.saturating_add(heat);
        match file.object {
            Some(id) => {
                if let Some(object) = self.objects.get_mut(&id) {
                    object.heat = object.heat.saturating_add(heat);
                }
                self.want(id);
            }
            None if !file.is_queued && !file.is_unreadable() => {
                file.is_queued = true;
                self.queue.push(Job::Open(Arc::clone(name)));
            }
            None => (),
        }
    }

    /// Queues an object's table, if that is of use.
    fn want(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let is_of_use = match object.progress {
            Progress::Unloaded => true,
            // Fetching it costs something each time.
            Progress::Refused(heat) => object.heat / 2 > heat,
            Progress::Loaded | Progress::WithoutTable | Progress::TakenOff => false,
        };
        if is_of_use && !object.is_queued {
            object.is_queued = true;
            self.queue.push(Job::Load(id));
        }
    }

    /// What is worth doing next: the hottest.
    pub(crate) fn next_work(&mut self) -> Option<Work> {
        loop {
            let (files, objects) = (&self.files, &self.objects);
            let heat = |job: &Job| match job {
                Job::Open(name) => files.get(name).map_or(0, |file| file.heat),
                Job::Load(id) => objects.get(id).map_or(0, |object| object.heat),
            };
            match self.queue.pop(heat)? {
                Job::Load(id) => {
                    if let Some(object) = self.objects.get_mut(&id) {
                        if object.can_be_loaded() {
                            return Some(Work::Load { object: id });
                        }
                        object.is_queued = false;
                    }
                }
                Job::Open(name) => {
                    if let Some(work) = self.opening(&name) {
                        return Some(work);
                    }
                    if let Some(file) = self.files.get_mut(&name) {
                        file.is_queued = false;
                    }
                }
            }
        }
    }

    /// Through which process a file can be had.
    fn opening(&self, file: &Arc<MapFile>) -> Option<Work> {
        self.files.get(file)?.sets.iter().find_map(|serial| {
            let set = self.sets.get(serial)?;
            let mapping = set.maps.list().iter().find(|mapping| mapping.file == *file)?;
            let tgid = *set.processes.iter().next()?;
            Some(Work::Open { range: mapping.start..mapping.end, tgid, file: Arc::clone(file) })
        })
    }

    /// A file was opened.
    pub(crate) fn opened(&mut self, name: &Arc<MapFile>, info: &Arc<ObjectInfo>) {
        let Some(file) = self.files.get_mut(name) else { return };
        file.is_queued = false;
        if info.readable {
            self.resolve(name, info);
            if let Some(id) = self.files.get(name).and_then(|file| file.object) {
                self.want(id);
            }
            return;
        }
        file.failures = file.failures.saturating_add(1);
        if file.is_unreadable() {
            let sets: Vec<u64> = file.sets.iter().copied().collect();
            self.outdate(sets);
        }
    }

    /// A name stands for this object now.
    pub(super) fn resolve(&mut self, name: &Arc<MapFile>, info: &Arc<ObjectInfo>) {
        let Some(file) = self.files.get_mut(name) else { return };
        if file.object == Some(info.id) || !info.readable {
            return;
        }
        let (sets, heat): (Vec<u64>, u64) = (file.sets.iter().copied().collect(), file.heat);
        if let Some(before) = file.object.replace(info.id) {
            self.leave_object(before, name);
        }
        let object = self.objects.entry(info.id).or_insert_with(|| Object {
            info: Arc::clone(info),
            names: FxHashSet::default(),
            progress: Progress::Unloaded,
            table: None,
            heat: 0,
            is_queued: false,
            idle_windows: 0,
        });
        object.names.insert(Arc::clone(name));
        object.heat = object.heat.max(heat);
        object.idle_windows = 0;
        let written = sets.into_iter().filter(|serial| self.sets.get(serial).is_some_and(|set| set.placed.is_some()));
        let written: Vec<u64> = written.collect();
        self.outdate(written);
    }

    /// A set does not map a file any more.
    pub(super) fn leave_file(&mut self, name: &Arc<MapFile>, serial: u64) {
        let Some(file) = self.files.get_mut(name) else { return };
        file.sets.remove(&serial);
        if file.sets.is_empty()
            && let Some(File { object: Some(id), .. }) = self.files.remove(name)
        {
            self.leave_object(id, name);
        }
    }

    /// An object has lost a name. Where its table is loaded it stays for a while: the same program may run again soon.
    fn leave_object(&mut self, id: ObjectId, name: &Arc<MapFile>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        object.names.remove(name);
        if object.names.is_empty() && !matches!(object.progress, Progress::Loaded | Progress::TakenOff) {
            self.objects.remove(&id);
        }
    }

    /// Windows were closed, with so many samples of each object.
    pub(crate) fn windows(&mut self, count: u32, samples: &FxHashMap<ObjectId, u64>) {
        let mut idle = Vec::new();
        let mut heats: FxHashMap<u64, u64> = FxHashMap::default();
        for (id, object) in &mut self.objects {
            let new = samples.get(id).copied().unwrap_or(0).saturating_mul(SAMPLE_HEAT);
            object.heat = (object.heat >> count.min(63)).saturating_add(new);
            if let Some(key) = object.table {
                let heat = heats.entry(key).or_default();
                *heat = heat.saturating_add(object.heat);
            }
            object.idle_windows = if object.names.is_empty() { object.idle_windows.saturating_add(count) } else { 0 };
            if object.idle_windows >= IDLE_WINDOWS && object.progress == Progress::Loaded {
                idle.push(*id);
            }
        }
        for (key, heat) in heats {
            self.arena.set_heat(key, heat);
        }
        for file in self.files.values_mut() {
            file.heat >>= count.min(63);
        }
        for id in idle {
            self.unload(id);
            self.evicted += 1;
            self.objects.remove(&id);
        }
        self.refused.clear();
        self.windows = self.windows.saturating_add(count);
        if self.windows >= RETRY_WINDOWS {
            self.windows = 0;
            self.try_again();
        }
    }

    /// Queues what failed: the worker that reads files may have been gone just then.
    fn try_again(&mut self) {
        for (name, file) in &mut self.files {
            if file.is_unreadable() && !file.is_queued {
                file.is_queued = true;
                self.queue.push(Job::Open(Arc::clone(name)));
            }
        }
        for (id, object) in &mut self.objects {
            if object.is_without_table() && !object.is_queued {
                object.is_queued = true;
                self.queue.push(Job::Load(*id));
            }
        }
    }
}
