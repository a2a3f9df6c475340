//! Reading one opened file: as little of it as is needed to know what it is, and its tables.
//!
//! First the worker says what the file is, which costs a few blocks. Where a file of which that is true, too, was read before,
//! the worker hashes what its tables were made of; equal hashes mean equal tables. Else the file is read.
//!
//! **In**: an opened file (hostile), results of earlier reading. **Out**: what it is, its tables. **Units**: bytes.
//! **Limits**: [`crate::shared::MAX_CANDIDATES`] comparisons.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cache::Cache;
use crate::client::{Client, Fault};
use crate::counters::{Counters, count};
use crate::protocol::Extracted;
use crate::shared::{Key, Shared};
use crate::tables::StoredTables;

/// What a file is, and its tables.
pub(crate) type Read = (Arc<Extracted>, Option<Arc<StoredTables>>);

/// What reading needs.
pub(crate) struct Reader<'a> {
    pub(crate) client: &'a mut Client,
    pub(crate) shared: &'a Mutex<Shared>,
    pub(crate) cache: Option<&'a Cache>,
    pub(crate) counters: &'a Counters,
    /// Opens the debug file of the file with this identity.
    pub(crate) debug_file: &'a dyn Fn(&Extracted) -> Option<OwnedFd>,
}

impl Reader<'_> {
    /// Reads a file.
    pub(crate) fn read(&mut self, file: BorrowedFd<'_>) -> Result<Read, Fault> {
        let identity = self.client.identify(file)?;
        let Some(key) = Key::of(&identity) else {
            count(&self.counters.extracted);
            return Ok((Arc::new(identity), None));
        };
        if let Some(found) = self.among_shared(file, key)? {
            count(&self.counters.shared);
            return Ok(found);
        }
        if let Some(found) = self.among_cached(file, key)? {
            return Ok(found);
        }
        self.read_debug_file(&identity);
        let (extracted, tables) = self.client.extract(file)?;
        count(&self.counters.extracted);
        let (extracted, tables) = (Arc::new(extracted), tables.map(Arc::new));
        // Where something went wrong, it may go well the next time.
        if let Some(tables) = tables.as_ref().filter(|tables| tables.fingerprint.is_some())
            && extracted.problem.is_empty()
            && Key::of(&extracted) == Some(key)
        {
            self.shared().insert(key, Arc::clone(&extracted), tables);
            if let Some(cache) = self.cache {
                cache.store(key, Arc::clone(&extracted), Arc::clone(tables));
            }
        }
        Ok((extracted, tables))
    }

    /// Has the worker read the debug file, where there is one. A worker that fails on it is no matter of the file's.
    fn read_debug_file(&mut self, identity: &Extracted) {
        let Some(file) = (self.debug_file)(identity) else { return };
        let build_id = identity.elf.as_ref().map(|elf| elf.gnu.as_str()).unwrap_or_default();
        if let Err(error) = self.client.debug(file.as_fd(), build_id) {
            tracing::debug!(build_id, %error, "a debug file is not used");
            if let Fault::Worker(_) = error {
                count(&self.counters.worker_failed_requests);
                count(&self.counters.deadly_debug_files);
            }
        }
    }

    /// The result for another file with the same content.
    fn among_shared(&mut self, file: BorrowedFd<'_>, key: Key) -> Result<Option<Read>, Fault> {
        let candidates = self.shared().candidates(key);
        for (extracted, tables) in candidates {
            if self.is_same(file, &extracted)? {
                return Ok(Some((extracted, Some(tables))));
            }
        }
        Ok(None)
    }

    /// The result that was kept for a file with the same content.
    fn among_cached(&mut self, file: BorrowedFd<'_>, key: Key) -> Result<Option<Read>, Fault> {
        let Some(cache) = self.cache else { return Ok(None) };
        for entry in cache.candidates(key) {
            if self.is_same(file, &entry.extracted)?
                && let Some(tables) = cache.tables(&entry)
            {
                let tables = Arc::new(tables);
                self.shared().insert(key, Arc::clone(&entry.extracted), &tables);
                return Ok(Some((entry.extracted, Some(tables))));
            }
        }
        cache.missed();
        Ok(None)
    }

    /// Whether a file has the content that a result was made of.
    fn is_same(&mut self, file: BorrowedFd<'_>, extracted: &Extracted) -> Result<bool, Fault> {
        let Some(covered) = &extracted.covered else { return Ok(false) };
        Ok(self.client.fingerprint(file, &covered.runs)? == Some(covered.fingerprint))
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
