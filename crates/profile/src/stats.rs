//! The plain numbers that rooms publish about themselves; the exporter turns them into instruments.
//!
//! Counters only grow while the agent runs. Every struct is read as a whole, in one call, by one scrape.

use crate::ledger::{KernelCounts, LedgerSnapshot};

/// Of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// The CPU's number.
    pub cpu: u32,
    /// What the program counted on it.
    pub kernel: KernelCounts,
    /// Ticks that the time since its event was enabled should have brought (all times that the CPU was online).
    pub expected: u64,
}

impl CpuTicks {
    /// Ticks that the kernel never delivered.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.expected.saturating_sub(self.kernel.idle + self.kernel.filtered + self.kernel.taken)
    }
}

/// Of the sampler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SamplerStats {
    /// One row for each CPU that was ever attached.
    pub cpus: Vec<CpuTicks>,
    /// CPUs with an attached event now.
    pub cpus_attached: u64,
    /// CPUs online now.
    pub cpus_online: u64,
    /// Nanoseconds inside the eBPF program, all ticks.
    pub bpf_run_ns: u64,
    /// Bytes handed to the ring buffer.
    pub ring_bytes: u64,
    /// The ring buffer's size in bytes.
    pub ring_capacity_bytes: u64,
    /// Side-band records read, by kind.
    pub sideband_records: u64,
    /// Side-band records that the kernel reported as lost.
    pub sideband_lost: u64,
    /// Re-readings of /proc after a loss or an unknown address.
    pub proc_rereads: u64,
    /// /proc entries that could not be read or parsed.
    pub proc_errors: u64,
    /// Processes in the table.
    pub processes: u64,
    /// Samples of a process that was not in the table.
    pub unknown_process_samples: u64,
    /// Distinct (owner, stack) entries in the open window.
    pub window_entries: u64,
    /// Samples that came after their window was closed, and were counted in the next.
    pub late_samples: u64,
    /// Processes and mappings that found no room in the table, and children of listed processes that found none on the list.
    pub table_refusals: u64,
    /// Side-band records applied before their turn, for want of room.
    pub early_records: u64,
    /// Readings of a process's cgroup and environment.
    pub place_readings: u64,
    /// Cgroups known.
    pub places: u64,
    /// Samples of a process whose cgroup could not be learned.
    pub unknown_place_samples: u64,
    /// Filter verdicts that the kernel side holds.
    pub verdicts: u64,
    /// Verdicts that found no room there: their samples are dropped in user space.
    pub verdicts_refused: u64,
    /// Files that samples wanted, left unopened since their process had used up its time for opening.
    pub deferred_files: u64,
}

/// Of target files and the worker process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectStats {
    /// Files known now.
    pub objects: u64,
    /// Bytes of extracted tables held.
    pub table_bytes: u64,
    /// Files read by the worker.
    pub extracted: u64,
    /// Files that were not, since their tables are those of another file: its content is the same where it matters.
    pub shared: u64,
    /// Files that could not be opened, by any way.
    pub open_errors: u64,
    /// Files found, but of another device, inode or change than the mapping said.
    pub identity_mismatches: u64,
    /// Files that the worker could not make sense of.
    pub parse_errors: u64,
    /// Files left alone because they killed the worker twice.
    pub quarantined: u64,
    /// Times that a worker was replaced: died, hung, or answered nonsense.
    pub worker_restarts: u64,
    /// Requests that failed with it.
    pub worker_failed_requests: u64,
    /// The worker's pid now; 0 where none runs.
    pub worker_pid: u32,
    /// Tables kept on disk; none where they are not.
    pub cache: Option<CacheStats>,
}

/// Of tables kept on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Bytes of all entries, as far as this agent knows.
    pub bytes: u64,
    /// Files whose tables were found there.
    pub hits: u64,
    /// Files that were not found there.
    pub misses: u64,
    /// Entries written.
    pub stored: u64,
    /// Entries found damaged, and deleted.
    pub damaged: u64,
    /// Entries deleted to make room.
    pub evicted: u64,
    /// Entries that could not be read or written: a full disk, say.
    pub failed: u64,
    /// Entries not written, since too many were waiting.
    pub dropped: u64,
}

/// Of naming.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamingStats {
    /// Frames (once per distinct frame of a window) with a function's name.
    pub named_frames: u64,
    /// Frames shown as `binary+0xoffset`.
    pub unnamed_frames: u64,
    /// Addresses in the cache of names.
    pub cached_names: u64,
    /// Kernel symbols known.
    pub kernel_symbols: u64,
}

/// Of attribution: who processes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdentityStats {
    /// Containers with a known name (a pod's, a runtime's), gone ones included as long as they are kept.
    pub containers: u64,
    /// Pods known.
    pub pods: u64,
    /// Answers of the kubelet, the API server or a runtime that were understood.
    pub answers: u64,
    /// Requests to them that failed: no connection, refused, too slow, not understood.
    pub failures: u64,
    /// Distinct containers that were asked for and that nobody knew.
    pub unknown_containers: u64,
    /// Names and containers that found no room.
    pub refused: u64,
}

/// Of unwinding in the kernel: its tables, its walks, and how they are checked.
///
/// Where the kernel side has no tables, all of it is 0, except for the times and what all maps hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnwindStats {
    /// Samples whose user stack the kernel walked by tables.
    pub walked: u64,
    /// User frames of these.
    pub walked_frames: u64,
    /// Of the walked: stacks that were cut where their process's mappings had changed since they were published.
    pub stale_walks: u64,
    /// Of the walked: those whose stacks found no room where stacks are remembered, and were made of their addresses once more.
    pub unremembered_walks: u64,
    /// Samples with a snapshot instead: their process was not published, or is not the one that was.
    pub bridged_unknown: u64,
    /// Samples with a snapshot instead: their walk came to a file whose table was not loaded.
    pub bridged_pending: u64,
    /// Samples with a snapshot instead: their walk came to a frame that made no sense.
    pub bridged_bad_frame: u64,
    /// Walked samples that also carried a snapshot, unwound again and found equal.
    pub checks_agree: u64,
    /// The same, found different.
    pub checks_differ: u64,
    /// The same, where nothing can be said: a cut stack, a signal frame, a frame pointer followed.
    pub checks_inconclusive: u64,
    /// Nanoseconds of the eBPF program in walks.
    pub walk_ns: u64,
    /// Nanoseconds of it in copying stacks.
    pub snapshot_ns: u64,
    /// Nanoseconds of its runs that a filter ended.
    pub filtered_ns: u64,
    /// Files whose tables the kernel side holds now.
    pub files_loaded: u64,
    /// Files that processes have mapped and whose tables are on their way now.
    pub files_pending: u64,
    /// Files whose tables left for others, or since nobody needed them any more.
    pub files_evicted: u64,
    /// Files whose tables found no room.
    pub files_refused: u64,
    /// Files taken off the tables: they differed too often from the comparison.
    pub files_taken_off: u64,
    /// Files that have nothing to make a table of, now.
    pub files_without_table: u64,
    /// Processes whose mappings the kernel side holds now.
    pub processes_published: u64,
    /// Processes that found no room there, or have more mappings than a walk can search.
    pub processes_refused: u64,
    /// Bytes of tables and mappings in the kernel.
    pub table_bytes: u64,
    /// Bytes that tables and mappings may have there.
    pub table_limit_bytes: u64,
    /// Bytes of all maps of the eBPF programs, those for tables included.
    pub kernel_bytes: u64,
    /// Maps that hold tables now.
    pub shards: u64,
    /// News of processes that the thread of tables had no room for; each is mended by looking at the process again.
    pub news_dropped: u64,
    /// Rows of loaded files that say what a table cannot.
    pub unsupported_rows: u64,
}

/// Everything that one scrape sees, taken at one moment. Exporter's own numbers are the exporter's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The ledger.
    pub ledger: LedgerSnapshot,
    /// The sampler.
    pub sampler: SamplerStats,
    /// Files and worker.
    pub objects: ObjectStats,
    /// Names.
    pub naming: NamingStats,
    /// Who processes are.
    pub identity: IdentityStats,
    /// Unwinding in the kernel.
    pub unwind: UnwindStats,
}
