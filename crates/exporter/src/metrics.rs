//! The agent's numbers about itself, as OpenTelemetry instruments: scraped through the Prometheus bridge, or pushed
//! over OTLP.
//!
//! **In**: [`Statistics`], [`DeliveryStatsHandle`], [`Store`], [`Processes`]. **Out**: the text of `/metrics`, OTLP requests. **Units**: in the instruments' names, by Prometheus' conventions.
//! **Limits**:
//! labels are of fixed sets, except for CPUs, the agent's own threads ([`MAX_THREAD_NAMES`]), a collector's codes (48 codes) and
//! [`Aggregated`] (as many series as configured).
//!
//! # One snapshot for all instruments
//! The two lines of the ledger hold only for numbers that were read in one go. So nothing is measured inside an
//! instrument: whoever collects first takes one [`Reading`], puts it where the instruments look, and only then lets
//! them be read. Scraping and pushing each have a place, a meter provider and a lock of their own and cannot disturb
//! each other.

mod aggregated;
mod instruments;
mod process;
mod push;
mod reading;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use profile::stats::Snapshot;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::runtime::Handle;

pub use self::aggregated::{
    Aggregated, AggregatedLabel, AggregatedSettings, MAX_AGGREGATED_SERIES, OTHER, UNNAMED, UnknownLabel,
};
pub use self::process::{CpuTime, MAX_THREAD_NAMES, ProcessReading, Processes, ThreadReading};
pub use self::push::{Push, PushError, PushSettings};

use self::push::PushCounts;
use self::reading::{MissedTicks, Reading, Slot};
use crate::delivery::DeliveryStatsHandle;
use crate::store::Store;

/// The media type of [`Metrics::render`]'s text.
pub const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// Series of an instrument of [`instruments::MANY_SERIES`]: four states of as many CPUs as Linux knows.
const MAX_SERIES: usize = 4 * 8192;
/// Series of every other: both modes of the agent's threads are the most. The SDK makes room for all of them when it makes the
/// instrument, and left to itself for 2000: 18 MB.
const FEW_SERIES: usize = 256;
const _: () = assert!(FEW_SERIES > 2 * (process::MAX_THREAD_SERIES + 1));

/// The instrumentation scope.
const SCOPE: &str = "profiler";

/// Whoever can read the counters of all rooms.
pub trait Statistics: Send + Sync {
    /// Everything, in one go: the far end of the way first and the kernel last.
    fn snapshot(&self) -> Snapshot;
}

/// What was built.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildInfo {
    /// The version, as in `Cargo.toml`.
    pub version: String,
    /// The commit; empty where unknown.
    pub revision: String,
}

/// Where the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// The rooms before the exporter.
    pub statistics: Arc<dyn Statistics>,
    /// Delivery, where an endpoint is configured.
    pub delivery: Option<DeliveryStatsHandle>,
    /// The published windows, where there is a page.
    pub store: Option<Arc<Store>>,
    /// Samples by function, where they are wanted.
    pub aggregated: Option<Arc<Aggregated>>,
    /// What the agent's own processes cost, where somebody reads it.
    pub processes: Option<Arc<dyn Processes>>,
    /// What was built.
    pub build: BuildInfo,
}

/// The metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The bridge could not be registered.
    #[error("the Prometheus bridge cannot be set up: {0}")]
    Bridge(String),
    /// The numbers could not be written as text.
    #[error("the metrics cannot be written: {0}")]
    Text(String),
}

/// The agent's metrics. Shared by reference; every method may be called from any thread.
pub struct Metrics {
    reader: Arc<Reader>,
    scrape: Mutex<Scrape>,
}

/// The pipeline that is scraped.
struct Scrape {
    registry: Registry,
    slot: Slot,
    /// Owns the instruments.
    _provider: SdkMeterProvider,
}

impl Metrics {
    /// Sets the instruments up.
    ///
    /// # Errors
    /// [`MetricsError::Bridge`].
    pub fn new(sources: Sources) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let bridge = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|e| MetricsError::Bridge(e.to_string()))?;
        let (provider, slot) = pipeline(bridge, Resource::builder_empty().build());
        let scrape = Scrape { registry, slot, _provider: provider };
        Ok(Self { reader: Arc::new(Reader::new(sources)), scrape: Mutex::new(scrape) })
    }

    /// Pushes the same instruments over OTLP until it is told to stop. Does not connect: an absent collector is a
    /// warning and a counter.
    ///
    /// # Errors
    /// Settings that can never work.
    pub fn push(&self, settings: PushSettings, runtime: &Handle) -> Result<Push, PushError> {
        push::start(Arc::clone(&self.reader), settings, runtime)
    }

    /// The text of one scrape, in Prometheus' text format. Asks all [`Sources`]: call it where blocking is allowed.
    ///
    /// # Errors
    /// [`MetricsError::Text`].
    pub fn render(&self) -> Result<String, MetricsError> {
        let scrape = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        scrape.slot.store(Arc::new(self.reader.read()));
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&scrape.registry.gather(), &mut text)
            .map_err(|e| MetricsError::Text(e.to_string()))?;
        String::from_utf8(text).map_err(|e| MetricsError::Text(e.to_string()))
    }
}

/// A meter provider with all instruments and one reader, and the place where its instruments look.
fn pipeline(reader: impl MetricReader, resource: Resource) -> (SdkMeterProvider, Slot) {
    let slot: Slot = Arc::new(ArcSwap::default());
    let provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(reader)
        .with_view(|it: &Instrument| {
            let many = instruments::MANY_SERIES.contains(&it.name());
            let most = if many { MAX_SERIES } else { FEW_SERIES };
            Stream::builder().with_cardinality_limit(most).build().ok()
        })
        .build();
    instruments::register(&provider.meter(SCOPE), &slot);
    (provider, slot)
}

/// Takes readings; what has to be remembered from one to the next is here, shared by all pipelines.
struct Reader {
    sources: Sources,
    missed: Mutex<MissedTicks>,
    /// Moved by whoever pushes.
    pushes: PushCounts,
}

impl Reader {
    fn new(sources: Sources) -> Self {
        Self { sources, missed: Mutex::default(), pushes: PushCounts::default() }
    }

    /// Reads everything, the far end of a sample's way first.
    fn read(&self) -> Reading {
        let delivery = self.sources.delivery.as_ref().map(DeliveryStatsHandle::get).unwrap_or_default();
        let store = self.sources.store.as_ref().map(|s| s.stats()).unwrap_or_default();
        let aggregated = self.sources.aggregated.as_ref().map(|a| a.told()).unwrap_or_default();
        let mut missed_ticks = self.missed.lock().unwrap_or_else(PoisonError::into_inner);
        let (snapshot, missed) = missed_ticks.read(|| self.sources.statistics.snapshot());
        let processes = self.sources.processes.as_ref();
        let process = processes.map(|p| p.read(snapshot.objects.worker_pid)).unwrap_or_default();
        Reading {
            missed,
            delivery,
            pushes: self.pushes.read(),
            store,
            aggregated,
            process,
            build: self.sources.build.clone(),
            snapshot,
        }
    }
}
