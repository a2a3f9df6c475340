//! Tables that nobody uses are let go where the disk has them, and come back from there.
//!
//! Programs that have ended, and those that do what they always do, need no tables: what is walked in the kernel has been handed
//! to it, and names are remembered by whoever asked for them.
//!
//! **In**: time passing, as calls. **Out**: memory. **Limits**: what is not on disk stays, within the room's other bounds: its file may
//! be gone.

use std::sync::{Arc, PoisonError, TryLockError};

use profile::ObjectId;

use crate::Objects;
use crate::tables::StoredTables;

impl Objects {
    /// Lets tables go, the worker's and those held here, that were not used since this was called the last time. Does nothing while the
    /// worker is at work.
    pub fn release_unused(&self) {
        let Some(cache) = &self.cache else { return };
        let mut client = match self.client.try_lock() {
            Ok(client) => client,
            Err(TryLockError::Poisoned(error)) => PoisonError::into_inner(error),
            Err(TryLockError::WouldBlock) => return,
        };
        client.forget_unused();
        let unused = self.registry().unused();
        for (object, _) in cache.having(unused) {
            if !client.knows(object) {
                self.registry().drop_tables(object);
            }
        }
        self.shared().prune();
    }

    /// The tables of an object that were let go: from another file with the same content, or from disk.
    pub(crate) fn kept(&self, object: ObjectId) -> Option<Arc<StoredTables>> {
        let fingerprint = self.registry().fingerprint(object)?;
        let held = self.shared().held(fingerprint);
        held.or_else(|| {
            let (entry, tables) = self.cache.as_ref()?.of(fingerprint)?;
            let tables = Arc::new(tables);
            self.shared().insert(entry.name.key, entry.extracted, &tables);
            Some(tables)
        })
    }
}
