//! What the judge has said, kept for the samples to come, and told to the kernel side.
//!
//! Each process is judged once, in each cgroup and under each name, and again when the judge's generation changes. A refusal that reaches further than the
//! sample at hand is told to the kernel side: from then on no sample of that process or cgroup is taken, so nothing is
//! heard of it any more. Therefore what was told is taken back by itself: when a record says that the process executed,
//! was renamed, ended, or that its pid began anew; when its cgroup is gone; when the judge thinks otherwise; and in any
//! case after [`MAX_AGE_NS`], to be told again by the next sample.
//!
//! Only refusals are told: what is not told is taken.
//!
//! **In**: heads of samples with what is known of their processes, records of processes, the judge's answers. **Out**: rulings; entries of the kernel side. **Units**:
//! monotonic nanoseconds, host pids. **Limits**: entries as many as the kernel side has room for, past that samples are
//! dropped in user space and [`Verdicts::refused`] counts; [`REVIEWS_PER_SECOND`]; answers that were not used for two
//! windows are forgotten.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::Arc;

use profile::{Declared, Place, ProcessKey};
use rustc_hash::FxHashMap;
use sampler_abi::{FLAG_KERNEL_THREAD, SampleHead, VerdictKey};

use crate::comm::Comm;
use crate::declared::Environment;
use crate::judge::{Judge, Ruling, Scope, Subject, Verdict};
use crate::kernel::{TickVerdict, VerdictsHandle};
use crate::process::Process;
use crate::sideband::Kind;

/// Answers and entries looked at again in a second, each with a question to the judge.
const REVIEWS_PER_SECOND: u64 = 1000;
/// Between two looks at one entry, if the judge has not changed its mind.
const REVIEW_INTERVAL_NS: u64 = 5 * SECOND_NS;
/// After this an entry is taken back.
const MAX_AGE_NS: u64 = 300 * SECOND_NS;
const SECOND_NS: u64 = 1_000_000_000;

/// Where refusals are told: the kernel side, but for tests.
pub(crate) trait Sink: Debug + Send {
    /// Ticks of the key are to be filtered. False where there is no room.
    fn filter(&self, key: VerdictKey) -> bool;
    /// No longer.
    fn remove(&self, key: VerdictKey);
}

impl Sink for VerdictsHandle {
    fn filter(&self, key: VerdictKey) -> bool {
        self.set(key, TickVerdict::Filter).unwrap_or_else(|error| {
            tracing::debug!(error = %error, "a verdict could not be set");
            false
        })
    }

    fn remove(&self, key: VerdictKey) {
        if let Err(error) = VerdictsHandle::remove(self, key) {
            tracing::warn!(error = %error, "a verdict could not be removed: its process stays filtered");
        }
    }
}

/// Whatever the judge looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct SubjectKey {
    process: ProcessKey,
    generation: u64,
    comm: Comm,
    cgroup_id: u64,
    has_place: bool,
    has_declared: bool,
    declared_known: bool,
}

#[derive(Debug)]
struct Answer {
    verdict: Verdict,
    /// The judge's.
    generation: u64,
    used_at: u64,
    /// The window in which the kernel side had no room for it.
    refused_at: Option<u64>,
}

/// A subject whose samples do not come any more.
#[derive(Debug)]
struct Told {
    process: ProcessKey,
    comm: String,
    executable_path: Arc<str>,
    kernel_thread: bool,
    place: Option<Arc<Place>>,
    declared: Option<Arc<Declared>>,
    declared_known: bool,
    generation: u64,
    told_mono_ns: u64,
    seen_mono_ns: u64,
}

/// All answers.
#[derive(Debug)]
pub(crate) struct Verdicts {
    judge: Arc<dyn Judge>,
    /// None: nothing is asked.
    sink: Option<Box<dyn Sink>>,
    answers: FxHashMap<SubjectKey, Answer>,
    told: FxHashMap<VerdictKey, Told>,
    /// The cgroups of `told` for each process.
    processes: FxHashMap<u32, Vec<u64>>,
    /// Every key of `told` once, the one that was looked at the longest ago in front; and some that are gone.
    order: VecDeque<VerdictKey>,
    refused: u64,
    epoch: u64,
    second: u64,
    reviews: u64,
}

impl Verdicts {
    /// Asks the judge if it filters at all.
    pub(crate) fn new(judge: Arc<dyn Judge>, sink: impl Sink + 'static) -> Self {
        let filters = judge.filters();
        Self {
            judge,
            sink: filters.then(|| Box::new(sink) as Box<dyn Sink>),
            answers: FxHashMap::default(),
            told: FxHashMap::default(),
            processes: FxHashMap::default(),
            order: VecDeque::new(),
            refused: 0,
            epoch: 0,
            second: 0,
            reviews: 0,
        }
    }

    /// What happens to a sample. `process` is none for kernel threads and unknown processes, `place` is that of the
    /// sample's cgroup. Opens no file: of what is refused nothing is to be read.
    pub(crate) fn ruling(
        &mut self,
        head: &SampleHead,
        process: Option<&Process>,
        place: Option<&Arc<Place>>,
        now_mono_ns: u64,
    ) -> Ruling {
        if self.sink.is_none() {
            return Ruling::Take;
        }
        let comm = process.map_or_else(|| Comm::from_bytes(&head.comm), |process| process.comm);
        let start = process.map_or(head.leader_start_mono_ns, |process| process.start.mono_ns());
        let executable_path = process.and_then(|process| Some(&process.executable.as_ref()?.name));
        let declared = process.and_then(|process| process.environment.declared());
        let kernel_thread = head.flags & FLAG_KERNEL_THREAD != 0;
        let declared_known = kernel_thread || process.is_some_and(|p| p.environment != Environment::NotRead);
        let key = SubjectKey {
            process: ProcessKey { tgid: head.tgid, leader_start_mono_ns: start },
            generation: process.map_or(0, |process| process.generation),
            comm,
            cgroup_id: head.cgroup_id,
            has_place: place.is_some(),
            has_declared: declared.is_some(),
            declared_known,
        };
        let generation = self.judge.generation();
        let (epoch, is_stale) = (self.epoch, self.answers.get(&key).is_none_or(|a| a.generation != generation));
        // An old answer holds until there is time for a new one; without any, it is asked for at once.
        if is_stale && (self.may_review(now_mono_ns) || !self.answers.contains_key(&key)) {
            let verdict = self.judge.judge(&Subject {
                process: key.process,
                comm: &comm.text(),
                executable_path: executable_path.map_or("", |path| path),
                kernel_thread,
                cgroup_id: head.cgroup_id,
                place: place.map(|place| &**place),
                declared: declared.map(|declared| &**declared),
                declared_known,
            });
            self.answers.insert(key, Answer { verdict, generation, used_at: epoch, refused_at: None });
        }
        let Some(answer) = self.answers.get_mut(&key) else { return Ruling::Take };
        answer.used_at = epoch;
        let Verdict { ruling: Ruling::Drop, scope } = answer.verdict else { return Ruling::Take };
        let told = match scope {
            Scope::Undecided => return Ruling::Drop,
            Scope::Process => VerdictKey::process(head.cgroup_id, head.tgid),
            Scope::Cgroup => VerdictKey::cgroup(head.cgroup_id),
        };
        // The last samples from before it was told come still.
        if answer.refused_at != Some(epoch) && !self.told.contains_key(&told) {
            let generation = answer.generation;
            if self.sink.as_ref().is_some_and(|sink| sink.filter(told)) {
                let kept = Told {
                    process: key.process,
                    comm: comm.text(),
                    executable_path: executable_path.map_or_else(|| Arc::from(""), Arc::clone),
                    kernel_thread,
                    place: place.map(Arc::clone),
                    declared: declared.map(Arc::clone),
                    declared_known,
                    generation,
                    told_mono_ns: now_mono_ns,
                    seen_mono_ns: now_mono_ns,
                };
                self.tell(told, kept);
            } else {
                answer.refused_at = Some(epoch);
                self.refused += 1;
            }
        }
        Ruling::Drop
    }

    /// Something happened to a process.
    pub(crate) fn record(&mut self, kind: &Kind) {
        if self.processes.is_empty() {
            return;
        }
        match kind {
            Kind::Comm { tgid, .. } => self.forget(*tgid),
            Kind::Fork { tgid, parent_tgid, .. } if tgid != parent_tgid => self.forget(*tgid),
            Kind::Exit { tgid, tid } if tgid == tid => self.forget(*tgid),
            _ => (),
        }
    }

    /// Looks at what was told again. `exists`: whether a cgroup is there.
    pub(crate) fn keep_house(&mut self, now_mono_ns: u64, exists: impl Fn(u64) -> Option<bool>) {
        if self.sink.is_none() {
            return;
        }
        let generation = self.judge.generation();
        for _ in 0..self.order.len() {
            let Some(key) = self.order.front().copied() else { return };
            let Some(told) = self.told.get(&key) else {
                self.order.pop_front();
                continue;
            };
            let is_due = now_mono_ns >= told.seen_mono_ns.saturating_add(REVIEW_INTERVAL_NS);
            if !(is_due || told.generation != generation) || !self.may_review(now_mono_ns) {
                return;
            }
            self.order.pop_front();
            if self.still_holds(key, generation, now_mono_ns, &exists) {
                self.order.push_back(key);
            } else {
                self.take_back(key);
            }
        }
    }

    /// A window was closed: forgets answers that were not used for two.
    pub(crate) fn turn(&mut self) {
        self.epoch += 1;
        let recent = self.epoch.saturating_sub(2);
        self.answers.retain(|_, answer| answer.used_at >= recent);
    }

    /// Whether the kernel side takes no samples of this cgroup.
    pub(crate) fn refuses(&self, cgroup_id: u64) -> bool {
        self.told.contains_key(&VerdictKey::cgroup(cgroup_id))
    }

    /// What the kernel side holds.
    pub(crate) fn held(&self) -> u64 {
        self.told.len() as u64
    }

    /// What it had no room for.
    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    fn still_holds(
        &mut self,
        key: VerdictKey,
        generation: u64,
        now_mono_ns: u64,
        exists: &impl Fn(u64) -> Option<bool>,
    ) -> bool {
        let Some(told) = self.told.get_mut(&key) else { return false };
        if now_mono_ns >= told.told_mono_ns.saturating_add(MAX_AGE_NS) || exists(key.cgroup_id) == Some(false) {
            return false;
        }
        told.seen_mono_ns = now_mono_ns;
        if told.generation == generation {
            return true;
        }
        told.generation = generation;
        let verdict = self.judge.judge(&Subject {
            process: told.process,
            comm: &told.comm,
            executable_path: &told.executable_path,
            kernel_thread: told.kernel_thread,
            cgroup_id: key.cgroup_id,
            place: told.place.as_deref(),
            declared: told.declared.as_deref(),
            declared_known: told.declared_known,
        });
        let scope = if key.tgid == 0 { Scope::Cgroup } else { Scope::Process };
        verdict == Verdict { ruling: Ruling::Drop, scope }
    }

    fn tell(&mut self, key: VerdictKey, told: Told) {
        self.told.insert(key, told);
        self.order.push_back(key);
        if key.tgid != 0 {
            self.processes.entry(key.tgid).or_default().push(key.cgroup_id);
        }
        // Keys that are gone leave when they come to the front; a flood of them is swept.
        if self.order.len() > 2 * self.told.len() + 64 {
            let told = &self.told;
            self.order.retain(|key| told.contains_key(key));
            let mut once = rustc_hash::FxHashSet::default();
            self.order.retain(|key| once.insert(*key));
        }
    }

    fn forget(&mut self, tgid: u32) {
        for cgroup_id in self.processes.remove(&tgid).into_iter().flatten() {
            self.take_back(VerdictKey::process(cgroup_id, tgid));
        }
    }

    fn take_back(&mut self, key: VerdictKey) {
        if self.told.remove(&key).is_none() {
            return;
        }
        if let Some(sink) = &self.sink {
            sink.remove(key);
        }
        if let Some(cgroups) = self.processes.get_mut(&key.tgid) {
            cgroups.retain(|&cgroup| cgroup != key.cgroup_id);
            if cgroups.is_empty() {
                self.processes.remove(&key.tgid);
            }
        }
    }

    fn may_review(&mut self, now_mono_ns: u64) -> bool {
        let second = now_mono_ns / SECOND_NS;
        if second != self.second {
            (self.second, self.reviews) = (second, 0);
        }
        let may = self.reviews < REVIEWS_PER_SECOND;
        self.reviews += u64::from(may);
        may
    }
}

#[cfg(test)]
mod tests;
