//! A message that repeats is told a few times, then counted: a log is for people, and it is not what fills a disk.
//!
//! **In**: events (from every room), the time. **Out**: whether an event is written; the counts of those that were not.
//! **Limits**: one entry for each place in the code that logs; [`FREE`] messages of a place in [`PERIOD`].

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Messages of one place that are written in one period.
const FREE: u64 = 5;
/// How long the rest is counted before the count is told.
const PERIOD: Duration = Duration::from_secs(60);
/// The longest text kept of a message.
const MAX_MESSAGE_BYTES: usize = 200;

/// Counts by place.
#[derive(Debug, Default)]
pub(crate) struct Repeats(Mutex<HashMap<Identifier, Entry>>);

#[derive(Debug)]
struct Entry {
    since: Instant,
    seen: u64,
    message: String,
}

impl Entry {
    fn suppressed(&self) -> u64 {
        self.seen.saturating_sub(FREE)
    }
}

impl Repeats {
    /// Counts a message; whether it is written.
    fn admit(&self, place: Identifier, now: Instant, message: impl FnOnce() -> String) -> bool {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = table.entry(place).or_insert_with(|| Entry { since: now, seen: 0, message: message() });
        if entry.suppressed() == 0 && now.duration_since(entry.since) > PERIOD {
            (entry.since, entry.seen) = (now, 0);
        }
        entry.seen += 1;
        entry.seen <= FREE
    }

    /// What was not written, of the periods that are over: message and count.
    fn due(&self, now: Instant, all: bool) -> Vec<(String, u64)> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |e: &&mut Entry| e.suppressed() > 0 && (all || now.duration_since(e.since) > PERIOD);
        table
            .values_mut()
            .filter(over)
            .map(|e| {
                let told = (e.message.clone(), e.suppressed());
                (e.since, e.seen) = (now, 0);
                told
            })
            .collect()
    }

    /// Tells the counts of periods that are over, or of all of them. To be called from time to time.
    pub(crate) fn tell(&self, all: bool) {
        for (message, times) in self.due(Instant::now(), all) {
            tracing::warn!(times, repeated = message, "a message repeated more often than it was written");
        }
    }
}

impl<S: Subscriber> Filter<S> for &'static Repeats {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // Whoever asks for debugging wants all of it.
        *metadata.level() > Level::INFO
            || self.admit(metadata.callsite(), Instant::now(), || {
                let mut message = Message(String::new());
                event.record(&mut message);
                message.0.truncate(message.0.floor_char_boundary(MAX_MESSAGE_BYTES));
                message.0
            })
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Identifier {
        use tracing::Callsite;
        tracing::callsite!(name: "test", kind: tracing::metadata::Kind::EVENT, fields: message).metadata().callsite()
    }

    #[test]
    fn a_few_then_a_count() {
        let (repeats, place, start) = (Repeats::default(), place(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        let written = (0..100).filter(|&i| repeats.admit(place.clone(), at(i / 10), || "m".into())).count();
        assert_eq!(written as u64, FREE);
        assert!(repeats.due(at(30), false).is_empty(), "not before the period is over");
        assert_eq!(repeats.due(at(61), false), [("m".to_owned(), 100 - FREE)]);
        assert!(repeats.due(at(200), false).is_empty(), "told once");
        assert!(repeats.admit(place, at(201), String::new), "written again");
    }

    #[test]
    fn a_rare_message_is_always_written() {
        let (repeats, place, start) = (Repeats::default(), place(), Instant::now());
        for i in 0..50 {
            assert!(repeats.admit(place.clone(), start + PERIOD * 2 * i, || "rare".into()));
        }
        assert!(repeats.due(start + PERIOD * 200, true).is_empty());
    }
}
