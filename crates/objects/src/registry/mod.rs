//! Which files are known, and which of their tables are held. No I/O, no clock: time is handed in.
//!
//! A file is known by device and inode. That alone is not its identity: an inode is reused when its file is gone, and
//! a file may be written in place. So a known file is looked at again now and then, and one whose state has changed
//! is a new object with a new number; frames that were taken before keep the old one.
//!
//! **In**: mappings (paths hostile), what was extracted (checked). **Out**: [`ObjectInfo`], tables.
//! **Units**: bytes; time since the room was opened, seconds since the Unix epoch for file times.
//! **Limits**: files, tables and their bytes ([`Limits`]): the least recently used go; checks per second
//! ([`CHECKS_PER_SECOND`]): past it a known file is taken to be unchanged.

mod shelf;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use profile::{BuildId, ObjectId, ObjectInfo, Segment};
use rustc_hash::FxHashMap;

use crate::open::{Change, OpenError, Wanted, shown_path};
use crate::tables::{Sizes, StoredTables};
use crate::{Fingerprint, MappedFile};

/// Files looked at again in a second, at the most: a look costs microseconds.
pub(crate) const CHECKS_PER_SECOND: u32 = 1000;
/// A file that changed longer ago than this is not looked at again and again.
const SETTLED_AFTER_S: i64 = 60;
/// How often a settled file is looked at.
const SETTLED_INTERVAL: Duration = Duration::from_secs(1);
/// When a file that could not be opened is tried again, at first; doubles each time.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// A file whose reading hung is tried again after this.
const HUNG_RETRY: Duration = Duration::from_secs(60);
/// A worker that fails on one file so many times is not given it again.
pub(crate) const MAX_STRIKES: u32 = 2;

/// Bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) objects: usize,
    pub(crate) tables: usize,
    pub(crate) table_bytes: u64,
}

/// Now, on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Now {
    /// Since the room was opened.
    pub(crate) elapsed: Duration,
    /// Seconds since the Unix epoch.
    pub(crate) unix_s: i64,
}

/// What is to be done for a mapping.
#[derive(Debug)]
pub(crate) enum Look {
    /// Nothing.
    Known(Arc<ObjectInfo>),
    /// Compare the file's state with this one, then confirm the object or open the file.
    Check(Arc<ObjectInfo>, Change),
    /// Open it.
    Open,
}

/// What the worker found in a file.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) change: Change,
    pub(crate) deleted: bool,
    pub(crate) build_id: BuildId,
    pub(crate) segments: Vec<Segment>,
    pub(crate) is_elf: bool,
    pub(crate) tables: Option<Arc<StoredTables>>,
}

/// Why nothing was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not opened.
    Open(OpenError),
    /// It changed while it was read.
    Unstable,
    /// The worker hung or died on it, or there was none. The number of times is what it has on its account now.
    Worker { change: Change, strikes: u32 },
    /// There is no worker at the moment.
    NoWorker,
}

/// An object's tables.
#[derive(Debug)]
pub(crate) enum TableState {
    /// Here they are.
    Held(Arc<StoredTables>),
    /// They were let go: the file, and the state that it must have.
    Evicted(Wanted, Change),
    /// There are none.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    major: u32,
    minor: u32,
    inode: u64,
}

impl From<&MappedFile> for Key {
    fn from(file: &MappedFile) -> Self {
        Self { major: file.major, minor: file.minor, inode: file.inode }
    }
}

#[derive(Debug)]
struct Entry {
    info: Arc<ObjectInfo>,
    wanted: Wanted,
    change: Option<Change>,
    tables: Option<Arc<StoredTables>>,
    /// Of its tables, held or not; none where it has none, or must not be used.
    sizes: Option<Sizes>,
    /// Of what they are made of.
    fingerprint: Option<Fingerprint>,
    /// When its tables were used, or came: as `Registry::uses` counted.
    tables_used: u64,
    /// Evicted tables are not extracted again before this.
    tables_retry: Duration,
    /// No mapping leads to it, so it is never let go.
    is_own: bool,
    strikes: u32,
    /// When to try again, and the pause before.
    retry: Option<(Duration, Duration)>,
    checked: Duration,
    used: u64,
}

impl Entry {
    fn learn(&mut self, generation: u64) {
        if self.wanted.file.generation == 0 {
            self.wanted.file.generation = generation;
        }
    }
}

/// Known files.
#[derive(Debug)]
pub(crate) struct Registry {
    limits: Limits,
    by_key: FxHashMap<Key, ObjectId>,
    entries: FxHashMap<ObjectId, Entry>,
    next_id: u64,
    uses: u64,
    /// What `uses` was when unused tables were asked for.
    asked: u64,
    /// How many files use tables that are held, by the tables' number.
    holders: FxHashMap<u64, u32>,
    table_bytes: u64,
    checks_left: u32,
    checks_refilled: Duration,
}

impl Registry {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            by_key: FxHashMap::default(),
            entries: FxHashMap::default(),
            next_id: 1,
            uses: 0,
            asked: 0,
            holders: FxHashMap::default(),
            table_bytes: 0,
            checks_left: CHECKS_PER_SECOND,
            checks_refilled: Duration::ZERO,
        }
    }

    /// Files known.
    pub(crate) fn objects(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of tables held.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.table_bytes
    }

    /// A number that no object has had.
    pub(crate) fn new_id(&mut self) -> ObjectId {
        let id = ObjectId(self.next_id);
        self.next_id += 1;
        id
    }

    /// The file, if it is known. Does not ask whether it has changed.
    pub(crate) fn known(&mut self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        Some(Arc::clone(&self.current(file)?.1.info))
    }

    /// What to do for a file that a process maps.
    pub(crate) fn look(&mut self, wanted: &Wanted, now: Now) -> Look {
        self.refill(now);
        let has_check = self.checks_left > 0;
        let Some((_, entry)) = self.current(&wanted.file) else { return Look::Open };
        // Whoever maps it now is the best way to open it again.
        (entry.wanted.tgid, entry.wanted.range) = (wanted.tgid, wanted.range.clone());
        if let Some((at, _)) = entry.retry {
            return if now.elapsed >= at { Look::Open } else { Look::Known(Arc::clone(&entry.info)) };
        }
        let Some(change) = entry.change else { return Look::Known(Arc::clone(&entry.info)) };
        let settled = now.unix_s.saturating_sub(change.changed.0) > SETTLED_AFTER_S;
        // The first that names a generation may be the first of another file.
        let is_unsure = entry.wanted.file.generation == 0 && wanted.file.generation != 0;
        let is_due = is_unsure || !settled || now.elapsed.saturating_sub(entry.checked) >= SETTLED_INTERVAL;
        let info = Arc::clone(&entry.info);
        if !is_due || !has_check {
            return Look::Known(info);
        }
        self.checks_left -= 1;
        Look::Check(info, change)
    }

    /// A file was looked at again and is the same; its inode's generation may be known only now.
    pub(crate) fn confirm(&mut self, object: ObjectId, generation: u64, now: Now) {
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.checked = now.elapsed;
            entry.learn(generation);
        }
    }

    /// How often the worker has failed on a file in this state.
    pub(crate) fn strikes(&self, file: &MappedFile, change: &Change) -> u32 {
        let entry = self.by_key.get(&Key::from(file)).and_then(|id| self.entries.get(id));
        entry.filter(|entry| entry.change.is_some_and(|known| known.same_content(change))).map_or(0, |e| e.strikes)
    }

    /// A file was read. If it is a known one whose inode alone has changed, it stays that object.
    pub(crate) fn insert(&mut self, wanted: &Wanted, found: Found, now: Now) -> Arc<ObjectInfo> {
        if let Some((id, entry)) = self.current(&wanted.file)
            && entry.change.is_some_and(|known| known.same_content(&found.change))
            && entry.info.readable == found.is_elf
            && entry.info.build_id == found.build_id
            && entry.retry.is_none()
        {
            (entry.change, entry.checked) = (Some(found.change), now.elapsed);
            entry.learn(wanted.file.generation);
            let info = Arc::clone(&entry.info);
            if let Some(tables) = found.tables {
                self.store(id, tables);
            }
            return info;
        }
        let info = ObjectInfo {
            id: self.new_id(),
            path: shown_path(&wanted.file.path, found.deleted).into(),
            build_id: found.build_id,
            segments: if found.is_elf { found.segments } else { Vec::new() },
            readable: found.is_elf,
        };
        let is_elf = info.readable;
        let info = self.add(wanted, info, Some(found.change), now);
        if let Some(tables) = found.tables.filter(|_| is_elf) {
            self.store(info.id, tables);
        }
        info
    }

    /// A file could not be read: an object that is not readable, until it may be tried again.
    pub(crate) fn insert_failed(&mut self, wanted: &Wanted, failure: Failure, now: Now) -> Arc<ObjectInfo> {
        let last = self.current(&wanted.file).and_then(|(_, entry)| entry.retry).map(|(_, pause)| pause);
        let pause = last.map_or(FIRST_RETRY, |pause| (pause * 2).min(LONGEST_RETRY));
        let (change, strikes, retry) = match failure {
            // That says nothing of the file: the next process that maps it may lead there.
            Failure::Open(OpenError::Gone) => (None, 0, Some(FIRST_RETRY)),
            Failure::Worker { change, strikes } if strikes >= MAX_STRIKES => (Some(change), strikes, None),
            Failure::Worker { change, strikes } => (Some(change), strikes, Some(HUNG_RETRY)),
            Failure::Open(_) | Failure::Unstable | Failure::NoWorker => (None, 0, Some(pause)),
        };
        let retry = retry.map(|pause| (now.elapsed + pause, pause));
        // An object that is not readable stays the same one, so that its mappings in profiles do.
        if let Some((_, entry)) = self.current(&wanted.file)
            && !entry.info.readable
        {
            (entry.change, entry.strikes, entry.retry, entry.checked) = (change, strikes, retry, now.elapsed);
            return Arc::clone(&entry.info);
        }
        let info = ObjectInfo {
            id: self.new_id(),
            path: shown_path(&wanted.file.path, false).into(),
            build_id: BuildId::default(),
            segments: Vec::new(),
            readable: false,
        };
        let info = self.add(wanted, info, change, now);
        if let Some(entry) = self.entries.get_mut(&info.id) {
            (entry.strikes, entry.retry) = (strikes, retry);
        }
        info
    }

    /// Adds an object that no mapping leads to (the vDSO).
    pub(crate) fn insert_own(&mut self, info: ObjectInfo, tables: Option<Arc<StoredTables>>) -> Arc<ObjectInfo> {
        let id = info.id;
        let wanted = Wanted { file: MappedFile::default(), tgid: 0, range: Range::default() };
        let info = self.insert_entry(id, wanted, info, None, Duration::ZERO);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.is_own = true;
        }
        if let Some(tables) = tables {
            self.store(id, tables);
        }
        info
    }

    fn refill(&mut self, now: Now) {
        if now.elapsed.saturating_sub(self.checks_refilled) >= Duration::from_secs(1) {
            (self.checks_left, self.checks_refilled) = (CHECKS_PER_SECOND, now.elapsed);
        }
    }

    /// The object that a file's device and inode stand for now; counts as use.
    fn current(&mut self, file: &MappedFile) -> Option<(ObjectId, &mut Entry)> {
        let id = *self.by_key.get(&Key::from(file))?;
        self.uses += 1;
        let uses = self.uses;
        let entry = self.entries.get_mut(&id)?;
        let (known, asked) = (entry.wanted.file.generation, file.generation);
        if known != 0 && asked != 0 && known != asked {
            return None; // the inode is another file's now
        }
        entry.used = uses;
        Some((id, entry))
    }

    fn add(&mut self, wanted: &Wanted, info: ObjectInfo, change: Option<Change>, now: Now) -> Arc<ObjectInfo> {
        let id = info.id;
        self.by_key.insert(Key::from(&wanted.file), id);
        self.insert_entry(id, wanted.clone(), info, change, now.elapsed)
    }

    fn insert_entry(
        &mut self,
        id: ObjectId,
        wanted: Wanted,
        info: ObjectInfo,
        change: Option<Change>,
        checked: Duration,
    ) -> Arc<ObjectInfo> {
        self.uses += 1;
        let info = Arc::new(info);
        let entry = Entry {
            info: Arc::clone(&info),
            wanted,
            change,
            tables: None,
            sizes: None,
            fingerprint: None,
            tables_used: 0,
            tables_retry: Duration::ZERO,
            is_own: false,
            strikes: 0,
            retry: None,
            checked,
            used: self.uses,
        };
        self.entries.insert(id, entry);
        if self.entries.len() > self.limits.objects {
            self.forget_oldest(id);
        }
        info
    }

    /// Forgets a sixteenth of the files, so that looking for the oldest is rare.
    fn forget_oldest(&mut self, newest: ObjectId) {
        let keep = self.limits.objects - self.limits.objects / 16;
        let entries = self.entries.iter().filter(|(_, entry)| !entry.is_own);
        let mut ages: Vec<(u64, ObjectId)> = entries.map(|(id, entry)| (entry.used, *id)).collect();
        ages.sort_unstable();
        let surplus = ages.len().saturating_sub(keep);
        for (_, id) in ages.into_iter().take(surplus).filter(|(_, id)| *id != newest) {
            self.drop_tables(id);
            if let Some(entry) = self.entries.remove(&id) {
                let key = Key::from(&entry.wanted.file);
                if self.by_key.get(&key) == Some(&id) {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}
