//! Metrics pushed to a receiver over gRPC and over HTTP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use exporter::delivery::{Compression, Endpoint, OtlpSettings, Protocol};
use exporter::metrics::{BuildInfo, Metrics, PushSettings, Sources, Statistics};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{metric::Data, number_data_point};
use profile::ledger::{KernelCounts, Ledger};
use profile::stats::Snapshot;
use prost::Message;
use tokio::runtime::Handle;

/// Its numbers change with every reading; they balance only if all are of one.
#[derive(Default)]
struct Changing {
    readings: AtomicU64,
    ledger: Ledger,
}

impl Statistics for Changing {
    fn snapshot(&self) -> Snapshot {
        let n = self.readings.fetch_add(1, Ordering::SeqCst) + 1;
        self.ledger.read(7);
        self.ledger.windowed(5);
        self.ledger.closed(3);
        self.ledger.named(2);
        self.ledger.exported(1);
        let kernel = KernelCounts { taken: 10 * n, ..KernelCounts::default() };
        Snapshot { ledger: self.ledger.snapshot(|| kernel), ..Snapshot::default() }
    }
}

#[derive(Clone, Default)]
struct Received(Arc<Mutex<Vec<(ExportMetricsServiceRequest, String)>>>);

impl Received {
    fn put(&self, request: ExportMetricsServiceRequest, token: String) {
        self.0.lock().unwrap().push((request, token));
    }

    fn take(&self) -> Vec<(ExportMetricsServiceRequest, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

#[tonic::async_trait]
impl MetricsService for Received {
    async fn export(
        &self,
        request: tonic::Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, tonic::Status> {
        let token = request.metadata().get("x-token").map(|t| t.to_str().unwrap().to_owned()).unwrap_or_default();
        self.put(request.into_inner(), token);
        Ok(tonic::Response::new(ExportMetricsServiceResponse::default()))
    }
}

async fn over_http(State(received): State<Received>, headers: HeaderMap, body: Bytes) {
    let mut bytes = Vec::new();
    if headers.get("content-encoding").is_some_and(|e| e == "gzip") {
        flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut bytes).unwrap();
    } else {
        bytes.extend_from_slice(&body);
    }
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let token = headers.get("x-token").map(|t| t.to_str().unwrap().to_owned()).unwrap_or_default();
    received.put(ExportMetricsServiceRequest::decode(&bytes[..]).unwrap(), token);
}

async fn receiver(protocol: Protocol, received: Received) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    match protocol {
        Protocol::HttpProtobuf => {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let router = Router::new().route("/v1/metrics", post(over_http)).with_state(received);
            tokio::spawn(async move { axum::serve(listener, router).await });
        }
        Protocol::Grpc => {
            // Between this and the server's own binding nobody else gets the port: the kernel hands out others first.
            drop(listener);
            let service =
                MetricsServiceServer::new(received).accept_compressed(tonic::codec::CompressionEncoding::Gzip);
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve(address));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    address
}

fn metrics() -> Metrics {
    let build = BuildInfo { version: "1.2.3".to_owned(), revision: String::new() };
    Metrics::new(Sources {
        statistics: Arc::new(Changing::default()),
        delivery: None,
        store: None,
        aggregated: None,
        processes: None,
        build,
    })
    .unwrap()
}

fn settings(address: SocketAddr, protocol: Protocol, compression: Compression) -> PushSettings {
    let mut otlp = OtlpSettings::new(Endpoint::Base(format!("http://{address}")), protocol);
    otlp.headers.push(("X-Token".to_owned(), "secret".to_owned()));
    otlp.compression = compression;
    otlp.timeout = Duration::from_secs(5);
    PushSettings {
        otlp,
        interval: Duration::from_secs(1),
        resource: vec![("service.name".to_owned(), "profiler".to_owned()), ("host.name".to_owned(), "n1".to_owned())],
    }
}

/// The sum of an instrument's points, as whole numbers.
fn sum(request: &ExportMetricsServiceRequest, name: &str) -> i64 {
    let metrics = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
    let found = metrics.into_iter().find(|m| m.name == name).unwrap_or_else(|| panic!("no {name}"));
    let Some(Data::Sum(data)) = &found.data else { panic!("{name} is not a sum") };
    assert_eq!(data.aggregation_temporality, 2, "cumulative");
    let value = |v: &Option<number_data_point::Value>| match v {
        Some(number_data_point::Value::AsInt(n)) => *n,
        other => panic!("{name}: {other:?}"),
    };
    data.data_points.iter().map(|p| value(&p.value)).sum()
}

async fn pushes_balance(protocol: Protocol, compression: Compression) {
    let received = Received::default();
    let address = receiver(protocol, received.clone()).await;
    let metrics = metrics();
    let push = metrics.push(settings(address, protocol, compression), &Handle::current()).unwrap();
    for _ in 0..12 {
        // Scrapes in between take readings of their own.
        metrics.render().unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    push.shutdown(Duration::from_secs(5)).await;
    let requests = received.take();
    assert!(requests.len() >= 3, "two beats and the last: {}", requests.len());
    for (request, token) in &requests {
        assert_eq!(token, "secret");
        let taken = sum(request, "profiler.samples.taken");
        let rest = sum(request, "profiler.samples.exported")
            + sum(request, "profiler.samples.held")
            + sum(request, "profiler.samples.dropped");
        assert_eq!(taken, rest);
        let resource = request.resource_metrics[0].resource.as_ref().unwrap();
        let name = resource.attributes.iter().find(|a| a.key == "service.name").unwrap();
        assert_eq!(name.value.as_ref().unwrap().value, Some(Value::StringValue("profiler".to_owned())));
    }
    let text = metrics.render().unwrap();
    let told = format!("profiler_metrics_pushes_total{{result=\"accepted\"}} {}\n", requests.len());
    assert!(text.contains(&told), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_balance_over_grpc() {
    pushes_balance(Protocol::Grpc, Compression::Gzip).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_balance_over_http() {
    pushes_balance(Protocol::HttpProtobuf, Compression::Gzip).await;
    pushes_balance(Protocol::HttpProtobuf, Compression::None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_collector_is_a_counter() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let metrics = metrics();
        let push = metrics.push(settings(address, protocol, Compression::None), &Handle::current()).unwrap();
        let started = std::time::Instant::now();
        push.shutdown(Duration::from_secs(60)).await;
        assert!(started.elapsed() < Duration::from_secs(60), "the last push does not wait for ever");
        let text = metrics.render().unwrap();
        assert!(text.contains("profiler_metrics_pushes_total{result=\"failed\"} 1\n"), "{protocol:?}");
    }
}
