//! Everything that one collection shows, and where instruments find it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use profile::stats::{CpuTicks, Snapshot};

use super::BuildInfo;
use super::process::ProcessReading;
use crate::delivery::DeliveryStats;
use crate::store::StoreStats;

/// The numbers of one collection, all read in one go.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reading {
    pub(crate) snapshot: Snapshot,
    /// Ticks that never came, in the order of `snapshot.sampler.cpus`.
    pub(crate) missed: Vec<u64>,
    pub(crate) delivery: DeliveryStats,
    /// Pushes of metrics: accepted, failed.
    pub(crate) pushes: (u64, u64),
    pub(crate) store: StoreStats,
    pub(crate) process: ProcessReading,
    pub(crate) build: BuildInfo,
    pub(crate) start_time_unix_s: u64,
    /// Clock ticks in a second of CPU time.
    pub(crate) clock_hz: u64,
}

/// Where the instruments of one pipeline look.
pub(crate) type Slot = Arc<ArcSwap<Reading>>;

/// Missed ticks are computed, `expected - seen`, from two clocks that are not read at one instant: the difference may
/// fall by a tick. A counter must not, or Prometheus takes it for a restart and counts everything again.
#[derive(Debug, Default)]
pub(crate) struct MissedTicks {
    told: BTreeMap<u32, u64>,
}

impl MissedTicks {
    /// What to tell of each CPU: never less than before.
    pub(crate) fn update(&mut self, cpus: &[CpuTicks]) -> Vec<u64> {
        cpus.iter()
            .map(|cpu| {
                let told = self.told.entry(cpu.cpu).or_default();
                *told = (*told).max(cpu.missed());
                *told
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use profile::ledger::KernelCounts;

    use super::*;

    #[test]
    fn missed_ticks_never_fall() {
        let cpu =
            |expected, idle| CpuTicks { cpu: 3, kernel: KernelCounts { idle, ..KernelCounts::default() }, expected };
        let mut missed = MissedTicks::default();
        assert_eq!(missed.update(&[cpu(100, 98)]), [2]);
        assert_eq!(missed.update(&[cpu(110, 109)]), [2]);
        assert_eq!(missed.update(&[cpu(120, 115)]), [5]);
    }
}
