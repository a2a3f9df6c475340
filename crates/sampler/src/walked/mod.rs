//! Stacks that the kernel has walked: from addresses to frames, each distinct stack once.
//!
//! A walk used the mappings that were published at its time, under a serial. Where these are the mappings that the process
//! had at the sample's time, all addresses are believed; else only as far as both agree ([`misled`]). What an address
//! means is always said by the mappings at the sample's time.
//!
//! A stack that was seen before is found by its raw words ([`Seen`]): one hash, one comparison, and one more on its count.
//!
//! **In**: samples with lookup addresses (a target chooses what lies on its stack), processes. **Out**: counts in windows.
//! **Units**: addresses of the process. **Limits**: [`seen::MAX_BYTES`] of remembered stacks, [`published::MAX_OLD`] sets of
//! mappings that were replaced.

mod published;
mod seen;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use profile::{Frame, Owner, StackEnd};
use sampler_abi::FLAG_CHECK;
use unwind_table::End;

use crate::aggregate::{Aggregator, Known};
use crate::process::{FileKind, MapSet, Mapping, Process};
use crate::resolve::{Lasting, Resolver};
use crate::sample::Sample;
use crate::source::ObjectSource;
pub(crate) use published::Published;
use seen::{Key, Seen};

/// What is remembered of a walked stack.
#[derive(Clone, Debug)]
struct Walked {
    /// Its frames, and where they were counted last.
    known: Known,
    /// How it ended.
    end: StackEnd,
    /// Not all of its addresses were believed: the mappings had changed.
    is_stale: bool,
}

/// A walked sample that was counted.
#[derive(Clone, Debug)]
pub(crate) struct CountedWalk {
    /// How its user half ended.
    pub(crate) end: StackEnd,
    /// Not all of its addresses were believed: the mappings had changed.
    pub(crate) is_stale: bool,
    /// The whole stack, where it is to be compared.
    pub(crate) stack: Option<Arc<[Frame]>>,
}

/// What is known of walked stacks.
#[derive(Debug, Default)]
pub(crate) struct Walks {
    pub(crate) published: Published,
    seen: Seen,
    /// Of the sample at hand; kept for its memory.
    frames: Vec<Frame>,
}

impl Walks {
    /// Counts a walked sample in its window.
    pub(crate) fn count<O: ObjectSource>(
        &mut self,
        sample: &Sample,
        owner: &Arc<Owner>,
        process: &Process,
        resolver: &mut Resolver<O>,
        aggregator: &mut Aggregator,
    ) -> CountedWalk {
        let time = sample.head.time_mono_ns;
        let key = Key {
            owner,
            maps: process.maps.serial(),
            walked_with: sample.head.mappings_serial,
            end: sample.head.walk_end,
            kernel: &sample.kernel,
            user: &sample.user,
        };
        self.seen.follow(resolver.generation());
        let hash = self.seen.hash(&key);
        let is_checked = sample.head.flags & FLAG_CHECK != 0;
        let counted = |walked: &Walked| CountedWalk {
            end: walked.end,
            is_stale: walked.is_stale,
            stack: is_checked.then(|| Arc::clone(walked.known.stack())),
        };
        if let Some(walked) = self.seen.find(hash, &key) {
            aggregator.insert_again(time, owner, &mut walked.known, |object| resolver.info(object));
            return counted(walked);
        }
        let (end, is_stale, lasting) = self.resolve(sample, &key, process, resolver);
        let known = aggregator.insert(time, owner, &self.frames, |object| resolver.info(object));
        let Some(known) = known else { return CountedWalk { end, is_stale, stack: None } };
        let walked = Walked { known, end, is_stale };
        let counted = counted(&walked);
        self.seen.remember(hash, &key, walked, lasting);
        counted
    }

    /// The frames of a stack that was not seen before.
    fn resolve<O: ObjectSource>(
        &mut self,
        sample: &Sample,
        key: &Key<'_>,
        process: &Process,
        resolver: &mut Resolver<O>,
    ) -> (StackEnd, bool, Lasting) {
        let frames = &mut self.frames;
        frames.clear();
        kernel_frames(&sample.kernel, frames);
        let leaf = [sample.head.user_pc];
        let addresses = if sample.user.is_empty() { &leaf } else { sample.user.as_slice() };
        let misled = if key.walked_with == key.maps {
            None
        } else {
            // A table of mappings that nobody knows may have misled the walk from its leaf on.
            let walked_with = self.published.find(sample.head.tgid, key.walked_with);
            walked_with.map_or(Some(0), |walked_with| misled(walked_with, &process.maps, addresses))
        };
        let is_stale = misled.is_some();
        let count = misled.map_or(addresses.len(), |at| at + 1);
        let end = if is_stale { StackEnd::BadFrame } else { stack_end(End(key.end)) };
        let lasting = resolver.frames(process, addresses.get(..count).unwrap_or_default(), frames);
        if !end.is_whole() {
            frames.push(Frame::Cut(end));
        }
        (end, is_stale, lasting)
    }

    /// A window was closed. What its stacks need is not forgotten with what was not used.
    pub(crate) fn turn<O: ObjectSource>(&mut self, resolver: &mut Resolver<O>) {
        self.seen.turn(|serial| resolver.keep(serial));
    }

    /// Distinct stacks that were not remembered for want of room.
    pub(crate) fn forgotten(&self) -> u64 {
        self.seen.forgotten()
    }
}

/// The frames of a kernel stack: the leaf is where the CPU was; of the others the address is where they return to.
pub(crate) fn kernel_frames(addresses: &[u64], frames: &mut Vec<Frame>) {
    let addresses = addresses.iter().enumerate();
    frames.extend(addresses.map(|(i, &pc)| Frame::Kernel(if i == 0 { pc } else { pc.saturating_sub(1) })));
}

/// How a walk's end is shown.
pub(crate) fn stack_end(end: End) -> StackEnd {
    match end {
        End::ROOT => StackEnd::Root,
        End::UNREADABLE => StackEnd::TruncatedSnapshot,
        End::NO_TABLE | End::PENDING | End::NO_SHARD => StackEnd::NoTable,
        End::TOO_MANY_FRAMES => StackEnd::TooManyFrames,
        End::UNKNOWN_PROCESS => StackEnd::UnknownProcess,
        _ => StackEnd::BadFrame,
    }
}

/// Where a walk was led on by a table that is not that of the code, since it used other mappings than those of the sample's time:
/// the place of the frame. None: nowhere.
///
/// A frame's address was found by the table of the frame before, so it is right where all frames before lie in the same code by
/// both sets. What the first frame in other code led to, or that the stack ended there, is not believed.
fn misled(walked_with: &MapSet, at_sample: &MapSet, addresses: &[u64]) -> Option<usize> {
    let leaf = addresses.first().map(|&leaf| walked_with.find(leaf));
    // There no row tells how far the leaf has come: what is code decides which words of the stack are return addresses.
    if leaf.is_some_and(|leaf| leaf.is_none_or(|m| m.file.kind == FileKind::Anonymous)) && walked_with != at_sample {
        return Some(0);
    }
    addresses.iter().position(|&a| !is_same_code(walked_with.find(a), at_sample.find(a)))
}

/// Whether an address that lies in these mappings is the same place of the same file in both.
fn is_same_code(a: Option<&Mapping>, b: Option<&Mapping>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) if a.file == b.file => {
            a.file.kind == FileKind::Anonymous || a.offset.wrapping_sub(a.start) == b.offset.wrapping_sub(b.start)
        }
        _ => false,
    }
}
