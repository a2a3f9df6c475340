//! The sampler's numbers, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use profile::ledger::KernelCounts;
use profile::stats::{CpuTicks, SamplerStats, UnwindStats};

use crate::kernel::{Counters, CountersHandle};
use crate::tables::TablesCounted;

/// What the threads count. Each field is stored by one thread alone.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) sideband_records: AtomicU64,
    pub(crate) sideband_lost: AtomicU64,
    pub(crate) proc_rereads: AtomicU64,
    pub(crate) proc_errors: AtomicU64,
    pub(crate) processes: AtomicU64,
    pub(crate) unknown_process_samples: AtomicU64,
    pub(crate) window_entries: AtomicU64,
    pub(crate) late_samples: AtomicU64,
    pub(crate) table_refusals: AtomicU64,
    pub(crate) early_records: AtomicU64,
    pub(crate) deferred_files: AtomicU64,
    pub(crate) place_readings: AtomicU64,
    pub(crate) places: AtomicU64,
    pub(crate) unknown_place_samples: AtomicU64,
    pub(crate) verdicts: AtomicU64,
    pub(crate) verdicts_refused: AtomicU64,
    /// Walked stacks that were compared, and what came of it.
    pub(crate) checks_agree: AtomicU64,
    pub(crate) checks_differ: AtomicU64,
    pub(crate) checks_inconclusive: AtomicU64,
    /// Walked samples of which not all frames were believed: the mappings had changed.
    pub(crate) stale_walks: AtomicU64,
    /// Walked samples whose stacks were not remembered for want of room.
    pub(crate) walks_forgotten: AtomicU64,
}

/// Reads the sampler's numbers. It stays valid, and keeps its last values, after the sampler has stopped.
#[derive(Clone, Debug)]
pub struct StatsHandle {
    kernel: CountersHandle,
    counted: Arc<Counted>,
    tables: Arc<TablesCounted>,
    last: Arc<Mutex<Counters>>,
}

impl StatsHandle {
    pub(crate) fn new(kernel: CountersHandle, counted: Arc<Counted>, tables: Arc<TablesCounted>) -> Self {
        Self { kernel, counted, tables, last: Arc::default() }
    }

    /// What the eBPF program has counted, summed over CPUs.
    #[must_use]
    pub fn kernel_counts(&self) -> KernelCounts {
        let total = self.read().total();
        KernelCounts {
            idle: total.idle,
            filtered: total.filtered,
            taken: total.taken,
            lost_ring: total.lost_ring,
            lost_scratch: total.lost_scratch,
        }
    }

    /// Everything.
    #[must_use]
    pub fn stats(&self) -> SamplerStats {
        let kernel = self.read();
        let total = kernel.total();
        let row = |row: &crate::kernel::CpuReading| CpuTicks {
            cpu: row.cpu,
            kernel: KernelCounts {
                idle: row.counters.idle,
                filtered: row.counters.filtered,
                taken: row.counters.taken,
                lost_ring: row.counters.lost_ring,
                lost_scratch: row.counters.lost_scratch,
            },
            expected: row.expected,
        };
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counted = &self.counted;
        SamplerStats {
            place_readings: load(&counted.place_readings),
            places: load(&counted.places),
            unknown_place_samples: load(&counted.unknown_place_samples),
            verdicts: load(&counted.verdicts),
            verdicts_refused: load(&counted.verdicts_refused),
            cpus: kernel.cpus.iter().map(row).collect(),
            cpus_attached: kernel.cpus_attached,
            cpus_online: kernel.cpus_online,
            bpf_run_ns: total.run_ns,
            ring_bytes: total.ring_bytes,
            ring_capacity_bytes: kernel.ring_capacity_bytes,
            sideband_records: load(&counted.sideband_records),
            sideband_lost: load(&counted.sideband_lost),
            proc_rereads: load(&counted.proc_rereads),
            proc_errors: load(&counted.proc_errors),
            processes: load(&counted.processes),
            unknown_process_samples: load(&counted.unknown_process_samples),
            window_entries: load(&counted.window_entries),
            late_samples: load(&counted.late_samples),
            table_refusals: load(&counted.table_refusals) + total.children_not_listed,
            early_records: load(&counted.early_records),
            deferred_files: load(&counted.deferred_files),
        }
    }

    /// Of unwinding in the kernel.
    #[must_use]
    pub fn unwind(&self) -> UnwindStats {
        let total = self.read().total();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut stats = UnwindStats {
            walked: total.walked,
            walked_frames: total.walked_frames,
            stale_walks: load(&self.counted.stale_walks),
            unremembered_walks: load(&self.counted.walks_forgotten),
            bridged_unknown: total.bridged_unknown,
            bridged_pending: total.bridged_pending,
            bridged_bad_frame: total.bridged_bad_frame,
            checks_agree: load(&self.counted.checks_agree),
            checks_differ: load(&self.counted.checks_differ),
            checks_inconclusive: load(&self.counted.checks_inconclusive),
            walk_ns: total.walk_ns,
            snapshot_ns: total.snapshot_ns,
            filtered_ns: total.filtered_ns,
            ..UnwindStats::default()
        };
        self.tables.fill(&mut stats);
        stats
    }

    /// Whether every online CPU is sampled.
    #[must_use]
    pub fn attached_everywhere(&self) -> bool {
        let kernel = self.read();
        kernel.cpus_attached > 0 && kernel.cpus_attached >= kernel.cpus_online
    }

    /// The kernel's numbers now; should it not give them, those of last time, so that no counter goes back.
    fn read(&self) -> Counters {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(counters) = self.kernel.read() {
            *last = counters;
        }
        last.clone()
    }
}
