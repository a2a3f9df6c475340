//! One sample on its way through merging, and the pool that its buffers come from and go back to.
//!
//! **In**: the kernel side's records, copied. **Limits**: the pool keeps [`POOLED`] buffers; each snapshot is wiped
//! before its buffer goes anywhere.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use sampler_abi::SampleHead;
use zeroize::Zeroize;

use crate::merge::Timed;

/// Buffers kept for reuse: with the default snapshot 8 MiB.
const POOLED: usize = 512;

/// One sample. The snapshot holds secrets of its process: it is wiped when the value goes.
#[derive(Default)]
pub(crate) struct Sample {
    /// The fixed part.
    pub(crate) head: SampleHead,
    /// The kernel stack, leaf first.
    pub(crate) kernel: Vec<u64>,
    /// The user stack from `head.user_sp` upwards.
    pub(crate) snapshot: Vec<u8>,
}

impl Sample {
    /// What it holds in memory.
    pub(crate) fn cost_bytes(&self) -> usize {
        size_of::<Self>() + self.kernel.capacity() * size_of::<u64>() + self.snapshot.capacity()
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
pub(crate) struct Pool(Mutex<Vec<Sample>>);

impl Pool {
    /// A sample with these contents.
    pub(crate) fn fill(&self, head: SampleHead, kernel: impl Iterator<Item = u64>, snapshot: &[u8]) -> Sample {
        let mut sample = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        sample.head = head;
        sample.kernel.extend(kernel);
        sample.snapshot.extend_from_slice(snapshot);
        sample
    }

    /// Takes samples back that are done with.
    pub(crate) fn give_back(&self, samples: impl Iterator<Item = Sample>) {
        for mut sample in samples {
            sample.kernel.clear();
            // Wipes the bytes, and whatever lies behind them in the buffer, then makes it empty.
            sample.snapshot.zeroize();
            let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < POOLED {
                pool.push(sample);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_wiped_and_are_used_again() {
        let pool = Pool::default();
        let sample = pool.fill(SampleHead::default(), [1, 2].into_iter(), b"secret");
        let (kernel, snapshot) = (sample.kernel.as_ptr(), sample.snapshot.as_ptr());
        assert_eq!(sample.snapshot, b"secret");
        pool.give_back([sample].into_iter());
        {
            let pooled = pool.0.lock().unwrap();
            assert!(pooled[0].snapshot.is_empty() && pooled[0].snapshot.capacity() >= 6);
            // SAFETY: the buffer is still allocated with at least 6 bytes, and zeroize wrote all of them.
            let left = unsafe { std::slice::from_raw_parts(snapshot, 6) };
            assert_eq!(left, [0; 6]);
        }
        let again = pool.fill(SampleHead::default(), std::iter::once(3), b"x");
        assert_eq!((again.kernel.as_ptr(), again.snapshot.as_ptr()), (kernel, snapshot));
        assert_eq!((again.kernel.as_slice(), again.snapshot.as_slice()), (&[3][..], &b"x"[..]));
    }
}
