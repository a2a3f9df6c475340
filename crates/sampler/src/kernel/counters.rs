//! What the eBPF program has counted, readable from any thread.
//!
//! **In**: the per-CPU map. **Out**: [`Counters`]. **Units**: ticks, samples, bytes, nanoseconds. **Limits**: one row per CPU.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use aya::maps::{MapData, PerCpuArray};
use sampler_abi::CpuCounters;

use super::{error::KernelError, events::Events};

/// The program's counters as the kernel hands them out.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct CountersValue(CpuCounters);

// SAFETY: `repr(transparent)` over a `repr(C)` struct of integers without padding.
unsafe impl aya::Pod for CountersValue {}

/// One CPU, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuReading {
    /// Its number.
    pub cpu: u32,
    /// What the program counted on it.
    pub counters: CpuCounters,
    /// Ticks that all the time with a running event should have brought.
    pub expected: u64,
}

/// Everything that is counted at the kernel side, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// One row for each CPU that ever had an event.
    pub cpus: Vec<CpuReading>,
    /// CPUs with a running event now.
    pub cpus_attached: u64,
    /// CPUs online at the last look.
    pub cpus_online: u64,
    /// The ring buffer's size in bytes.
    pub ring_capacity_bytes: u64,
    /// Records of the ring buffer that did not parse.
    pub malformed: u64,
}

impl Counters {
    /// The sum over all CPUs.
    #[must_use]
    pub fn total(&self) -> CpuCounters {
        self.cpus.iter().fold(CpuCounters::default(), |sum, row| {
            let one = &row.counters;
            CpuCounters {
                idle: sum.idle + one.idle,
                filtered: sum.filtered + one.filtered,
                taken: sum.taken + one.taken,
                lost_ring: sum.lost_ring + one.lost_ring,
                lost_scratch: sum.lost_scratch + one.lost_scratch,
                ring_bytes: sum.ring_bytes + one.ring_bytes,
                run_ns: sum.run_ns + one.run_ns,
                filtered_ns: sum.filtered_ns + one.filtered_ns,
                snapshot_ns: sum.snapshot_ns + one.snapshot_ns,
                snapshot_full: sum.snapshot_full + one.snapshot_full,
                children_not_listed: sum.children_not_listed + one.children_not_listed,
                walk_ns: sum.walk_ns + one.walk_ns,
                walked: sum.walked + one.walked,
                walked_frames: sum.walked_frames + one.walked_frames,
                checks: sum.checks + one.checks,
                bridged_unknown: sum.bridged_unknown + one.bridged_unknown,
                bridged_pending: sum.bridged_pending + one.bridged_pending,
                bridged_bad_frame: sum.bridged_bad_frame + one.bridged_bad_frame,
            }
        })
    }
}

/// What the kernel side and all handles share.
pub(super) struct Shared {
    counters: PerCpuArray<MapData, CountersValue>,
    /// The numbers of the CPUs, in the order of the map's values.
    possible: Vec<u32>,
    events: Mutex<Events>,
    malformed: AtomicU64,
    ring_capacity_bytes: u32,
}

impl Shared {
    pub(super) fn new(
        counters: PerCpuArray<MapData, CountersValue>,
        possible: Vec<u32>,
        events: Events,
        ring_capacity_bytes: u32,
    ) -> Self {
        Self { counters, possible, events: Mutex::new(events), malformed: AtomicU64::new(0), ring_capacity_bytes }
    }

    /// The events. What a panicking holder left behind is still a list of events.
    pub(super) fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count_malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Reads the counters.
#[derive(Clone)]
pub struct CountersHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for CountersHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountersHandle").finish_non_exhaustive()
    }
}

impl CountersHandle {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Everything, now. Costs one system call, and one for each attached CPU.
    ///
    /// # Errors
    /// [`KernelError::Map`] where the kernel does not hand the map out.
    pub fn read(&self) -> Result<Counters, KernelError> {
        // First the ticks, then the time: what was counted is never more than what is expected.
        let values = self.shared.counters.get(&0, 0).map_err(|source| KernelError::Map { name: "COUNTERS", source })?;
        let malformed = self.shared.malformed.load(Ordering::Relaxed);
        let events = self.shared.events();
        let cpus = events
            .expected()
            .into_iter()
            .map(|(cpu, expected)| CpuReading {
                cpu,
                counters: self
                    .shared
                    .possible
                    .binary_search(&cpu)
                    .ok()
                    .and_then(|index| values.get(index))
                    .map_or_else(CpuCounters::default, |value| value.0),
                expected,
            })
            .collect();
        Ok(Counters {
            cpus,
            cpus_attached: events.attached() as u64,
            cpus_online: events.online() as u64,
            ring_capacity_bytes: u64::from(self.shared.ring_capacity_bytes),
            malformed,
        })
    }
}
