//! What the unwinding thread tells the thread of tables, gathered until the end of a batch: of each process only the latest.
//!
//! **In**: what happened to processes, files that samples needed, windows. **Out**: [`News`], into a bounded channel. While that
//! is full news wait here, and newer ones of the same process take their place. **Limits**: [`MAX_NEWS`] processes,
//! [`MAX_WANTED`] files; past them news are dropped and counted, and the thread of tables is told who still runs. A process whose
//! news were dropped is told of again with its next sample.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError};

use profile::{Frame, ObjectId, Window};
use rustc_hash::{FxHashMap, FxHashSet};

use super::TablesCounted;
use crate::process::{MapFile, MapSet, Preview, Process};

/// Processes of which news wait at the most.
pub(super) const MAX_NEWS: usize = 64 * 1024;
/// Files wanted by samples that wait at the most.
const MAX_WANTED: usize = 4096;

/// Why a process is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// Its mappings changed: matters only where it is published.
    Changed,
    /// A sample of it shows that it runs, and is not walked with these mappings.
    Sampled,
    /// It executed a program.
    Executed,
}

/// A process and its mappings.
#[derive(Clone, Debug)]
pub(crate) struct Mapped {
    pub(crate) tgid: u32,
    /// The latest time at which its leader can have started.
    pub(crate) started_by_mono_ns: u64,
    pub(crate) maps: Arc<MapSet>,
    /// The file that it runs.
    pub(crate) executable: Option<Arc<MapFile>>,
    pub(crate) why: Why,
}

impl Mapped {
    /// A process as it is now.
    pub(crate) fn of(process: &Process, why: Why) -> Self {
        Self {
            tgid: process.tgid,
            started_by_mono_ns: process.start.latest_mono_ns(),
            maps: Arc::clone(&process.maps),
            executable: process.executable.clone(),
            why,
        }
    }

    /// A process as it will be, which begins a program.
    pub(crate) fn ahead(preview: &Preview) -> Self {
        Self {
            tgid: preview.tgid,
            started_by_mono_ns: preview.started_by_mono_ns,
            maps: Arc::clone(&preview.maps),
            executable: preview.executable.clone(),
            why: Why::Executed,
        }
    }
}

/// What happened since the last time.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Processes that run; none: it has ended.
    pub(crate) processes: FxHashMap<u32, Option<Mapped>>,
    /// Files that stacks led through, and how many.
    pub(crate) wanted: FxHashMap<Arc<MapFile>, u64>,
    /// Windows that were closed, and their samples by object.
    pub(crate) windows: u32,
    pub(crate) heat: FxHashMap<ObjectId, u64>,
    /// Files that must not be walked over any more.
    pub(crate) taken_off: FxHashSet<ObjectId>,
    /// All that run, where news were dropped.
    pub(crate) running: Option<FxHashSet<u32>>,
}

impl News {
    fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.wanted.is_empty()
            && self.windows == 0
            && self.taken_off.is_empty()
            && self.running.is_none()
    }
}

/// Where news are gathered. Without a receiver everything is forgotten at once.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    send: Option<SyncSender<News>>,
    news: News,
    counted: Arc<TablesCounted>,
    /// News were dropped since the last time that any were sent.
    has_dropped: bool,
}

impl Desk {
    /// One that sends.
    pub(crate) fn new(send: SyncSender<News>, counted: Arc<TablesCounted>) -> Self {
        Self { send: Some(send), counted, ..Self::default() }
    }

    /// Whether anybody wants to know.
    pub(crate) fn is_open(&self) -> bool {
        self.send.is_some()
    }

    /// A process runs, with these mappings.
    pub(crate) fn mapped(&mut self, mut mapped: Mapped) {
        if !self.has_room(mapped.tgid) {
            return;
        }
        let entry = self.news.processes.entry(mapped.tgid).or_default();
        if let Some(earlier) = entry {
            mapped.why = mapped.why.max(earlier.why);
        }
        *entry = Some(mapped);
    }

    /// A process has ended.
    pub(crate) fn gone(&mut self, tgid: u32) {
        if self.has_room(tgid) {
            self.news.processes.insert(tgid, None);
        }
    }

    /// The stack of a sample that could not be walked led through this file.
    pub(crate) fn wanted(&mut self, file: &Arc<MapFile>) {
        if !self.is_open() {
            return;
        }
        if let Some(samples) = self.news.wanted.get_mut(file) {
            *samples += 1;
        } else if self.news.wanted.len() < MAX_WANTED {
            self.news.wanted.insert(Arc::clone(file), 1);
        } else {
            self.dropped(1);
        }
    }

    /// A file's table was found to be wrong.
    pub(crate) fn taken_off(&mut self, object: ObjectId) {
        if self.is_open() {
            self.news.taken_off.insert(object);
        }
    }

    /// A window was closed: its samples say which files are hot.
    pub(crate) fn window(&mut self, window: &Window) {
        if !self.is_open() {
            return;
        }
        self.news.windows = self.news.windows.saturating_add(1);
        let mut objects = FxHashSet::default();
        for entry in &window.entries {
            objects.clear();
            // Neighbours are of one file, mostly.
            let mut last = None;
            for frame in &*entry.stack {
                if let Frame::Object { object, .. } = frame
                    && last.replace(*object) != Some(*object)
                {
                    objects.insert(*object);
                }
            }
            for object in &objects {
                *self.news.heat.entry(*object).or_default() += entry.count;
            }
        }
    }

    /// Sends what there is. `running` lists the processes that run.
    pub(crate) fn send(&mut self, running: impl FnOnce() -> FxHashSet<u32>) {
        let Some(send) = &self.send else { return };
        if self.has_dropped {
            self.has_dropped = false;
            self.news.running = Some(running());
        }
        if self.news.is_empty() {
            return;
        }
        match send.try_send(std::mem::take(&mut self.news)) {
            Ok(()) => (),
            // They are sent with the next.
            Err(TrySendError::Full(news)) => {
                self.has_dropped = news.running.is_some();
                self.news = News { running: None, ..news };
            }
            Err(TrySendError::Disconnected(_)) => self.send = None,
        }
    }

    fn has_room(&mut self, tgid: u32) -> bool {
        if !self.is_open() {
            return false;
        }
        let has_room = self.news.processes.len() < MAX_NEWS || self.news.processes.contains_key(&tgid);
        if !has_room {
            self.dropped(1);
        }
        has_room
    }

    fn dropped(&mut self, news: u64) {
        self.has_dropped = true;
        self.counted.news_dropped.fetch_add(news, Ordering::Relaxed);
    }
}
