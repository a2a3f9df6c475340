//! `profiler_aggregated_total`: samples by function, for PromQL.
//!
//! **In**: published base windows, after attribution. **Out**: series with counts, the same ones in every collection until
//! the next window. **Units**: samples. **Limits**: [`AggregatedSettings::series`] series, and as many candidates as
//! [`pool`] says; everything else is in `symbol="(other)"`. Label values of [`MAX_VALUE_BYTES`].
//!
//! With `self="true"` a sample counts for the function that ran, with `self="false"` for each other function of its
//! stack, once. So the sum over `self="true"` is the number of samples, in every collection and whatever comes and goes.
//! How series come and go without breaking `rate()`: [`pool`], and `docs/adr/0007-the-aggregated-metric.md`.

mod count;
mod pool;
mod table;

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use profile::Profile;

use self::count::Counter;
use self::table::Table;

/// Most series that may be configured: the SDK tells no more of one instrument.
pub const MAX_AGGREGATED_SERIES: usize = 16_384;

/// A longer label value is cut.
pub(crate) const MAX_VALUE_BYTES: usize = 512;

/// The `symbol` of everything that has no series of its own.
pub const OTHER: &str = "(other)";

/// The `symbol` of code without a function's name.
pub const UNNAMED: &str = "(unnamed)";

/// A label of `profiler_aggregated_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AggregatedLabel {
    /// The process's id on the host.
    Pid,
    /// The path of the file that the function's code is in; `[kernel]` in the kernel.
    Bin,
    /// The function's name.
    Symbol,
    /// The source file; empty where unknown.
    File,
    /// The source line; empty where unknown.
    Line,
    /// `true`: the function itself ran; `false`: another that it had called. Without this label only `true` is counted.
    SelfTime,
    /// `k8s.namespace.name`.
    Namespace,
    /// `k8s.pod.name`.
    Pod,
    /// The container's name, else the head of its id.
    Container,
    /// `service.name`.
    Service,
}

impl AggregatedLabel {
    /// Every label, in the order in which they are told.
    pub const ALL: [Self; 10] = [
        Self::Pid,
        Self::Bin,
        Self::Symbol,
        Self::File,
        Self::Line,
        Self::SelfTime,
        Self::Namespace,
        Self::Pod,
        Self::Container,
        Self::Service,
    ];

    /// Its name in Prometheus and in settings.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Pid => "pid",
            Self::Bin => "bin",
            Self::Symbol => "symbol",
            Self::File => "file",
            Self::Line => "line",
            Self::SelfTime => "self",
            Self::Namespace => "namespace",
            Self::Pod => "pod",
            Self::Container => "container",
            Self::Service => "service",
        }
    }
}

/// No label has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no label: pid, bin, symbol, file, line, self, namespace, pod, container or service")]
pub struct UnknownLabel(pub String);

impl FromStr for AggregatedLabel {
    type Err = UnknownLabel;

    fn from_str(text: &str) -> Result<Self, UnknownLabel> {
        Self::ALL.into_iter().find(|l| l.label() == text).ok_or_else(|| UnknownLabel(text.chars().take(40).collect()))
    }
}

/// How much is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AggregatedSettings {
    /// Series at most, `(other)` not counted; 0: none at all. Where `self` is a label, half of them are for each of its
    /// values. More than [`MAX_AGGREGATED_SERIES`] are as many.
    pub series: usize,
    /// The labels; each counts once, their order does not matter.
    pub labels: Vec<AggregatedLabel>,
}

impl Default for AggregatedSettings {
    fn default() -> Self {
        let labels = AggregatedLabel::ALL.into_iter().filter(|l| *l != AggregatedLabel::Service).collect();
        Self { series: 500, labels }
    }
}

/// One series.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) labels: Arc<[KeyValue]>,
    pub(crate) samples: u64,
}

/// What one collection tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Telling {
    pub(crate) series: Vec<Told>,
    /// Series that ever left.
    pub(crate) evictions: u64,
    /// Functions that are remembered without a series.
    pub(crate) candidates: u64,
}

/// The metric. Shared by reference; every method may be called from any thread.
#[derive(Debug)]
pub struct Aggregated {
    counter: Counter,
    table: Mutex<Table>,
    on: bool,
}

impl Aggregated {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(settings: AggregatedSettings) -> Self {
        let series = settings.series.min(MAX_AGGREGATED_SERIES);
        let counter = Counter::new(&settings.labels);
        let table = Table::new(series, counter.labels().to_vec());
        Self { counter, table: Mutex::new(table), on: series > 0 }
    }

    /// Counts a published base window. Takes milliseconds; a scrape at the same time waits for less.
    pub fn add(&self, profile: &Profile) {
        if !self.on {
            return;
        }
        let counted = self.counter.count(profile);
        self.table.lock().unwrap_or_else(PoisonError::into_inner).add(&counted, profile.span.to_mono_ns);
    }

    /// Every series, now.
    pub(crate) fn told(&self) -> Telling {
        if !self.on {
            return Telling::default();
        }
        self.table.lock().unwrap_or_else(PoisonError::into_inner).told()
    }
}

#[cfg(test)]
mod tests;
