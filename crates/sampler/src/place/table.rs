//! The cgroups that are known.
//!
//! **In**: ids of samples, records of new cgroups, what [`PlaceSource`] finds. **Out**: [`Place`]s, shared. **Units**:
//! monotonic nanoseconds. **Limits**: [`MAX_PLACES`] and [`MAX_BYTES`], then the one goes that was not asked for the
//! longest; [`MAX_CREATED`] new cgroups that no sample came from yet, of paths up to [`MAX_CREATED_BYTES`];
//! [`ASKS_PER_SECOND`], past which a cgroup stays unknown for the moment. A cgroup that nobody could tell of is asked for
//! again after [`RETRY_NS`].

use std::collections::VecDeque;
use std::sync::Arc;

use profile::Place;
use rustc_hash::FxHashMap;

use crate::judge::Judge;

/// Cgroups held at the most, those that nobody could tell of included.
const MAX_PLACES: usize = 16 * 1024;
/// What their texts may hold.
const MAX_BYTES: usize = 8 << 20;
/// New cgroups that no sample came from yet.
const MAX_CREATED: usize = 4096;
/// The path of such a one; others are looked up when they are needed.
const MAX_CREATED_BYTES: usize = 512;
/// Times a second that the kernel or /proc is asked: each takes some ten microseconds.
const ASKS_PER_SECOND: u64 = 500;
/// Of these at exec, where nobody waits for the answer yet.
const EXEC_ASKS_PER_SECOND: u64 = 100;
/// Until an unknown cgroup is asked for again.
const RETRY_NS: u64 = 1_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Who tells of cgroups: `Host`, but for tests.
pub(crate) trait PlaceSource {
    /// What the number in a record of a new cgroup is in ids.
    fn key_of_created(&self, number: u64) -> u64;
    /// The place of an id, with the path that a record told of its cgroup.
    fn place(&self, id: u64, created: Option<&[u8]>) -> Option<Place>;
    /// The id and place of a process now.
    fn place_of(&self, tgid: u32) -> Option<(u64, Place)>;
    /// Whether a cgroup is there; none where that cannot be told.
    fn cgroup_exists(&self, id: u64) -> Option<bool>;
}

#[derive(Debug)]
struct Known {
    place: Option<Arc<Place>>,
    /// When it was asked for in vain.
    asked_mono_ns: u64,
    /// Asked for since it was last passed over.
    used: bool,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Places {
    judge: Arc<dyn Judge>,
    known: FxHashMap<u64, Known>,
    /// Every id of `known` once, the next to be looked at for eviction in front.
    order: VecDeque<u64>,
    bytes: usize,
    /// Those of `known` that have a place.
    placed: usize,
    created: FxHashMap<u64, Box<[u8]>>,
    created_order: VecDeque<u64>,
    readings: u64,
    second: u64,
    asks: u64,
}

impl Places {
    /// Knows nothing yet. `judge` is told of what is new.
    pub(crate) fn new(judge: Arc<dyn Judge>) -> Self {
        Self {
            judge,
            known: FxHashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
            placed: 0,
            created: FxHashMap::default(),
            created_order: VecDeque::new(),
            readings: 0,
            second: 0,
            asks: 0,
        }
    }

    /// The place of a sample of this process. None where nobody can tell, or may be asked just now.
    pub(crate) fn of(
        &mut self,
        id: u64,
        tgid: u32,
        now_mono_ns: u64,
        source: &impl PlaceSource,
    ) -> Option<&Arc<Place>> {
        let is_due = match self.known.get(&id) {
            Some(Known { place: Some(_), .. }) => false,
            Some(known) => now_mono_ns >= known.asked_mono_ns.saturating_add(RETRY_NS),
            None => true,
        };
        if is_due && self.may_ask(now_mono_ns, ASKS_PER_SECOND) {
            self.ask(id, tgid, now_mono_ns, source);
        }
        let known = self.known.get_mut(&id)?;
        known.used = true;
        known.place.as_ref()
    }

    /// A process executed a program: it may be the first of its container, and never be sampled while it lives. Where there is
    /// time to look, gives the cgroup that it is in.
    pub(crate) fn executed(&mut self, tgid: u32, now_mono_ns: u64, source: &impl PlaceSource) -> Option<u64> {
        if !self.may_ask(now_mono_ns, EXEC_ASKS_PER_SECOND) {
            return None;
        }
        self.readings += 1;
        let (id, place) = source.place_of(tgid)?;
        self.learned(id, place, tgid);
        Some(id)
    }

    /// Enters what is known for certain: the number was compared.
    pub(crate) fn learned(&mut self, id: u64, place: Place, tgid: u32) {
        if self.known.get(&id).is_some_and(|known| known.place.is_some()) {
            return;
        }
        // A container by its path, or one that only its runtime knows.
        if place.container.is_some() || (place.unit.is_none() && &*place.cgroup != "/") {
            self.judge.seen(&place, tgid);
        }
        self.insert(id, Some(Arc::new(place)), 0);
    }

    /// The kernel made a cgroup.
    pub(crate) fn created(&mut self, number: u64, path: &[u8], source: &impl PlaceSource) {
        if path.len() > MAX_CREATED_BYTES || !path.starts_with(b"/") || path.starts_with(b"//") {
            return;
        }
        if self.created_order.len() >= MAX_CREATED
            && let Some(oldest) = self.created_order.pop_front()
        {
            self.created.remove(&oldest);
        }
        let key = source.key_of_created(number);
        if self.created.insert(key, path.into()).is_none() {
            self.created_order.push_back(key);
        }
    }

    /// Times that the kernel or /proc was asked.
    pub(crate) fn readings(&self) -> u64 {
        self.readings
    }

    /// Cgroups that are known.
    pub(crate) fn len(&self) -> usize {
        self.placed
    }

    fn ask(&mut self, id: u64, tgid: u32, now_mono_ns: u64, source: &impl PlaceSource) {
        self.readings += 1;
        let v2 = sampler_abi::CgroupIdParts::of(id).v2;
        let created = self.created.get(&v2).map(|path| &**path);
        if let Some(place) = source.place(id, created) {
            return self.learned(id, place, tgid);
        }
        if let Some((now_in, place)) = source.place_of(tgid) {
            // It may have been moved since the sample: then this is true of the other cgroup.
            self.learned(now_in, place, tgid);
            if now_in == id {
                return;
            }
        }
        self.insert(id, None, now_mono_ns);
    }

    fn insert(&mut self, id: u64, place: Option<Arc<Place>>, asked_mono_ns: u64) {
        self.bytes += cost_bytes(place.as_ref());
        self.placed += usize::from(place.is_some());
        let new = Known { place, asked_mono_ns, used: false };
        match self.known.insert(id, new) {
            Some(old) => self.forgotten(&old),
            None => self.order.push_back(id),
        }
        while self.known.len() > MAX_PLACES || self.bytes > MAX_BYTES {
            let Some(next) = self.order.pop_front() else { break };
            let Some(known) = self.known.get_mut(&next) else { continue };
            // Each is passed over once for having been used, and never the one that is asked for.
            if std::mem::take(&mut known.used) || next == id {
                self.order.push_back(next);
                if self.known.len() == 1 {
                    break;
                }
            } else if let Some(gone) = self.known.remove(&next) {
                self.forgotten(&gone);
            }
        }
    }

    fn forgotten(&mut self, known: &Known) {
        self.bytes -= cost_bytes(known.place.as_ref());
        self.placed -= usize::from(known.place.is_some());
    }

    fn may_ask(&mut self, now_mono_ns: u64, limit: u64) -> bool {
        let second = now_mono_ns / SECOND_NS;
        if second != self.second {
            (self.second, self.asks) = (second, 0);
        }
        let may = self.asks < limit;
        self.asks += u64::from(may);
        may
    }
}

fn cost_bytes(place: Option<&Arc<Place>>) -> usize {
    place.map_or(0, |place| {
        let container = place.container.as_ref();
        let pod = container.and_then(|c| c.pod.as_ref());
        size_of::<Place>()
            + place.cgroup.len()
            + place.unit.as_ref().map_or(0, |unit| unit.len())
            + container.map_or(0, |c| c.id.len())
            + pod.map_or(0, |pod| pod.uid.len())
    })
}

#[cfg(test)]
mod tests;
