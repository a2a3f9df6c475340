//! One sample on its way through merging, and the pool that its buffers come from and go back to.
//!
//! **In**: the kernel side's records, copied. **Limits**: the pool keeps [`POOLED`] buffers with room for a snapshot, and as
//! many without; what nobody needed for a while is let go. Each snapshot is wiped before its buffer goes anywhere.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use sampler_abi::SampleHead;
use zeroize::Zeroize;

use crate::merge::Timed;

/// Buffers of one kind kept for reuse: with the default snapshot 8 MiB.
const POOLED: usize = 512;

/// One sample. The snapshot holds secrets of its process: it is wiped when the value goes.
#[derive(Default)]
pub(crate) struct Sample {
    /// The fixed part.
    pub(crate) head: SampleHead,
    /// The kernel stack, leaf first.
    pub(crate) kernel: Vec<u64>,
    /// The lookup addresses of the user stack, leaf first; of walked samples only.
    pub(crate) user: Vec<u64>,
    /// The user stack from `head.user_sp` upwards.
    pub(crate) snapshot: Vec<u8>,
}

impl Sample {
    /// What it holds in memory.
    pub(crate) fn cost_bytes(&self) -> usize {
        let words = self.kernel.capacity() + self.user.capacity();
        size_of::<Self>() + words * size_of::<u64>() + self.snapshot.capacity()
    }
}

impl Timed for Sample {
    fn time_mono_ns(&self) -> u64 {
        self.head.time_mono_ns
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        self.snapshot.zeroize();
    }
}

impl fmt::Debug for Sample {
    /// Without the snapshot's bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sample").field("head", &self.head).field("snapshot_bytes", &self.snapshot.len()).finish()
    }
}

/// Buffers for samples, so that none is allocated in the steady state.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    /// A sample that was walked needs none of the room that others have for snapshots.
    walked: Mutex<Shelf>,
    snapshots: Mutex<Shelf>,
}

#[derive(Debug, Default)]
struct Shelf {
    samples: Vec<Sample>,
    /// The fewest that were here since the last turn: nobody needed these.
    idle: usize,
}

impl Pool {
    /// A sample with these contents.
    pub(crate) fn fill(
        &self,
        head: SampleHead,
        kernel: impl Iterator<Item = u64>,
        user: impl Iterator<Item = u64>,
        snapshot: &[u8],
    ) -> Sample {
        let shelf = if snapshot.is_empty() { &self.walked } else { &self.snapshots };
        let mut sample = lock(shelf).take();
        sample.head = head;
        sample.kernel.extend(kernel);
        sample.user.extend(user);
        sample.snapshot.extend_from_slice(snapshot);
        sample
    }

    /// Takes samples back that are done with.
    pub(crate) fn give_back(&self, samples: impl Iterator<Item = Sample>) {
        for mut sample in samples {
            sample.kernel.clear();
            sample.user.clear();
            // Wipes the bytes, and whatever lies behind them in the buffer, then makes it empty.
            sample.snapshot.zeroize();
            let shelf = if sample.snapshot.capacity() == 0 { &self.walked } else { &self.snapshots };
            let mut shelf = lock(shelf);
            if shelf.samples.len() < POOLED {
                shelf.samples.push(sample);
            }
        }
    }

    /// Some time has passed: lets half of the buffers go that nobody needed in it.
    pub(crate) fn turn(&self) {
        for shelf in [&self.walked, &self.snapshots] {
            let mut shelf = lock(shelf);
            let keep = shelf.samples.len() - shelf.idle.min(shelf.samples.len()).div_ceil(2);
            shelf.samples.truncate(keep);
            shelf.idle = shelf.samples.len();
        }
    }
}

impl Shelf {
    fn take(&mut self) -> Sample {
        let sample = self.samples.pop().unwrap_or_default();
        self.idle = self.idle.min(self.samples.len());
        sample
    }
}

fn lock(shelf: &Mutex<Shelf>) -> std::sync::MutexGuard<'_, Shelf> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(pool: &Pool, kernel: &[u64], user: &[u64], snapshot: &[u8]) -> Sample {
        pool.fill(SampleHead::default(), kernel.iter().copied(), user.iter().copied(), snapshot)
    }

    #[test]
    fn buffers_come_back_wiped_and_are_used_again() {
        let pool = Pool::default();
        let sample = fill(&pool, &[1, 2], &[4], b"secret");
        let (kernel, snapshot) = (sample.kernel.as_ptr(), sample.snapshot.as_ptr());
        assert_eq!(sample.snapshot, b"secret");
        pool.give_back([sample].into_iter());
        {
            let shelf = lock(&pool.snapshots);
            assert!(shelf.samples[0].snapshot.is_empty() && shelf.samples[0].snapshot.capacity() >= 6);
            // SAFETY: the buffer is still allocated with at least 6 bytes, and zeroize wrote all of them.
            let left = unsafe { std::slice::from_raw_parts(snapshot, 6) };
            assert_eq!(left, [0; 6]);
        }
        let again = fill(&pool, &[3], &[], b"x");
        assert_eq!((again.kernel.as_ptr(), again.snapshot.as_ptr()), (kernel, snapshot));
        assert_eq!((again.kernel.as_slice(), again.snapshot.as_slice()), (&[3][..], &b"x"[..]));
        assert!(again.user.is_empty());
    }

    #[test]
    fn a_walked_sample_takes_no_room_for_a_snapshot() {
        let pool = Pool::default();
        let both = [fill(&pool, &[1], &[], b"stack"), fill(&pool, &[1], &[2, 3], b"")];
        pool.give_back(both.into_iter());
        let walked = fill(&pool, &[1], &[5], b"");
        assert_eq!((walked.snapshot.capacity(), walked.user.as_slice()), (0, &[5][..]));
        assert!(fill(&pool, &[1], &[], b"x").snapshot.capacity() >= 5);
    }

    #[test]
    fn what_nobody_needs_is_let_go() {
        let pool = Pool::default();
        let many: Vec<_> = (0..100).map(|_| fill(&pool, &[], &[], b"stack")).collect();
        pool.give_back(many.into_iter());
        let held = || lock(&pool.snapshots).samples.len();
        pool.turn();
        assert_eq!(held(), 100, "they were needed just now");
        for _ in 0..20 {
            let used: Vec<_> = (0..10).map(|_| fill(&pool, &[], &[], b"stack")).collect();
            pool.give_back(used.into_iter());
            pool.turn();
        }
        assert_eq!(held(), 10);
    }
}
