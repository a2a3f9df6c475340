//! The web server over a real socket.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod synthetic;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use exporter::health::Health;
use exporter::metrics::{BuildInfo, Metrics, Sources, Statistics};
use exporter::store::{Store, StoreSettings};
use exporter::web::{self, AllowedFrom, WebSettings};
use profile::Profile;
use profile::named::LocationKind::{Kernel, Native};
use profile::stats::Snapshot;
use reqwest::StatusCode;
use serde_json::Value;
use synthetic::Maker;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Agent {
    ready: Result<(), String>,
}

impl Statistics for Agent {
    fn snapshot(&self) -> Snapshot {
        Snapshot::default()
    }
}

impl Health for Agent {
    fn ready(&self) -> Result<(), String> {
        self.ready.clone()
    }
}

struct Server {
    address: SocketAddr,
    store: Arc<Store>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    fn start(allowed: AllowedFrom, ready: Result<(), String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(Store::new(StoreSettings::default()));
        let agent = Arc::new(Agent { ready });
        let sources = Sources {
            statistics: agent.clone(),
            delivery: None,
            store: Some(Arc::clone(&store)),
            aggregated: None,
            processes: None,
            build: BuildInfo::default(),
        };
        let metrics = Arc::new(Metrics::new(sources).unwrap());
        let settings = WebSettings {
            profiles_allowed_from: allowed,
            how_to_allow: "start it with --everyone".to_owned(),
            ..WebSettings::default()
        };
        // The client wants to know by whose cryptography TLS would be done. An error: it does already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async { _ = stopped.await };
        let shared = Arc::clone(&store);
        let task = tokio::spawn(async move {
            web::serve(listener, settings, shared, metrics, agent, shutdown).await.unwrap();
        });
        Self { address, store, stop: Some(stop), task }
    }

    fn local() -> Self {
        Self::start(AllowedFrom::Loopback, Ok(()))
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = reqwest::get(self.url(path)).await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    async fn json(&self, path: &str) -> Value {
        let (status, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Sends bytes as they are and reads until the server closes.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn window(epoch_s: u64, from_s: u64) -> Arc<Profile> {
    let main = ("main", "/usr/bin/app", Native);
    Maker::new(epoch_s, from_s, 5)
        .add(("app", 10), "app", &[main, ("<script>alert(1)</script>", "/usr/bin/app", Native)], 60)
        .add(("app", 10), "io", &[main, ("read", "[kernel]", Kernel)], 30)
        .add(("db", 20), "db", &[("main", "/usr/bin/db", Native)], 10)
        .build()
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn metrics_and_health_answer_everybody() {
    let server = Server::start(AllowedFrom::Loopback, Err("waiting for the first CPU".to_owned()));
    let response = reqwest::get(server.url("/metrics")).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4");
    assert!(response.text().await.unwrap().contains("profiler_samples_taken_total 0\n"));
    assert_eq!(server.get("/healthz").await, (StatusCode::OK, "ok\n".to_owned()));
    assert_eq!(
        server.get("/readyz").await,
        (StatusCode::SERVICE_UNAVAILABLE, "waiting for the first CPU\n".to_owned())
    );
    let client = reqwest::Client::new();
    for path in ["/metrics", "/healthz"] {
        let asked = client.get(server.url(path)).header("host", "node7.example").send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn profiles_need_a_host_that_nobody_else_can_own() {
    let server = Server::local();
    server.store.publish(window(now_s(), 0));
    let client = reqwest::Client::new();
    let pages = ["/", "/assets/main.js", "/api/windows", "/api/flame", "/api/profile.pb.gz", "/api/profile.folded"];
    let more = ["/debug/pprof/", "/debug/pprof/profile?seconds=1"];
    for path in pages.iter().chain(&more) {
        let ask = |host: &str| client.get(server.url(path)).header("host", host).send();
        let refused = ask("evil.example:2112").await.unwrap();
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{path}");
        let text = refused.text().await.unwrap();
        assert!(text.contains("start it with --everyone") && text.contains("localhost"), "{text}");
    }
    for path in pages {
        let asked = client.get(server.url(path)).header("host", "localhost:2112").send().await.unwrap();
        assert_eq!(asked.status(), StatusCode::OK, "{path}");
    }
    let absolute =
        format!("GET http://evil.example/ HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", server.address);
    let none = "GET / HTTP/1.0\r\n\r\n".to_owned();
    for request in [absolute, none] {
        let answer = server.raw(&request);
        assert!(answer.starts_with("HTTP/1.") && answer.contains(" 403 "), "{request}: {answer}");
    }
    let open = Server::start(AllowedFrom::Any, Ok(()));
    let asked = client.get(open.url("/")).header("host", "node7.example").send().await.unwrap();
    assert_eq!(asked.status(), StatusCode::OK);
}

#[tokio::test]
async fn every_answer_carries_the_headers_that_browsers_obey() {
    let server = Server::local();
    for path in ["/", "/assets/main.js", "/api/windows", "/metrics", "/nowhere", "/assets/nothing.js"] {
        let response = reqwest::get(server.url(path)).await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap();
        assert!(header("content-security-policy").starts_with("default-src 'none'; script-src 'self'"), "{path}");
        assert!(!header("content-security-policy").contains("unsafe"));
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("x-frame-options"), "DENY");
        assert_eq!(header("cache-control"), "no-store");
        assert!(response.headers().contains_key("content-type"), "{path}");
    }
}

#[tokio::test]
async fn the_page_loads_only_files_that_are_there() {
    let server = Server::local();
    let (_, page) = server.get("/").await;
    let mut todo: Vec<String> = links(&page);
    assert!(todo.len() >= 3, "{todo:?}");
    let mut seen = Vec::new();
    while let Some(path) = todo.pop() {
        if seen.contains(&path) {
            continue;
        }
        let (status, text) = server.get(&path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        if path.ends_with(".js") {
            assert!(
                !text.contains("innerHTML") && !text.contains("document.write") && !text.contains("eval("),
                "{path}"
            );
            todo.extend(links(&text));
        }
        seen.push(path);
    }
    assert!(seen.len() >= 9, "{seen:?}");
    let inline = page.split("<script").skip(1).all(|s| s.split('>').next().is_some_and(|tag| tag.contains("src=")));
    assert!(inline && !page.contains("style=") && !page.contains("onclick="), "no inline script or style");
    assert!(!page.contains("https://") && !page.contains("//cdn"), "nothing from elsewhere");
}

/// The paths below `/assets/` that a text names.
fn links(text: &str) -> Vec<String> {
    text.split('"').filter(|part| part.starts_with("/assets/")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_paths_that_are_not_there() {
    let server = Server::local();
    let client = reqwest::Client::new();
    assert_eq!(server.get("/nowhere").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/assets/../Cargo.toml").await.0, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/assets/..%2f..%2fCargo.toml").await.0, StatusCode::NOT_FOUND);
    let post = client.post(server.url("/metrics")).body("x").send().await.unwrap();
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(post.headers()["allow"], "GET,HEAD");
    let head = client.head(server.url("/")).send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert!(head.headers()["content-length"].to_str().unwrap().parse::<u64>().unwrap() > 1000);
    assert_eq!(head.text().await.unwrap(), "");
    let long = client.get(server.url("/metrics")).header("x-long", "a".repeat(200 << 10)).send().await.unwrap();
    assert_eq!(long.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(server.raw("nonsense\r\n\r\n").starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn the_tree_and_the_files_of_a_range_agree() {
    let server = Server::local();
    let epoch = now_s();
    let empty = server.json("/api/flame").await;
    assert_eq!((&empty["windows"], &empty["tree"]["samples"]), (&0.into(), &0.into()));
    assert_eq!(server.get("/api/profile.pb.gz").await.0, StatusCode::NOT_FOUND);
    (0..20).for_each(|i| server.store.publish(window(epoch, i * 5)));
    let windows = server.json("/api/windows").await;
    assert_eq!(windows["samples"].as_array().unwrap().len(), 20);
    // Windows 3, 4 and 5, by the list's own texts.
    let (from, to) = (windows["from_ns"][3].as_str().unwrap(), windows["to_ns"][5].as_str().unwrap());
    let range = format!("from={from}&to={to}");
    let flame = server.json(&format!("/api/flame?{range}&group=none")).await;
    assert_eq!((&flame["from_ns"], &flame["to_ns"]), (&from.into(), &to.into()));
    assert_eq!((&flame["windows"], &flame["tree"]["samples"]), (&3.into(), &300.into()));
    let strings = flame["tree"]["strings"].as_array().unwrap();
    assert!(strings.iter().any(|s| s == "<script>alert(1)</script>"), "a name is told as it is");

    let bytes = reqwest::get(server.url(&format!("/api/profile.pb.gz?{range}"))).await.unwrap().bytes().await.unwrap();
    let pprof = pprof_proto::decode(&bytes, 1 << 20).unwrap();
    assert_eq!(pprof.sample.iter().map(|s| s.value[0]).sum::<i64>(), 300);
    assert_eq!(pprof.time_nanos.to_string(), from);
    let (_, folded) = server.get(&format!("/api/profile.folded?{range}&pid=20")).await;
    let counts: u64 = folded.lines().map(|l| l.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(counts, 30, "{folded}");
    let last = server.json("/api/flame?seconds=15").await;
    assert_eq!((&last["windows"], &last["tree"]["samples"]), (&3.into(), &300.into()));
    for (bad, why) in [
        ("seconds=0", "seconds must be"),
        ("seconds=5&from=1", "not both"),
        ("from=9&to=3", "before"),
        ("pid=-1", "pid must be"),
        ("group=x", "group must be"),
    ] {
        let (status, text) = server.get(&format!("/api/flame?{bad}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
        assert!(text.contains(why), "{text}");
    }
}

#[tokio::test]
async fn containers_can_be_asked_for() {
    let server = Server::local();
    let now = now_s();
    let main = [("main", "/usr/bin/app", Native)];
    let window = |from| {
        Maker::new(now - 5, from, 5)
            .within(["shop", "cart-0", "web", "cart"])
            .add(("app", 10), "app", &main, 60)
            .within(["shop", "cart-0", "side car&<b>", "mesh"])
            .add(("proxy", 11), "proxy", &main, 30)
            .outside()
            .add(("sshd", 12), "sshd", &main, 10)
            .build()
    };
    server.store.publish(window(0));
    for (query, samples) in [
        ("", 100),
        ("namespace=shop", 90),
        ("namespace=shop&pod=cart-0&container=web", 60),
        ("service=mesh", 30),
        ("container=side%20car%26%3Cb%3E", 30),
        ("service=mesh&pid=10", 0),
        ("pod=", 100),
    ] {
        let flame = server.json(&format!("/api/flame?group=pod&{query}")).await;
        assert_eq!(
            (&flame["tree"]["samples"], &flame["tree"]["range_samples"]),
            (&samples.into(), &100.into()),
            "{query}"
        );
        assert_eq!(flame["tree"]["places"]["samples"], serde_json::json!([60, 30]));
        let bytes =
            reqwest::get(server.url(&format!("/api/profile.pb.gz?{query}"))).await.unwrap().bytes().await.unwrap();
        let pprof = pprof_proto::decode(&bytes, 1 << 20).unwrap();
        assert_eq!(pprof.sample.iter().map(|s| s.value[0]).sum::<i64>(), samples, "{query}");
    }
    let (status, text) = server.get(&format!("/api/flame?pod={}", "x".repeat(1025))).await;
    assert_eq!((status, text.as_str()), (StatusCode::BAD_REQUEST, "pod is longer than 1024 bytes\n"));
    let url = server.url("/debug/pprof/profile?seconds=1&namespace=shop&container=web");
    let publish = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.store.publish(window(5));
    };
    let (response, ()) = tokio::join!(reqwest::get(url), publish);
    let pprof = pprof_proto::decode(&response.unwrap().bytes().await.unwrap(), 1 << 20).unwrap();
    assert_eq!(pprof.sample.iter().map(|s| s.value[0]).sum::<i64>(), 60);
}

#[tokio::test]
async fn a_profile_of_the_next_second_holds_whole_windows() {
    let server = Server::local();
    for bad in ["0", "301", "-5", "abc", "1.5", ""] {
        let response = reqwest::get(server.url(&format!("/debug/pprof/profile?seconds={bad}"))).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()["x-go-pprof"], "1");
        let text = response.text().await.unwrap();
        assert_eq!(text, format!("seconds must be a whole number from 1 to 300, not {bad:?}\n"));
    }
    let epoch = now_s() - 12;
    server.store.publish(window(epoch, 0)); // over since 7 s
    server.store.publish(window(epoch, 5)); // over since 2 s
    let publish = async {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        server.store.publish(window(epoch, 10)); // ends in the middle
        server.store.publish(window(epoch, 15));
    };
    let url = server.url("/debug/pprof/profile?seconds=4");
    let (response, ()) = tokio::join!(reqwest::get(url), publish);
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "application/octet-stream");
    assert_eq!(response.headers()["content-disposition"], "attachment; filename=\"profile\"");
    let pprof = pprof_proto::decode(&response.bytes().await.unwrap(), 1 << 20).unwrap();
    assert_eq!(pprof.sample.iter().map(|s| s.value[0]).sum::<i64>(), 200);
    assert_eq!(u64::try_from(pprof.time_nanos).unwrap(), (epoch + 10) * 1_000_000_000);
    assert_eq!(pprof.duration_nanos, 10_000_000_000);
}

#[tokio::test]
async fn whoever_waits_for_a_profile_is_told_when_the_server_stops() {
    let mut server = Server::local();
    let waiting = tokio::spawn(reqwest::get(server.url("/debug/pprof/profile?seconds=300")));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    server.stop.take().unwrap().send(()).unwrap();
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.text().await.unwrap(), "the profiler is stopping\n");
    server.task.await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(60), "the five minutes were waited for");
    assert!(TcpStream::connect(server.address).is_err(), "nobody listens any more");
}

#[tokio::test]
async fn more_waiters_than_allowed_are_refused_and_others_still_answered() {
    let server = Server::local();
    let client = reqwest::Client::new();
    let url = server.url("/debug/pprof/profile?seconds=300");
    let waiting: Vec<_> = (0..16).map(|_| tokio::spawn(client.get(&url).send())).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (status, text) = server.get("/debug/pprof/profile?seconds=1").await;
    assert_eq!((status, text.contains("too many")), (StatusCode::SERVICE_UNAVAILABLE, true));
    assert_eq!(server.get("/metrics").await.0, StatusCode::OK);
    waiting.iter().for_each(JoinHandle::abort);
    drop(client);
    // Their places are free again as soon as they are gone.
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.store.publish(window(now_s(), 1));
    assert_eq!(server.get("/debug/pprof/profile?seconds=1").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_opens_many_connections_is_cut_off_and_gets_on_when_it_closes_them() {
    let server = Server::local();
    let connect = || TcpStream::connect(server.address).unwrap();
    let idle: Vec<TcpStream> = (0..48).map(|_| connect()).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(reqwest::get(server.url("/healthz")).await.is_err(), "the 49th");
    drop(idle);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(server.get("/healthz").await.0, StatusCode::OK);
}
