//! All series, and their labels.
//!
//! **In**: [`Counted`] windows. **Out**: [`Telling`]. **Limits**: of [`Pool`]. Where `self` is a label, functions that ran and
//! functions that had called others have half of the series each: the outermost function of each process has all of its
//! samples, and would leave no room for what they ran.

use std::sync::Arc;

use opentelemetry::KeyValue;

use super::count::{Counted, Row};
use super::pool::{EVICTIONS, Pool};
use super::{AggregatedLabel as Label, OTHER, Telling, Told};

/// All series.
#[derive(Debug)]
pub(super) struct Table {
    labels: Vec<Label>,
    /// `self="true"`.
    own: Pool,
    /// `self="false"`, where that is a label.
    callers: Option<Pool>,
}

impl Table {
    pub(super) fn new(max_series: usize, labels: Vec<Label>) -> Self {
        let for_callers = labels.contains(&Label::SelfTime).then_some(max_series / 2);
        let own = Pool::new(max_series - for_callers.unwrap_or(0));
        Self { labels, own, callers: for_callers.map(Pool::new) }
    }

    /// Adds a window that ended at `now_mono_ns`.
    pub(super) fn add(&mut self, counted: &Counted, now_mono_ns: u64) {
        let labels = &self.labels;
        let of = |own| move |row: &Row| labels_of(labels, counted, row, own);
        self.own.add(counted.rows.iter().map(|row| (row, row.own)), now_mono_ns, of(true));
        if let Some(callers) = &mut self.callers {
            callers.add(counted.rows.iter().map(|row| (row, row.below)), now_mono_ns, of(false));
        }
    }

    /// Every series.
    pub(super) fn told(&self) -> Telling {
        let mut out = Telling::default();
        for (own, pool) in [(true, Some(&self.own)), (false, self.callers.as_ref())] {
            let Some(pool) = pool else { continue };
            out.series.extend(pool.series());
            out.series.push(Told { labels: self.rest(own, None), samples: pool.other() });
            if pool.evictions() > 0 {
                let labels = self.rest(own, Some(pool.evictions()));
                out.series.push(Told { labels, samples: pool.departed() });
            }
            out.evictions += pool.evictions();
            out.candidates += pool.candidates();
        }
        out
    }

    /// The labels of `(other)`: all others are empty.
    fn rest(&self, own: bool, evictions: Option<u64>) -> Arc<[KeyValue]> {
        let empty = |label: &&Label| !matches!(label, Label::Symbol | Label::SelfTime);
        let empty = self.labels.iter().filter(empty).map(|label| KeyValue::new(label.label(), ""));
        let symbol = KeyValue::new(Label::Symbol.label(), OTHER);
        let evictions = evictions.map(|n| KeyValue::new(EVICTIONS, n.to_string()));
        empty.chain([symbol]).chain(own_label(&self.labels, own)).chain(evictions).collect()
    }
}

fn labels_of(labels: &[Label], counted: &Counted, row: &Row, own: bool) -> Arc<[KeyValue]> {
    let values = counted.values(row).map(|(label, value)| KeyValue::new(label.label(), value.clone()));
    values.chain(own_label(labels, own)).collect()
}

fn own_label(labels: &[Label], own: bool) -> Option<KeyValue> {
    let text = if own { "true" } else { "false" };
    labels.contains(&Label::SelfTime).then(|| KeyValue::new(Label::SelfTime.label(), text))
}
