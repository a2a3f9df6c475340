//! Delivery over HTTP against a server that answers as it is told.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::fixture::sample;
use common::http::{Act, Script, serve};
use common::tls::Authority;
use common::{Sender, settings};
use exporter::delivery::{Compression, Delivery, DeliverySettings, Endpoint, OtlpSettings, Protocol};
use exporter::otlp::ResourceSettings;
use opentelemetry_proto::tonic::collector::profiles::v1development::{
    ExportProfilesPartialSuccess, ExportProfilesServiceRequest, ExportProfilesServiceResponse,
};
use profile::{DropReason, Ledger};
use prost::Message;

const PROTOBUF: &str = "content-type: application/x-protobuf";

fn http(address: std::net::SocketAddr) -> OtlpSettings {
    settings(format!("http://{address}"), Protocol::HttpProtobuf)
}

fn partial(rejected_profiles: i64, error_message: &str) -> Vec<u8> {
    let partial = ExportProfilesPartialSuccess { rejected_profiles, error_message: error_message.into() };
    ExportProfilesServiceResponse { partial_success: Some(partial) }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn arrives_whole_and_conforming() {
    for compression in [Compression::None, Compression::Gzip] {
        let script = Script::default();
        let mut otlp = http(serve(script.clone(), None).await);
        otlp.compression = compression;
        otlp.headers = vec![("authorization".into(), "Bearer s3cret".into())];
        let sender = Sender::new(otlp);
        sender.push(sample(0));
        sender.settled().await;
        let seen = script.seen().remove(0);
        assert!(seen.head.starts_with("post /v1development/profiles http/1.1\r\n"), "{}", seen.head);
        let agent = format!("user-agent: profiler/{}\r\n", env!("CARGO_PKG_VERSION"));
        for want in [PROTOBUF, "authorization: bearer s3cret", agent.trim_end()] {
            assert!(seen.head.contains(want), "{want}\n{}", seen.head);
        }
        let mut body = Vec::new();
        if compression == Compression::Gzip {
            assert!(seen.head.contains("content-encoding: gzip"));
            flate2::read::GzDecoder::new(seen.body.as_slice()).read_to_end(&mut body).unwrap();
        } else {
            body = seen.body;
        }
        let report = profcheck::check_request(&ExportProfilesServiceRequest::decode(body.as_slice()).unwrap());
        assert!(report.is_clean(), "{report}");
        assert_eq!((report.samples, sender.exported(), sender.count("200")), (100, 100, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_for_profiles_is_used_as_it_is() {
    let script = Script::default();
    let address = serve(script.clone(), None).await;
    let mut otlp = http(address);
    otlp.endpoint = Endpoint::Exact(format!("http://{address}/my/path?x=1"));
    let sender = Sender::new(otlp);
    sender.push(sample(0));
    sender.settled().await;
    assert!(script.seen()[0].head.starts_with("post /my/path?x=1 "), "{}", script.seen()[0].head);
}

#[tokio::test(flavor = "multi_thread")]
async fn waits_as_long_as_the_server_asks() {
    let script = Script::of([Act::Answer(503, vec!["retry-after: 1"], b"busy".to_vec())]);
    let sender = Sender::new(http(serve(script.clone(), None).await));
    let start = Instant::now();
    sender.push(sample(0));
    sender.settled().await;
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let seen = script.seen();
    assert_eq!((sender.exported(), seen.len()), (100, 2));
    assert_eq!(seen[0].body, seen[1].body);
    assert_eq!((sender.count("503"), sender.count("200")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_what_may_pass_and_no_more() {
    let status = tonic_types::Status { code: 3, message: "period is zero".into(), details: vec![] }.encode_to_vec();
    let script = Script::of([
        Act::Answer(429, vec![], vec![]),
        Act::Answer(502, vec![], vec![]),
        Act::Answer(504, vec![], vec![]),
        Act::Answer(500, vec![], b"{\"message\":\"resource_exhausted: rate limit\"}".to_vec()),
        Act::Close,
        Act::Answer(202, vec![], b"fine, in plain words".to_vec()),
        Act::Answer(500, vec![], b"oops".to_vec()),
        Act::Answer(413, vec![], vec![]),
        Act::Answer(307, vec!["location: http://127.0.0.1:1/"], vec![]),
        Act::Answer(400, vec![PROTOBUF], status),
    ]);
    let sender = Sender::new(http(serve(script.clone(), None).await));
    for n in 0..5 {
        sender.push(sample(n));
    }
    sender.settled().await;
    assert_eq!(script.seen().len(), 10);
    assert_eq!((sender.exported(), sender.dropped(DropReason::Refused)), (100, 400));
    assert_eq!(sender.delivery.stats().last_error, "HTTP 400: period is zero");
    assert_eq!(sender.count("transport"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn partial_success_is_not_sent_again() {
    let script = Script::of([Act::Answer(200, vec![PROTOBUF], partial(2, "no"))]);
    let sender = Sender::new(http(serve(script.clone(), None).await));
    sender.push(sample(0));
    sender.settled().await;
    assert_eq!((sender.exported(), sender.dropped(DropReason::Rejected), script.seen().len()), (3, 97, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_costs_a_timeout() {
    let script = Script::of([Act::Hang]);
    let mut otlp = http(serve(script.clone(), None).await);
    otlp.timeout = Duration::from_secs(1);
    let sender = Sender::new(otlp);
    sender.push(sample(0));
    sender.settled().await;
    assert_eq!((sender.exported(), sender.count("timeout"), script.seen().len()), (100, 1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_large_is_not_read() {
    let script = Script::of([Act::Answer(200, vec![PROTOBUF], vec![b'x'; 3 << 20])]);
    let sender = Sender::new(http(serve(script.clone(), None).await));
    sender.push(sample(0));
    sender.push(sample(1));
    sender.settled().await;
    assert_eq!((sender.exported(), sender.dropped(DropReason::Refused), sender.count("response")), (100, 100, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absent_collector_is_not_waited_for_at_the_end() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sender = Sender::new(http(address));
    sender.push(sample(0));
    sender.until(|s| s.count("connect") >= 2).await;
    sender.delivery.flush(Duration::from_millis(200)).await;
    assert_eq!((sender.dropped(DropReason::Shutdown), sender.held()), (100, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_given_authority_only() {
    let (good, other) = (Authority::new(), Authority::new());
    let address = serve(Script::default(), Some(good.http_server(true))).await;
    let with = |ca: &Authority, client: Option<&Authority>| {
        let mut otlp = settings(format!("https://{address}"), Protocol::HttpProtobuf);
        otlp.ca = Some(ca.ca());
        if let Some((certificate, key)) = client.map(Authority::client) {
            (otlp.client_certificate, otlp.client_key) = (Some(certificate), Some(key));
        }
        otlp
    };
    for (ca, client, say) in [(&other, Some(&good), "certificate"), (&good, None, "")] {
        let sender = Sender::new(with(ca, client));
        sender.push(sample(0));
        sender.until(|s| s.delivery.stats().consecutive_failures >= 2).await;
        let error = sender.delivery.stats().last_error;
        assert!(error.contains(say), "{error}");
        assert_eq!(sender.exported(), 0);
    }
    let sender = Sender::new(with(&good, Some(&good)));
    sender.push(sample(0));
    sender.settled().await;
    assert_eq!(sender.exported(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_can_never_work_are_told_at_once() {
    let authority = Authority::new();
    let garbage = authority.dir.path().join("garbage.pem");
    std::fs::write(&garbage, "not a certificate").unwrap();
    let (certificate, key) = authority.client();
    let base = |endpoint: &str| settings(endpoint.into(), Protocol::HttpProtobuf);
    let mut cases = vec![
        ("host", base("http://")),
        ("neither http nor https", base("ftp://host")),
        ("cannot read /nowhere", OtlpSettings { ca: Some("/nowhere".into()), ..base("https://host") }),
        ("holds no certificate", OtlpSettings { ca: Some(garbage.clone()), ..base("https://host") }),
        ("private key", OtlpSettings { client_certificate: Some(certificate.clone()), ..base("https://host") }),
        ("certificate", OtlpSettings { client_key: Some(key), ..base("https://host") }),
        (
            "garbage.pem",
            OtlpSettings { client_certificate: Some(certificate), client_key: Some(garbage), ..base("https://host") },
        ),
        ("trace-bin", OtlpSettings { headers: vec![("trace-bin".into(), "x".into())], ..base("http://host") }),
        ("timeout", OtlpSettings { timeout: Duration::ZERO, ..base("http://host") }),
    ];
    for (_, otlp) in &mut cases.clone() {
        otlp.protocol = Protocol::Grpc;
        cases.push(("", otlp.clone()));
    }
    for (want, otlp) in cases {
        let shown = format!("{otlp:?}");
        let result = Delivery::start(
            otlp,
            ResourceSettings::default(),
            DeliverySettings::default(),
            Ledger::default().into(),
            &tokio::runtime::Handle::current(),
        );
        let error = result.err().unwrap_or_else(|| panic!("accepted {shown}")).to_string();
        assert!(error.contains(want), "{want:?} is not in {error:?}");
        assert!(!error.contains('\n'), "{error}");
    }
}
