//! What the pipeline reads in /proc, what is due now and then, and the numbers that it publishes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustc_hash::FxHashSet;

use super::unsettled::is_due;
use super::{CHECKED_PER_SECOND, Pipeline, RESCAN_INTERVAL_NS, RESCAN_SHARE, RETRY_INTERVAL_NS, SECOND_NS};
use crate::comm::Comm;
use crate::declared::Environments;
use crate::proc_scan::ProcSource;
use crate::process::{MapSet, Sighting};
use crate::source::ObjectSource;
use crate::unwinding::{UserHalf, Waiting};

impl<O: ObjectSource, P: ProcSource> Pipeline<O, P> {
    /// A caller's address may lie in a mapping that no record told of: reads the mappings once more. True where they
    /// are others now, and the sample has them.
    pub(super) fn look_again(&mut self, waiting: &mut Waiting) -> bool {
        let head = waiting.sample.head;
        let sighting = Sighting {
            time_mono_ns: head.time_mono_ns,
            tgid: head.tgid,
            leader_start_mono_ns: head.leader_start_mono_ns,
            comm: Comm::from_bytes(&head.comm),
            cgroup_id: head.cgroup_id,
        };
        let serial = |maps: &Arc<MapSet>| maps.serial();
        let Some(process) = self.table.sighted(sighting) else { return false };
        if waiting.maps.as_ref().map(serial) != Some(process.maps.serial())
            || !process.is_running()
            || !is_due(process.reread_mono_ns, self.unsettled.now_mono_ns, RETRY_INTERVAL_NS)
            || !self.unsettled.may_reread()
        {
            return false;
        }
        process.reread_mono_ns = Some(self.unsettled.now_mono_ns);
        if !self.reread(head.tgid) {
            return false;
        }
        let Some(process) = self.table.sighted(sighting) else { return false };
        waiting.user = UserHalf::Snapshot(self.resolver.mappings(process, &head, &waiting.sample.snapshot));
        waiting.maps = Some(Arc::clone(&process.maps));
        true
    }

    /// Reads one process again; true where its mappings changed.
    pub(super) fn reread(&mut self, tgid: u32) -> bool {
        self.shared.counted.proc_rereads.fetch_add(1, Ordering::Relaxed);
        let Some(mut scanned) = self.proc.process(tgid) else { return false };
        if let Some((id, place)) = scanned.place.take() {
            self.places.learned(id, place, tgid);
        }
        self.table.reread(&scanned)
    }

    /// What is due now and then: all of /proc after a loss, and a look for processes whose end was lost.
    pub(super) fn keep_house(&mut self) {
        let now = self.unsettled.now_mono_ns;
        self.verdicts.keep_house(now, |cgroup| self.proc.cgroup_exists(cgroup));
        if self.unsettled.lost && now >= self.unsettled.next_rescan_mono_ns {
            self.unsettled.lost = false;
            self.shared.counted.proc_rereads.fetch_add(1, Ordering::Relaxed);
            let began = Instant::now();
            let all = self.proc.all();
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let tgids: FxHashSet<u32> = all.iter().map(|p| p.tgid).collect();
            self.table.only_these_run(&tgids, now);
            self.scanned(now, all);
            self.unsettled.next_rescan_mono_ns = now + RESCAN_INTERVAL_NS.max(took.saturating_mul(RESCAN_SHARE));
        }
        if now >= self.unsettled.next_check_mono_ns {
            self.unsettled.next_check_mono_ns = now + SECOND_NS;
            for tgid in self.table.next_to_check(CHECKED_PER_SECOND) {
                if !self.proc.exists(tgid) {
                    self.table.gone(tgid, now);
                }
            }
        }
    }

    pub(super) fn publish(&self) {
        let counted = &self.shared.counted;
        let table = self.table.stats();
        counted.processes.store(table.processes, Ordering::Relaxed);
        counted.table_refusals.store(table.refused_processes + table.refused_mappings, Ordering::Relaxed);
        counted.early_records.store(self.merge.early(), Ordering::Relaxed);
        counted.window_entries.store(self.aggregator.entries(), Ordering::Relaxed);
        counted.deferred_files.store(self.resolver.deferred(), Ordering::Relaxed);
        counted.late_samples.store(self.aggregator.late(), Ordering::Relaxed);
        let environments = self.environments.as_ref().map_or(0, Environments::readings);
        counted.place_readings.store(self.places.readings() + environments, Ordering::Relaxed);
        counted.places.store(self.places.len() as u64, Ordering::Relaxed);
        counted.verdicts.store(self.verdicts.held(), Ordering::Relaxed);
        counted.verdicts_refused.store(self.verdicts.refused(), Ordering::Relaxed);
        counted.proc_errors.store(self.proc.errors(), Ordering::Relaxed);
        counted.walks_forgotten.store(self.walks.forgotten(), Ordering::Relaxed);
    }
}
