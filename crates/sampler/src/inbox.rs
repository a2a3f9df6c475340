//! The hand-over from the thread that drains to the thread that unwinds.
//!
//! The first never waits: a batch that the second has not fetched yet grows. What is merged out of two batches is in
//! order as each of them is, since the second's records were read after all samples of both.
//!
//! **In**: samples and records. **Out**: [`Batch`]es. **Units**: bytes. **Limits**: samples by `merge_bytes`, counted
//! from here until they are in a window; records by [`MAX_RECORD_BYTES`]. What does not fit is refused, and the caller
//! counts it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sample::Sample;
use crate::sideband::Record;

/// Bytes of records that wait at the most: some hundred thousand.
const MAX_RECORD_BYTES: usize = 16 << 20;

/// What was drained at one time, or at several while nobody fetched.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) samples: Vec<Sample>,
    pub(crate) records: Vec<Record>,
    record_bytes: usize,
    /// When the draining of the samples began: what was taken well before is in this batch or an earlier one.
    pub(crate) complete_to_mono_ns: u64,
    /// Records that had no room.
    pub(crate) lost_records: u64,
    /// No more will come.
    pub(crate) is_last: bool,
}

impl Batch {
    /// An empty one.
    pub(crate) fn new(complete_to_mono_ns: u64, is_last: bool) -> Self {
        Self { complete_to_mono_ns, is_last, ..Self::default() }
    }

    /// Adds a record, or counts it as lost.
    pub(crate) fn record(&mut self, record: Record) {
        let cost = record.cost_bytes();
        if self.record_bytes + cost > MAX_RECORD_BYTES {
            self.lost_records += 1;
        } else {
            self.record_bytes += cost;
            self.records.push(record);
        }
    }

    fn append(&mut self, mut later: Self) {
        self.samples.append(&mut later.samples);
        for record in later.records {
            self.record(record);
        }
        self.complete_to_mono_ns = later.complete_to_mono_ns;
        self.lost_records += later.lost_records;
        self.is_last |= later.is_last;
    }
}

/// The place between the two threads.
#[derive(Debug)]
pub(crate) struct Inbox {
    waiting: Mutex<Option<Batch>>,
    ready: Condvar,
    merge_bytes: usize,
    held_bytes: AtomicUsize,
}

impl Inbox {
    /// An empty one.
    pub(crate) fn new(merge_bytes: usize) -> Self {
        Self { waiting: Mutex::new(None), ready: Condvar::new(), merge_bytes, held_bytes: AtomicUsize::new(0) }
    }

    /// Whether a sample of so many bytes may enter; if so, it counts from now on.
    pub(crate) fn admit(&self, bytes: usize) -> bool {
        // One thread admits; the other only makes room.
        let fits = self.held_bytes.load(Ordering::Acquire).saturating_add(bytes) <= self.merge_bytes;
        if fits {
            self.held_bytes.fetch_add(bytes, Ordering::AcqRel);
        }
        fits
    }

    /// A sample of so many bytes has left merging.
    pub(crate) fn release(&self, bytes: usize) {
        self.held_bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Hands a batch over.
    pub(crate) fn put(&self, batch: Batch) {
        let mut waiting = self.lock();
        match waiting.as_mut() {
            Some(earlier) => earlier.append(batch),
            None => *waiting = Some(batch),
        }
        self.ready.notify_one();
    }

    /// Waits for a batch, for so long.
    pub(crate) fn take(&self, timeout: Duration) -> Option<Batch> {
        let waiting = self.lock();
        let result = self.ready.wait_timeout_while(waiting, timeout, |batch| batch.is_none());
        result.unwrap_or_else(PoisonError::into_inner).0.take()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Batch>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sideband::Kind;

    fn exit(time_mono_ns: u64) -> Record {
        Record { time_mono_ns, cpu: 0, kind: Kind::Exit { tgid: 1, tid: 1 } }
    }

    #[test]
    fn batches_that_nobody_fetched_become_one() {
        let inbox = Inbox::new(100);
        for time in 1..=3 {
            let mut batch = Batch::new(time, time == 3);
            batch.samples.push(Sample::default());
            batch.record(exit(time));
            inbox.put(batch);
        }
        let batch = inbox.take(Duration::ZERO).unwrap();
        assert_eq!((batch.samples.len(), batch.records.len()), (3, 3));
        assert_eq!((batch.complete_to_mono_ns, batch.is_last), (3, true));
        assert!(inbox.take(Duration::ZERO).is_none());
    }

    #[test]
    fn samples_are_bounded_until_they_leave_merging() {
        let inbox = Inbox::new(100);
        assert!(inbox.admit(60) && !inbox.admit(41) && inbox.admit(40));
        inbox.release(60);
        assert!(inbox.admit(60) && !inbox.admit(1));
    }

    #[test]
    fn a_flood_of_records_is_bounded_and_counted() {
        let inbox = Inbox::new(0);
        let many = MAX_RECORD_BYTES / size_of::<Record>();
        for _ in 0..3 {
            let mut batch = Batch::default();
            (0..many / 2).for_each(|_| batch.record(exit(1)));
            inbox.put(batch);
        }
        let batch = inbox.take(Duration::ZERO).unwrap();
        assert!(batch.record_bytes <= MAX_RECORD_BYTES);
        assert_eq!(batch.records.len() as u64 + batch.lost_records, 3 * (many as u64 / 2));
        assert!(batch.lost_records > 0);
    }
}
