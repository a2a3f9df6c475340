//! What became of every sample.
//!
//! A sample goes through doors, in this order:
//!
//! ```text
//! kernel -> ring -> merge -> window -> naming -> queue (-> spool) -> exported
//! ```
//!
//! Each stage counts at its own door, with relaxed atomics; what a stage holds is what went in by its door minus what
//! went out by the next and what it dropped. A snapshot reads the far end first and the kernel last, so that a sample
//! on its way is seen in at most one more stage than it has reached, never in fewer: nothing is ever negative, and
//! `taken = exported + held + dropped` is exact.
//!
//! **In**: counts. **Out**: [`LedgerSnapshot`]. **Units**: samples.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::StackEnd;

/// Where a sample may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// In the kernel's ring buffer.
    Ring,
    /// Read, waiting for its process's records and for its frames.
    Merge,
    /// In the open window.
    Window,
    /// In a closed window, waiting for names.
    Naming,
    /// Named, waiting for the primary sink to take it.
    Queue,
    /// On disk, waiting for the primary sink.
    Spool,
}

impl Stage {
    /// Every stage, in the order of the way.
    pub const ALL: [Self; 6] = [Self::Ring, Self::Merge, Self::Window, Self::Naming, Self::Queue, Self::Spool];

    /// The stage's label on `/metrics`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Merge => "merge",
            Self::Window => "window",
            Self::Naming => "naming",
            Self::Queue => "queue",
            Self::Spool => "spool",
        }
    }
}

/// Why a sample was dropped. Each reason belongs to one stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Kernel: the ring buffer had no room.
    RingFull,
    /// Kernel: no scratch space.
    Scratch,
    /// A record of the ring buffer did not parse.
    Malformed,
    /// More bytes of samples waited for merging than allowed.
    MergeFull,
    /// A filter refused its process, and the kernel side did not know that yet.
    Filtered,
    /// More closed windows waited for names than allowed.
    NamingFull,
    /// More bytes waited for delivery than allowed: the oldest went.
    QueueFull,
    /// The sink took the request and rejected these samples of it.
    Rejected,
    /// The sink refused the request for good.
    Refused,
    /// Retried for as long as allowed.
    Expired,
    /// One stack alone was larger than a request may be.
    TooLarge,
    /// The profiler stopped before they could be delivered.
    Shutdown,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 12] = [
        Self::RingFull,
        Self::Scratch,
        Self::Malformed,
        Self::MergeFull,
        Self::Filtered,
        Self::NamingFull,
        Self::QueueFull,
        Self::Rejected,
        Self::Refused,
        Self::Expired,
        Self::TooLarge,
        Self::Shutdown,
    ];

    /// The reason's label on `/metrics`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::Scratch => "scratch",
            Self::Malformed => "malformed",
            Self::MergeFull => "merge_full",
            Self::Filtered => "filtered",
            Self::NamingFull => "naming_full",
            Self::QueueFull => "queue_full",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::Shutdown => "shutdown",
        }
    }

    /// The stage that drops for this reason.
    #[must_use]
    pub fn stage(self) -> Stage {
        match self {
            Self::RingFull | Self::Scratch => Stage::Ring,
            Self::Malformed | Self::MergeFull | Self::Filtered => Stage::Merge,
            Self::NamingFull => Stage::Naming,
            Self::QueueFull | Self::Rejected | Self::Refused | Self::Expired | Self::TooLarge | Self::Shutdown => {
                Stage::Queue
            }
        }
    }

    fn is_kernel(self) -> bool {
        matches!(self, Self::RingFull | Self::Scratch)
    }
}

/// What the eBPF program has counted, summed over CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    /// Ticks on the idle task.
    pub idle: u64,
    /// Ticks that a filter refused.
    pub filtered: u64,
    /// Ticks that became samples.
    pub taken: u64,
    /// Samples lost for want of room in the ring buffer.
    pub lost_ring: u64,
    /// Samples lost for want of scratch space.
    pub lost_scratch: u64,
}

/// The counters behind the ledger. Shared by reference among the rooms; each room moves only its own door.
#[derive(Debug, Default)]
pub struct Ledger {
    read: AtomicU64,
    windowed: AtomicU64,
    closed: AtomicU64,
    named: AtomicU64,
    exported: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    ends: [AtomicU64; StackEnd::ALL.len()],
}

impl Ledger {
    /// Samples came out of the ring buffer and into merging.
    pub fn read(&self, samples: u64) {
        self.read.fetch_add(samples, Ordering::SeqCst);
    }

    /// Samples left merging for the open window.
    pub fn windowed(&self, samples: u64) {
        self.windowed.fetch_add(samples, Ordering::SeqCst);
    }

    /// A window of so many samples was closed and handed to naming.
    pub fn closed(&self, samples: u64) {
        self.closed.fetch_add(samples, Ordering::SeqCst);
    }

    /// A window of so many samples was named and handed to the primary sink's queue.
    pub fn named(&self, samples: u64) {
        self.named.fetch_add(samples, Ordering::SeqCst);
    }

    /// The primary sink accepted samples.
    pub fn exported(&self, samples: u64) {
        self.exported.fetch_add(samples, Ordering::SeqCst);
    }

    /// Samples were dropped. The kernel's own reasons are counted in the kernel and ignored here.
    pub fn dropped(&self, reason: DropReason, samples: u64) {
        debug_assert!(!reason.is_kernel(), "counted by the eBPF program");
        if !reason.is_kernel() {
            self.dropped[reason as usize].fetch_add(samples, Ordering::SeqCst);
        }
    }

    /// Stacks of samples ended for a reason (whole ones too); beside the ledger, not part of its sum.
    pub fn ended(&self, end: StackEnd, samples: u64) {
        self.ends[end.index()].fetch_add(samples, Ordering::Relaxed);
    }

    /// Reads everything, the far end first.
    ///
    /// `kernel` reads the eBPF program's counters. It is called twice, after everything else: first for what was lost,
    /// then for what was taken, since one reading does not see both at one instant.
    pub fn snapshot(&self, mut kernel: impl FnMut() -> KernelCounts) -> LedgerSnapshot {
        let load = |a: &AtomicU64| a.load(Ordering::SeqCst);
        let exported = load(&self.exported);
        let mut dropped = [0; DropReason::ALL.len()];
        let drops = |stage: Stage, dropped: &mut [u64; DropReason::ALL.len()]| -> u64 {
            DropReason::ALL
                .iter()
                .filter(|r| r.stage() == stage && !r.is_kernel())
                .map(|&r| {
                    dropped[r as usize] = load(&self.dropped[r as usize]);
                    dropped[r as usize]
                })
                .sum()
        };
        let queue_drops = drops(Stage::Queue, &mut dropped);
        let named = load(&self.named);
        let naming_drops = drops(Stage::Naming, &mut dropped);
        let closed = load(&self.closed);
        let windowed = load(&self.windowed);
        let merge_drops = drops(Stage::Merge, &mut dropped);
        let read = load(&self.read);
        let first = kernel();
        let second = kernel();
        dropped[DropReason::RingFull as usize] = first.lost_ring;
        dropped[DropReason::Scratch as usize] = first.lost_scratch;
        let held = [
            diff(second.taken, &[first.lost_ring, first.lost_scratch, read]),
            diff(read, &[merge_drops, windowed]),
            diff(windowed, &[closed]),
            diff(closed, &[naming_drops, named]),
            diff(named, &[queue_drops, exported]),
            0,
        ];
        LedgerSnapshot {
            kernel: KernelCounts { lost_ring: first.lost_ring, lost_scratch: first.lost_scratch, ..second },
            exported,
            held,
            dropped,
            ends: std::array::from_fn(|i| self.ends[i].load(Ordering::Relaxed)),
        }
    }
}

/// `a` minus all of `b`, signed: a negative number is a mistake that must be seen.
fn diff(a: u64, b: &[u64]) -> i64 {
    b.iter().fold(i64::try_from(a).unwrap_or(i64::MAX), |acc, &x| acc - i64::try_from(x).unwrap_or(i64::MAX))
}

/// The ledger at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerSnapshot {
    /// What the eBPF program counted.
    pub kernel: KernelCounts,
    /// Accepted by the primary sink.
    pub exported: u64,
    /// In [`Stage::ALL`]'s order. Never negative, or a room counts wrongly.
    pub held: [i64; Stage::ALL.len()],
    /// In [`DropReason::ALL`]'s order.
    pub dropped: [u64; DropReason::ALL.len()],
    /// Samples by how their stack ended, in [`StackEnd::ALL`]'s order.
    pub ends: [u64; StackEnd::ALL.len()],
}

impl LedgerSnapshot {
    /// What a stage holds.
    #[must_use]
    pub fn held(&self, stage: Stage) -> i64 {
        self.held[stage as usize]
    }

    /// What was dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    /// The second line of the ledger: `taken = exported + held + dropped`, and nothing negative.
    #[must_use]
    pub fn balances(&self) -> bool {
        let right =
            self.dropped.iter().map(|&d| i128::from(d)).chain(self.held.iter().map(|&h| i128::from(h))).sum::<i128>()
                + i128::from(self.exported);
        self.held.iter().all(|&h| h >= 0) && i128::from(self.kernel.taken) == right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What can happen to samples, in any order that the doors allow.
    #[derive(Clone, Debug)]
    enum Event {
        Tick(u64),
        LostRing,
        Read,
        Malformed,
        MergeFull,
        Window,
        Close,
        NamingFull,
        Name,
        Export { rejected: u64 },
        Refuse,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            (1u64..20).prop_map(Event::Tick),
            Just(Event::LostRing),
            Just(Event::Read),
            Just(Event::Malformed),
            Just(Event::MergeFull),
            Just(Event::Window),
            Just(Event::Close),
            Just(Event::NamingFull),
            Just(Event::Name),
            (0u64..3).prop_map(|rejected| Event::Export { rejected }),
            Just(Event::Refuse),
        ]
    }

    proptest! {
        /// A model that moves whole piles of samples agrees with the ledger after every event.
        #[test]
        fn both_sides_agree_after_every_event(events in proptest::collection::vec(event(), 0..200)) {
            let ledger = Ledger::default();
            let mut kernel = KernelCounts::default();
            // ring, merge, window, naming, queue
            let mut piles = [0u64; 5];
            for event in events {
                let take = |pile: &mut u64, n: u64| { let n = n.min(*pile); *pile -= n; n };
                match event {
                    Event::Tick(n) => { kernel.taken += n; piles[0] += n; }
                    Event::LostRing => { kernel.taken += 1; kernel.lost_ring += 1; }
                    Event::Read => { let n = take(&mut piles[0], 7); piles[1] += n; ledger.read(n); }
                    Event::Malformed => { let n = take(&mut piles[1], 1); ledger.dropped(DropReason::Malformed, n); }
                    Event::MergeFull => { let n = take(&mut piles[1], 2); ledger.dropped(DropReason::MergeFull, n); }
                    Event::Window => { let n = take(&mut piles[1], 5); piles[2] += n; ledger.windowed(n); }
                    Event::Close => { let n = take(&mut piles[2], u64::MAX); piles[3] += n; ledger.closed(n); }
                    Event::NamingFull => { let n = take(&mut piles[3], 3); ledger.dropped(DropReason::NamingFull, n); }
                    Event::Name => { let n = take(&mut piles[3], 9); piles[4] += n; ledger.named(n); }
                    Event::Export { rejected } => {
                        let n = take(&mut piles[4], 6);
                        let rejected = rejected.min(n);
                        ledger.exported(n - rejected);
                        ledger.dropped(DropReason::Rejected, rejected);
                    }
                    Event::Refuse => { let n = take(&mut piles[4], 4); ledger.dropped(DropReason::Refused, n); }
                }
                let snapshot = ledger.snapshot(|| kernel);
                prop_assert!(snapshot.balances(), "{snapshot:?}");
                for (stage, pile) in Stage::ALL.iter().zip(piles) {
                    prop_assert_eq!(snapshot.held(*stage), i64::try_from(pile).unwrap(), "{:?}", stage);
                }
            }
        }
    }

    #[test]
    fn a_scrape_in_the_middle_of_traffic_balances() {
        let ledger = Ledger::default();
        let taken = AtomicU64::new(0);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    taken.fetch_add(3, Ordering::SeqCst);
                    ledger.read(3);
                    ledger.dropped(DropReason::MergeFull, 1);
                    ledger.windowed(2);
                    ledger.closed(2);
                    ledger.named(2);
                    ledger.exported(2);
                }
            });
            for _ in 0..10_000 {
                let kernel = || KernelCounts { taken: taken.load(Ordering::SeqCst), ..KernelCounts::default() };
                let snapshot = ledger.snapshot(kernel);
                assert!(snapshot.balances(), "{snapshot:?}");
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn every_label_is_used_once() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::ALL.len());
        for (i, r) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i);
        }
        for (i, s) in Stage::ALL.iter().enumerate() {
            assert_eq!(*s as usize, i);
        }
        for (i, e) in StackEnd::ALL.iter().enumerate() {
            assert_eq!(e.index(), i);
        }
    }
}
