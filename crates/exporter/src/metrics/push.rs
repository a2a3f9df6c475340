//! The same instruments, pushed over OTLP.
//!
//! The SDK's periodic reader collects whenever it wants to, on a thread of its own, and offers no moment at which a
//! reading could be taken for all instruments. So the beat is ours: take a reading, put it where this pipeline's
//! instruments look, collect, export; one after the other, by one task. Collection is by the SDK's manual reader and
//! export by `opentelemetry-otlp`, so what arrives is what the periodic reader would have sent. Sums are cumulative: a
//! push that fails costs resolution, not counts.
//!
//! **In**: [`PushSettings`]. **Out**: OTLP metrics requests. **Limits**: one request at a time, none longer than the
//! connection's timeout; a beat that comes while one is under way is left out.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{MetricExporter, WithExportConfig, WithHttpConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, SdkMeterProvider, Temporality};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tonic::metadata::MetadataMap;

use super::reading::Slot;
use super::{Reader, pipeline};
use crate::delivery::transport::{headers, tls, without_credentials};
use crate::delivery::{Compression, DeliveryError, Endpoint, OtlpSettings, Protocol};

/// The path that follows a base endpoint over HTTP.
const PATH: &str = "v1/metrics";

/// Where metrics go, and how often.
#[derive(Clone, Debug)]
pub struct PushSettings {
    /// The connection.
    pub otlp: OtlpSettings,
    /// Time between two pushes; at least a second.
    pub interval: Duration,
    /// Attributes of the resource: `service.name`, `host.name` and the like.
    pub resource: Vec<(String, String)>,
}

/// The settings can never work. An absent collector is not an error.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The connection's settings.
    #[error(transparent)]
    Connection(#[from] DeliveryError),
    /// The exporter refused the settings.
    #[error("metrics cannot be pushed: {0}")]
    Exporter(String),
}

/// Pushes by result.
#[derive(Debug, Default)]
pub(super) struct PushCounts {
    accepted: AtomicU64,
    failed: AtomicU64,
}

impl PushCounts {
    pub(super) fn read(&self) -> (u64, u64) {
        (self.accepted.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

/// Metrics being pushed. Dropped without [`Push::shutdown`], it ends without a last push.
#[derive(Debug)]
pub struct Push {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Push {
    /// Pushes once more and ends, both within `deadline`.
    pub async fn shutdown(self, deadline: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(deadline, self.task).await.is_err() {
            tracing::warn!("the last metrics could not be pushed in time");
        }
    }
}

/// Starts pushing on `runtime`. Does not connect.
pub(super) fn start(reader: Arc<Reader>, settings: PushSettings, runtime: &Handle) -> Result<Push, PushError> {
    let _entered = runtime.enter();
    let exporter = exporter(&settings.otlp)?;
    let manual = Shared(Arc::new(ManualReader::builder().with_temporality(Temporality::Cumulative).build()));
    let attributes = settings.resource.into_iter().map(|(key, value)| KeyValue::new(key, value));
    let resource = Resource::builder_empty().with_attributes(attributes).build();
    let (provider, slot) = pipeline(manual.clone(), resource);
    let mut pusher = Pusher {
        reader,
        slot,
        manual,
        exporter,
        endpoint: without_credentials(settings.otlp.endpoint.text()),
        timeout: settings.otlp.timeout,
        metrics: ResourceMetrics::default(),
        failures: 0,
        _provider: provider,
    };
    let interval = settings.interval.max(Duration::from_secs(1));
    let (stop, mut stopped) = watch::channel(false);
    let task = runtime.spawn(async move {
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = beat.tick() => pusher.push().await,
                // An error means that whoever held the handle let it go without a word.
                asked = async { stopped.wait_for(|&stop| stop).await.is_ok() } => {
                    if asked {
                        pusher.push().await;
                    }
                    return;
                }
            }
        }
    });
    Ok(Push { stop, task })
}

struct Pusher {
    reader: Arc<Reader>,
    slot: Slot,
    manual: Shared,
    exporter: MetricExporter,
    /// As log lines may show it.
    endpoint: String,
    timeout: Duration,
    /// Kept to spare allocations: the SDK fills it anew.
    metrics: ResourceMetrics,
    /// Since the last success.
    failures: u64,
    /// Owns the instruments.
    _provider: SdkMeterProvider,
}

impl Pusher {
    async fn push(&mut self) {
        let reader = Arc::clone(&self.reader);
        // A reading looks into /proc: not on a thread that serves requests.
        let Ok(reading) = tokio::task::spawn_blocking(move || reader.read()).await else { return };
        self.slot.store(Arc::new(reading));
        let result = match self.manual.collect(&mut self.metrics) {
            Ok(()) => match tokio::time::timeout(self.timeout, self.exporter.export(&self.metrics)).await {
                Ok(result) => result.map_err(|e| e.to_string()),
                Err(_) => Err(format!("no answer within {:?}", self.timeout)),
            },
            Err(error) => Err(error.to_string()),
        };
        let counts = &self.reader.pushes;
        match result {
            Ok(()) => {
                if self.failures > 0 {
                    tracing::info!(endpoint = self.endpoint, failures = self.failures, "metrics are pushed again");
                }
                self.failures = 0;
                counts.accepted.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                self.failures += 1;
                counts.failed.fetch_add(1, Ordering::Relaxed);
                if self.failures.is_power_of_two() {
                    tracing::warn!(
                        endpoint = self.endpoint,
                        error,
                        failures = self.failures,
                        "metrics could not be pushed"
                    );
                }
            }
        }
    }
}

/// A reader that its pipeline and we hold.
#[derive(Clone)]
struct Shared(Arc<ManualReader>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl MetricReader for Shared {
    fn register_pipeline(&self, pipeline: std::sync::Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

fn exporter(settings: &OtlpSettings) -> Result<MetricExporter, PushError> {
    let headers = headers::parse(&settings.headers)?;
    let gzip = settings.compression == Compression::Gzip;
    let refused = |error: &dyn fmt::Display| PushError::Exporter(error.to_string());
    match settings.protocol {
        Protocol::Grpc => {
            let mut builder = MetricExporter::builder()
                .with_temporality(Temporality::Cumulative)
                .with_tonic()
                .with_timeout(settings.timeout)
                .with_channel(grpc_endpoint(settings)?.connect_lazy())
                .with_metadata(MetadataMap::from_headers(headers));
            if gzip {
                builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
            }
            builder.build().map_err(|e| refused(&e))
        }
        Protocol::HttpProtobuf => {
            let url = http_url(&settings.endpoint)?;
            let tls = if url.starts_with("https:") { tls::for_http(settings)? } else { tls::for_plain_http()? };
            let client = reqwest::Client::builder()
                .tls_backend_preconfigured(tls)
                .default_headers(headers)
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .map_err(|e| refused(&e))?;
            let mut builder = MetricExporter::builder()
                .with_temporality(Temporality::Cumulative)
                .with_http()
                .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
                .with_timeout(settings.timeout)
                .with_http_client(client)
                .with_endpoint(url);
            if gzip {
                builder = builder.with_compression(opentelemetry_otlp::Compression::Gzip);
            }
            builder.build().map_err(|e| refused(&e))
        }
    }
}

/// The URL to post to; it is checked here, since the exporter takes an empty one for its default.
fn http_url(endpoint: &Endpoint) -> Result<String, DeliveryError> {
    let text = endpoint.text().trim();
    let full = match endpoint {
        Endpoint::Exact(_) => text.to_owned(),
        Endpoint::Base(_) => format!("{}/{PATH}", text.trim_end_matches('/')),
    };
    let refused = |why: String| DeliveryError::Endpoint { endpoint: without_credentials(text), why };
    let url =
        reqwest::Url::parse(&full).map_err(|e| refused(format!("{e}; it should look like http://localhost:4318")))?;
    match (url.scheme(), url.host_str()) {
        ("http" | "https", Some(host)) if !host.is_empty() => Ok(url.into()),
        _ => Err(refused("is not an http or https URL with a host".to_owned())),
    }
}

fn grpc_endpoint(settings: &OtlpSettings) -> Result<tonic::transport::Endpoint, PushError> {
    let text = settings.endpoint.text().trim();
    let url = match (text.contains("://"), settings.insecure) {
        (true, _) => text.to_owned(),
        (false, true) => format!("http://{text}"),
        (false, false) => format!("https://{text}"),
    };
    let refused = |e: tonic::transport::Error| PushError::Exporter(format!("endpoint: {e}"));
    let secure = url.starts_with("https:");
    let endpoint = tonic::transport::Endpoint::from_shared(url).map_err(refused)?.timeout(settings.timeout);
    if secure { endpoint.tls_config(tls::for_grpc(settings)?).map_err(refused) } else { Ok(endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_follows_the_base_and_only_the_base() {
        assert_eq!(http_url(&Endpoint::Base("http://h:4318/".into())).unwrap(), "http://h:4318/v1/metrics");
        assert_eq!(http_url(&Endpoint::Exact("http://h:4318/x".into())).unwrap(), "http://h:4318/x");
    }

    #[tokio::test]
    async fn settings_that_can_never_work_are_refused_at_once() {
        for (endpoint, protocol) in [
            ("", Protocol::Grpc),
            ("http://", Protocol::Grpc),
            ("", Protocol::HttpProtobuf),
            ("nonsense \u{7f}", Protocol::Grpc),
        ] {
            let settings = OtlpSettings::new(Endpoint::Exact(endpoint.into()), protocol);
            assert!(exporter(&settings).is_err(), "{endpoint:?} {protocol:?}");
        }
        let mut settings = OtlpSettings::new(Endpoint::Exact("http://localhost:1".into()), Protocol::Grpc);
        settings.headers.push(("bad name".to_owned(), "x".to_owned()));
        assert!(exporter(&settings).is_err());
    }
}
