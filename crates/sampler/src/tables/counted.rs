//! The thread's numbers.

use std::sync::atomic::{AtomicU64, Ordering};

use profile::stats::UnwindStats;

/// Stored by the thread of tables; `news_dropped` by the one that sends.
#[derive(Debug, Default)]
pub(crate) struct TablesCounted {
    pub(crate) files_loaded: AtomicU64,
    pub(crate) files_pending: AtomicU64,
    pub(crate) files_evicted: AtomicU64,
    pub(crate) files_refused: AtomicU64,
    pub(crate) files_taken_off: AtomicU64,
    pub(crate) files_without_table: AtomicU64,
    pub(crate) unsupported_rows: AtomicU64,
    pub(crate) processes_published: AtomicU64,
    pub(crate) processes_refused: AtomicU64,
    pub(crate) table_bytes: AtomicU64,
    pub(crate) table_limit_bytes: AtomicU64,
    pub(crate) kernel_bytes: AtomicU64,
    pub(crate) shards: AtomicU64,
    pub(crate) news_dropped: AtomicU64,
}

impl TablesCounted {
    /// Enters them where they are read.
    pub(crate) fn fill(&self, stats: &mut UnwindStats) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        stats.files_loaded = load(&self.files_loaded);
        stats.files_pending = load(&self.files_pending);
        stats.files_evicted = load(&self.files_evicted);
        stats.files_refused = load(&self.files_refused);
        stats.files_taken_off = load(&self.files_taken_off);
        stats.files_without_table = load(&self.files_without_table);
        stats.unsupported_rows = load(&self.unsupported_rows);
        stats.processes_published = load(&self.processes_published);
        stats.processes_refused = load(&self.processes_refused);
        stats.table_bytes = load(&self.table_bytes);
        stats.table_limit_bytes = load(&self.table_limit_bytes);
        stats.kernel_bytes = load(&self.kernel_bytes);
        stats.shards = load(&self.shards);
        stats.news_dropped = load(&self.news_dropped);
    }
}
