//! The list of instruments: name, unit, meaning, and which number of a [`Reading`] each tells.
//!
//! The bridge makes Prometheus names of these: dots become underscores, the unit `s` becomes `_seconds`, `By` becomes
//! `_bytes`, and counters end in `_total`.

mod own;
mod rooms;
mod unwind;

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use super::reading::{Reading, Slot};

/// Puts one number, with its labels, out.
type Out<'a, T> = &'a mut dyn FnMut(T, &[KeyValue]);

/// How an instrument's numbers are read.
#[derive(Clone, Copy)]
enum Read {
    /// Only grows.
    Count(fn(&Reading, Out<'_, u64>)),
    /// Only grows, fractions of a unit.
    CountSeconds(fn(&Reading, Out<'_, f64>)),
    /// Up and down; parts of one sum.
    UpDown(fn(&Reading, Out<'_, i64>)),
    /// Up and down.
    Gauge(fn(&Reading, Out<'_, u64>)),
}

struct Instrument {
    name: &'static str,
    unit: &'static str,
    help: &'static str,
    read: Read,
}

/// Instruments with series for each CPU, or for as many functions as are configured. All others have few.
pub(crate) const MANY_SERIES: &[&str] = &["profiler.ticks", "profiler.ticks.expected", "profiler.aggregated"];

/// Every instrument, under the headings of `docs/metrics.md`.
const GROUPS: &[(&str, &[Instrument])] = &[
    ("The ledger", rooms::LEDGER),
    ("Samples by function", own::AGGREGATED),
    ("Stacks and names", rooms::STACKS),
    ("Unwinding in the kernel", unwind::UNWIND),
    ("Containers, pods, filters", rooms::IDENTITY),
    ("Sampling and processes", rooms::SAMPLER),
    ("Files", rooms::FILES),
    ("Export", own::EXPORT),
    ("Page", own::PAGE),
    ("What it costs", own::COST),
    ("The eBPF program", rooms::BPF),
    ("The agent's process", own::PROCESS),
];

/// Registers every instrument; each reads what `slot` holds at the time of a collection, and nothing else.
pub(crate) fn register(meter: &Meter, slot: &Slot) {
    for i in GROUPS.iter().flat_map(|(_, instruments)| *instruments) {
        match i.read {
            Read::Count(read) => drop(
                meter
                    .u64_observable_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::CountSeconds(read) => drop(
                meter
                    .f64_observable_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::UpDown(read) => drop(
                meter
                    .i64_observable_up_down_counter(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
            Read::Gauge(read) => drop(
                meter
                    .u64_observable_gauge(i.name)
                    .with_unit(i.unit)
                    .with_description(i.help)
                    .with_callback(callback(slot, read))
                    .build(),
            ),
        }
    }
}

fn callback<T: 'static>(
    slot: &Slot,
    read: fn(&Reading, Out<'_, T>),
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let slot = Arc::clone(slot);
    move |instrument| read(&slot.load(), &mut |value, labels| instrument.observe(value, labels))
}

fn label(key: &'static str, value: impl Into<opentelemetry::Value>) -> KeyValue {
    KeyValue::new(key, value.into())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "below 2^53 nanoseconds (104 days of CPU time) exact, beyond to a microsecond"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod reference;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_many_series_are_instruments() {
        for name in MANY_SERIES {
            assert!(GROUPS.iter().flat_map(|(_, all)| *all).any(|instrument| instrument.name == *name), "{name}");
        }
    }
}
