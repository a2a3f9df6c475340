//! Starting and stopping: what is opened in which order, and the threads.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};
use objects::Objects;
use profile::{DropReason, Ledger, Window};
use rustc_hash::FxHashSet;

use crate::aggregate::AggregatorConfig;
use crate::checks::CheckRate;
use crate::clock;
use crate::config::{SamplerConfig, Target};
use crate::declared::Environments;
use crate::drain::Drainer;
use crate::error::SamplerError;
use crate::family::Family;
use crate::inbox::Inbox;
use crate::judge::Judge;
use crate::kernel::{KernelSide, TablesHandle, online_cpus};
use crate::own::OwnProcesses;
use crate::pipeline::{Parts, Pipeline, Shared};
use crate::place::{self, Places};
use crate::proc_scan::{ProcFs, ProcSource};
use crate::process::Listed;
use crate::sample::Pool;
use crate::sideband::SideBand;
use crate::source::ObjectSource;
use crate::stats::{Counted, StatsHandle};
use crate::tables::{self, Desk, TableSource, TablesCounted};
use crate::targets::Targets;
use crate::unwinding::MAX_FRAMES;
use crate::verdicts::Verdicts;

/// How long the last windows wait for room in the channel when the sampler stops.
const LAST_SEND_TIMEOUT: Duration = Duration::from_secs(2);
const LAST_SEND_STEP: Duration = Duration::from_millis(10);
/// The unwinding thread looks at the clock at least this often.
const TAKE_TIMEOUT: Duration = Duration::from_secs(1);
/// Batches of news that wait for the thread "tables". While it is busy with a file news are gathered further before the channel.
const NEWS: usize = 4;
/// Rounds of looking for descendants that were forked while looking.
const CHILD_ROUNDS: usize = 5;

/// A running sampler.
#[derive(Debug)]
pub struct Sampler {
    stop: EventFd,
    drain: Option<JoinHandle<()>>,
    unwind: Option<JoinHandle<()>>,
    tables: Option<JoinHandle<()>>,
    stats: StatsHandle,
    targets: Targets,
}

impl Sampler {
    /// Opens the side-band rings, reads /proc, attaches the timers, and starts the threads "drain", "unwind" and
    /// "tables" (where the kernel takes what that needs).
    /// Closed windows go into `windows`; where it is full they are dropped and counted. `judge` says which samples are
    /// wanted ([`crate::judge::TakeAll`]: all).
    ///
    /// # Errors
    /// [`SamplerError`]; nothing is left attached then.
    pub fn start(
        config: SamplerConfig,
        objects: Arc<Objects>,
        ledger: Arc<Ledger>,
        windows: SyncSender<Window>,
        judge: Arc<dyn Judge>,
    ) -> Result<Self, SamplerError> {
        Self::start_with(config, objects, ledger, windows, judge)
    }

    fn start_with<O: ObjectSource + TableSource + Clone + Send + 'static>(
        config: SamplerConfig,
        objects: O,
        ledger: Arc<Ledger>,
        windows: SyncSender<Window>,
        judge: Arc<dyn Judge>,
    ) -> Result<Self, SamplerError> {
        config.check()?;
        if !clock::in_initial_pid_namespace() {
            return Err(SamplerError::PidNamespace);
        }
        let targets = Targets::look_up(&config.target, &ProcFs::new())?;
        let mut kernel = KernelSide::load(&config.kernel(std::process::id(), judge.filters()))?;
        let proc = ProcFs::with_cgroups(kernel.cgroup_ids().v1_controller());
        let online = online_cpus().map_err(SamplerError::Cpus)?;
        let page_bytes = usize::try_from(procfs::page_size()).unwrap_or(4096);
        // Records first, then /proc, then samples: what changes while /proc is read is in the records.
        let sideband = SideBand::open(&online, page_bytes, place::new_cgroups_are_of_v2())?;
        let scanned_mono_ns = clock::now().mono_ns;
        let scanned = proc.all();
        let mut own = OwnProcesses::new(Some(kernel.own_tgids()), std::process::id());
        own.follow(objects.worker_tgid());
        let began = clock::now();
        kernel.attach()?;
        let (listed, family) = listed(&config.target, &mut kernel, &proc)?;
        let (stats_source, verdicts) = (kernel.counters(), kernel.verdicts());

        let counted = Arc::new(Counted::default());
        let shared = Arc::new(Shared {
            ledger,
            counted: Arc::clone(&counted),
            inbox: Inbox::new(config.merge_bytes),
            pool: Pool::default(),
        });
        let system = |what| move |source| SamplerError::System { what, source };
        let tables_counted = Arc::new(TablesCounted::default());
        // Also where there is no thread of tables to say it.
        tables_counted.kernel_bytes.store(kernel.kernel_bytes(), Ordering::Relaxed);
        let (desk, tables) = match tables_handle(&config, &mut kernel) {
            Some(handle) => {
                let (send, news) = sync_channel(NEWS);
                let (source, counted) = (objects.clone(), Arc::clone(&tables_counted));
                let run = move || tables::run(&source, handle, &news, &counted);
                (Desk::new(send, Arc::clone(&tables_counted)), Some(run))
            }
            None => (Desk::default(), None),
        };
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(io::Error::from);
        let stop = stop.map_err(system("an eventfd"))?;
        let checks = CheckRate::new(config.unwind.check, began.mono_ns);
        let drainer = Drainer::new(kernel, sideband, Arc::clone(&shared), &stop, family, checks);
        let drainer = drainer.map_err(system("an epoll instance"))?;
        let aggregation = AggregatorConfig {
            length_ns: u64::try_from(config.window.as_nanos()).unwrap_or(u64::MAX),
            period_ns: config.period_ns(),
            timestamps: config.timestamps,
        };
        let parts = Parts {
            shared: Arc::clone(&shared),
            objects,
            proc,
            places: Places::new(Arc::clone(&judge)),
            environments: config.environment.then(|| Environments::new("/proc".into())),
            verdicts: Verdicts::new(judge, verdicts),
            listed,
            own,
            per_thread: config.per_thread,
            max_user_frames: if config.unwind.tables { config.unwind.max_frames as usize } else { MAX_FRAMES },
            desk,
        };
        let mut pipeline = Pipeline::new(parts, aggregation, began);
        pipeline.scanned(scanned_mono_ns, scanned);

        let stats = StatsHandle::new(stats_source, counted, tables_counted);
        let mut sampler = Self { stop, drain: None, unwind: None, tables: None, stats, targets };
        let unwind = move || unwind_thread(pipeline, &shared, &windows);
        // Should another thread not start, dropping `sampler` stops what runs; the unwinding thread is started
        // last, so that it never waits for a batch that nobody sends.
        let spawn = |name: &str| thread::Builder::new().name(name.to_owned());
        sampler.drain = Some(spawn("drain").spawn(move || drainer.run()).map_err(system("the thread \"drain\""))?);
        if let Some(run) = tables {
            sampler.tables = Some(spawn("tables").spawn(run).map_err(system("the thread \"tables\""))?);
        }
        sampler.unwind = Some(spawn("unwind").spawn(unwind).map_err(system("the thread \"unwind\""))?);
        Ok(sampler)
    }

    /// A reader of the sampler's numbers.
    #[must_use]
    pub fn stats(&self) -> StatsHandle {
        self.stats.clone()
    }

    /// Whether all processes are gone that were named; never where all are sampled.
    #[must_use]
    pub fn target_exited(&self) -> bool {
        self.targets.exited()
    }

    /// Detaches the timers, takes everything that is in the rings through to the last window, sends that, and waits
    /// for the threads to end. Where nobody receives, that takes up to two seconds, and what is left is counted.
    pub fn stop(mut self) {
        self.shut_down();
    }

    fn shut_down(&mut self) {
        // Writing to an eventfd fails only at 2^64 - 1.
        let _ = self.stop.write(1);
        // The last one ends when nobody sends it news any more.
        for thread in [self.drain.take(), self.unwind.take(), self.tables.take()].into_iter().flatten() {
            if thread.join().is_err() {
                tracing::error!("a thread of the sampler has panicked");
            }
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// What fills the tables, where they are wanted and the kernel takes them.
fn tables_handle(config: &SamplerConfig, kernel: &mut KernelSide) -> Option<TablesHandle> {
    if !config.unwind.tables {
        return None;
    }
    if let Some(error) = kernel.tables_error() {
        tracing::warn!(%error, "no unwinding in the kernel: all samples carry a piece of their stack");
    }
    kernel.take_tables()
}

fn unwind_thread<O: ObjectSource>(mut pipeline: Pipeline<O, ProcFs>, shared: &Shared, windows: &SyncSender<Window>) {
    loop {
        let Some(batch) = shared.inbox.take(TAKE_TIMEOUT) else { continue };
        let is_last = batch.is_last;
        let closed = pipeline.batch(batch, clock::now());
        if is_last {
            for window in closed.into_iter().chain(pipeline.finish(clock::now())) {
                send_last(window, shared, windows);
            }
            return;
        }
        for window in closed {
            send(window, shared, windows);
        }
    }
}

fn send(window: Window, shared: &Shared, windows: &SyncSender<Window>) {
    let samples = window.samples;
    shared.ledger.closed(samples);
    if windows.try_send(window).is_err() {
        shared.ledger.dropped(DropReason::NamingFull, samples);
    }
}

/// At the end there is no next window that would be late: the receiver gets time.
fn send_last(window: Window, shared: &Shared, windows: &SyncSender<Window>) {
    let samples = window.samples;
    shared.ledger.closed(samples);
    let until = Instant::now() + LAST_SEND_TIMEOUT;
    let mut waiting = window;
    loop {
        waiting = match windows.try_send(waiting) {
            Ok(()) => return,
            Err(TrySendError::Full(window)) if Instant::now() < until => window,
            Err(_) => return shared.ledger.dropped(DropReason::NamingFull, samples),
        };
        thread::sleep(LAST_SEND_STEP);
    }
}

/// Lists the descendants that run already. Returns who is listed, and who keeps the list where the kernel side does not itself.
fn listed(target: &Target, kernel: &mut KernelSide, proc: &ProcFs) -> Result<(Listed, Option<Family>), SamplerError> {
    let Target::Processes { tgids, children } = target else { return Ok((Listed::All, None)) };
    let mut listed: FxHashSet<u32> = tgids.iter().copied().collect();
    let rounds = if *children { CHILD_ROUNDS } else { 0 };
    for _ in 0..rounds {
        let new = descendants(&proc.parents(), &listed);
        if new.is_empty() {
            break;
        }
        for tgid in new {
            kernel.add_tgid(tgid)?;
            listed.insert(tgid);
        }
    }
    let family = if *children {
        kernel.children_error().map(|error| {
            tracing::warn!(error = %error, "children are listed up to 200 ms after their fork");
            Family::new(listed.clone(), true)
        })
    } else {
        Some(Family::new(listed.clone(), false))
    };
    Ok((Listed::Only { tgids: listed, children: *children }, family))
}

/// The processes whose line of parents leads to a listed one.
fn descendants(parents: &BTreeMap<u32, u32>, listed: &FxHashSet<u32>) -> Vec<u32> {
    let leads_there = |&tgid: &u32| {
        let mut at = tgid;
        // No line is longer than there are processes, even if /proc changed in between.
        for _ in 0..parents.len() {
            match parents.get(&at) {
                Some(parent) if listed.contains(parent) => return true,
                Some(&parent) => at = parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(|tgid| !listed.contains(tgid)).filter(leads_there).collect()
}

#[cfg(test)]
mod live_tests;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_of_descendants_count() {
        let parents = BTreeMap::from([(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (6, 6)]);
        assert_eq!(descendants(&parents, &FxHashSet::from_iter([2])), [3, 4]);
        assert_eq!(descendants(&parents, &FxHashSet::from_iter([4])), [] as [u32; 0]);
    }
}
