//! The room's counters, and what the registry and the worker say of themselves, as [`ObjectStats`].

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Only grow; read by any thread.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) extracted: AtomicU64,
    pub(crate) shared: AtomicU64,
    pub(crate) open_errors: AtomicU64,
    pub(crate) identity_mismatches: AtomicU64,
    pub(crate) parse_errors: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) worker_restarts: AtomicU64,
    pub(crate) worker_failed_requests: AtomicU64,
    /// Of these, those about debug files.
    pub(crate) deadly_debug_files: AtomicU64,
    /// Not a counter: the worker now, or 0.
    pub(crate) worker_pid: AtomicU32,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
