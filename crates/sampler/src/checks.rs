//! The comparison of stacks that the kernel walked by tables with what another unwinder makes of the same bytes of stack.
//!
//! Nothing can be said where either stack was cut, or where the walk passed a signal's frame (the other unwinder stops there)
//! or followed a frame pointer. A difference is put down to the file of the last frame on which both agree: its table led on.
//! A file that differs too often is to be taken off the tables, and is named in a warning with the frame that differed first.
//!
//! **In**: two stacks of one sample. **Out**: [`Verdict`]s, files to take off. **Units**: stacks. **Limits**: [`MAX_FILES`] files
//! are counted; past it those without a difference are forgotten, then all.

use std::sync::Arc;

use profile::{Frame, ObjectId, ObjectInfo, StackEnd};
use rustc_hash::FxHashMap;
use sampler_abi::{FLAG_WALK_GUESSED, FLAG_WALK_SIGNAL};

use crate::config::Check as Wanted;

/// Files counted at the most.
const MAX_FILES: usize = 4096;
/// So many differences a file has at least before it is taken off: the task's other threads may have written to its stack
/// in between.
const MIN_DIFFERENCES: u32 = 3;
/// And one in fewer than so many of its comparisons.
const ONE_IN: u32 = 50;
const SECOND_NS: u64 = 1_000_000_000;
/// A machine without many samples compares more of them, but never more than one in so many.
const RAREST_SHARE: u64 = 200;

/// A walked stack that waits for its comparison. The kernel frames of both are the same.
#[derive(Clone, Debug)]
pub(crate) struct Check {
    /// What was counted.
    pub(crate) stack: Arc<[Frame]>,
    /// How its user half ended.
    pub(crate) end: StackEnd,
    /// Not all of it was believed.
    pub(crate) is_stale: bool,
    /// The sample's.
    pub(crate) flags: u32,
}

/// What came of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Both are the same.
    Agree,
    /// They are not, from this frame of the stack on.
    Differ(usize),
    /// Nothing can be said.
    Inconclusive,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    agreed: u32,
    differed: u32,
    is_reported: bool,
}

/// What is known of files.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    tallies: FxHashMap<ObjectId, Tally>,
}

impl Check {
    /// Whether nothing can be said, whatever the other unwinder finds.
    pub(crate) fn is_vague(&self) -> bool {
        self.is_stale || self.end != StackEnd::Root || self.flags & (FLAG_WALK_GUESSED | FLAG_WALK_SIGNAL) != 0
    }

    /// Compares it with the other unwinder's stack of the same sample.
    pub(crate) fn compare(&self, other: &[Frame], other_end: StackEnd) -> Verdict {
        if self.is_vague() || other_end != StackEnd::Root {
            return Verdict::Inconclusive;
        }
        let differs = self.stack.iter().zip(other).position(|(a, b)| a != b);
        let shorter = self.stack.len().min(other.len());
        match differs.or_else(|| (self.stack.len() != other.len()).then_some(shorter)) {
            None => Verdict::Agree,
            Some(at) => Verdict::Differ(at),
        }
    }
}

impl Checks {
    /// Counts a comparison for the files that led through the stack. Returns the file that is to be taken off, once for each.
    pub(crate) fn count<'a>(
        &mut self,
        check: &Check,
        other: &[Frame],
        verdict: Verdict,
        info: impl Fn(ObjectId) -> Option<&'a Arc<ObjectInfo>>,
    ) -> Option<ObjectId> {
        match verdict {
            Verdict::Inconclusive => None,
            Verdict::Agree => {
                let mut last = None;
                for frame in &*check.stack {
                    if let Frame::Object { object, .. } = frame
                        && last != Some(*object)
                    {
                        last = Some(*object);
                        let tally = self.tally(*object);
                        tally.agreed = tally.agreed.saturating_add(1);
                    }
                }
                None
            }
            Verdict::Differ(at) => {
                let walked = check.stack.get(at);
                let Some(file) = blamed(&check.stack, at) else {
                    tracing::debug!(at, ?walked, other = ?other.get(at), "a stack differs where no file leads on");
                    return None;
                };
                let path = info(file).map(|info| Arc::clone(&info.path)).unwrap_or_default();
                let led_on = at.checked_sub(1).and_then(|before| check.stack.get(before));
                tracing::debug!(file = %path, at, ?led_on, ?walked, other = ?other.get(at), "a stack differs");
                let tally = self.tally(file);
                tally.differed = tally.differed.saturating_add(1);
                let compared = tally.agreed.saturating_add(tally.differed);
                if tally.is_reported || tally.differed < MIN_DIFFERENCES || tally.differed < compared.div_ceil(ONE_IN) {
                    return None;
                }
                tally.is_reported = true;
                tracing::warn!(
                    file = %path,
                    build_id = info(file).map_or("", |info| &info.build_id.gnu),
                    differed = tally.differed,
                    compared,
                    led_on = ?led_on,
                    walked = ?walked,
                    other = ?other.get(at),
                    "a file's unwind table leads elsewhere than the comparison: it is not used any more"
                );
                Some(file)
            }
        }
    }

    fn tally(&mut self, file: ObjectId) -> &mut Tally {
        if self.tallies.len() >= MAX_FILES && !self.tallies.contains_key(&file) {
            self.tallies.retain(|_, tally| tally.differed > 0);
            if self.tallies.len() >= MAX_FILES {
                self.tallies.clear();
            }
        }
        self.tallies.entry(file).or_default()
    }
}

/// The file whose table led from the last frame that is the same; where the leaf differs already, the leaf's.
fn blamed(stack: &[Frame], at: usize) -> Option<ObjectId> {
    let object = |frame: &Frame| match frame {
        Frame::Object { object, .. } => Some(*object),
        _ => None,
    };
    match at.checked_sub(1).and_then(|before| stack.get(before)) {
        Some(before @ (Frame::Object { .. } | Frame::Unmapped { .. })) => object(before),
        _ => stack.get(at).and_then(object),
    }
}

/// How many walked samples of a CPU one is compared of, so that it is about one a second for the whole machine.
#[derive(Debug)]
pub(crate) struct CheckRate {
    config: Wanted,
    second_began_mono_ns: u64,
    walked: u64,
    every: u32,
}

impl CheckRate {
    /// As long as nothing is known of the machine's load.
    pub(crate) fn new(config: Wanted, now_mono_ns: u64) -> Self {
        let every = match config {
            Wanted::Off => 0,
            Wanted::OneIn(every) => every,
            Wanted::Adaptive => share(RAREST_SHARE),
        };
        Self { config, second_began_mono_ns: now_mono_ns, walked: 0, every }
    }

    /// What to ask for now; 0: none.
    pub(crate) fn every(&self) -> u32 {
        self.every
    }

    /// So many samples have been walked since the last call. Once a second: what to ask for, if that is something else.
    pub(crate) fn adjust(&mut self, walked: u64, now_mono_ns: u64) -> Option<u32> {
        self.walked += walked;
        let took_ns = now_mono_ns.saturating_sub(self.second_began_mono_ns);
        if self.config != Wanted::Adaptive || took_ns < SECOND_NS {
            return None;
        }
        let per_second = u128::from(self.walked) * u128::from(SECOND_NS) / u128::from(took_ns);
        (self.walked, self.second_began_mono_ns) = (0, now_mono_ns);
        let every = share(u64::try_from(per_second).unwrap_or(u64::MAX));
        // A little more or less is not worth telling the kernel.
        if every.abs_diff(self.every) <= self.every / 8 {
            return None;
        }
        self.every = every;
        Some(every)
    }
}

fn share(per_second: u64) -> u32 {
    u32::try_from(per_second.max(RAREST_SHARE)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
