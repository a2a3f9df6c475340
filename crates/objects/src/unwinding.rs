//! Batches of snapshots for the worker, and what to do when one of them is deadly.
//!
//! Stacks come back a few at a time, so those before the deadly one are kept. What follows is sent again, now with an
//! answer for every single stack; if the worker fails again, the first stack without an answer is to blame, gets
//! [`StackEnd::WorkerFailed`], and the rest goes on. A process whose stacks are to blame again and again is left alone
//! for a while.
//!
//! **In**: snapshots (hostile), mappings. **Out**: stacks (checked by the client). **Units**: bytes, addresses of the
//! process. **Limits**: those of `protocol` for a batch; [`MAX_FAILURES`] for a call.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{Hash as _, Hasher as _};
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use profile::{MapEntry, ObjectId, StackEnd, UserStack};
use rustc_hash::{FxHashMap, FxHasher};

use crate::client::{Client, Fault};
use crate::counters::count;
use crate::held::Part;
use crate::needed::needed;
use crate::offenders::Offenders;
use crate::protocol::{
    Batch, MAX_BATCH_BYTES, MAX_BATCH_SAMPLES, MAX_MAPS, MAX_STACK_BYTES, STACKS_PER_REPLY, SampleMeta,
};
use crate::reading::Loaded;
use crate::{Objects, UnwindRequest};

/// Workers that one call may cost; then the rest of its samples fail.
const MAX_FAILURES: u32 = 16;
/// Deadly stacks of one process until it is left alone.
pub(crate) const TOLERATED_STACKS: u32 = 2;

impl Objects {
    /// Unwinds snapshots: one stack for each, in order. A worker that dies or hangs on one costs that one:
    /// [`StackEnd::WorkerFailed`].
    #[must_use]
    pub fn unwind(&self, request: &UnwindRequest) -> Vec<UserStack> {
        let samples = request.samples.len();
        let mut stacks = Vec::with_capacity(samples);
        let mut client = self.client();
        let mut careful_until = 0;
        let mut failures = 0;
        while stacks.len() < samples && failures < MAX_FAILURES {
            let first = stacks.len();
            let is_careful = first < careful_until;
            if client.begin().is_err() {
                break;
            }
            let generation = client.generation();
            let Some(batch) = self.batch(&mut client, request, first, is_careful) else {
                stacks.push(failed());
                continue;
            };
            if client.generation() != generation {
                // A table was deadly: those loaded before it are gone.
                failures += 1;
                continue;
            }
            match client.unwind(&batch, if is_careful { 1 } else { STACKS_PER_REPLY }, &mut stacks) {
                Ok(()) => {}
                Err(Fault::Worker(error)) => {
                    failures += 1;
                    if is_careful {
                        tracing::debug!(%error, "a stack is deadly for the worker");
                        count(&self.counters.worker_failed_requests);
                        if let Some(maps) = maps_of(request, stacks.len()) {
                            self.suspects().blame(process_key(maps), self.now().elapsed);
                        }
                        stacks.push(failed());
                    } else {
                        careful_until = stacks.len().saturating_add(chunk());
                    }
                }
                Err(Fault::Gone) => failures += 1,
                Err(Fault::NoWorker | Fault::Refused(_)) => break,
            }
        }
        if stacks.len() < samples {
            count(&self.counters.worker_failed_requests);
            stacks.resize_with(samples, failed);
        }
        stacks
    }

    /// A batch of samples from `first` on, with their tables loaded. Nothing where the first sample must not be tried.
    fn batch<'a>(
        &self,
        client: &mut Client,
        request: &'a UnwindRequest,
        first: usize,
        is_careful: bool,
    ) -> Option<Batch<'a>> {
        let now = self.now().elapsed;
        let most = if is_careful { chunk() } else { MAX_BATCH_SAMPLES };
        let mut batch = Batch { processes: Vec::new(), samples: Vec::new(), stacks: Vec::new() };
        let mut places: FxHashMap<u32, (u32, BTreeSet<ObjectId>)> = FxHashMap::default();
        let mut bytes = 0;
        for sample in request.samples.get(first..)?.iter().take(most) {
            let maps = request.processes.get(usize::try_from(sample.process).ok()?).map_or(&[][..], Vec::as_slice);
            let maps = maps.get(..MAX_MAPS).unwrap_or(maps);
            let stack = sample.stack.get(..MAX_STACK_BYTES).unwrap_or(&sample.stack);
            bytes += stack.len();
            if bytes > MAX_BATCH_BYTES || self.is_left_alone(maps, now) {
                break;
            }
            let (place, candidates) = places.entry(sample.process).or_insert_with(|| {
                batch.processes.push(Cow::Borrowed(maps));
                let place = u32::try_from(batch.processes.len() - 1).unwrap_or(u32::MAX);
                (place, self.candidates(client, maps))
            });
            let mut wanted = BTreeSet::new();
            if !candidates.is_empty() {
                needed(maps, &sample.registers, stack, |object| {
                    if candidates.contains(&object) {
                        wanted.insert(object);
                    }
                });
            }
            let mut is_full = false;
            for object in wanted {
                match self.load(client, object, Part::Unwind) {
                    Loaded::Yes => {}
                    Loaded::Full => is_full = true,
                    // What cannot be loaded is not tried again for each sample.
                    Loaded::No => {
                        candidates.remove(&object);
                    }
                }
            }
            // Those that use what is loaded go first; a sample that alone needs too much goes without.
            if is_full && !batch.samples.is_empty() {
                break;
            }
            batch.samples.push(SampleMeta {
                process: *place,
                registers: sample.registers,
                stack_bytes: u32::try_from(stack.len()).unwrap_or(u32::MAX),
            });
            batch.stacks.push(stack);
        }
        (!batch.samples.is_empty()).then_some(batch)
    }

    /// The objects of a process whose tables its stacks may need loaded: none where all are, which then stay for the
    /// request at hand; else all that have tables, loaded or not.
    fn candidates(&self, client: &mut Client, maps: &[MapEntry]) -> BTreeSet<ObjectId> {
        let mut objects: BTreeSet<ObjectId> = maps.iter().filter_map(|map| map.object).collect();
        {
            let registry = self.registry();
            objects.retain(|object| registry.has(*object, Part::Unwind));
        }
        if objects.iter().all(|object| client.would_hold(*object, Part::Unwind)) {
            for object in std::mem::take(&mut objects) {
                client.holds(object, Part::Unwind);
            }
        }
        objects
    }

    fn is_left_alone(&self, maps: &[MapEntry], now: Duration) -> bool {
        let suspects = self.suspects();
        !suspects.is_empty() && suspects.is_left_alone(&process_key(maps), now)
    }

    /// Processes with deadly stacks, known by their mappings.
    fn suspects(&self) -> MutexGuard<'_, Offenders<u64>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn process_key(maps: &[MapEntry]) -> u64 {
    let mut hash = FxHasher::default();
    for map in maps {
        (map.start, map.end, map.object).hash(&mut hash);
    }
    hash.finish()
}

fn maps_of(request: &UnwindRequest, sample: usize) -> Option<&[MapEntry]> {
    let process = usize::try_from(request.samples.get(sample)?.process).ok()?;
    let maps = request.processes.get(process)?;
    Some(maps.get(..MAX_MAPS).unwrap_or(maps))
}

fn chunk() -> usize {
    usize::try_from(STACKS_PER_REPLY).unwrap_or(1)
}

fn failed() -> UserStack {
    UserStack { frames: Vec::new(), end: StackEnd::WorkerFailed }
}
