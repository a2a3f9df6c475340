//! Everything that one collection shows, and where instruments find it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use profile::stats::{CpuTicks, Snapshot};

use super::BuildInfo;
use super::aggregated::Telling;
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
    /// Samples by function.
    pub(crate) aggregated: Telling,
    pub(crate) process: ProcessReading,
    pub(crate) build: BuildInfo,
}

/// Where the instruments of one pipeline look.
pub(crate) type Slot = Arc<ArcSwap<Reading>>;

/// Snapshots that are taken at most for one reading.
const MAX_SNAPSHOTS: usize = 3;

/// What was told of missed ticks so far.
///
/// They are computed, `expected - seen`, from the clock and from counters that cannot be read at one instant. Two
/// things follow. The difference may fall by a tick; a counter must not, or Prometheus takes it for a restart and counts
/// everything again. And where the reader lost the CPU in between, ticks seem to be missed that were not; what was told
/// could not be taken back. So a snapshot in which they grew is compared with further ones, and the one with the fewest
/// counts: what is really missed stays missed.
#[derive(Debug, Default)]
pub(crate) struct MissedTicks {
    told: BTreeMap<u32, u64>,
}

impl MissedTicks {
    /// Takes a snapshot, or a few; gives one of them, and the missed ticks to tell of each of its CPUs: never fewer than
    /// before.
    pub(crate) fn read(&mut self, mut take: impl FnMut() -> Snapshot) -> (Snapshot, Vec<u64>) {
        let mut best = take();
        for _ in 1..MAX_SNAPSHOTS {
            let growth = self.growth(&best.sampler.cpus);
            if growth <= best.sampler.cpus.len() as u64 {
                break;
            }
            let again = take();
            if self.growth(&again.sampler.cpus) < growth {
                best = again;
            }
        }
        let tell = |cpu: &CpuTicks| {
            let told = self.told.entry(cpu.cpu).or_default();
            *told = (*told).max(cpu.missed());
            *told
        };
        let missed = best.sampler.cpus.iter().map(tell).collect();
        (best, missed)
    }

    /// How many more ticks would be told as missed.
    fn growth(&self, cpus: &[CpuTicks]) -> u64 {
        let told = |cpu: &CpuTicks| self.told.get(&cpu.cpu).copied().unwrap_or(0);
        cpus.iter().map(|cpu| cpu.missed().saturating_sub(told(cpu))).sum()
    }
}

#[cfg(test)]
mod tests {
    use profile::ledger::KernelCounts;
    use profile::stats::SamplerStats;

    use super::*;

    fn snapshot(expected: u64, idle: u64) -> Snapshot {
        let kernel = KernelCounts { idle, ..KernelCounts::default() };
        let sampler = SamplerStats { cpus: vec![CpuTicks { cpu: 3, kernel, expected }], ..SamplerStats::default() };
        Snapshot { sampler, ..Snapshot::default() }
    }

    fn read(missed: &mut MissedTicks, snapshots: &[(u64, u64)]) -> (Vec<u64>, usize) {
        let mut taken = 0;
        let (_, told) = missed.read(|| {
            let (expected, idle) = snapshots[taken.min(snapshots.len() - 1)];
            taken += 1;
            snapshot(expected, idle)
        });
        (told, taken)
    }

    #[test]
    fn missed_ticks_never_fall() {
        let mut missed = MissedTicks::default();
        assert_eq!(read(&mut missed, &[(100, 99)]), (vec![1], 1));
        assert_eq!(read(&mut missed, &[(110, 110)]), (vec![1], 1));
        assert_eq!(read(&mut missed, &[(120, 118)]), (vec![2], 1));
    }

    #[test]
    fn a_reader_that_was_interrupted_reads_again() {
        let mut missed = MissedTicks::default();
        // The clock was read long after the counters.
        assert_eq!(read(&mut missed, &[(130, 100), (130, 130)]), (vec![0], 2));
        // Ticks that are really missed are told at once.
        assert_eq!(read(&mut missed, &[(200, 150)]), (vec![50], MAX_SNAPSHOTS));
        assert_eq!(read(&mut missed, &[(210, 160)]), (vec![50], 1));
    }
}
