//! Tables kept over restarts: one file for each result of reading, in a directory of our own.
//!
//! What is kept is found by what a file's headers say ([`Key`]), and is used only for a file whose content has the fingerprint
//! that it was made of, by a program of the same build. Writing happens on a thread of its own, behind a queue; reading where
//! otherwise the file would have to be read.
//!
//! A worker that a file has taken over could put wrong tables here for files that it reads, as it could into memory; wrong tables
//! give wrong stacks and names, and nothing else. That is why the directory is ours alone, and why no entry is without checksums.
//!
//! **In**: results and tables (checked), a directory (ours; what is in it may be damaged). **Out**: the same.
//! **Units**: bytes, nanoseconds since the Unix epoch. **Limits**: bytes, entries ([`index`]), [`MAX_QUEUED`] waiting to be
//! written (more are not kept: `dropped`); after an error nothing is written for [`PAUSE`].

mod entry;
mod folder;
mod index;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use profile::ObjectId;
use profile::stats::CacheStats;

pub(crate) use entry::{Entry, Producer};
use entry::{EntryError, Name, short};
use folder::{Folder, FolderError};
use index::Index;

use crate::Fingerprint;
use crate::counters::count;
use crate::protocol::Extracted;
use crate::shared::Key;
use crate::tables::StoredTables;

/// Results that wait to be written; each keeps its tables in memory until then.
const MAX_QUEUED: usize = 256;
/// How long nothing is written after the disk was full, or failed.
const PAUSE: Duration = Duration::from_secs(60);
/// How long an agent that ends waits for what is being written.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// How often it looks.
const LAST_LOOK: Duration = Duration::from_millis(2);
/// Version of entries, besides that of the program.
const VERSION: u32 = 1;

/// For the writer.
enum Job {
    Store {
        key: Key,
        extracted: Arc<Extracted>,
        tables: Arc<StoredTables>,
    },
    /// The names are those that were known when it was said; one that was being written has come since.
    Forget {
        fingerprint: Fingerprint,
        names: Vec<Name>,
    },
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    stored: AtomicU64,
    damaged: AtomicU64,
    evicted: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

/// What readers and the writer share.
#[derive(Debug)]
struct Inner {
    folder: Folder,
    index: Mutex<Index>,
    producer: Producer,
    counters: Counters,
}

/// The door to the cache.
#[derive(Debug)]
pub(crate) struct Cache {
    inner: Arc<Inner>,
    /// None once it ends.
    jobs: Option<SyncSender<Job>>,
    writer: JoinHandle<()>,
}

/// What entries of the program with this identity are known by.
pub(crate) fn producer(program: &Extracted) -> Option<Producer> {
    let elf = program.elf.as_ref()?;
    let bytes = postcard::to_stdvec(&(VERSION, env!("CARGO_PKG_VERSION"), &program.htlhash, elf)).ok()?;
    blake3::hash(&bytes).as_bytes().first_chunk().copied().map(Producer)
}

impl Cache {
    /// Opens a cache in a directory, which is made if it is absent.
    pub(crate) fn open(path: &Path, limit: u64, producer: Producer) -> Result<Self, FolderError> {
        let folder = Folder::open(path)?;
        let mut index = Index::new(limit, producer);
        folder.list(now(), |name, bytes, used| index.add(name, bytes, used))?;
        let inner = Arc::new(Inner { folder, index: Mutex::new(index), producer, counters: Counters::default() });
        let (jobs, waiting) = sync_channel(MAX_QUEUED);
        let writer = Arc::clone(&inner);
        let writer = thread::Builder::new().name("cache".into()).spawn(move || writer.write_all(&waiting))?;
        Ok(Self { inner, jobs: Some(jobs), writer })
    }

    /// Entries for files with this key, the last used first.
    pub(crate) fn candidates(&self, key: Key) -> impl Iterator<Item = Entry> {
        let names = self.inner.index().candidates(key);
        names.into_iter().filter_map(|name| self.inner.entry(name))
    }

    /// Those of the objects whose fingerprint an entry has.
    pub(crate) fn having(&self, mut objects: Vec<(ObjectId, Fingerprint)>) -> Vec<(ObjectId, Fingerprint)> {
        if !objects.is_empty() {
            let kept = self.inner.index().fingerprints();
            objects.retain(|(_, fingerprint)| kept.contains(&short(fingerprint)));
        }
        objects
    }

    /// What was kept of files with this fingerprint.
    pub(crate) fn of(&self, fingerprint: Fingerprint) -> Option<(Entry, StoredTables)> {
        let name = self.inner.index().of(short(&fingerprint))?;
        let entry = self.inner.entry(name)?;
        if entry.extracted.covered.as_ref().is_none_or(|covered| covered.fingerprint != fingerprint) {
            return None;
        }
        let tables = self.tables(&entry)?;
        Some((entry, tables))
    }

    /// None of the candidates was a file's.
    pub(crate) fn missed(&self) {
        count(&self.inner.counters.misses);
    }

    /// The tables of an entry whose fingerprint is a file's.
    pub(crate) fn tables(&self, entry: &Entry) -> Option<StoredTables> {
        let tables = self.inner.sound(&entry.name, entry.tables())?;
        count(&self.inner.counters.hits);
        self.inner.index().touch(&entry.name, now());
        Some(tables)
    }

    /// Has a result written, some time later.
    pub(crate) fn store(&self, key: Key, extracted: Arc<Extracted>, tables: Arc<StoredTables>) {
        self.send(Job::Store { key, extracted, tables });
    }

    /// No worker gets along with these tables.
    pub(crate) fn forget(&self, fingerprint: Fingerprint) {
        let mut index = self.inner.index();
        let names = index.with_fingerprint(short(&fingerprint));
        names.iter().for_each(|name| index.remove(name));
        drop(index);
        self.send(Job::Forget { fingerprint, names });
    }

    fn send(&self, job: Job) {
        if let Some(Err(TrySendError::Full(_) | TrySendError::Disconnected(_))) =
            self.jobs.as_ref().map(|jobs| jobs.try_send(job))
        {
            count(&self.inner.counters.dropped);
        }
    }

    /// The cache's numbers.
    pub(crate) fn stats(&self) -> CacheStats {
        let counters = &self.inner.counters;
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheStats {
            bytes: self.inner.index().bytes(),
            hits: load(&counters.hits),
            misses: load(&counters.misses),
            stored: load(&counters.stored),
            damaged: load(&counters.damaged),
            evicted: load(&counters.evicted),
            failed: load(&counters.failed),
            dropped: load(&counters.dropped),
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.jobs = None;
        // What is not written by then is read from its file the next time.
        let until = Instant::now() + LAST_WAIT;
        while !self.writer.is_finished() && Instant::now() < until {
            thread::sleep(LAST_LOOK);
        }
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry, if it is sound.
    fn entry(&self, name: Name) -> Option<Entry> {
        let file = self.folder.entry(&name).map_err(EntryError::Io);
        self.sound(&name, file.and_then(|file| Entry::open(name, file)))
    }

    /// What was read of an entry, if it is sound; else it is not used again.
    fn sound<T>(&self, name: &Name, result: Result<T, EntryError>) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        tracing::debug!(%name, %error, "an entry of the cache is not used");
        self.index().remove(name);
        match error {
            EntryError::Damaged(_) => {
                count(&self.counters.damaged);
                self.folder.delete(name);
            }
            // Deleted by another agent.
            EntryError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            EntryError::Io(_) => count(&self.counters.failed),
        }
        None
    }

    fn write_all(&self, jobs: &Receiver<Job>) {
        let mut paused_until = None;
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Store { .. } if paused_until.is_some_and(|until| Instant::now() < until) => {
                    count(&self.counters.failed);
                }
                Job::Store { key, extracted, tables } => {
                    if let Err(error) = self.write(key, &extracted, &tables) {
                        tracing::warn!(%error, pause_s = PAUSE.as_secs(), "tables are not kept on disk");
                        count(&self.counters.failed);
                        paused_until = Some(Instant::now() + PAUSE);
                    }
                }
                Job::Forget { fingerprint, mut names } => {
                    names.extend(self.index().with_fingerprint(short(&fingerprint)));
                    for name in names {
                        self.index().remove(&name);
                        self.folder.delete(&name);
                    }
                }
            }
        }
    }

    fn write(&self, key: Key, extracted: &Extracted, tables: &StoredTables) -> Result<(), EntryError> {
        let Some(fingerprint) = &tables.fingerprint else { return Ok(()) };
        let name = Name::new(key, fingerprint, self.producer);
        let result = entry::encode(extracted)?;
        let bytes = entry::bytes_of(&result, tables);
        let room = {
            let index = self.index();
            if index.has(&name) { None } else { index.make_room(&name, bytes) }
        };
        let Some(surplus) = room else { return Ok(()) };
        for old in surplus {
            self.index().remove(&old);
            self.folder.delete(&old);
            count(&self.counters.evicted);
        }
        let temporary = self.folder.create()?;
        entry::write(&temporary.file, self.producer, &result, tables)
            .inspect_err(|_| self.folder.discard(&temporary))?;
        self.folder.publish(temporary, &name)?;
        self.index().add(name, bytes, now());
        count(&self.counters.stored);
        Ok(())
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
