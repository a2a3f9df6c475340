//! The room's door.
//!
//! Two locks, taken in this order: the worker's (held while a request runs, which may take long), then the
//! registry's (never held during I/O). What answers without I/O takes the registry's alone.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use profile::stats::ObjectStats;
use profile::{BuildId, ObjectInfo};
use rustix::process::{Resource, getrlimit};

use crate::cache::{self, Cache};
use crate::client::Client;
use crate::counters::Counters;
use crate::offenders::Offenders;
use crate::open::{Roots, Wanted, change_by_link, shown_path};
use crate::registry::{Limits, Look, Now, Registry};
use crate::shared::Shared;
use crate::timed::Timed;
use crate::unwinding::TOLERATED_STACKS;
use crate::{MappedFile, ObjectsConfig, SandboxReport, Timeouts, vdso};

/// Tables may take at most this part of the descriptors that the process may open.
const DESCRIPTOR_SHARE: u64 = 4;
/// Tables that are held even where very few descriptors may be opened.
const FEWEST_TABLES: usize = 16;

/// Why the room could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// The worker process did not start.
    #[error("the worker process did not start")]
    Worker(#[source] std::io::Error),
    /// The worker started, but did not say hello as it should.
    #[error("the worker process did not say hello")]
    Hello(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Target files and the worker that reads them. Shared by reference among threads.
#[derive(Debug)]
pub struct Objects {
    pub(crate) client: Mutex<Client>,
    registry: Mutex<Registry>,
    /// Results of reading, for files with the same content.
    pub(crate) shared: Mutex<Shared>,
    pub(crate) cache: Option<Cache>,
    pub(crate) suspects: Mutex<Offenders<u64>>,
    /// Devices whose files hang.
    pub(crate) slow_devices: Mutex<Offenders<(u32, u32)>>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) timeouts: Timeouts,
    pub(crate) timed: Timed,
    pub(crate) roots: Arc<Roots>,
    vdso: Mutex<Option<Arc<ObjectInfo>>>,
    started: Instant,
}

impl Objects {
    /// Starts the worker.
    ///
    /// # Errors
    /// The worker did not start.
    pub fn start(config: ObjectsConfig) -> Result<Self, ObjectsError> {
        let counters = Arc::new(Counters::default());
        let mut client = Client::start(&config, Arc::clone(&counters))?;
        let cache = open_cache(&config, &mut client);
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTOR_SHARE;
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX).max(FEWEST_TABLES);
        let limits = Limits {
            objects: config.max_objects.max(1),
            tables: config.max_tables.min(descriptors),
            table_bytes: config.table_bytes,
        };
        Ok(Self {
            client: Mutex::new(client),
            registry: Mutex::new(Registry::new(limits)),
            shared: Mutex::default(),
            cache,
            suspects: Mutex::new(Offenders::new(TOLERATED_STACKS)),
            slow_devices: Mutex::new(Offenders::new(1)),
            counters,
            timeouts: config.timeouts,
            timed: Timed::default(),
            roots: Arc::default(),
            vdso: Mutex::default(),
            started: Instant::now(),
        })
    }

    /// The file behind a mapping of a process: known already, or opened and read now, which may take hundreds of
    /// milliseconds. What cannot be read is an object that is not readable.
    #[must_use]
    pub fn object(&self, file: &MappedFile, tgid: u32, range: Range<u64>) -> Arc<ObjectInfo> {
        if file.inode == 0 {
            let vdso = if file.path == vdso::PATH.as_bytes() { self.vdso() } else { None };
            return vdso.unwrap_or_else(|| self.no_file(file));
        }
        let wanted = Wanted { file: file.clone(), tgid, range };
        if let Some(info) = self.find(&wanted) {
            return info;
        }
        let mut client = self.client();
        // Another thread may have read it meanwhile.
        self.find(&wanted).unwrap_or_else(|| self.read(&mut client, &wanted))
    }

    /// The file, if it is known already. No I/O, and no word on whether it has changed since.
    #[must_use]
    pub fn known(&self, file: &MappedFile) -> Option<Arc<ObjectInfo>> {
        if file.inode == 0 && file.path == vdso::PATH.as_bytes() {
            return self.vdso.try_lock().ok().and_then(|vdso| vdso.clone());
        }
        self.registry().known(file)
    }

    /// The vDSO, the same in every 64-bit process. Read at the first call.
    #[must_use]
    pub fn vdso(&self) -> Option<Arc<ObjectInfo>> {
        let mut vdso = self.vdso.lock().unwrap_or_else(PoisonError::into_inner);
        if vdso.is_none() {
            *vdso = self.read_vdso();
        }
        vdso.clone()
    }

    /// The worker's pid now; 0 where none runs. Takes no lock.
    #[must_use]
    pub fn worker_pid(&self) -> u32 {
        self.counters.worker_pid.load(Ordering::Relaxed)
    }

    /// The room's numbers.
    #[must_use]
    pub fn stats(&self) -> ObjectStats {
        let counters = &self.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (objects, table_bytes) = {
            let registry = self.registry();
            (u64::try_from(registry.objects()).unwrap_or(u64::MAX), registry.table_bytes())
        };
        ObjectStats {
            objects,
            table_bytes,
            extracted: load(&counters.extracted),
            shared: load(&counters.shared),
            open_errors: load(&counters.open_errors),
            identity_mismatches: load(&counters.identity_mismatches),
            parse_errors: load(&counters.parse_errors),
            quarantined: load(&counters.quarantined),
            worker_restarts: load(&counters.worker_restarts),
            worker_failed_requests: load(&counters.worker_failed_requests),
            worker_pid: self.worker_pid(),
            cache: self.cache.as_ref().map(Cache::stats),
        }
    }

    /// Which walls of the worker's sandbox stand. Waits for a request that is running.
    #[must_use]
    pub fn sandbox(&self) -> SandboxReport {
        self.client().sandbox()
    }

    /// Ends the worker. Later requests fail: unreadable files, unnamed addresses.
    pub fn shutdown(&self) {
        self.client().close();
    }

    pub(crate) fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Now {
        let unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Now { elapsed: self.started.elapsed(), unix_s: i64::try_from(unix_s).unwrap_or(i64::MAX) }
    }

    /// The known object, if it is still the file's. Looks at the file where that is due.
    fn find(&self, wanted: &Wanted) -> Option<Arc<ObjectInfo>> {
        let now = self.now();
        let look = self.registry().look(wanted, now);
        match look {
            Look::Known(info) => Some(info),
            Look::Check(info, change) => {
                let found = change_by_link(wanted).or_else(|| self.open(wanted).ok().map(|opened| opened.change));
                // What cannot be looked at any more has most likely not changed.
                if found.is_some_and(|found| found != change) {
                    return None;
                }
                self.registry().confirm(info.id, wanted.file.generation, now);
                Some(info)
            }
            Look::Open => None,
        }
    }

    /// An object for what is no file. Not remembered.
    fn no_file(&self, file: &MappedFile) -> Arc<ObjectInfo> {
        Arc::new(ObjectInfo {
            id: self.registry().new_id(),
            path: shown_path(&file.path, false).into(),
            build_id: BuildId::default(),
            segments: Vec::new(),
            readable: false,
        })
    }
}

/// The cache on disk, where one is wanted and can be had.
fn open_cache(config: &ObjectsConfig, client: &mut Client) -> Option<Cache> {
    let directory = config.cache.as_ref()?;
    let program = File::open(&config.worker.program).ok();
    let identity = program.and_then(|program| client.identify(program.as_fd()).ok());
    let Some(producer) = identity.as_ref().and_then(cache::producer) else {
        tracing::warn!("tables are not kept on disk: this program's own file cannot be read");
        return None;
    };
    Cache::open(directory, config.cache_bytes, producer)
        .inspect_err(|error| tracing::warn!(?directory, %error, "tables are not kept on disk"))
        .ok()
}

impl Drop for Objects {
    fn drop(&mut self) {
        self.client.get_mut().unwrap_or_else(PoisonError::into_inner).close();
    }
}
