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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use profile::ledger::{KernelCounts, Ledger};
    use profile::stats::{CpuTicks, ObjectStats, SamplerStats, UnwindStats};
    use profile::{DropReason, StackEnd};

    use super::*;

    /// Counts its own readings; every number it gives is derived from that count, so that a mixture of two shows.
    struct Counting {
        readings: AtomicU64,
        ledger: Ledger,
    }

    impl Statistics for Counting {
        fn snapshot(&self) -> Snapshot {
            let n = self.readings.fetch_add(1, Ordering::SeqCst) + 1;
            self.ledger.read(10);
            self.ledger.dropped(DropReason::MergeFull, 1);
            self.ledger.windowed(7);
            self.ledger.ended(StackEnd::BadFrame, 2);
            let kernel = KernelCounts { idle: n, filtered: 0, taken: 11 * n, lost_ring: 1, lost_scratch: 0 };
            Snapshot {
                ledger: self.ledger.snapshot(|| kernel),
                sampler: SamplerStats {
                    cpus: vec![CpuTicks { cpu: 0, kernel, expected: 12 * n + 3 }],
                    bpf_run_ns: 1_500_000_000,
                    ..SamplerStats::default()
                },
                objects: ObjectStats { worker_pid: 77, ..ObjectStats::default() },
                unwind: UnwindStats {
                    checks_agree: 990,
                    checks_differ: 3,
                    checks_inconclusive: 7,
                    bridged_unknown: 5,
                    bridged_pending: 6,
                    bridged_bad_frame: 7,
                    walk_ns: 500_000_000,
                    snapshot_ns: 250_000_000,
                    filtered_ns: 125_000_000,
                    ..UnwindStats::default()
                },
                ..Snapshot::default()
            }
        }
    }

    /// The agent has three threads of one name; the worker, whose pid the snapshot tells, has what the pid says.
    struct OneThread;

    impl Processes for OneThread {
        fn read(&self, worker_pid: u32) -> ProcessReading {
            let cpu = CpuTime { user_ns: 1_250_000_000, system_ns: 0 };
            ProcessReading {
                threads: vec![ThreadReading { name: "web".to_owned(), threads: 3, cpu }],
                agent: cpu,
                agent_rss_bytes: 5 << 20,
                worker_rss_bytes: u64::from(worker_pid),
                ..ProcessReading::default()
            }
        }
    }

    fn metrics() -> Metrics {
        let statistics = Arc::new(Counting { readings: AtomicU64::new(0), ledger: Ledger::default() });
        let build = BuildInfo { version: "1.2.3".to_owned(), revision: "abc".to_owned() };
        let processes = Some(Arc::new(OneThread) as _);
        Metrics::new(Sources { statistics, delivery: None, store: None, aggregated: None, processes, build }).unwrap()
    }

    fn value(text: &str, series: &str) -> f64 {
        let line = text.lines().find(|l| l.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    fn sum(text: &str, name: &str) -> f64 {
        let of_name = |l: &&str| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().filter(of_name).map(|l| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    #[test]
    fn both_lines_of_the_ledger_hold_in_every_scrape() {
        let metrics = metrics();
        for _ in 0..20 {
            let text = metrics.render().unwrap();
            assert_eq!(sum(&text, "profiler_ticks_total"), sum(&text, "profiler_ticks_expected_total"), "{text}");
            let taken = value(&text, "profiler_samples_taken_total");
            let rest = sum(&text, "profiler_samples_exported_total")
                + sum(&text, "profiler_samples_held")
                + sum(&text, "profiler_samples_dropped_total");
            assert_eq!(taken, rest, "{text}");
        }
    }

    #[test]
    fn every_reason_and_stage_is_there_from_the_start() {
        let text = metrics().render().unwrap();
        for reason in DropReason::ALL {
            value(&text, &format!("profiler_samples_dropped_total{{reason=\"{}\"}}", reason.label()));
        }
        for stage in profile::Stage::ALL {
            value(&text, &format!("profiler_samples_held{{stage=\"{}\"}}", stage.label()));
        }
        for end in StackEnd::ALL {
            let name = if end.is_whole() { "whole" } else { "truncated" };
            value(&text, &format!("profiler_samples_{name}_total{{reason=\"{}\"}}", end.label()));
        }
        for result in ["accepted", "failed"] {
            value(&text, &format!("profiler_export_requests_total{{result=\"{result}\"}}"));
        }
        assert_eq!(value(&text, "profiler_samples_truncated_total{reason=\"bad_frame\"}"), 2.0);
        assert_eq!(value(&text, "profiler_bpf_run_seconds_total"), 1.5);
        assert!(text.contains("profiler_build_info{arch=\""), "{text}");
    }

    #[test]
    fn what_the_agent_and_its_worker_cost() {
        let text = metrics().render().unwrap();
        assert_eq!(value(&text, "profiler_self_resident_memory_bytes{process=\"agent\"}"), 5_242_880.0);
        assert_eq!(value(&text, "profiler_self_resident_memory_bytes{process=\"worker\"}"), 77.0);
        assert_eq!(value(&text, "profiler_self_threads{process=\"agent\",thread=\"web\"}"), 3.0);
        let user = "profiler_self_cpu_seconds_total{mode=\"user\",process=\"agent\",thread=\"web\"}";
        assert_eq!(value(&text, user), 1.25);
        assert_eq!(value(&text, "process_cpu_seconds_total"), 1.25);
    }

    #[test]
    fn unwinding_in_the_kernel() {
        let text = metrics().render().unwrap();
        for (result, checks) in [("agree", 990.0), ("differ", 3.0), ("inconclusive", 7.0)] {
            assert_eq!(value(&text, &format!("profiler_unwind_agreement_total{{result=\"{result}\"}}")), checks);
        }
        for (reason, samples) in [("unknown", 5.0), ("pending", 6.0), ("bad_frame", 7.0)] {
            assert_eq!(value(&text, &format!("profiler_unwind_bridged_total{{reason=\"{reason}\"}}")), samples);
        }
        for state in ["loaded", "pending", "without_table"] {
            value(&text, &format!("profiler_unwind_files{{state=\"{state}\"}}"));
        }
        // The stages are parts of the whole.
        assert_eq!(value(&text, "profiler_self_bpf_seconds_total{stage=\"walk\"}"), 0.5);
        assert_eq!(sum(&text, "profiler_self_bpf_seconds_total"), value(&text, "profiler_bpf_run_seconds_total"));
    }

    #[test]
    fn every_family_has_a_help_and_one_type_and_no_scope_labels() {
        let text = metrics().render().unwrap();
        let mut names = std::collections::BTreeSet::new();
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            names.insert(line.split(['{', ' ']).next().unwrap());
        }
        assert!(names.len() > 40);
        for name in names {
            for head in ["HELP", "TYPE"] {
                let lines = text.lines().filter(|l| l.starts_with(&format!("# {head} {name} "))).count();
                assert_eq!(lines, 1, "# {head} {name}\n{text}");
            }
        }
        assert!(!text.contains("otel_scope") && !text.contains("target_info"));
    }

    #[test]
    fn more_cpus_than_the_sdk_expects_are_told_one_by_one() {
        struct Many;
        impl Statistics for Many {
            fn snapshot(&self) -> Snapshot {
                let cpus = (0..1024).map(|cpu| CpuTicks { cpu, ..CpuTicks::default() }).collect();
                Snapshot { sampler: SamplerStats { cpus, ..SamplerStats::default() }, ..Snapshot::default() }
            }
        }
        let sources = Sources {
            statistics: Arc::new(Many),
            delivery: None,
            store: None,
            aggregated: None,
            processes: None,
            build: BuildInfo::default(),
        };
        let text = Metrics::new(sources).unwrap().render().unwrap();
        assert_eq!(text.lines().filter(|l| l.starts_with("profiler_ticks_total{")).count(), 4096);
    }

    #[test]
    fn samples_by_function_come_and_go() {
        let settings =
            AggregatedSettings { series: 1, labels: vec![AggregatedLabel::Symbol, AggregatedLabel::SelfTime] };
        let aggregated = Arc::new(Aggregated::new(settings));
        let sources = Sources {
            statistics: Arc::new(Counting { readings: AtomicU64::new(0), ledger: Ledger::default() }),
            delivery: None,
            store: None,
            aggregated: Some(Arc::clone(&aggregated)),
            processes: None,
            build: BuildInfo::default(),
        };
        let metrics = Metrics::new(sources).unwrap();
        // The SDK must forget what is not told any more, or it would soon know too many.
        let mut samples = 0;
        for round in 0..200_u64 {
            let name = format!("quote\"line\nback\\slash {round}");
            let mut profile = crate::fixture::Builder::window(0).row(1, "/a", &[&name], 2).build();
            for second in [0, 60] {
                profile.span.to_mono_ns = (round * 600 + second) * 1_000_000_000;
                aggregated.add(&profile);
                samples += 2;
            }
            let text = metrics.render().unwrap();
            let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("profiler_aggregated_total{")).collect();
            assert!(lines.len() <= 1 + 4, "{lines:#?}");
            assert_eq!(sum(&text, "profiler_aggregated_total"), f64::from(samples), "{text}");
            let escaped = format!(r#"{{self="true",symbol="quote\"line\nback\\slash {round}"}}"#);
            assert!(lines.iter().any(|l| l.contains(&escaped)), "{escaped}: {lines:#?}");
            assert!(!text.contains("overflow"));
        }
    }
}
