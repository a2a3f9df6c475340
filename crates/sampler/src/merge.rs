//! Puts samples and side-band records into one order of time.
//!
//! The ring of samples is drained first, then all rings of records. So whatever happened to a process before one of
//! its samples is there when the sample is: measured, no unknown process in a million samples. What happened after the
//! last sample waits here, since a sample from before may still come; after [`SETTLE_NS`] none does, and the record
//! is applied even if no sample follows.
//!
//! **In**: batches of samples and records, records sorted within a CPU. **Out**: one call for each, in order of time;
//! a record before a sample of the same time. A sample or record that comes later than its time's turn is handed on at
//! once. **Units**: monotonic nanoseconds. **Limits**: [`MAX_PENDING_BYTES`] of waiting records; beyond them the oldest
//! are applied early and counted.

use crate::sideband::{Kind, Record};

/// How long after its time a sample may come out of the ring: a CPU may be stolen from a virtual machine in between.
pub(crate) const SETTLE_NS: u64 = 100_000_000;
/// What waiting records may hold.
const MAX_PENDING_BYTES: usize = 16 << 20;

/// What is merged with records.
pub(crate) trait Timed {
    /// When it was taken.
    fn time_mono_ns(&self) -> u64;
}

/// What comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Merged<S> {
    /// A record's turn.
    Record(Record),
    /// A sample's turn.
    Sample(S),
}

/// The records that wait.
#[derive(Debug, Default)]
pub(crate) struct Merge {
    /// Sorted by time, except for those added since the last batch.
    pending: Vec<Record>,
    pending_bytes: usize,
    early: u64,
}

impl Merge {
    /// Adds a record. They may come in any order.
    pub(crate) fn push(&mut self, record: Record) {
        self.pending_bytes += record.cost_bytes();
        self.pending.push(record);
    }

    /// Merges one batch: all samples, and every record up to the last of them or up to [`SETTLE_NS`] before
    /// `complete_to_mono_ns`, the time at which the draining of the batch's samples began.
    pub(crate) fn batch<S: Timed>(
        &mut self,
        mut samples: Vec<S>,
        complete_to_mono_ns: u64,
        mut each: impl FnMut(&Self, Merged<S>),
    ) {
        // Both are runs that are sorted already, which the sort finds and merges.
        samples.sort_by_key(Timed::time_mono_ns);
        let mut records = std::mem::take(&mut self.pending);
        records.sort_by_key(|r| r.time_mono_ns);
        let last_sample = samples.last().map_or(0, Timed::time_mono_ns);
        let settled = last_sample.max(complete_to_mono_ns.saturating_sub(SETTLE_NS));
        let turns = records.partition_point(|r| r.time_mono_ns <= settled);
        // Samples look ahead into what stays.
        self.pending = records.split_off(turns);
        let mut records = records.into_iter().peekable();
        for sample in samples {
            while let Some(record) = records.next_if(|r| r.time_mono_ns <= sample.time_mono_ns()) {
                self.pending_bytes -= record.cost_bytes();
                each(self, Merged::Record(record));
            }
            each(self, Merged::Sample(sample));
        }
        for record in records {
            self.pending_bytes -= record.cost_bytes();
            each(self, Merged::Record(record));
        }
        if self.pending_bytes > MAX_PENDING_BYTES {
            let half = self.pending.len().div_ceil(2);
            let rest = self.pending.split_off(half);
            for record in std::mem::replace(&mut self.pending, rest) {
                self.pending_bytes -= record.cost_bytes();
                self.early += 1;
                each(self, Merged::Record(record));
            }
        }
    }

    /// The records that wait for their turn. Sorted by time, but for those added since the last batch.
    pub(crate) fn waiting(&self) -> &[Record] {
        &self.pending
    }

    /// Whether a thread's end is among the records that wait.
    pub(crate) fn is_about_to_exit(&self, thread: u32) -> bool {
        self.pending.iter().any(|r| matches!(r.kind, Kind::Exit { tid, .. } if tid == thread))
    }

    /// Records applied before their turn, for want of room.
    pub(crate) fn early(&self) -> u64 {
        self.early
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct At(u64, u32);

    impl Timed for At {
        fn time_mono_ns(&self) -> u64 {
            self.0
        }
    }

    fn exit(time_mono_ns: u64, tid: u32) -> Record {
        Record { time_mono_ns, cpu: 0, kind: Kind::Exit { tgid: tid, tid } }
    }

    #[derive(Clone, Debug)]
    enum Event {
        Sample,
        Record { cpu: u8 },
        Drain,
    }

    proptest! {
        /// Three CPUs write samples into one ring and records into rings of their own, each in its own order; a drain
        /// takes the samples, more is written, then it takes the records. The order that comes out is the order of
        /// time, which is the order in which a single observer would have written everything down.
        #[test]
        fn whatever_the_rings_hold_the_order_is_that_of_time(
            events in proptest::collection::vec(prop_oneof![
                Just(Event::Sample),
                (0u8..3).prop_map(|cpu| Event::Record { cpu }),
                Just(Event::Drain),
            ], 0..200),
            between in 0usize..4,
        ) {
            let step = SETTLE_NS / 3;
            let mut merge = Merge::default();
            let (mut out, mut expected) = (Vec::new(), Vec::new());
            let mut ring: Vec<At> = Vec::new();
            let mut rings: [Vec<Record>; 3] = Default::default();
            let mut waiting_drain: Option<(Vec<At>, u64, usize)> = None;
            for (i, event) in events.iter().enumerate() {
                let time = (i as u64 + 1) * step;
                let id = u32::try_from(i).unwrap();
                match event {
                    Event::Sample => { ring.push(At(time, id)); expected.push(id); }
                    Event::Record { cpu } => { rings[usize::from(*cpu)].push(exit(time, id)); expected.push(id); }
                    Event::Drain if waiting_drain.is_none() => {
                        waiting_drain = Some((std::mem::take(&mut ring), time, between));
                    }
                    Event::Drain => (),
                }
                if let Some((samples, complete_to, left)) = waiting_drain.take() {
                    if left > 0 {
                        waiting_drain = Some((samples, complete_to, left - 1));
                    } else {
                        for record in rings.iter_mut().flat_map(std::mem::take) { merge.push(record); }
                        merge.batch(samples, complete_to, |_, m| out.push(id_of(&m)));
                    }
                }
            }
            if let Some((samples, complete_to, _)) = waiting_drain {
                for record in rings.iter_mut().flat_map(std::mem::take) { merge.push(record); }
                merge.batch(samples, complete_to, |_, m| out.push(id_of(&m)));
            }
            for record in rings.iter_mut().flat_map(std::mem::take) { merge.push(record); }
            merge.batch(ring, u64::MAX, |_, m| out.push(id_of(&m)));
            prop_assert_eq!(out, expected);
            prop_assert_eq!(merge.pending_bytes, 0);
        }
    }

    fn id_of(merged: &Merged<At>) -> u32 {
        match merged {
            Merged::Record(Record { kind: Kind::Exit { tid, .. }, .. }) => *tid,
            Merged::Sample(At(_, id)) => *id,
            Merged::Record(_) => unreachable!("only exits were put in"),
        }
    }

    fn run(merge: &mut Merge, samples: Vec<At>, complete_to: u64) -> Vec<u32> {
        let mut out = Vec::new();
        merge.batch(samples, complete_to, |_, m| out.push(id_of(&m)));
        out
    }

    #[test]
    fn what_happened_after_the_last_sample_waits_but_not_for_ever() {
        let mut merge = Merge::default();
        merge.push(exit(100, 1));
        merge.push(exit(300, 2));
        assert_eq!(run(&mut merge, vec![At(200, 9)], 250), [1, 9]);
        assert!(merge.is_about_to_exit(2) && !merge.is_about_to_exit(1));
        assert_eq!(run(&mut merge, vec![], 300 + SETTLE_NS - 1), [] as [u32; 0]);
        assert_eq!(run(&mut merge, vec![], 300 + SETTLE_NS), [2]);
    }

    #[test]
    fn a_flood_is_applied_early_and_counted() {
        let mut merge = Merge::default();
        let count = u32::try_from(2 * MAX_PENDING_BYTES / size_of::<Record>()).unwrap();
        for i in 0..count {
            merge.push(exit(u64::from(i) + 1, i));
        }
        let out = run(&mut merge, vec![], 0);
        assert_eq!(out.len(), usize::try_from(merge.early()).unwrap());
        assert!(merge.pending_bytes <= MAX_PENDING_BYTES && merge.early() > 0);
        assert_eq!(out, (0..u32::try_from(out.len()).unwrap()).collect::<Vec<_>>(), "the oldest");
    }
}
