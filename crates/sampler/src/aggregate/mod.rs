//! Equal stacks of equal owners become one entry with a count, in windows of a fixed length.
//!
//! Windows begin and end at multiples of their length on the monotonic clock; only the first begins, and the last
//! ends, in between. A sample belongs to the window of its own time. One that comes after its window was closed (a CPU
//! stood still for longer than [`crate::merge::SETTLE_NS`]) is counted in the oldest window still open, at its first
//! instant: no sample is lost, and every time lies in its window's span.
//!
//! Windows abut on both clocks. Where the wall clock is set back, the next windows are up to half as long on it until
//! it has caught up; where it is set forward, one window is longer.
//!
//! **In**: samples with owner and frames; times. **Out**: closed [`Window`]s, oldest first, also empty ones. **Units**:
//! nanoseconds of either clock. **Limits**: [`MAX_BYTES`] of distinct stacks and entries; beyond it the open window
//! is closed early and the next begins there. After a gap of more than [`MAX_GAP_WINDOWS`] (the machine slept) one
//! longer window covers it.

mod stacks;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault};
use std::sync::Arc;

use hashbrown::HashTable;
use profile::window::WindowEntry;
use profile::{Frame, ObjectId, ObjectInfo, Owner, Span, Window};
use rustc_hash::{FxHashMap, FxHasher};
use stacks::Stacks;

use crate::clock::Now;

/// What entries and stacks may hold before a window is closed early.
const MAX_BYTES: usize = 32 << 20;
/// Windows that are not closed yet at the most.
const MAX_GAP_WINDOWS: u64 = 16;
/// The shortest window, so that no two begin in the same millisecond on either clock.
const MIN_WINDOW_NS: u64 = 2_000_000;

/// A stack that was counted, and where: counting it again in the same window needs neither its frames nor their hash.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    stack: Arc<[Frame]>,
    hash: u64,
    /// The number of its window.
    window: u64,
    /// Its place there.
    entry: u32,
}

impl Known {
    /// Its frames.
    pub(crate) fn stack(&self) -> &Arc<[Frame]> {
        &self.stack
    }
}

/// The windows that are open.
#[derive(Debug)]
pub(crate) struct Aggregator {
    length_ns: u64,
    period_ns: u64,
    timestamps: bool,
    /// Oldest first; each begins where the one before ends. Never empty.
    open: VecDeque<Open>,
    /// Where the oldest begins on the wall clock.
    from_unix_ns: u64,
    stacks: Stacks,
    newest_mono_ns: u64,
    late: u64,
    full: bool,
    /// Windows opened so far.
    opened: u64,
}

#[derive(Debug, Default)]
struct Open {
    /// No two windows have the same.
    number: u64,
    from_mono_ns: u64,
    to_mono_ns: u64,
    owners: Vec<Arc<Owner>>,
    owner_index: FxHashMap<Arc<Owner>, u32>,
    /// By address: the same value again, without hashing its texts.
    owner_address: FxHashMap<usize, u32>,
    entries: Vec<Entry>,
    index: HashTable<u32>,
    objects: BTreeMap<ObjectId, Arc<ObjectInfo>>,
    samples: u64,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    owner: u32,
    stack: Arc<[Frame]>,
    count: u64,
    times_mono_ns: Vec<u64>,
}

/// What an aggregator is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AggregatorConfig {
    /// A window's length.
    pub(crate) length_ns: u64,
    /// Nanoseconds between two ticks of one CPU.
    pub(crate) period_ns: u64,
    /// Whether every sample's time is kept.
    pub(crate) timestamps: bool,
}

impl Aggregator {
    /// The first window begins now.
    pub(crate) fn new(config: AggregatorConfig, start: Now) -> Self {
        let AggregatorConfig { length_ns, period_ns, timestamps } = config;
        let length_ns = length_ns.max(2 * MIN_WINDOW_NS);
        let first = Open {
            number: 1,
            from_mono_ns: start.mono_ns,
            to_mono_ns: end_after(start.mono_ns, length_ns),
            ..Open::default()
        };
        Self {
            length_ns,
            period_ns,
            timestamps,
            open: VecDeque::from([first]),
            from_unix_ns: start.unix_ns,
            stacks: Stacks::default(),
            newest_mono_ns: start.mono_ns,
            late: 0,
            full: false,
            opened: 1,
        }
    }

    /// Counts one sample. `objects` finds the files that the stack's frames and the owner name.
    pub(crate) fn insert<'a>(
        &mut self,
        time_mono_ns: u64,
        owner: &Arc<Owner>,
        stack: &[Frame],
        objects: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>,
    ) -> Option<Known> {
        let hash = hash(stack);
        let time = self.enter(time_mono_ns);
        let (window, entry) = self.count(time, owner, (hash, stack), |stacks| stacks.intern(hash, stack), objects)?;
        let stack = self.open.iter().find(|w| w.number == window)?.entries.get(entry as usize)?.stack.clone();
        Some(Known { stack, hash, window, entry })
    }

    /// Counts one more sample of a stack and owner that were counted before.
    pub(crate) fn insert_again<'a>(
        &mut self,
        time_mono_ns: u64,
        owner: &Arc<Owner>,
        known: &mut Known,
        objects: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>,
    ) {
        let time = self.enter(time_mono_ns);
        let timestamps = self.timestamps;
        if let Some(window) = self.open.iter_mut().find(|w| time < w.to_mono_ns)
            && window.number == known.window
            && let Some(entry) = window.entries.get_mut(known.entry as usize)
        {
            window.samples += 1;
            entry.count += 1;
            if timestamps {
                entry.times_mono_ns.push(time);
                self.full = self.bytes() > MAX_BYTES;
            }
            return;
        }
        let (hash, stack) = (known.hash, Arc::clone(&known.stack));
        let place = self.count(time, owner, (hash, &stack), |stacks| stacks.intern_shared(hash, &stack), objects);
        if let Some((window, entry)) = place {
            (known.window, known.entry) = (window, entry);
        }
    }

    /// Opens the window of a sample's time. Returns the time that it is counted at.
    fn enter(&mut self, time_mono_ns: u64) -> u64 {
        self.open_up_to(time_mono_ns);
        let from = self.open.front().map_or(0, |w| w.from_mono_ns);
        self.late += u64::from(time_mono_ns < from);
        let time = time_mono_ns.max(from);
        self.newest_mono_ns = self.newest_mono_ns.max(time);
        time
    }

    /// Counts a sample in its window, which is open. Returns the window's number, and the entry's place in it.
    fn count<'a>(
        &mut self,
        time: u64,
        owner: &Arc<Owner>,
        (stack_hash, stack): (u64, &[Frame]),
        intern: impl FnOnce(&mut Stacks) -> Arc<[Frame]>,
        objects: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>,
    ) -> Option<(u64, u32)> {
        let (stacks, timestamps) = (&mut self.stacks, self.timestamps);
        let newest = self.open.len().saturating_sub(1);
        let place = self.open.iter().position(|w| time < w.to_mono_ns).unwrap_or(newest);
        let window = self.open.get_mut(place)?;
        let owner_index = window.owner(owner);
        if let Some(executable) = owner.executable
            && !window.objects.contains_key(&executable)
            && let Some(info) = objects(executable)
        {
            window.objects.insert(executable, Arc::clone(info));
        }
        window.samples += 1;
        let entry_hash = stack_hash.wrapping_add(u64::from(owner_index)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let entries = &window.entries;
        let at = |i: u32| entries.get(i as usize);
        let same =
            |&i: &u32| at(i).is_some_and(|e| e.hash == entry_hash && e.owner == owner_index && *e.stack == *stack);
        let index = window.index.find(entry_hash, same).copied();
        let index = index.unwrap_or_else(|| {
            for frame in stack {
                if let Frame::Object { object, .. } = frame
                    && !window.objects.contains_key(object)
                    && let Some(info) = objects(*object)
                {
                    window.objects.insert(*object, Arc::clone(info));
                }
            }
            let new = u32::try_from(window.entries.len()).unwrap_or(u32::MAX);
            let stack = intern(stacks);
            window.entries.push(Entry {
                hash: entry_hash,
                owner: owner_index,
                stack,
                count: 0,
                times_mono_ns: Vec::new(),
            });
            let entries = &window.entries;
            window.index.insert_unique(entry_hash, new, |&i| entries.get(i as usize).map_or(0, |e| e.hash));
            new
        });
        let number = window.number;
        if let Some(entry) = window.entries.get_mut(index as usize) {
            entry.count += 1;
            if timestamps {
                entry.times_mono_ns.push(time);
            }
        }
        self.full = self.bytes() > MAX_BYTES;
        Some((number, index))
    }

    /// Closes what ends at `complete_to_mono_ns` or before: no sample from before that is expected any more. `now` is
    /// both clocks at one instant, not before `complete_to_mono_ns`.
    pub(crate) fn advance(&mut self, complete_to_mono_ns: u64, now: Now) -> Vec<Window> {
        self.open_up_to(complete_to_mono_ns);
        let mut closed = Vec::new();
        while self.open.front().is_some_and(|w| w.to_mono_ns <= complete_to_mono_ns) {
            closed.extend(self.close_oldest(now));
        }
        if self.full {
            closed.extend(self.split(now));
        }
        closed
    }

    /// Closes everything; the last window ends now.
    pub(crate) fn finish(mut self, now: Now) -> Vec<Window> {
        let end = now.mono_ns.max(self.newest_mono_ns + 1);
        let mut closed = self.advance(end, now);
        if let Some(last) = self.open.front_mut()
            && last.from_mono_ns < end
        {
            last.to_mono_ns = end;
            closed.extend(self.close_oldest(now));
        }
        closed
    }

    /// Distinct entries in the open windows.
    pub(crate) fn entries(&self) -> u64 {
        self.open.iter().map(|w| w.entries.len() as u64).sum()
    }

    /// Samples that came after their window was closed.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Opens windows until the last ends after `time`.
    fn open_up_to(&mut self, time_mono_ns: u64) {
        while let Some(last) = self.open.back_mut()
            && last.to_mono_ns <= time_mono_ns
        {
            if (time_mono_ns - last.to_mono_ns) / self.length_ns >= MAX_GAP_WINDOWS {
                last.to_mono_ns = time_mono_ns / self.length_ns * self.length_ns;
            }
            if last.to_mono_ns <= time_mono_ns {
                let from = last.to_mono_ns;
                self.opened += 1;
                self.open.push_back(Open {
                    number: self.opened,
                    from_mono_ns: from,
                    to_mono_ns: end_after(from, self.length_ns),
                    ..Open::default()
                });
            }
        }
    }

    /// Ends the oldest window behind the newest sample, where that leaves two of sensible length.
    fn split(&mut self, now: Now) -> Option<Window> {
        let at = self.newest_mono_ns + 1;
        let is_only = self.open.len() == 1;
        let oldest = self.open.front_mut()?;
        if !is_only
            || at < oldest.from_mono_ns.saturating_add(MIN_WINDOW_NS)
            || at.saturating_add(MIN_WINDOW_NS) > oldest.to_mono_ns
        {
            return None;
        }
        let to_mono_ns = std::mem::replace(&mut oldest.to_mono_ns, at);
        self.opened += 1;
        self.open.push_back(Open { number: self.opened, from_mono_ns: at, to_mono_ns, ..Open::default() });
        self.close_oldest(now)
    }

    fn close_oldest(&mut self, now: Now) -> Option<Window> {
        let window = self.open.pop_front()?;
        let (from, to) = (window.from_mono_ns, window.to_mono_ns);
        if self.open.is_empty() {
            self.opened += 1;
            self.open.push_back(Open {
                number: self.opened,
                from_mono_ns: to,
                to_mono_ns: end_after(to, self.length_ns),
                ..Open::default()
            });
        }
        let ahead = i128::from(now.unix_ns) - i128::from(now.mono_ns);
        let measured = u64::try_from(i128::from(to) + ahead).unwrap_or(0);
        let from_unix_ns = self.from_unix_ns;
        let to_unix_ns = measured.max(from_unix_ns.saturating_add(((to - from) / 2).max(1)));
        self.from_unix_ns = to_unix_ns;
        self.stacks.turn();
        self.full = false;
        let unix = |time: u64| from_unix_ns.saturating_add(time.saturating_sub(from)).min(to_unix_ns - 1);
        let entries = window.entries.into_iter().map(|e| WindowEntry {
            owner: e.owner,
            stack: e.stack,
            count: e.count,
            times_unix_ns: e.times_mono_ns.into_iter().map(unix).collect(),
        });
        Some(Window {
            span: Span { from_mono_ns: from, to_mono_ns: to, from_unix_ns, to_unix_ns },
            period_ns: self.period_ns,
            owners: window.owners,
            objects: window.objects,
            entries: entries.collect(),
            samples: window.samples,
        })
    }

    fn bytes(&self) -> usize {
        let of = |w: &Open| {
            w.entries.len() * (size_of::<Entry>() + size_of::<u32>())
                + if self.timestamps { usize::try_from(w.samples).unwrap_or(usize::MAX).saturating_mul(8) } else { 0 }
        };
        self.stacks.bytes() + self.open.iter().map(of).sum::<usize>()
    }
}

impl Open {
    fn owner(&mut self, owner: &Arc<Owner>) -> u32 {
        let address = Arc::as_ptr(owner).addr();
        if let Some(&index) = self.owner_address.get(&address) {
            return index;
        }
        let next = u32::try_from(self.owners.len()).unwrap_or(u32::MAX);
        let index = *self.owner_index.entry(Arc::clone(owner)).or_insert(next);
        if index == next {
            self.owners.push(Arc::clone(owner));
        }
        // Only of values that `owners` keeps alive: another may come to lie at the same address otherwise.
        if self.owners.get(index as usize).is_some_and(|kept| Arc::ptr_eq(kept, owner)) {
            self.owner_address.insert(address, index);
        }
        index
    }
}

/// The next multiple of the length that leaves a window of sensible length.
fn end_after(from: u64, length: u64) -> u64 {
    let end = (from / length + 1).saturating_mul(length);
    if end - from < length / 4 { end.saturating_add(length) } else { end }
}

fn hash(stack: &[Frame]) -> u64 {
    BuildHasherDefault::<FxHasher>::default().hash_one(stack)
}

#[cfg(test)]
mod tests;
