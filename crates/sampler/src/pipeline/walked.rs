//! The way of a sample that the kernel has walked: counted at once, and compared later where it carries a snapshot too.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use profile::{Owner, StackEnd};

use super::Pipeline;
use crate::checks::{Check, Verdict};
use crate::proc_scan::ProcSource;
use crate::process::Sighting;
use crate::sample::Sample;
use crate::source::ObjectSource;
use crate::unwinding::{UserHalf, Waiting};
use crate::walked::CountedWalk;

impl<O: ObjectSource, P: ProcSource> Pipeline<O, P> {
    /// For a sample whose user half was walked, and that was counted in its window.
    pub(super) fn walked(&mut self, sample: Sample, sighting: Sighting, owner: Arc<Owner>, counted: CountedWalk) {
        self.shared.ledger.ended(counted.end, 1);
        self.shared.ledger.windowed(1);
        self.shared.counted.stale_walks.fetch_add(u64::from(counted.is_stale), Ordering::Relaxed);
        let check = counted.stack.filter(|_| !sample.snapshot.is_empty()).map(|stack| Check {
            stack,
            end: counted.end,
            is_stale: counted.is_stale,
            flags: sample.head.flags,
        });
        let process = if check.is_some() { self.table.sighted(sighting) } else { None };
        match (check, process) {
            (Some(check), Some(process)) if !check.is_vague() => {
                let user = UserHalf::Snapshot(self.resolver.mappings(process, &sample.head, &sample.snapshot));
                let maps = Some(Arc::clone(&process.maps));
                self.wait(Waiting { sample, owner, maps, user, check: Some(check) });
            }
            (vague, _) => {
                let counter = &self.shared.counted.checks_inconclusive;
                counter.fetch_add(u64::from(vague.is_some()), Ordering::Relaxed);
                self.shared.inbox.release(sample.cost_bytes());
                self.shared.pool.give_back(std::iter::once(sample));
            }
        }
    }

    /// For a sample that was walked and has been unwound once more: [`Pipeline::frames`] are what came of that.
    pub(super) fn compared(&mut self, waiting: &Waiting, check: &Check, end: StackEnd) {
        let verdict = check.compare(&self.frames, end);
        let counted = &self.shared.counted;
        let counter = match verdict {
            Verdict::Agree => &counted.checks_agree,
            Verdict::Differ(_) => &counted.checks_differ,
            Verdict::Inconclusive => &counted.checks_inconclusive,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let taken_off = self.checks.count(check, &self.frames, verdict, |object| self.resolver.info(object));
        if let Some(object) = taken_off {
            self.desk.taken_off(object);
        }
        self.shared.inbox.release(waiting.sample.cost_bytes());
    }
}
