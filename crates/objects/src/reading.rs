//! Reading files by way of the worker, and getting tables to it.
//!
//! **In**: mappings; what the worker found (checked by the client). **Out**: objects, tables. **Units**: bytes.
//! **Limits**: a file on which the worker fails [`MAX_STRIKES`] times is left alone until it changes (`quarantined`). A device whose
//! files hang is left alone for a while, so that it does not hold up everything else.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use profile::{BuildId, ObjectId, ObjectInfo};
use rustix::fs::fstat;

use crate::Objects;
use crate::client::{Client, Fault};
use crate::counters::count;
use crate::debug_file::open_debug_file;
use crate::held::Part;
use crate::offenders::Offenders;
use crate::open::{Change, OpenError, Opened, Wanted, change_of_stat, open_mapped};
use crate::protocol::Extracted;
use crate::reader::{Read, Reader};
use crate::registry::{Failure, Found, MAX_STRIKES, TableState};
use crate::shared::Shared;
use crate::tables::StoredTables;
use crate::vdso;

/// Debug files on which the worker may fail; then none are used any more.
const MAX_DEADLY_DEBUG_FILES: u64 = 8;

/// Whether the worker has a table now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// It has.
    Yes,
    /// There is none, or not now.
    No,
    /// The request at hand uses so many others that it does not fit.
    Full,
}

impl Objects {
    /// Opens a file, within the time limit, unless its device is one whose files hang.
    pub(crate) fn open(&self, wanted: &Wanted) -> Result<Opened, OpenError> {
        let device = (wanted.file.major, wanted.file.minor);
        if self.slow_devices().is_left_alone(&device, self.now().elapsed) {
            return Err(OpenError::TimedOut);
        }
        let (roots, to_open) = (Arc::clone(&self.roots), wanted.clone());
        let opened = self.timed.run(self.timeouts.open, move || open_mapped(&to_open, &roots));
        opened.unwrap_or_else(|| {
            self.leave_alone(device);
            Err(OpenError::TimedOut)
        })
    }

    fn leave_alone(&self, device: (u32, u32)) {
        tracing::debug!(major = device.0, minor = device.1, "files of this device hang");
        self.slow_devices().blame(device, self.now().elapsed);
    }

    fn slow_devices(&self) -> MutexGuard<'_, Offenders<(u32, u32)>> {
        self.slow_devices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens and reads a file.
    pub(crate) fn read(&self, client: &mut Client, wanted: &Wanted) -> Arc<ObjectInfo> {
        let result = self.open(wanted).map_err(|error| {
            count(match error {
                OpenError::Mismatch => &self.counters.identity_mismatches,
                OpenError::Absent | OpenError::Gone | OpenError::NotRegular | OpenError::TimedOut => {
                    &self.counters.open_errors
                }
            });
            tracing::debug!(path = ?String::from_utf8_lossy(&wanted.file.path), tgid = wanted.tgid, %error, "not opened");
            Failure::Open(error)
        });
        let result = result.and_then(|opened| {
            let strikes = self.registry().strikes(&wanted.file, &opened.change);
            let (extracted, tables) = self.extract(client, wanted, &opened, strikes)?;
            Ok(found(&opened, &extracted, tables))
        });
        let now = self.now();
        match result {
            Ok(found) => self.registry().insert(wanted, found, now),
            Err(failure) => self.registry().insert_failed(wanted, failure, now),
        }
    }

    /// Reads our own vDSO.
    pub(crate) fn read_vdso(&self) -> Option<Arc<ObjectInfo>> {
        let image = vdso::image().inspect_err(|error| tracing::warn!(%error, "the vDSO cannot be read")).ok()?;
        let descriptor = image;
        let change = change_of_stat(&fstat(&descriptor).ok()?);
        let opened = Opened { descriptor, change, deleted: false, is_remote: false };
        let wanted = Wanted {
            file: crate::MappedFile { path: vdso::PATH.into(), ..Default::default() },
            tgid: std::process::id(),
            range: 0..0,
        };
        let (extracted, tables) = self.extract(&mut self.client(), &wanted, &opened, 0).ok()?;
        let found = found(&opened, &extracted, tables);
        let mut registry = self.registry();
        let info = ObjectInfo {
            id: registry.new_id(),
            path: vdso::PATH.into(),
            build_id: found.build_id,
            segments: found.segments,
            readable: found.is_elf,
        };
        Some(registry.insert_own(info, found.tables))
    }

    /// Opens a file's debug file, within the time limit.
    fn open_debug_file(&self, wanted: &Wanted, identity: &Extracted) -> Option<OwnedFd> {
        let build_id = identity.elf.as_ref().map(|elf| elf.gnu.clone()).filter(|build_id| !build_id.is_empty())?;
        if self.counters.deadly_debug_files.load(Ordering::Relaxed) >= MAX_DEADLY_DEBUG_FILES {
            return None;
        }
        let (path, tgid, link) = (wanted.file.path.clone(), wanted.tgid, identity.debug_link.clone());
        let open = move || open_debug_file(tgid, &path, &build_id, &link);
        self.timed.run(self.timeouts.open, open).flatten()
    }

    /// Has the worker read an opened file; if it dies on it, once more.
    fn extract(
        &self,
        client: &mut Client,
        wanted: &Wanted,
        opened: &Opened,
        mut strikes: u32,
    ) -> Result<Read, Failure> {
        let change = opened.change;
        while strikes < MAX_STRIKES {
            let mut reader = Reader {
                client,
                shared: &self.shared,
                cache: self.cache.as_ref(),
                counters: &self.counters,
                debug_file: &|identity| self.open_debug_file(wanted, identity),
            };
            let fault = match reader.read(opened.descriptor.as_fd()) {
                Ok((extracted, tables)) => {
                    let now = fstat(&opened.descriptor).map(|stat| change_of_stat(&stat));
                    if !now.is_ok_and(|now| now.same_content(&change)) {
                        count(&self.counters.parse_errors);
                        return Err(Failure::Unstable);
                    }
                    if !extracted.problem.is_empty() {
                        count(&self.counters.parse_errors);
                        let path = String::from_utf8_lossy(&wanted.file.path);
                        tracing::debug!(?path, problem = ?extracted.problem, "not understood");
                    }
                    return Ok((extracted, tables));
                }
                Err(fault) => fault,
            };
            match fault {
                Fault::Worker(_) => strikes += 1,
                Fault::Gone | Fault::NoWorker | Fault::Refused(_) => {
                    count(&self.counters.worker_failed_requests);
                    return Err(Failure::NoWorker);
                }
            }
            if fault.is_timeout() && opened.is_remote && client.hung_asleep() {
                self.leave_alone((wanted.file.major, wanted.file.minor));
            }
            // What hung would hold up everybody again: it has to wait.
            if strikes >= MAX_STRIKES || fault.is_timeout() {
                count(&self.counters.worker_failed_requests);
                if strikes >= MAX_STRIKES {
                    count(&self.counters.quarantined);
                }
                let path = String::from_utf8_lossy(&wanted.file.path);
                tracing::debug!(?path, strikes, error = %fault, "the worker fails on a file");
                break;
            }
        }
        Err(Failure::Worker { change, strikes })
    }

    /// Makes sure that the worker has an object's table.
    pub(crate) fn load(&self, client: &mut Client, object: ObjectId, part: Part) -> Loaded {
        if client.holds(object, part) {
            return Loaded::Yes;
        }
        if !self.registry().has(object, part) {
            return Loaded::No;
        }
        let Some(tables) = self.stored(client, object) else { return Loaded::No };
        let mut deaths = 0;
        while deaths < MAX_STRIKES {
            match client.load(object, &tables, part) {
                Ok(true) => return Loaded::Yes,
                Ok(false) => return Loaded::Full,
                Err(Fault::Worker(_)) => deaths += 1,
                Err(Fault::Refused(reason)) => {
                    // Made by a worker, and no worker takes it.
                    tracing::debug!(?object, ?reason, "tables are refused");
                    count(&self.counters.parse_errors);
                    self.give_up(object);
                    return Loaded::No;
                }
                Err(Fault::Gone | Fault::NoWorker) => break,
            }
        }
        count(&self.counters.worker_failed_requests);
        if deaths >= MAX_STRIKES {
            self.quarantine(object);
        }
        Loaded::No
    }

    /// An object's tables are not used any more, nor given to other files.
    fn give_up(&self, object: ObjectId) {
        let fingerprint = {
            let mut registry = self.registry();
            registry.give_up_tables(object);
            registry.fingerprint(object)
        };
        if let Some(fingerprint) = fingerprint {
            self.shared().forget(fingerprint);
            if let Some(cache) = &self.cache {
                cache.forget(fingerprint);
            }
        }
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn quarantine(&self, object: ObjectId) {
        self.give_up(object);
        count(&self.counters.quarantined);
        tracing::debug!(?object, "the worker fails on an object's tables");
    }

    /// The worker failed while it used an object's tables: twice, and it does not get them again.
    pub(crate) fn strike(&self, object: ObjectId) -> bool {
        let quarantined = self.registry().strike(object);
        if quarantined {
            self.quarantine(object);
        }
        quarantined
    }

    /// An object's tables: held, or extracted again from the same state of the file.
    pub(crate) fn stored(&self, client: &mut Client, object: ObjectId) -> Option<Arc<StoredTables>> {
        let now = self.now();
        let state = self.registry().tables(object, now);
        let (wanted, change) = match state {
            TableState::Held(tables) => return Some(tables),
            TableState::Evicted(wanted, change) => (wanted, change),
            TableState::None => return None,
        };
        if let Some(tables) = self.kept(object) {
            return self.registry().restore(object, tables);
        }
        match self.extract_again(client, &wanted, &change) {
            Ok(tables) => self.registry().restore(object, tables),
            Err(for_good) => {
                let mut registry = self.registry();
                if for_good {
                    registry.give_up_tables(object)
                } else {
                    registry.postpone_tables(object, now)
                }
                None
            }
        }
    }

    /// Extracts evicted tables again. The error says whether that will never succeed.
    fn extract_again(&self, client: &mut Client, wanted: &Wanted, change: &Change) -> Result<Arc<StoredTables>, bool> {
        let opened = self.open(wanted).map_err(|_| false)?;
        if !opened.change.same_content(change) {
            return Err(true);
        }
        match self.extract(client, wanted, &opened, 0) {
            Ok((_, Some(tables))) => Ok(tables),
            Ok((_, None)) | Err(Failure::Worker { .. }) => Err(true),
            Err(Failure::Open(_) | Failure::Unstable | Failure::NoWorker) => Err(false),
        }
    }
}

fn found(opened: &Opened, extracted: &Extracted, tables: Option<Arc<StoredTables>>) -> Found {
    let elf = extracted.elf.clone().unwrap_or_default();
    Found {
        change: opened.change,
        deleted: opened.deleted,
        build_id: BuildId { gnu: elf.gnu, go: elf.go, htlhash: extracted.htlhash.clone() },
        segments: elf.segments,
        is_elf: extracted.elf.is_some(),
        tables,
    }
}
