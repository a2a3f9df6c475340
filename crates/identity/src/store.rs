//! What is known of pods and containers, and for how long.
//!
//! **In**: records of all sources, the time. **Out**: [`Workload`]s by place. No I/O, no clock of its own. **Limits**:
//! [`Limits::max`] pods and as many containers; who finds no room is counted and comes again with the next listing. The names
//! of what is gone are kept for [`Limits::keep`], those that were asked for last the longest if room is short.

use std::sync::Arc;
use std::time::{Duration, Instant};

use profile::Place;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::record::{ContainerRecord, PodRecord, Rank};
use crate::workload::{Pod, Workload};

/// How many cgroups above its own a process's container may be.
const MAX_DEPTH: usize = 32;

/// How much is kept, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) max: usize,
    pub(crate) keep: Duration,
}

/// All that is known.
#[derive(Debug)]
pub(crate) struct Store {
    limits: Limits,
    pods: FxHashMap<Arc<str>, PodEntry>,
    /// What paths of cgroups call a pod, if not by its UID.
    aliases: FxHashMap<Arc<str>, Arc<str>>,
    containers: FxHashMap<Arc<str>, ContainerEntry>,
    /// Containers whose path tells no id, by their path.
    paths: FxHashMap<Arc<str>, Arc<str>>,
    generation: u64,
    refused: u64,
    /// Counts look-ups, for telling which was the last.
    uses: u64,
}

#[derive(Debug)]
struct PodEntry {
    pod: Arc<Pod>,
    rank: Rank,
    settled: bool,
    gone: Option<Instant>,
    used: u64,
}

#[derive(Debug)]
struct ContainerEntry {
    record: ContainerRecord,
    pod: Option<Arc<str>>,
    rank: Rank,
    gone: Option<Instant>,
    used: u64,
}

/// How well a place is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Known {
    /// Not at all, or its pod only.
    No,
    /// As far as this source knows.
    By(Rank),
}

impl Store {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pods: FxHashMap::default(),
            aliases: FxHashMap::default(),
            containers: FxHashMap::default(),
            paths: FxHashMap::default(),
            generation: 1,
            refused: 0,
            uses: 0,
        }
    }

    /// Changes with every change of what [`Self::look_up`] would answer of something that is there.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn containers(&self) -> u64 {
        self.containers.len() as u64
    }

    pub(crate) fn pods(&self) -> u64 {
        self.pods.len() as u64
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused
    }

    /// All pods of the node and their containers, as of now. Who is not among them is gone.
    pub(crate) fn listing(&mut self, rank: Rank, records: Vec<PodRecord>, now: Instant) {
        let mut seen = FxHashSet::default();
        let mut alive = FxHashSet::default();
        for record in records {
            seen.insert(Arc::clone(&record.pod.uid));
            alive.extend(record.containers.iter().map(|c| Arc::clone(&c.id)));
            self.pod(rank, record, now);
        }
        for (uid, entry) in &mut self.pods {
            if !seen.contains(uid) {
                entry.gone.get_or_insert(now);
            }
        }
        for (id, entry) in &mut self.containers {
            let Some(uid) = &entry.pod else { continue };
            // A container that this source has not seen yet may be about to come; one that it knew is gone.
            let ended = !seen.contains(uid) || (entry.rank == rank && !alive.contains(id));
            if ended {
                entry.gone.get_or_insert(now);
            }
        }
        self.expire(now);
    }

    /// One pod and its containers, as of now.
    pub(crate) fn pod(&mut self, rank: Rank, record: PodRecord, now: Instant) {
        let PodRecord { pod, aliases, settled, containers } = record;
        let uid = Arc::clone(&pod.uid);
        if !self.put_pod(rank, pod, Some(settled), now) {
            return;
        }
        for alias in aliases {
            self.aliases.insert(alias, Arc::clone(&uid));
        }
        for container in containers {
            self.put_container(rank, container, Some(&uid), now);
        }
    }

    /// A pod is no more; its names stay for a while.
    pub(crate) fn gone(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.gone.get_or_insert(now);
        }
        for entry in self.containers.values_mut().filter(|c| c.pod.as_deref() == Some(uid)) {
            entry.gone.get_or_insert(now);
        }
        self.expire(now);
    }

    /// One container, and its pod if it has one.
    pub(crate) fn container(&mut self, rank: Rank, record: ContainerRecord, pod: Option<Pod>, now: Instant) {
        let uid = pod.as_ref().map(|p| Arc::clone(&p.uid));
        if let Some(pod) = pod
            && !self.put_pod(rank, pod, None, now)
        {
            return;
        }
        self.put_container(rank, record, uid.as_ref(), now);
    }

    /// A container of a pod that is settled, and that is none of its containers: the sandbox. Whether it was taken for one.
    pub(crate) fn sandbox(&mut self, place: &Place, now: Instant) -> bool {
        let Some(container) = &place.container else { return false };
        let Some(uid) = container.pod.as_ref().map(|p| self.uid(&p.uid)) else { return false };
        let settled = self.pods.get(&uid).is_some_and(|p| p.settled && p.gone.is_none());
        if !settled || self.containers.contains_key(&container.id) {
            return false;
        }
        let record = ContainerRecord {
            id: Arc::clone(&container.id),
            runtime: container.runtime,
            is_pause: true,
            ..ContainerRecord::default()
        };
        self.put_container(Rank::Guess, record, Some(&uid), now);
        true
    }

    /// How well a place is known.
    pub(crate) fn known(&self, place: &Place) -> Known {
        let Some(entry) = self.entry(place) else { return Known::No };
        // As long as its pod is not known so well, more may be learned.
        let pod = entry.pod.as_ref().and_then(|uid| self.pods.get(uid));
        Known::By(pod.map_or(entry.rank, |p| p.rank))
    }

    /// What is known of a place.
    pub(crate) fn look_up(&mut self, place: &Place) -> Option<Arc<Workload>> {
        self.uses += 1;
        let uses = self.uses;
        let told = place.container.as_ref();
        let told_pod = told.and_then(|c| c.pod.as_ref()).map(|p| self.uid(&p.uid));
        let Some(id) = self.entry(place).map(|e| Arc::clone(&e.record.id)) else {
            // Another pod's container by its id, or not known yet: the pod at most.
            let container = told.filter(|c| !self.containers.contains_key(&c.id))?;
            let entry = self.pods.get_mut(&told_pod?)?;
            entry.used = uses;
            return Some(Arc::new(Workload {
                container_id: Arc::clone(&container.id),
                runtime: container.runtime,
                pod: Some(Arc::clone(&entry.pod)),
                ..Workload::default()
            }));
        };
        let entry = self.containers.get_mut(&id)?;
        entry.used = uses;
        let uid = entry.pod.clone().or(told_pod);
        let pod = uid.and_then(|uid| self.pods.get_mut(&uid)).map(|entry| {
            entry.used = uses;
            Arc::clone(&entry.pod)
        });
        let record = &entry.record;
        Some(Arc::new(Workload {
            container_id: Arc::clone(&record.id),
            container_name: record.name.clone(),
            runtime: record.runtime,
            image: record.image.clone(),
            restarts: record.restarts,
            is_pause: record.is_pause,
            pod,
        }))
    }

    /// Forgets what was gone for long enough.
    pub(crate) fn expire(&mut self, now: Instant) {
        let keep = self.limits.keep;
        let stays = |gone: &Option<Instant>| gone.is_none_or(|at| now.saturating_duration_since(at) < keep);
        self.containers.retain(|_, entry| stays(&entry.gone));
        let of: FxHashSet<Arc<str>> = self.containers.values().filter_map(|c| c.pod.clone()).collect();
        self.pods.retain(|uid, entry| stays(&entry.gone) || of.contains(uid));
        self.aliases.retain(|_, uid| self.pods.contains_key(uid));
        self.paths.retain(|_, id| self.containers.contains_key(id));
    }

    /// The container that a place tells, if it is one of the pod that the place tells.
    fn entry(&self, place: &Place) -> Option<&ContainerEntry> {
        let Some(container) = &place.container else {
            let above = std::iter::successors(Some(&*place.cgroup), |path| path.rsplit_once('/').map(|(up, _)| up));
            let id = above.take(MAX_DEPTH).find_map(|path| self.paths.get(path))?;
            return self.containers.get(id);
        };
        let entry = self.containers.get(&container.id)?;
        let told = container.pod.as_ref().map(|p| self.uid(&p.uid));
        match (&entry.pod, told) {
            // Two say different things: neither is believed.
            (Some(known), Some(told)) if *known != told => None,
            _ => Some(entry),
        }
    }

    fn uid(&self, told: &Arc<str>) -> Arc<str> {
        self.aliases.get(told).unwrap_or(told).clone()
    }

    /// Whether it is in the store afterwards.
    fn put_pod(&mut self, rank: Rank, pod: Pod, settled: Option<bool>, now: Instant) -> bool {
        if let Some(entry) = self.pods.get_mut(&pod.uid) {
            entry.gone = None;
            if rank < entry.rank {
                return true;
            }
            entry.rank = rank;
            entry.settled = settled.unwrap_or(entry.settled);
            if *entry.pod != pod {
                entry.pod = Arc::new(pod);
                self.generation += 1;
            }
            return true;
        }
        if self.pods.len() >= self.limits.max && !self.make_room_for_pod(now) {
            self.refused += 1;
            return false;
        }
        let uid = Arc::clone(&pod.uid);
        let entry =
            PodEntry { pod: Arc::new(pod), rank, settled: settled.unwrap_or(false), gone: None, used: self.uses };
        self.pods.insert(uid, entry);
        self.generation += 1;
        true
    }

    fn put_container(&mut self, rank: Rank, mut record: ContainerRecord, pod: Option<&Arc<str>>, now: Instant) {
        if let Some(path) = record.cgroup.clone() {
            self.paths.insert(path, Arc::clone(&record.id));
        }
        if let Some(entry) = self.containers.get_mut(&record.id) {
            entry.gone = None;
            if rank < entry.rank {
                return;
            }
            entry.rank = rank;
            // What a better source does not say was true before.
            record.image = record.image.or_else(|| entry.record.image.clone());
            record.restarts = record.restarts.or(entry.record.restarts);
            record.cgroup = record.cgroup.or_else(|| entry.record.cgroup.clone());
            let pod = pod.or(entry.pod.as_ref()).cloned();
            if entry.record != record || entry.pod != pod {
                entry.record = record;
                entry.pod = pod;
                self.generation += 1;
            }
            return;
        }
        if self.containers.len() >= self.limits.max && !self.make_room_for_container(now) {
            self.refused += 1;
            self.paths.retain(|_, id| *id != record.id);
            return;
        }
        let id = Arc::clone(&record.id);
        self.containers.insert(id, ContainerEntry { record, pod: pod.cloned(), rank, gone: None, used: self.uses });
        self.generation += 1;
    }

    /// Takes out the one that was asked for the longest ago: of those that are gone, else of those that no list names (and of
    /// which nobody would say that they are gone).
    fn make_room_for_container(&mut self, now: Instant) -> bool {
        self.expire(now);
        if self.containers.len() < self.limits.max {
            return true;
        }
        let loose = self.containers.iter().filter(|(_, e)| e.gone.is_some() || e.rank <= Rank::State);
        let oldest = loose.min_by_key(|(_, e)| (e.gone.is_none(), e.used)).map(|(id, _)| Arc::clone(id));
        let Some(id) = oldest else { return false };
        self.containers.remove(&id);
        self.paths.retain(|_, of| *of != id);
        true
    }

    fn make_room_for_pod(&mut self, now: Instant) -> bool {
        self.expire(now);
        if self.pods.len() < self.limits.max {
            return true;
        }
        let loose = self.pods.iter().filter(|(_, e)| e.gone.is_some() || e.rank <= Rank::State);
        let oldest = loose.min_by_key(|(_, e)| (e.gone.is_none(), e.used)).map(|(uid, _)| Arc::clone(uid));
        let Some(uid) = oldest else { return false };
        self.pods.remove(&uid);
        self.containers.retain(|_, e| e.pod.as_ref() != Some(&uid));
        self.expire(now);
        true
    }
}

#[cfg(test)]
mod tests;
