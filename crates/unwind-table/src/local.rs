//! Shards and stacks in this process's own memory: for user space.

use crate::arena::Shards;
use crate::format::SHARD_BYTES;
use crate::step::Memory;
use crate::walk::WINDOW_WORDS;

const BYTES: usize = SHARD_BYTES as usize;

/// Shards on the heap.
#[derive(Clone, Debug, Default)]
pub struct LocalShards {
    shards: Vec<Box<[u8; BYTES]>>,
}

impl LocalShards {
    /// None yet: they come with the first write.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Shards for LocalShards {
    fn write(&mut self, shard: u32, offset: u32, bytes: &[u8]) {
        let (Ok(shard), Ok(offset)) = (usize::try_from(shard), usize::try_from(offset)) else { return };
        while self.shards.len() <= shard {
            let Ok(new) = vec![0; BYTES].into_boxed_slice().try_into() else { return };
            self.shards.push(new);
        }
        let to = self.shards.get_mut(shard).and_then(|shard| shard.get_mut(offset..));
        to.unwrap_or_default().iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    }
}

/// What a walk reads in user space: shards, and a piece of stack that was copied.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    shards: &'a LocalShards,
    start: u64,
    stack: &'a [u8],
}

impl<'a> Snapshot<'a> {
    /// A stack that was copied from `start` up.
    #[must_use]
    pub fn new(shards: &'a LocalShards, start: u64, stack: &'a [u8]) -> Self {
        Self { shards, start, stack }
    }
}

fn bytes<const N: usize>(shard: &[u8; BYTES], at: u32) -> [u8; N] {
    let at = at as usize & (BYTES - N);
    shard.get(at..).and_then(<[u8]>::first_chunk::<N>).copied().unwrap_or([0; N])
}

impl<'a> Memory for Snapshot<'a> {
    type Shard = &'a [u8; BYTES];

    fn shard(&mut self, shard: u32) -> Option<Self::Shard> {
        self.shards.shards.get(usize::try_from(shard).ok()?).map(AsRef::as_ref)
    }

    fn load16(&self, shard: Self::Shard, at: u32) -> u32 {
        u32::from(u16::from_le_bytes(bytes(shard, at)))
    }

    fn load32(&self, shard: Self::Shard, at: u32) -> u32 {
        u32::from_le_bytes(bytes(shard, at))
    }

    fn load64(&self, shard: Self::Shard, at: u32) -> u64 {
        u64::from_le_bytes(bytes(shard, at))
    }

    fn stack(&mut self, address: u64, window: &mut [u64; WINDOW_WORDS]) -> u32 {
        let at = address.checked_sub(self.start).and_then(|at| usize::try_from(at).ok());
        let words = at.and_then(|at| self.stack.get(at..)).unwrap_or_default().as_chunks::<8>().0;
        window.iter_mut().zip(words).for_each(|(to, from)| *to = u64::from_le_bytes(*from));
        u32::try_from(words.len().min(WINDOW_WORDS)).unwrap_or(0)
    }
}
