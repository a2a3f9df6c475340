//! The worker's memory: what it holds between two requests is little, however large the files were.
//!
//! Tables are mapped, and what was looked at is let go again when it may have become much: it stays in the memfds, and
//! a page that is needed again costs half a microsecond. What is allocated goes back to the system when it is freed.
//!
//! **In**: mapped tables. **Out**: the same. **Units**: page faults: each makes [`FAULT_BYTES`] of a table count as
//! memory at the most. **Limits**: [`MAX_FAULTS`] between two requests.

use std::collections::HashMap;

use profile::ObjectId;

use crate::tools::MappedTable;

/// What one fault brings in: the kernel's `fault_around_bytes`, unless somebody has changed that.
const FAULT_BYTES: u64 = 64 << 10;
/// Faults after which everything is let go.
const MAX_FAULTS: u64 = (4 << 20) / FAULT_BYTES;
/// Allocations of so many bytes are mappings of their own, which are gone when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM_BYTES: libc::c_int = 128 << 10;

/// The tables that were loaded.
#[derive(Default)]
pub(super) struct Loaded {
    unwind: HashMap<ObjectId, MappedTable>,
    symbols: HashMap<ObjectId, MappedTable>,
    /// Faults so far when everything was let go last.
    faults: u64,
}

impl Loaded {
    /// Keeps a table for unwinding, to let go what is looked at by others.
    pub(super) fn keep_unwind(&mut self, object: ObjectId, table: MappedTable) {
        self.unwind.insert(object, table);
    }

    /// Keeps a table for naming.
    pub(super) fn keep_symbols(&mut self, object: ObjectId, table: MappedTable) {
        self.symbols.insert(object, table);
    }

    pub(super) fn forget(&mut self, object: ObjectId) {
        self.unwind.remove(&object);
        self.symbols.remove(&object);
    }

    /// The table for naming; empty where there is none.
    pub(super) fn symbols(&self, object: ObjectId) -> &[u8] {
        self.symbols.get(&object).map(|table| &**table).unwrap_or_default()
    }

    /// Between two requests: lets go what was looked at, where that may be much.
    pub(super) fn settle(&mut self) {
        let faults = faults();
        if faults.saturating_sub(self.faults) >= MAX_FAULTS {
            self.faults = faults;
            self.unwind.values().chain(self.symbols.values()).for_each(MappedTable::release);
        }
    }
}

/// Page faults of this process that read nothing from a disk.
fn faults() -> u64 {
    // SAFETY: a struct of integers may be all zeroes.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to a value of ours.
    let done = unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    if done == 0 { u64::try_from(usage.ru_minflt).unwrap_or(0) } else { 0 }
}

/// Makes large allocations go back to the system when they are freed. glibc would learn from the first large file to
/// keep them; musl does so by itself.
pub(super) fn keep_little() {
    #[cfg(target_env = "gnu")]
    // SAFETY: numbers, set before anything else is done; the process has one thread.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_FROM_BYTES);
    }
}

/// Gives freed memory back to the system: a large file leaves much of it, and the next may be far away.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no arguments that could be wrong; the process has one thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
