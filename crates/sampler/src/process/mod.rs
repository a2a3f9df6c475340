//! The process table: who a sample belongs to, at the time when it was taken.
//!
//! A process is (tgid, start time of its leader); within it, each exec begins a new generation with new mappings. A
//! fork shares its parent's mappings until one of both changes them. The end is the end of the last thread, not of the
//! leader. Records arrive in order of time (see [`crate::merge`]).
//!
//! Known gaps, healed by reading /proc: no record tells of munmap or mremap, and a child that shares its parent's
//! memory (`CLONE_VM` without exec) maps for both, but is recorded alone.
//!
//! **In**: [`Record`]s and /proc's view. **Out**: [`Process`]. **Units**: monotonic nanoseconds, host pids.
//! **Limits**: [`MAX_PROCESSES`], then new ones are refused and counted ([`TableStats::refused_processes`]); mappings
//! see [`maps`]. A process stays [`GRACE_NS`] after its end, for samples still on their way.

mod changes;
mod files;
mod identity;
mod maps;
mod one;
mod preview;
mod scanned;
mod standing;

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

pub(crate) use changes::Change;
use changes::Changes;
pub(crate) use files::Files;
pub(crate) use identity::Start;
pub(crate) use maps::{FileKind, MapBudget, MapFile, MapSet, Mapping};
pub(crate) use one::Process;
pub(crate) use preview::Preview;
pub(crate) use standing::{Listed, Standing};

use crate::comm::Comm;
use crate::declared::Environment;
use crate::sideband::{Kind, MapRecord, Record};

/// Processes held at the most, ended ones included.
const MAX_PROCESSES: usize = 64 * 1024;
/// Processes of one tgid held at the most: the one that runs and some that ended.
const MAX_CHAIN: usize = 8;
/// How long an ended process is kept.
const GRACE_NS: u64 = 5_000_000_000;
/// A sample this much younger than a process's end says that the end was miscounted.
const REVIVE_NS: u64 = 1_000_000_000;

/// The table's counters; each only grows, but `processes`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TableStats {
    /// Processes held now.
    pub(crate) processes: u64,
    /// Processes refused for want of room.
    pub(crate) refused_processes: u64,
    /// Mappings refused for want of room.
    pub(crate) refused_mappings: u64,
}

/// What a sample says of its process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sighting {
    pub(crate) time_mono_ns: u64,
    pub(crate) tgid: u32,
    /// 0 where unknown.
    pub(crate) leader_start_mono_ns: u64,
    pub(crate) comm: Comm,
    pub(crate) cgroup_id: u64,
}

/// All processes.
#[derive(Debug, Default)]
pub(crate) struct ProcessTable {
    /// By tgid; of one tgid the oldest first.
    chains: FxHashMap<u32, Vec<Process>>,
    ended: VecDeque<(u64, u32)>,
    files: Files,
    budget: Arc<MapBudget>,
    listed: Listed,
    generations: u64,
    sweep: Vec<u32>,
    changes: Changes,
    /// What was handed out last of processes whose records wait.
    previews: FxHashMap<u32, Preview>,
    stats: TableStats,
}

impl ProcessTable {
    /// Of these processes samples are taken.
    pub(crate) fn list(&mut self, listed: Listed) {
        self.listed = listed;
    }

    /// Applies a record.
    pub(crate) fn apply(&mut self, record: &Record) {
        let time = record.time_mono_ns;
        match &record.kind {
            Kind::Fork { tgid, parent_tgid, .. } if tgid == parent_tgid => {
                if let Some(process) = self.running(*tgid) {
                    process.threads = process.threads.saturating_add(1);
                }
            }
            Kind::Fork { tgid, parent_tgid, .. } => self.forked(time, *tgid, *parent_tgid),
            Kind::Exit { tgid, .. } => {
                if let Some(process) = self.running(*tgid) {
                    process.threads = process.threads.saturating_sub(1);
                    if process.threads == 0 {
                        self.end(*tgid, time);
                    }
                }
            }
            Kind::Comm { tgid, comm, exec: true } => self.executed(time, *tgid, *comm),
            Kind::Comm { tgid, comm, exec: false } => {
                let generation = self.next_generation();
                if let Some(process) = self.running(*tgid)
                    && process.comm != *comm
                {
                    process.comm = *comm;
                    if process.executable.is_none() {
                        process.generation = generation;
                    }
                }
            }
            Kind::Map { tgid, map } => self.mapped(time, *tgid, map),
            Kind::Cgroup { .. } | Kind::Lost { .. } => (),
            Kind::Scanned(scanned) => self.scanned(time, scanned),
        }
    }

    /// The process of a sample. One that no record told of is entered with unknown mappings. None where the table is
    /// full.
    pub(crate) fn sighted(&mut self, sighting: Sighting) -> Option<&mut Process> {
        let Sighting { time_mono_ns, tgid, leader_start_mono_ns: start, comm, cgroup_id } = sighting;
        let chain = self.chains.get(&tgid).map(Vec::as_slice).unwrap_or_default();
        let found =
            if start == 0 { chain.len().checked_sub(1) } else { chain.iter().rposition(|p| p.start.matches(start)) };
        let index = if let Some(index) = found {
            index
        } else {
            let index = chain.iter().filter(|p| p.start.mono_ns() < start).count();
            let is_newest = index == chain.len();
            let mut new = self.blank(tgid, Start::Exact(start), comm)?;
            if is_newest {
                self.end(tgid, time_mono_ns);
            } else {
                new.ended_mono_ns = Some(time_mono_ns);
                self.ended.push_back((time_mono_ns, tgid));
            }
            self.chains.entry(tgid).or_default().insert(index, new);
            self.trim_chain(tgid);
            self.chains.get(&tgid)?.iter().rposition(|p| p.start.matches(start))?
        };
        let process = self.chains.get_mut(&tgid)?.get_mut(index)?;
        if start != 0 {
            process.start = Start::Exact(start);
        }
        process.standing = Standing { is_listed: true, cgroup_id };
        if process.ended_mono_ns.is_some_and(|end| time_mono_ns > end.saturating_add(REVIVE_NS)) {
            process.ended_mono_ns = None;
            process.threads = 1;
        }
        Some(process)
    }

    /// A process was seen in this cgroup.
    pub(crate) fn found_in(&mut self, tgid: u32, cgroup_id: u64) {
        if let Some(process) = self.running(tgid) {
            process.standing.cgroup_id = cgroup_id;
        }
    }

    /// /proc does not know the process any more.
    pub(crate) fn gone(&mut self, tgid: u32, time_mono_ns: u64) {
        self.end(tgid, time_mono_ns);
    }

    /// Up to `count` running processes, all of them in turn, to be looked for in /proc: an exit record may be lost.
    pub(crate) fn next_to_check(&mut self, count: usize) -> Vec<u32> {
        if self.sweep.is_empty() {
            self.sweep = self
                .chains
                .iter()
                .filter(|(_, chain)| chain.last().is_some_and(|p| p.ended_mono_ns.is_none()))
                .map(|(&tgid, _)| tgid)
                .collect();
        }
        self.sweep.split_off(self.sweep.len().saturating_sub(count))
    }

    /// Lets processes go whose end lies far enough behind. Everything before `time_mono_ns` has been merged.
    pub(crate) fn expire(&mut self, time_mono_ns: u64) {
        while let Some(&(ended, tgid)) = self.ended.front() {
            if ended.saturating_add(GRACE_NS) > time_mono_ns {
                break;
            }
            self.ended.pop_front();
            self.remove_ended(tgid, ended);
        }
    }

    /// The counters.
    pub(crate) fn stats(&self) -> TableStats {
        self.stats
    }

    fn running(&mut self, tgid: u32) -> Option<&mut Process> {
        self.chains.get_mut(&tgid)?.last_mut().filter(|p| p.ended_mono_ns.is_none())
    }

    fn forked(&mut self, time: u64, tgid: u32, parent_tgid: u32) {
        if self.running(tgid).is_some_and(|p| p.start.matches_fork(time)) {
            // /proc or a sample told of it first.
            return;
        }
        self.end(tgid, time);
        let after = self.last_sign(tgid);
        let Some(mut child) = self.blank(tgid, Start::Forked { at: time, after }, Comm::default()) else { return };
        child.standing = self.listed.forked(self.standing(parent_tgid));
        if let Some(parent) = self.chains.get(&parent_tgid).and_then(|chain| chain.last()) {
            child.comm = parent.comm;
            child.executable.clone_from(&parent.executable);
            child.maps = Arc::clone(&parent.maps);
            child.maps_known = parent.maps_known;
            child.environment = parent.environment.clone();
        }
        self.push(child);
    }

    fn executed(&mut self, time: u64, tgid: u32, comm: Comm) {
        if self.running(tgid).is_none() {
            let start = Start::Forked { at: time, after: self.last_sign(tgid) };
            let Some(process) = self.blank(tgid, start, comm) else { return };
            self.push(process);
        }
        let generation = self.next_generation();
        let maps = Arc::new(MapSet::new(&self.budget));
        if let Some(process) = self.running(tgid) {
            process.generation = generation;
            process.comm = comm;
            process.executable = None;
            process.awaits_executable = true;
            process.maps = maps;
            process.maps_known = true;
            process.environment = Environment::NotRead;
            process.executed_mono_ns = Some(time);
            process.threads = 1;
            self.changes.executed(tgid);
        }
    }

    fn mapped(&mut self, time: u64, tgid: u32, map: &MapRecord) {
        if self.running(tgid).is_none() {
            let start = Start::Forked { at: time, after: self.last_sign(tgid) };
            let Some(process) = self.blank(tgid, start, Comm::default()) else { return };
            self.push(process);
        }
        let file = self.files.intern(&map.file);
        let generation = self.next_generation();
        let Some(process) = self.chains.get_mut(&tgid).and_then(|chain| chain.last_mut()) else { return };
        if process.awaits_executable && file.kind == FileKind::File {
            process.awaits_executable = false;
            process.executable = Some(Arc::clone(&file));
            process.generation = generation;
        }
        let mapping = Mapping { start: map.start, end: map.end, offset: map.offset, file };
        if MapSet::insert_into(&mut process.maps, mapping) {
            self.changes.other(tgid);
        } else {
            self.stats.refused_mappings += 1;
        }
    }

    /// Whether samples of whoever has this tgid are to be expected.
    fn standing(&self, tgid: u32) -> Standing {
        let newest = self.chains.get(&tgid).and_then(|chain| chain.last());
        newest.map_or_else(|| self.listed.first_seen(tgid), |process| process.standing)
    }

    /// A process that nothing is known of but this, not in the table yet. None where there is no room.
    fn blank(&mut self, tgid: u32, start: Start, comm: Comm) -> Option<Process> {
        while self.stats.processes >= MAX_PROCESSES as u64 {
            let Some((ended, tgid)) = self.ended.pop_front() else {
                self.stats.refused_processes += 1;
                return None;
            };
            self.remove_ended(tgid, ended);
        }
        self.stats.processes += 1;
        Some(Process {
            tgid,
            start,
            generation: self.next_generation(),
            comm,
            executable: None,
            maps: Arc::new(MapSet::new(&self.budget)),
            maps_known: false,
            environment: Environment::NotRead,
            standing: self.listed.first_seen(tgid),
            reread_mono_ns: None,
            threads: 1,
            executed_mono_ns: None,
            ended_mono_ns: None,
            awaits_executable: false,
        })
    }

    fn push(&mut self, process: Process) {
        let tgid = process.tgid;
        self.chains.entry(tgid).or_default().push(process);
        self.trim_chain(tgid);
    }

    fn trim_chain(&mut self, tgid: u32) {
        if let Some(chain) = self.chains.get_mut(&tgid)
            && chain.len() > MAX_CHAIN
        {
            chain.remove(0);
            self.stats.processes -= 1;
        }
    }

    fn end(&mut self, tgid: u32, time: u64) {
        if let Some(process) = self.running(tgid) {
            process.ended_mono_ns = Some(time);
            self.ended.push_back((time, tgid));
            self.changes.other(tgid);
        }
    }

    fn remove_ended(&mut self, tgid: u32, ended: u64) {
        if let Some(chain) = self.chains.get_mut(&tgid) {
            let before = chain.len();
            chain.retain(|p| p.ended_mono_ns != Some(ended));
            self.stats.processes -= (before - chain.len()) as u64;
            if chain.is_empty() {
                self.chains.remove(&tgid);
            }
        }
    }

    /// The latest time at which another process certainly had this tgid.
    fn last_sign(&self, tgid: u32) -> u64 {
        let of = |p: &Process| match p.start {
            // Ticks are coarse: a start some milliseconds later may be another's.
            Start::Scanned { from, .. } => from.saturating_sub(20_000_000),
            Start::Exact(at) | Start::Forked { at, .. } => at,
        };
        self.chains.get(&tgid).and_then(|chain| chain.last()).map_or(0, of)
    }

    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }
}

#[cfg(test)]
mod tests;
