//! Delivery over gRPC against a server that answers as it is told.

mod common;

use std::time::{Duration, Instant};

use common::fixture::{Builder, sample};
use common::grpc::{Act, Script, serve, serve_on};
use common::tls::Authority;
use common::{Sender, eager, settings};
use exporter::delivery::{Compression, DeliverySettings, OtlpSettings, Protocol};
use profile::DropReason;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

fn grpc(address: std::net::SocketAddr) -> OtlpSettings {
    settings(format!("http://{address}"), Protocol::Grpc)
}

#[tokio::test(flavor = "multi_thread")]
async fn arrives_whole_and_conforming() {
    let script = Script::default();
    let address = serve(script.clone(), None).await;
    let mut otlp = grpc(address);
    otlp.compression = Compression::Gzip;
    otlp.headers = vec![("Authorization".into(), "Bearer s3cret".into()), ("x-tenant".into(), "a".into())];
    let sender = Sender::with(otlp, DeliverySettings { interval: Duration::from_secs(15), ..eager() });
    for n in 0..6 {
        sender.push(sample(n));
    }
    sender.settled().await;
    let requests = script.requests();
    assert_eq!(requests.len(), 2, "three windows are one request");
    for request in &requests {
        let report = profcheck::check_request(request);
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.samples, 300);
    }
    let metadata = script.metadata(0);
    assert_eq!(metadata.get("authorization").unwrap(), "Bearer s3cret");
    assert_eq!(metadata.get("x-tenant").unwrap(), "a");
    assert_eq!(metadata.get("grpc-encoding").unwrap(), "gzip");
    // The Collector answers in gzip where it was asked in gzip.
    assert!(metadata.get("grpc-accept-encoding").unwrap().to_str().unwrap().contains("gzip"));
    let agent = metadata.get("user-agent").unwrap().to_str().unwrap();
    assert!(agent.starts_with(&format!("profiler/{}", env!("CARGO_PKG_VERSION"))), "{agent}");
    let stats = sender.delivery.stats();
    assert_eq!((sender.exported(), sender.count("OK"), stats.retries, stats.queue_bytes), (600, 2, 0, 0));
    assert!(stats.bytes > 1000 && stats.last_success_unix_ns > 0 && stats.last_error_unix_ns == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_as_long_as_the_server_asks() {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(1)));
    let busy = Status::with_error_details(Code::ResourceExhausted, "slow down", details);
    let script = Script::of([Act::Fail(busy)]);
    let sender = Sender::new(grpc(serve(script.clone(), None).await));
    let start = Instant::now();
    sender.push(sample(0));
    sender.settled().await;
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!((sender.exported(), script.requests().len()), (100, 2));
    assert_eq!(script.requests()[0], script.requests()[1], "the same message, to the letter");
    assert_eq!((sender.count("RESOURCE_EXHAUSTED"), sender.count("OK"), sender.delivery.stats().retries), (1, 1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_what_may_pass_and_no_more() {
    let script = Script::of([
        Act::Fail(Status::unavailable("restarting")),
        Act::Fail(Status::unknown("push: resource_exhausted: too much")),
        Act::Accept,
        Act::Fail(Status::resource_exhausted("message larger than max")),
        Act::Fail(Status::unauthenticated("no token")),
        Act::Accept,
    ]);
    let sender = Sender::new(grpc(serve(script.clone(), None).await));
    for n in 0..4 {
        sender.push(sample(n));
    }
    sender.settled().await;
    assert_eq!(script.requests().len(), 6);
    assert_eq!((sender.exported(), sender.dropped(DropReason::Refused)), (200, 200));
    assert_eq!(sender.delivery.stats().last_error, "UNAUTHENTICATED: no token");
    assert_eq!(sender.delivery.stats().consecutive_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_success_is_not_sent_again() {
    let script = Script::of([Act::Partial(1, "one is broken".into()), Act::Partial(0, "a warning".into())]);
    let sender = Sender::new(grpc(serve(script.clone(), None).await));
    sender.push(sample(0));
    sender.push(sample(1));
    sender.settled().await;
    assert_eq!(script.requests().len(), 2);
    // Three profiles of 90, 7 and 3 samples: which one was rejected is not said.
    assert_eq!((sender.exported(), sender.dropped(DropReason::Rejected)), (110, 90));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_a_timeout() {
    let script = Script::of([Act::Hang]);
    let mut otlp = grpc(serve(script.clone(), None).await);
    otlp.timeout = Duration::from_secs(1);
    let sender = Sender::new(otlp);
    sender.push(sample(0));
    sender.settled().await;
    // The server knows our deadline and may end the call a moment before we do.
    let timeouts: u64 = ["timeout", "CANCELLED", "DEADLINE_EXCEEDED"].iter().map(|code| sender.count(code)).sum();
    assert_eq!((sender.exported(), timeouts, script.requests().len()), (100, 1, 2), "{:?}", sender.delivery.stats());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_collector_is_waited_for() {
    // A port that is free now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sender = Sender::new(grpc(address));
    sender.push(sample(0));
    sender.until(|s| s.count("connect") >= 3).await;
    assert_eq!((sender.exported(), sender.held()), (0, 100));
    let stats = sender.delivery.stats();
    assert!(stats.consecutive_failures >= 3 && stats.queue_samples == 100 && stats.queue_requests == 1);
    assert!(stats.last_error.contains("refused"), "{}", stats.last_error);
    let script = Script::default();
    serve_on(std::net::TcpListener::bind(address).unwrap(), script.clone(), None).await;
    sender.settled().await;
    assert_eq!((sender.exported(), script.requests().len()), (100, 1));
    assert_eq!(sender.delivery.stats().consecutive_failures, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usual_mistakes_are_named() {
    let plain_grpc = serve(Script::default(), None).await;
    let plain_http = common::http::serve(common::http::Script::default(), None).await;
    let authority = Authority::new();
    for (endpoint, protocol, want) in [
        (format!("http://{plain_http}"), Protocol::Grpc, "is this a gRPC port?"),
        (format!("http://{plain_grpc}"), Protocol::HttpProtobuf, "is this an HTTP port?"),
        (format!("https://{plain_grpc}"), Protocol::Grpc, "does not speak TLS"),
        (format!("https://{plain_grpc}"), Protocol::HttpProtobuf, "does not speak TLS"),
    ] {
        let sender = Sender::new(OtlpSettings { ca: Some(authority.ca()), ..settings(endpoint.clone(), protocol) });
        sender.push(sample(0));
        // How a wrong connection breaks differs from try to try.
        sender.until(|s| s.delivery.stats().last_error.contains(want)).await;
        assert_eq!((sender.exported(), sender.held()), (0, 100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_is_not_read() {
    let script = Script::of([Act::Partial(0, "x".repeat(3 << 20))]);
    let sender = Sender::new(grpc(serve(script.clone(), None).await));
    sender.push(sample(0));
    sender.push(sample(1));
    sender.settled().await;
    assert_eq!((sender.exported(), sender.dropped(DropReason::Refused), sender.count("response")), (100, 100, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_given_authority_only() {
    let (good, other) = (Authority::new(), Authority::new());
    let script = Script::default();
    let address = serve(script.clone(), Some(good.grpc_server(false))).await;
    let with = |ca: &Authority| {
        let mut otlp = settings(format!("https://{address}"), Protocol::Grpc);
        otlp.ca = Some(ca.ca());
        otlp
    };
    let wrong = Sender::new(with(&other));
    wrong.push(sample(0));
    wrong.until(|s| s.count("connect") >= 2).await;
    let error = wrong.delivery.stats().last_error;
    assert!(error.contains("certificate"), "{error}");
    assert_eq!((wrong.exported(), script.requests().len()), (0, 0));
    let right = Sender::new(with(&good));
    right.push(sample(0));
    right.settled().await;
    assert_eq!(right.exported(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_shows_the_certificate() {
    let authority = Authority::new();
    let address = serve(Script::default(), Some(authority.grpc_server(true))).await;
    // Without a scheme, TLS is meant unless said otherwise.
    let mut otlp = settings(address.to_string(), Protocol::Grpc);
    otlp.ca = Some(authority.ca());
    let without = Sender::new(otlp.clone());
    without.push(sample(0));
    without.until(|s| s.delivery.stats().consecutive_failures >= 2).await;
    assert_eq!(without.exported(), 0);
    let (certificate, key) = authority.client();
    (otlp.client_certificate, otlp.client_key) = (Some(certificate), Some(key));
    let with = Sender::new(otlp);
    with.push(sample(0));
    with.settled().await;
    assert_eq!(with.exported(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn flushing_sends_the_partial_interval() {
    let script = Script::default();
    let sender = Sender::with(
        grpc(serve(script.clone(), None).await),
        DeliverySettings { interval: Duration::from_secs(15), ..eager() },
    );
    sender.push(sample(0));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(script.requests().len(), 0);
    sender.delivery.flush(Duration::from_secs(10)).await;
    assert_eq!((sender.exported(), sender.held()), (100, 0));
    sender.push(sample(1));
    assert_eq!((sender.dropped(DropReason::Shutdown), sender.held()), (100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn flushing_ends_in_time_and_counts_the_rest() {
    let script = Script::of([Act::Accept, Act::Hang]);
    let sender = Sender::new(grpc(serve(script.clone(), None).await));
    for n in 0..3 {
        sender.push(sample(n));
    }
    let start = Instant::now();
    sender.delivery.flush(Duration::from_secs(2)).await;
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert_eq!((sender.exported(), sender.dropped(DropReason::Shutdown), sender.held()), (100, 200, 0));
    assert_eq!(sender.delivery.stats().queue_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_drops_the_oldest() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = DeliverySettings { queue_bytes: 20_000, max_request_bytes: 10_000, ..eager() };
    let sender = Sender::with(grpc(address), settings);
    for n in 0..100 {
        sender.push(Builder::window(n).row(1, "/bin/a", &[&format!("f{n}")], 1).build());
        assert!(sender.delivery.stats().queue_bytes <= 20_000);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let dropped = sender.dropped(DropReason::QueueFull);
    assert!(dropped > 50, "{dropped}");
    assert_eq!(sender.held(), 100 - i64::try_from(dropped).unwrap());
    let script = Script::default();
    serve_on(std::net::TcpListener::bind(address).unwrap(), script.clone(), None).await;
    sender.settled().await;
    assert_eq!(sender.exported(), 100 - dropped);
    let names: Vec<_> = script.requests().iter().flat_map(|r| r.dictionary.clone().unwrap().string_table).collect();
    assert!(names.contains(&"f99".to_owned()) && !names.contains(&"f10".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_a_request_is_split() {
    let script = Script::default();
    let settings = DeliverySettings { max_request_bytes: 4096, ..eager() };
    let sender = Sender::with(grpc(serve(script.clone(), None).await), settings);
    let mut builder = Builder::window(0);
    for i in 0..300u32 {
        builder = builder.row(i % 5, "/bin/a", &[&format!("a_function_{i}"), "main"], 2);
    }
    builder = builder.row(1, "/bin/a", &[&"x".repeat(9000)], 7);
    sender.push(builder.build());
    sender.settled().await;
    assert_eq!((sender.exported(), sender.dropped(DropReason::TooLarge)), (600, 7));
    let requests = script.requests();
    assert!(requests.len() > 5);
    for request in &requests {
        assert!(prost::Message::encoded_len(request) <= 4096);
        assert!(profcheck::check_request(request).is_clean());
    }
}
