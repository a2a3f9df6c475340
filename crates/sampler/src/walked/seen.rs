//! Walked stacks by their raw words.
//!
//! What is remembered holds for one owner, one set of mappings at the sample's time and one that was walked with; and as long as
//! the resolver knows these mappings: [`Seen::turn`] tells it which are in use, and where it forgets them before their time
//! ([`Seen::follow`]) everything is forgotten here too.
//!
//! **In**: raw words, which a target chooses: they are hashed with a key of this process's own. **Limits**: [`MAX_BYTES`]; past
//! it stacks are made anew for each sample, and counted ([`Seen::forgotten`]), until a window is closed. What was not used in
//! a window or the one before goes.

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashTable};
use profile::Owner;

use super::Walked;
use crate::resolve::Lasting;

/// What remembered stacks may hold, but for their frames, which windows share: some ten thousand of 50 frames.
pub(super) const MAX_BYTES: usize = 8 << 20;

/// A walked sample, as far as its stack goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Key<'a> {
    pub(super) owner: &'a Arc<Owner>,
    /// The serial of the mappings at the sample's time.
    pub(super) maps: u64,
    /// The serial of those that the walk used.
    pub(super) walked_with: u64,
    pub(super) end: u32,
    pub(super) kernel: &'a [u64],
    pub(super) user: &'a [u64],
}

impl Hash for Key<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(Arc::as_ptr(self.owner).addr());
        state.write_u64(self.maps);
        state.write_u64(self.walked_with);
        state.write_u32(self.end);
        self.kernel.hash(state);
        self.user.hash(state);
    }
}

#[derive(Debug)]
struct Remembered {
    hash: u64,
    /// Kept, so that no other comes to lie at its address.
    owner: Arc<Owner>,
    maps: u64,
    walked_with: u64,
    end: u32,
    kernel_frames: usize,
    /// Kernel frames, then user frames.
    words: Box<[u64]>,
    walked: Walked,
    used_at: u64,
    /// Good in the window that it was made in alone.
    is_brief: bool,
}

impl Remembered {
    fn is(&self, hash: u64, key: &Key<'_>) -> bool {
        self.hash == hash
            && Arc::ptr_eq(&self.owner, key.owner)
            && (self.maps, self.walked_with, self.end) == (key.maps, key.walked_with, key.end)
            && self.words.split_at_checked(self.kernel_frames) == Some((key.kernel, key.user))
    }
}

/// Stacks that were seen lately.
#[derive(Debug, Default)]
pub(super) struct Seen {
    hasher: DefaultHashBuilder,
    stacks: HashTable<Remembered>,
    bytes: usize,
    epoch: u64,
    generation: u64,
    forgotten: u64,
}

impl Seen {
    /// The one hash of a sample's stack.
    pub(super) fn hash(&self, key: &Key<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Forgets everything where the resolver has forgotten mappings.
    pub(super) fn follow(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.stacks.clear();
            self.bytes = 0;
        }
    }

    /// A stack that is here; it counts as used.
    pub(super) fn find(&mut self, hash: u64, key: &Key<'_>) -> Option<&mut Walked> {
        let found = self.stacks.find_mut(hash, |stack| stack.is(hash, key))?;
        found.used_at = self.epoch;
        Some(&mut found.walked)
    }

    /// Adds a stack that is not here.
    pub(super) fn remember(&mut self, hash: u64, key: &Key<'_>, walked: Walked, lasting: Lasting) {
        let cost = cost_bytes(key.kernel.len() + key.user.len());
        let has_room = self.bytes + cost <= MAX_BYTES;
        self.forgotten += u64::from(!has_room);
        if !has_room || lasting == Lasting::No {
            return;
        }
        self.bytes += cost;
        let new = Remembered {
            hash,
            owner: Arc::clone(key.owner),
            maps: key.maps,
            walked_with: key.walked_with,
            end: key.end,
            kernel_frames: key.kernel.len(),
            words: [key.kernel, key.user].concat().into(),
            walked,
            used_at: self.epoch,
            is_brief: lasting == Lasting::ThisWindow,
        };
        self.stacks.insert_unique(hash, new, |stack| stack.hash);
    }

    /// A window was closed. `keep` is told of the mappings that were used in it.
    pub(super) fn turn(&mut self, mut keep: impl FnMut(u64)) {
        let (epoch, bytes) = (self.epoch, &mut self.bytes);
        self.stacks.retain(|stack| {
            let is_kept = !stack.is_brief && stack.used_at + 1 >= epoch;
            if stack.used_at == epoch {
                keep(stack.maps);
            }
            if !is_kept {
                *bytes -= cost_bytes(stack.words.len());
            }
            is_kept
        });
        self.epoch += 1;
    }

    /// Stacks that were not remembered for want of room, counted for each sample.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

fn cost_bytes(words: usize) -> usize {
    size_of::<Remembered>() + words * size_of::<u64>()
}
