//! The tables of known files: held within limits, let go, given up. No I/O but closing descriptors.
//!
//! **In**: tables (opaque). **Out**: tables. **Units**: bytes, descriptors.
//! Tables that several files share count once.
//! **Limits**: [`super::Limits`]; the least recently used go first, and are extracted again when they are needed.

use std::sync::Arc;
use std::time::Duration;

use profile::ObjectId;

use super::{MAX_STRIKES, Now, Registry, TableState};
use crate::Fingerprint;
use crate::held::Part;
use crate::tables::StoredTables;

/// When evicted tables whose file could not be opened are tried again.
const TABLES_RETRY: Duration = Duration::from_secs(10);

impl Registry {
    /// An object's tables; counts as use.
    pub(crate) fn tables(&mut self, object: ObjectId, now: Now) -> TableState {
        self.uses += 1;
        let uses = self.uses;
        let Some(entry) = self.entries.get_mut(&object) else { return TableState::None };
        (entry.used, entry.tables_used) = (uses, uses);
        match (&entry.tables, entry.change) {
            (Some(tables), _) => TableState::Held(Arc::clone(tables)),
            (None, Some(change)) if entry.sizes.is_some() && now.elapsed >= entry.tables_retry => {
                TableState::Evicted(entry.wanted.clone(), change)
            }
            (None, _) => TableState::None,
        }
    }

    /// Whether an object has a table of a kind, held or not. Not a use.
    pub(crate) fn has(&self, object: ObjectId, part: Part) -> bool {
        self.entries.get(&object).and_then(|entry| entry.sizes).is_some_and(|sizes| match part {
            Part::Unwind => sizes.unwind > 0,
            Part::Symbols => sizes.symbols > 0,
        })
    }

    /// Whether an object has a table for the walk in the kernel, held or not. Not a use.
    pub(crate) fn has_walk(&self, object: ObjectId) -> bool {
        self.entries.get(&object).and_then(|entry| entry.sizes).is_some_and(|sizes| sizes.walk > 0)
    }

    /// The fingerprint of what an object's tables are made of, held or not. Not a use.
    pub(crate) fn fingerprint(&self, object: ObjectId) -> Option<Fingerprint> {
        self.entries.get(&object)?.fingerprint
    }

    /// An object's evicted tables cannot be extracted again just now.
    pub(crate) fn postpone_tables(&mut self, object: ObjectId, now: Now) {
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.tables_retry = now.elapsed + TABLES_RETRY;
        }
    }

    /// An object's evicted tables were extracted again.
    pub(crate) fn restore(&mut self, object: ObjectId, tables: Arc<StoredTables>) -> Option<Arc<StoredTables>> {
        self.store(object, tables);
        self.entries.get(&object)?.tables.clone()
    }

    /// An object's tables are gone for good: its file has changed or cannot be opened any more.
    pub(crate) fn give_up_tables(&mut self, object: ObjectId) {
        self.drop_tables(object);
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.sizes = None;
        }
    }

    /// The worker failed while it worked with an object's tables. True when that was once too often, and they are to
    /// be given up.
    pub(crate) fn strike(&mut self, object: ObjectId) -> bool {
        let Some(entry) = self.entries.get_mut(&object) else { return false };
        entry.strikes += 1;
        entry.strikes >= MAX_STRIKES && entry.sizes.is_some()
    }

    /// The worker got along with an object's tables after all.
    pub(crate) fn forgive(&mut self, object: ObjectId) {
        if let Some(entry) = self.entries.get_mut(&object) {
            entry.strikes = 0;
        }
    }

    /// Keeps an object's tables, and lets go those used least recently where there are too many.
    pub(super) fn store(&mut self, object: ObjectId, tables: Arc<StoredTables>) {
        self.drop_tables(object);
        let (bytes, serial) = (tables.bytes, tables.serial);
        self.uses += 1;
        let Some(entry) = self.entries.get_mut(&object) else { return };
        entry.tables_used = self.uses;
        entry.fingerprint = tables.fingerprint;
        entry.sizes = Some(tables.sizes);
        entry.tables = Some(tables);
        let holders = self.holders.entry(serial).or_default();
        *holders += 1;
        if *holders == 1 {
            self.table_bytes += bytes;
        }
        if self.holders.len() <= self.limits.tables && self.table_bytes <= self.limits.table_bytes {
            return;
        }
        let mut ages: Vec<(u64, ObjectId)> = self
            .entries
            .iter()
            .filter(|(id, entry)| entry.tables.is_some() && **id != object && !entry.is_own)
            .map(|(id, entry)| (entry.used, *id))
            .collect();
        ages.sort_unstable();
        // An eighth below the limits, so that this is rare.
        let (enough, enough_bytes) =
            (self.limits.tables - self.limits.tables / 8, self.limits.table_bytes - self.limits.table_bytes / 8);
        for (_, id) in ages {
            if self.holders.len() <= enough && self.table_bytes <= enough_bytes {
                return;
            }
            self.drop_tables(id);
        }
        // Alone it is more than everything may be: without it, then, and it is not tried again.
        if self.holders.len() > self.limits.tables || self.table_bytes > self.limits.table_bytes {
            self.give_up_tables(object);
        }
    }

    /// Objects whose tables are held and were not used since this was asked for the last time, with what they are made of.
    pub(crate) fn unused(&mut self) -> Vec<(ObjectId, Fingerprint)> {
        let asked = std::mem::replace(&mut self.asked, self.uses);
        let held = self.entries.iter().filter(|(_, entry)| entry.tables.is_some() && !entry.is_own);
        let unused = held.filter(|(_, entry)| entry.tables_used <= asked);
        unused.filter_map(|(id, entry)| Some((*id, entry.fingerprint?))).collect()
    }

    /// Lets an object's tables go; they are asked for again when they are needed.
    pub(crate) fn drop_tables(&mut self, object: ObjectId) {
        if let Some(tables) = self.entries.get_mut(&object).and_then(|entry| entry.tables.take()) {
            let holders = self.holders.get_mut(&tables.serial);
            let left = holders.map_or(0, |holders| {
                *holders -= 1;
                *holders
            });
            if left == 0 {
                self.holders.remove(&tables.serial);
                self.table_bytes -= tables.bytes;
            }
        }
    }
}
