//! What the thread "unwind" does: merge, process table, /proc where records do not tell, unwinding, windows.
//!
//! Every sample that comes in leaves by exactly one door: into a window ([`Ledger::windowed`]), or, where a filter refuses
//! it, by [`DropReason::Filtered`], before anything is unwound.
//!
//! **In**: [`Batch`]es and the time. **Out**: closed [`Window`]s. **Units**: monotonic nanoseconds. **Limits**: /proc is
//! read again at most [`unsettled::REREADS_PER_SECOND`] times a second for single processes, and wholly for a twentieth of the time.

mod house;
mod telling;
mod unsettled;
mod walked;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use profile::{DropReason, Frame, Ledger, StackEnd, Window};
use sampler_abi::{
    FLAG_COMPAT, FLAG_KERNEL_THREAD, FLAG_SNAPSHOT_FAULT, FLAG_USER_MODE, FLAG_USER_REGS, FLAG_WALKED, SampleHead,
};
use unwind_table::End;

use crate::aggregate::{Aggregator, AggregatorConfig};
use crate::checks::Checks;
use crate::clock::Now;
use crate::comm::Comm;
use crate::declared::{Environment, Environments};
use crate::inbox::{Batch, Inbox};
use crate::judge::Ruling;
use crate::merge::{Merge, Merged, SETTLE_NS};
use crate::own::OwnProcesses;
use crate::place::Places;
use crate::proc_scan::{ProcSource, ScannedProcess};
use crate::process::{Listed, ProcessTable, Sighting};
use crate::resolve::Resolver;
use crate::sample::{Pool, Sample};
use crate::sideband::{Kind, Record};
use crate::source::ObjectSource;
use crate::stats::Counted;
use crate::tables::Desk;
use crate::unwinding::{UserHalf, Waiting, WaitingList, build_stack, unwind};
use crate::verdicts::Verdicts;
use crate::walked::Walks;
use unsettled::{Unsettled, is_due};

const SECOND_NS: u64 = 1_000_000_000;
/// One process is read again for an address without mapping at most this often.
const REREAD_INTERVAL_NS: u64 = SECOND_NS;
/// The same for a stack that ended at a bad frame, which most often has another reason.
const RETRY_INTERVAL_NS: u64 = 10 * SECOND_NS;
/// Between two whole readings of /proc after losses.
const RESCAN_INTERVAL_NS: u64 = 2 * SECOND_NS;
/// A whole reading that took so long is followed by this many times as long without one.
const RESCAN_SHARE: u64 = 20;
/// Processes looked for in /proc each second, in case that an exit record was lost.
const CHECKED_PER_SECOND: usize = 64;

/// What the pipeline shares with its surroundings.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) counted: Arc<Counted>,
    pub(crate) inbox: Inbox,
    pub(crate) pool: Pool,
}

/// What a pipeline is made of.
#[derive(Debug)]
pub(crate) struct Parts<O, P> {
    pub(crate) shared: Arc<Shared>,
    pub(crate) objects: O,
    pub(crate) proc: P,
    pub(crate) places: Places,
    pub(crate) environments: Option<Environments>,
    pub(crate) verdicts: Verdicts,
    /// Whose samples the kernel side takes.
    pub(crate) listed: Listed,
    pub(crate) own: OwnProcesses,
    pub(crate) per_thread: bool,
    /// User frames of a stack at the most, whoever unwound it.
    pub(crate) max_user_frames: usize,
    /// Where news go for the thread of tables.
    pub(crate) desk: Desk,
}

/// The state of it all.
#[derive(Debug)]
pub(crate) struct Pipeline<O, P> {
    shared: Arc<Shared>,
    proc: P,
    places: Places,
    /// None where environments are not to be read.
    environments: Option<Environments>,
    verdicts: Verdicts,
    own: OwnProcesses,
    merge: Merge,
    table: ProcessTable,
    resolver: Resolver<O>,
    waiting: WaitingList,
    walks: Walks,
    checks: Checks,
    desk: Desk,
    max_user_frames: usize,
    aggregator: Aggregator,
    /// Of the sample at hand; kept for its memory.
    frames: Vec<Frame>,
    unsettled: Unsettled,
}

impl<O: ObjectSource, P: ProcSource> Pipeline<O, P> {
    /// With what /proc said at start. Windows begin at `start`.
    pub(crate) fn new(parts: Parts<O, P>, windows: AggregatorConfig, start: Now) -> Self {
        let Parts { shared, objects, proc, places, environments, verdicts, listed, own, .. } = parts;
        let Parts { per_thread, max_user_frames, desk, .. } = parts;
        let mut table = ProcessTable::default();
        table.list(listed);
        table.note_changes(desk.is_open());
        Self {
            shared,
            proc,
            places,
            environments,
            verdicts,
            own,
            merge: Merge::default(),
            table,
            resolver: Resolver::new(objects, per_thread),
            waiting: WaitingList::default(),
            walks: Walks::default(),
            checks: Checks::default(),
            desk,
            max_user_frames,
            aggregator: Aggregator::new(windows, start),
            frames: Vec::new(),
            unsettled: Unsettled::new(start.mono_ns + SECOND_NS),
        }
    }

    /// Enters what was read of /proc at a time.
    pub(crate) fn scanned(&mut self, time_mono_ns: u64, processes: Vec<ScannedProcess>) {
        for process in processes {
            self.merge.push(Record { time_mono_ns, cpu: 0, kind: Kind::Scanned(Box::new(process)) });
        }
    }

    /// Takes a batch; gives the windows that are complete. `now` is read after the batch was taken.
    pub(crate) fn batch(&mut self, mut batch: Batch, now: Now) -> Vec<Window> {
        self.unsettled.now_mono_ns = now.mono_ns;
        self.follow_worker();
        let lost = batch.lost_records;
        self.shared.counted.sideband_lost.fetch_add(lost, Ordering::Relaxed);
        self.unsettled.lost |= lost > 0;
        for record in batch.records.drain(..) {
            if let Kind::Lost { records } = record.kind {
                self.shared.counted.sideband_lost.fetch_add(records, Ordering::Relaxed);
                self.unsettled.lost = true;
            } else {
                self.merge.push(record);
            }
        }
        let complete_to = batch.complete_to_mono_ns;
        let mut merge = std::mem::take(&mut self.merge);
        merge.batch(batch.samples, complete_to, |merge, merged| match merged {
            Merged::Record(record) => self.record(record),
            Merged::Sample(sample) => self.sample(merge, sample),
        });
        self.merge = merge;
        self.flush();
        let settled = complete_to.saturating_sub(SETTLE_NS);
        self.table.expire(settled);
        self.keep_house();
        let windows = self.aggregator.advance(settled, now);
        for _ in &windows {
            self.walks.turn(&mut self.resolver);
            self.resolver.turn();
            self.shared.pool.turn();
            self.verdicts.turn();
        }
        self.tell(&windows);
        self.publish();
        windows
    }

    /// Gives the last windows. All batches have been taken.
    pub(crate) fn finish(mut self, now: Now) -> Vec<Window> {
        self.flush();
        self.publish();
        self.shared.counted.window_entries.store(0, Ordering::Relaxed);
        self.aggregator.finish(now)
    }

    fn record(&mut self, mut record: Record) {
        let now = self.unsettled.now_mono_ns;
        let found_in = match &mut record.kind {
            Kind::Cgroup { number, path } => return self.places.created(*number, path, &self.proc),
            Kind::Comm { tgid, exec: true, .. } => {
                self.places.executed(*tgid, now, &self.proc).map(|cgroup_id| (*tgid, cgroup_id))
            }
            Kind::Scanned(process) => process.place.take().map(|(cgroup_id, place)| {
                self.places.learned(cgroup_id, place, process.tgid);
                (process.tgid, cgroup_id)
            }),
            _ => None,
        };
        self.verdicts.record(&record.kind);
        self.table.apply(&record);
        if let Some((tgid, cgroup_id)) = found_in {
            self.table.found_in(tgid, cgroup_id);
        }
    }

    fn sample(&mut self, merge: &Merge, sample: Sample) {
        let head = sample.head;
        let flag = |flag: u32| head.flags & flag != 0;
        if flag(FLAG_KERNEL_THREAD) {
            return self.without_process(sample, StackEnd::NoUserHalf);
        }
        let sighting = Sighting {
            time_mono_ns: head.time_mono_ns,
            tgid: head.tgid,
            leader_start_mono_ns: head.leader_start_mono_ns,
            comm: Comm::from_bytes(&head.comm),
            cgroup_id: head.cgroup_id,
        };
        let has_registers = flag(FLAG_USER_REGS);
        let Some(process) = self.table.sighted(sighting) else {
            self.shared.counted.unknown_process_samples.fetch_add(1, Ordering::Relaxed);
            let end = if has_registers { StackEnd::UnknownProcess } else { StackEnd::NoRegisters };
            return self.without_process(sample, end);
        };
        // The task has given its memory back already, or got new memory and has not been there yet.
        let has_no_memory = !flag(FLAG_USER_MODE)
            && reads_nothing(&head)
            && (!process.is_running() || process.is_executing(head.time_mono_ns) || merge.is_about_to_exit(head.tid));
        let is_unmapped =
            has_registers && !has_no_memory && !flag(FLAG_COMPAT) && process.maps.find(head.user_pc).is_none();
        if (!process.maps_known || is_unmapped)
            && process.is_running()
            && is_due(process.reread_mono_ns, self.unsettled.now_mono_ns, REREAD_INTERVAL_NS)
            && self.unsettled.may_reread()
        {
            process.reread_mono_ns = Some(self.unsettled.now_mono_ns);
            self.reread(head.tgid);
        }
        let Some(process) = self.table.sighted(sighting) else {
            return self.without_process(sample, StackEnd::UnknownProcess);
        };
        let now = self.unsettled.now_mono_ns;
        if process.environment == Environment::NotRead
            && process.is_running()
            && let Some(environments) = &mut self.environments
        {
            process.environment = environments.read(head.tgid, process.generation, now);
        }
        let place = self.places.of(head.cgroup_id, head.tgid, now, &self.proc);
        let counted = &self.shared.counted;
        counted.unknown_place_samples.fetch_add(u64::from(place.is_none()), Ordering::Relaxed);
        // Before the owner: finding that opens the executable.
        if self.verdicts.ruling(&head, Some(process), place, now) == Ruling::Drop {
            return self.filtered(sample);
        }
        // Of whom no sample is wanted, nothing is prepared either.
        telling::sampled(&mut self.desk, &mut self.walks.published, &head, process, now);
        let owner = self.resolver.owner(&head, Some(process), place);
        let user = if has_no_memory {
            UserHalf::Ended(StackEnd::NoUserHalf)
        } else if !has_registers {
            let is_ending = !process.is_running() || merge.is_about_to_exit(head.tid);
            UserHalf::Ended(if is_ending { StackEnd::NoUserHalf } else { StackEnd::NoRegisters })
        } else if flag(FLAG_COMPAT) {
            UserHalf::Ended(StackEnd::Compat)
        } else if !process.maps_known && process.maps.list().is_empty() {
            self.shared.counted.unknown_process_samples.fetch_add(1, Ordering::Relaxed);
            UserHalf::Ended(StackEnd::UnknownProcess)
        } else if flag(FLAG_WALKED) {
            let counted = self.walks.count(&sample, &owner, process, &mut self.resolver, &mut self.aggregator);
            return self.walked(sample, sighting, owner, counted);
        } else {
            UserHalf::Snapshot(self.resolver.mappings(process, &head, &sample.snapshot))
        };
        let maps = Some(Arc::clone(&process.maps));
        self.wait(Waiting { sample, owner, maps, user, check: None });
    }

    /// For a sample of a kernel thread, or of a process that does not even fit into the table.
    fn without_process(&mut self, sample: Sample, end: StackEnd) {
        let now = self.unsettled.now_mono_ns;
        let place = self.places.of(sample.head.cgroup_id, sample.head.tgid, now, &self.proc);
        let counted = &self.shared.counted;
        counted.unknown_place_samples.fetch_add(u64::from(place.is_none()), Ordering::Relaxed);
        if self.verdicts.ruling(&sample.head, None, place, now) == Ruling::Drop {
            return self.filtered(sample);
        }
        let owner = self.resolver.owner(&sample.head, None, place);
        self.wait(Waiting { sample, owner, maps: None, user: UserHalf::Ended(end), check: None });
    }

    /// For a sample that is not wanted.
    fn filtered(&self, sample: Sample) {
        self.shared.ledger.dropped(DropReason::Filtered, 1);
        self.shared.inbox.release(sample.cost_bytes());
        self.shared.pool.give_back(std::iter::once(sample));
    }

    fn wait(&mut self, waiting: Waiting) {
        if self.waiting.push(waiting) {
            self.flush();
        }
    }

    /// Unwinds what waits and counts it in its windows.
    fn flush(&mut self) {
        let mut all = self.waiting.take();
        if all.is_empty() {
            return;
        }
        let mut answers = unwind(&mut all, |request| self.resolver.objects().unwind(request));
        for (waiting, answer) in all.iter_mut().zip(&mut answers) {
            if answer.as_ref().is_some_and(|a| a.end == StackEnd::BadFrame) && self.look_again(waiting) {
                let again = unwind(std::slice::from_mut(waiting), |request| self.resolver.objects().unwind(request));
                *answer = again.into_iter().next().flatten();
            }
        }
        // The worker may have been replaced over these.
        self.follow_worker();
        for (waiting, answer) in all.iter().zip(answers) {
            let info = |object| self.resolver.info(object);
            let end = build_stack(waiting, answer, self.max_user_frames, info, &mut self.frames);
            if let Some(check) = &waiting.check {
                self.compared(waiting, check, end);
                continue;
            }
            self.want_files(waiting);
            let time = waiting.sample.head.time_mono_ns;
            self.aggregator.insert(time, &waiting.owner, &self.frames, |object| self.resolver.info(object));
            self.shared.ledger.ended(end, 1);
            self.shared.ledger.windowed(1);
            self.shared.inbox.release(waiting.sample.cost_bytes());
        }
        self.shared.pool.give_back(all.into_iter().map(|w| w.sample));
    }

    fn follow_worker(&mut self) {
        self.own.follow(self.resolver.objects().worker_tgid());
    }
}

/// Whether nothing of the task's stack was to be had.
fn reads_nothing(head: &SampleHead) -> bool {
    if head.flags & FLAG_WALKED != 0 {
        return head.walk_end == End::UNREADABLE.0 && head.user_frames <= 1;
    }
    head.flags & FLAG_SNAPSHOT_FAULT != 0 && head.snapshot_bytes == 0
}

#[cfg(test)]
mod tests;
