//! Which functions have series of their own. A state machine: windows and their times come in.
//!
//! **In**: windows' rows of one value of `self`. **Out**: series. **Units**: samples; monotonic nanoseconds.
//! **Limits**: as many series as configured, [`CANDIDATES_PER_SERIES`] times as many candidates (16 bytes of key and a
//! score each); a candidate that finds no room is forgotten, its samples are in `(other)` anyway.
//!
//! # Coming and going
//! Every sample is in exactly one series, always, and a series never falls while it is there. So a series that leaves
//! has to leave its samples somewhere, and whatever takes them jumps, which `rate()` would take for a burst of samples.
//! Therefore `(other)` is two series. One counts what had no series when it was sampled: its rate is right. The other holds
//! what departed series had counted, and carries the number of departures so far as the label [`EVICTIONS`]: with each
//! departure it is another series, that begins with its whole value and never changes. Prometheus counts no increase
//! for it. A function that comes back begins at zero again, which `rate()` takes for a restart, rightly.
//!
//! Series change places once in [`TURN_NS`] at most, and no more than one in [`SHARE_PER_TURN`]: each that comes is one
//! more for Prometheus to keep. First go those that have not grown for [`QUIET_NS`]: their process has most likely ended.
//! After them go those with the lowest score, if a candidate's is more than [`LEAD`] times as high. Who takes another's
//! place must have been there for [`PROBATION_NS`]: programs that run for a moment shall not push others out. A score is a
//! number of samples that halves every [`HALF_LIFE_NS`].

use std::sync::Arc;

use opentelemetry::KeyValue;
use rustc_hash::FxHashMap;

use super::Told;
use super::count::{Key, Row};

/// The label that tells one holder of departed series from the next.
pub(super) const EVICTIONS: &str = "evictions";

/// Candidates that are remembered, for each series that may be told.
pub(super) const CANDIDATES_PER_SERIES: usize = 16;

/// The shortest time between two turns in which series leave.
pub(super) const TURN_NS: u64 = 60 * 1_000_000_000;

/// A series that has not grown for so long goes first.
pub(super) const QUIET_NS: u64 = 300 * 1_000_000_000;

/// One in so many series may leave in a turn, and at least one.
const SHARE_PER_TURN: usize = 8;

/// How long before its turn a candidate must have been seen.
const PROBATION_NS: u64 = 15 * 1_000_000_000;

/// Scores are half as high after so long.
const HALF_LIFE_NS: u64 = 600 * 1_000_000_000;

/// How much higher a candidate's score has to be: functions of the same heat shall not take turns.
const LEAD: f64 = 2.0;

/// How hot a series is.
#[derive(Clone, Copy, Debug)]
struct Score {
    value: f64,
    /// When it last grew.
    at_mono_ns: u64,
    /// When it was first seen.
    since_mono_ns: u64,
}

impl Score {
    fn new(now_mono_ns: u64) -> Self {
        Self { value: 0.0, at_mono_ns: now_mono_ns, since_mono_ns: now_mono_ns }
    }

    fn now(&self, now_mono_ns: u64) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share of a half-life")]
        let halvings = now_mono_ns.saturating_sub(self.at_mono_ns) as f64 / HALF_LIFE_NS as f64;
        self.value * (-halvings).exp2()
    }

    fn grow(&mut self, samples: u64, now_mono_ns: u64) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let grown = self.now(now_mono_ns) + samples as f64;
        *self = Self { value: grown, at_mono_ns: now_mono_ns.max(self.at_mono_ns), ..*self };
    }
}

#[derive(Debug)]
struct Series {
    labels: Arc<[KeyValue]>,
    samples: u64,
    score: Score,
}

/// A row that has no series.
struct Waiting<'c> {
    row: &'c Row,
    samples: u64,
    score: Score,
    /// The score, now.
    heat: f64,
}

/// The series of one value of `self`.
#[derive(Debug)]
pub(super) struct Pool {
    max_series: usize,
    series: FxHashMap<Key, Series>,
    candidates: FxHashMap<Key, Score>,
    /// What had no series when it was sampled.
    other: u64,
    /// What departed series had counted.
    departed: u64,
    evictions: u64,
    last_turn_mono_ns: Option<u64>,
}

impl Pool {
    pub(super) fn new(max_series: usize) -> Self {
        Self {
            max_series,
            series: FxHashMap::default(),
            candidates: FxHashMap::default(),
            other: 0,
            departed: 0,
            evictions: 0,
            last_turn_mono_ns: None,
        }
    }

    /// Adds the rows of a window that ended at `now_mono_ns`; `labels` makes those of a new series.
    pub(super) fn add<'c>(
        &mut self,
        rows: impl Iterator<Item = (&'c Row, u64)>,
        now_mono_ns: u64,
        labels: impl Fn(&Row) -> Arc<[KeyValue]>,
    ) {
        let mut waiting = Vec::new();
        for (row, samples) in rows.filter(|&(_, samples)| samples > 0) {
            if let Some(series) = self.series.get_mut(&row.key) {
                series.samples += samples;
                series.score.grow(samples, now_mono_ns);
            } else {
                let mut score = self.candidates.get(&row.key).copied().unwrap_or_else(|| Score::new(now_mono_ns));
                score.grow(samples, now_mono_ns);
                waiting.push(Waiting { row, samples, heat: score.now(now_mono_ns), score });
            }
        }
        let hotter =
            |a: &Waiting<'_>, b: &Waiting<'_>| b.heat.total_cmp(&a.heat).then_with(|| a.row.key.cmp(&b.row.key));
        // What cannot even be a candidate is not looked at any further.
        let most = self.max_candidates();
        if waiting.len() > most {
            waiting.select_nth_unstable_by(most, hotter);
            self.other += waiting.drain(most..).map(|cold| cold.samples).sum::<u64>();
        }
        waiting.sort_unstable_by(hotter);
        let free = self.max_series.saturating_sub(self.series.len()).min(waiting.len());
        let mut come: Vec<Waiting<'_>> = waiting.drain(..free).collect();
        let on_probation = |w: &Waiting<'_>| now_mono_ns.saturating_sub(w.score.since_mono_ns) < PROBATION_NS;
        let (mut stay, mut old): (Vec<_>, Vec<_>) = waiting.into_iter().partition(on_probation);
        let room = self.make_room(&old, now_mono_ns);
        come.extend(old.drain(..room));
        stay.append(&mut old);
        for w in &stay {
            self.other += w.samples;
            self.candidates.insert(w.row.key, w.score);
        }
        for w in &come {
            self.candidates.remove(&w.row.key);
            let labels = labels(w.row);
            self.series.insert(w.row.key, Series { labels, samples: w.samples, score: w.score });
        }
        self.forget(now_mono_ns);
    }

    fn max_candidates(&self) -> usize {
        self.max_series * CANDIDATES_PER_SERIES
    }

    /// Lets series go for some of those that wait, the hottest first; says for how many.
    fn make_room(&mut self, waiting: &[Waiting<'_>], now_mono_ns: u64) -> usize {
        let last = *self.last_turn_mono_ns.get_or_insert(now_mono_ns);
        if waiting.is_empty() || now_mono_ns.saturating_sub(last) < TURN_NS {
            return 0;
        }
        let mut leaving: Vec<(bool, f64, Key)> = self
            .series
            .iter()
            .map(|(key, s)| {
                let grows = now_mono_ns.saturating_sub(s.score.at_mono_ns) < QUIET_NS;
                (grows, s.score.now(now_mono_ns), *key)
            })
            .collect();
        leaving.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1)).then_with(|| a.2.cmp(&b.2)));
        let gives_way = |((grows, score, _), w): &(&(bool, f64, Key), &Waiting<'_>)| !grows || w.heat > LEAD * score;
        let most = (self.max_series / SHARE_PER_TURN).max(1);
        let gone = leaving.iter().zip(waiting).take(most).take_while(gives_way).count();
        for (_, _, key) in leaving.iter().take(gone) {
            if let Some(series) = self.series.remove(key) {
                self.departed += series.samples;
                self.candidates.insert(*key, series.score);
            }
        }
        if gone > 0 {
            self.evictions += gone as u64;
            self.last_turn_mono_ns = Some(now_mono_ns);
        }
        gone
    }

    /// Forgets the coldest candidates where there are too many.
    fn forget(&mut self, now_mono_ns: u64) {
        let most = self.max_candidates();
        if self.candidates.len() <= most {
            return;
        }
        // A quarter less than allowed: not every window shall do this.
        let keep = most - most / 4;
        let mut scores: Vec<(f64, Key)> =
            self.candidates.iter().map(|(key, score)| (score.now(now_mono_ns), *key)).collect();
        scores.select_nth_unstable_by(keep, |a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        for (_, key) in scores.get(keep..).unwrap_or_default() {
            self.candidates.remove(key);
        }
    }

    /// The series of functions.
    pub(super) fn series(&self) -> impl Iterator<Item = Told> {
        self.series.values().map(|s| Told { labels: Arc::clone(&s.labels), samples: s.samples })
    }

    /// What had no series when it was sampled.
    pub(super) fn other(&self) -> u64 {
        self.other
    }

    /// What departed series had counted.
    pub(super) fn departed(&self) -> u64 {
        self.departed
    }

    /// Series that ever left.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Functions that are remembered without a series.
    pub(super) fn candidates(&self) -> u64 {
        self.candidates.len() as u64
    }
}
