//! What `/metrics` tells of unwinding in the kernel.

use std::collections::BTreeMap;
use std::ops::Sub;

use anyhow::Result;

use crate::scrape::Scrape;
use crate::stacks::percent;

/// How user stacks were unwound so far, or between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walks {
    /// Samples that the kernel walked by tables.
    pub walked: u64,
    /// Samples with a snapshot instead, by reason.
    pub bridged: BTreeMap<String, u64>,
    /// Walked samples that were unwound again and found equal.
    pub agree: u64,
    /// Found different.
    pub differ: u64,
    /// Of which nothing can be said.
    pub inconclusive: u64,
    /// Files taken off the tables.
    pub taken_off: u64,
}

impl Walks {
    /// As one scrape tells it.
    ///
    /// # Errors
    /// When a metric of it is not there.
    pub fn of(scrape: &Scrape) -> Result<Self> {
        let agreement = |result| whole(scrape.with("profiler_unwind_agreement_total", "result", result));
        scrape.sum("profiler_unwind_agreement_total")?;
        scrape.sum("profiler_unwind_bridged_total")?;
        let bridged = scrape.all("profiler_unwind_bridged_total");
        Ok(Self {
            walked: whole(scrape.sum("profiler_unwind_walked_total")?),
            bridged: bridged.map(|p| (p.labels.get("reason").cloned().unwrap_or_default(), whole(p.value))).collect(),
            agree: agreement("agree"),
            differ: agreement("differ"),
            inconclusive: agreement("inconclusive"),
            taken_off: whole(scrape.with("profiler_unwind_files_left_total", "reason", "taken_off")),
        })
    }

    /// Samples with a snapshot instead, for whatever reason.
    #[must_use]
    pub fn all_bridged(&self) -> u64 {
        self.bridged.values().sum()
    }

    /// Walked samples of all with user registers, in percent.
    #[must_use]
    pub fn share(&self) -> f64 {
        percent(self.walked, self.walked + self.all_bridged())
    }

    /// Samples of which it was found out whether both ways tell the same.
    #[must_use]
    pub fn compared(&self) -> u64 {
        self.agree + self.differ
    }

    /// Those that do, in percent.
    #[must_use]
    pub fn agreement(&self) -> f64 {
        percent(self.agree, self.compared())
    }
}

impl Sub<&Self> for Walks {
    type Output = Self;

    /// What came since another moment.
    fn sub(mut self, before: &Self) -> Self {
        self.walked = self.walked.saturating_sub(before.walked);
        for (reason, count) in &mut self.bridged {
            *count = count.saturating_sub(before.bridged.get(reason).copied().unwrap_or(0));
        }
        self.agree = self.agree.saturating_sub(before.agree);
        self.differ = self.differ.saturating_sub(before.differ);
        self.inconclusive = self.inconclusive.saturating_sub(before.inconclusive);
        self.taken_off = self.taken_off.saturating_sub(before.taken_off);
        self
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole, and far below 2^53")]
fn whole(value: f64) -> u64 {
    value.max(0.0).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_came_between_two_scrapes() {
        let text = |n: u32| {
            format!(
                "profiler_unwind_walked_total {}\nprofiler_unwind_bridged_total{{reason=\"unknown\"}} {n}\n\
                 profiler_unwind_bridged_total{{reason=\"pending\"}} 1\n\
                 profiler_unwind_agreement_total{{result=\"agree\"}} {}\n\
                 profiler_unwind_agreement_total{{result=\"differ\"}} 1\n",
                90 * n,
                10 * n
            )
        };
        let of = |n| Walks::of(&Scrape::parse(&text(n)).unwrap()).unwrap();
        let between = of(11) - &of(1);
        assert_eq!((between.walked, between.all_bridged(), between.agree, between.differ), (900, 10, 100, 0));
        assert!((between.share() - 98.9).abs() < 0.1);
        assert_eq!(between.agreement(), 100.0);
        assert!(Walks::of(&Scrape::parse("a 1\n").unwrap()).is_err());
    }
}
