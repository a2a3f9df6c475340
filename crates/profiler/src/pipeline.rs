//! The wiring that agent and `record` share: filters, sampler, worker, naming, attribution, and the numbers of all rooms.

use std::sync::Arc;

use anyhow::Context;
use exporter::metrics::Statistics;
use identity::Identities;
use objects::{Objects, ObjectsConfig};
use profile::ledger::KernelCounts;
use profile::stats::{CpuTicks, SamplerStats, Snapshot};
use profile::{Ledger, Profile};
use sampler::{Sampler, SamplerConfig, StatsHandle, Target};
use symbolizer::NamerCounters;

use crate::config::settings::{Settings, usual_ring_bytes};
use crate::filter::Filter;
use crate::limits;
use crate::naming::{Naming, Progress};

/// Everything between the kernel and a sink.
pub(crate) struct Pipeline {
    sampler: Sampler,
    naming: Naming,
    rooms: Arc<Rooms>,
}

/// The numbers of all rooms; they stay readable when the pipeline has stopped.
pub(crate) struct Rooms {
    ledger: Arc<Ledger>,
    objects: Arc<Objects>,
    identities: Arc<Identities>,
    sampler: StatsHandle,
    naming: Arc<NamerCounters>,
    progress: Arc<Progress>,
}

impl Pipeline {
    /// Starts sampling. Every window with names of frames and owners goes to `sink`, on a thread of its own.
    ///
    /// # Errors
    /// What the kernel refuses, and what would mend it.
    pub(crate) fn start(
        settings: &Settings,
        identities: Arc<Identities>,
        ledger: Arc<Ledger>,
        sink: impl FnMut(Arc<Profile>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        // Not earlier: the command of `record` keeps the limit that it was started with.
        limits::raise_open_files();
        let objects = ObjectsConfig { cache: settings.unwind.cache.clone(), ..ObjectsConfig::default() };
        let objects = Objects::start(objects).context("cannot start the worker process")?;
        let objects = Arc::new(objects);
        let (naming, windows) =
            Naming::start(Arc::clone(&objects), Arc::clone(&identities), Arc::clone(&ledger), sink)?;
        let judge =
            Arc::new(Filter::new(settings.filter.clone(), settings.sampling.environment, Arc::clone(&identities)));
        let config = config(settings);
        let sampler = match Sampler::start(config, Arc::clone(&objects), Arc::clone(&ledger), windows, judge) {
            Ok(sampler) => sampler,
            Err(error) => {
                objects.shutdown();
                return Err(error.into());
            }
        };
        let rooms = Arc::new(Rooms {
            ledger,
            objects,
            identities,
            sampler: sampler.stats(),
            naming: naming.counters(),
            progress: naming.progress(),
        });
        Ok(Self { sampler, naming, rooms })
    }

    /// The numbers of all rooms.
    pub(crate) fn rooms(&self) -> Arc<Rooms> {
        Arc::clone(&self.rooms)
    }

    /// Whether every process that was asked for is gone.
    pub(crate) fn target_exited(&self) -> bool {
        self.sampler.target_exited()
    }

    /// Stops sampling; returns when all that was sampled has gone to the sink.
    pub(crate) fn stop(self) {
        self.sampler.stop();
        self.naming.join();
        self.rooms.objects.shutdown();
    }
}

fn config(settings: &Settings) -> SamplerConfig {
    let s = &settings.sampling;
    SamplerConfig {
        rate_hz: s.frequency_hz,
        target: if s.pids.is_empty() {
            Target::All
        } else {
            Target::Processes { tgids: s.pids.clone(), children: s.children }
        },
        snapshot_bytes: s.snapshot_bytes,
        window: s.window,
        per_thread: s.threads,
        timestamps: s.timestamps,
        ring_bytes: s.ring_bytes.unwrap_or_else(usual_ring_bytes),
        include_self: s.include_self,
        kernel_threads: s.kernel_threads,
        merge_bytes: usize::try_from(s.merge_bytes).unwrap_or(usize::MAX),
        environment: s.environment,
        unwind: settings.unwind.kernel,
    }
}

impl Rooms {
    /// Samples taken so far.
    pub(crate) fn taken(&self) -> u64 {
        self.sampler.kernel_counts().taken
    }

    /// Whether events are attached on every CPU that is online.
    pub(crate) fn attached_everywhere(&self) -> bool {
        self.sampler.attached_everywhere()
    }

    /// How naming goes on.
    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }
}

impl Statistics for Rooms {
    fn snapshot(&self) -> Snapshot {
        let naming = self.naming.stats();
        let objects = self.objects.stats();
        let identity = self.identities.stats();
        // The ledger reads the kernel last. The same reading fills the CPUs' rows, so that both of its lines are of
        // one moment.
        let mut sampler = SamplerStats::default();
        let ledger = self.ledger.snapshot(|| {
            let stats = self.sampler.stats();
            let counts = stats.cpus.iter().fold(KernelCounts::default(), |sum, cpu| KernelCounts {
                idle: sum.idle + cpu.kernel.idle,
                filtered: sum.filtered + cpu.kernel.filtered,
                taken: sum.taken + cpu.kernel.taken,
                lost_ring: sum.lost_ring + cpu.kernel.lost_ring,
                lost_scratch: sum.lost_scratch + cpu.kernel.lost_scratch,
            });
            sampler = stats;
            counts
        });
        let unwind = self.sampler.unwind();
        Snapshot { ledger, sampler, objects, naming, identity, unwind }
    }
}

/// Writes the ledger into the log: every term, so that the line can be checked by adding up.
/// Before it, how stacks were unwound.
pub(crate) fn log_ledger(snapshot: &Snapshot) {
    let u = &snapshot.unwind;
    tracing::info!(
        walked = u.walked,
        bridged_unknown = u.bridged_unknown,
        bridged_pending = u.bridged_pending,
        bridged_bad_frame = u.bridged_bad_frame,
        agree = u.checks_agree,
        differ = u.checks_differ,
        inconclusive = u.checks_inconclusive,
        files_taken_off = u.files_taken_off,
        files_refused = u.files_refused,
        "final unwinding"
    );
    let l = &snapshot.ledger;
    let missed: u64 = snapshot.sampler.cpus.iter().map(CpuTicks::missed).sum();
    let held: i64 = l.held.iter().sum();
    let dropped: u64 = l.dropped.iter().sum();
    let [ring, merge, window, naming, queue, spool] = l.held;
    let [
        ring_full,
        scratch,
        malformed,
        merge_full,
        filtered,
        naming_full,
        queue_full,
        rejected,
        refused,
        expired,
        too_large,
        shutdown,
    ] = l.dropped;
    tracing::info!(
        idle = l.kernel.idle,
        filtered = l.kernel.filtered,
        taken = l.kernel.taken,
        missed,
        exported = l.exported,
        held,
        dropped,
        balanced = l.balances(),
        held_ring = ring,
        held_merge = merge,
        held_window = window,
        held_naming = naming,
        held_queue = queue,
        held_spool = spool,
        dropped_ring_full = ring_full,
        dropped_scratch = scratch,
        dropped_malformed = malformed,
        dropped_merge_full = merge_full,
        dropped_filtered = filtered,
        dropped_naming_full = naming_full,
        dropped_queue_full = queue_full,
        dropped_rejected = rejected,
        dropped_refused = refused,
        dropped_expired = expired,
        dropped_too_large = too_large,
        dropped_shutdown = shutdown,
        "final ledger"
    );
}

#[cfg(test)]
mod tests {
    use sampler::UnwindConfig;

    use super::*;
    use crate::config::settings::{Sampling, Unwind};

    #[test]
    fn the_samplers_configuration_says_what_the_settings_say() {
        let all = config(&Settings::default());
        assert_eq!((all.rate_hz, all.target, all.include_self), (19, Target::All, false));
        assert_eq!(all.unwind, UnwindConfig::default());
        let sampling = Sampling { pids: vec![7], children: true, threads: true, ..Sampling::default() };
        let kernel = UnwindConfig { tables: false, max_frames: 100, ..UnwindConfig::default() };
        let unwind = Unwind { kernel, ..Unwind::default() };
        let some = config(&Settings { sampling, unwind, ..Settings::default() });
        assert_eq!(some.unwind, kernel);
        assert_eq!(some.target, Target::Processes { tgids: vec![7], children: true });
        assert!(some.per_thread && !some.timestamps && some.kernel_threads);
    }
}
