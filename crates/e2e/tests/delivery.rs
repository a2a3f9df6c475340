//! What is sent keeps the rules, and goes where it was told to, however the receiver behaves.
#![cfg(feature = "live")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::Setup;
use e2e::collector::{Collector, TOKEN};
use e2e::otlp::{self, Received};
use e2e::process::{Running, Start, wait_for};
use e2e::pyroscope::Pyroscope;
use e2e::sink::{Answer, Request, Sink};
use e2e::{figure, paths, pprof};

fn busy(folder: &Path) -> Result<Running> {
    Start::new("busy", paths::workload("deep")?, folder).args(["300"]).start()
}

/// Requests for profiles (metrics may come to the same place).
fn exports(sink: &Sink) -> Vec<Request> {
    sink.requests().into_iter().filter(|r| r.path == "/v1development/profiles").collect()
}

fn received(requests: &[Request]) -> Result<Vec<Received>> {
    let mut all = Vec::new();
    for request in requests {
        all.extend(otlp::profiles(&otlp::data(request.profiles()?))?);
    }
    Ok(all)
}

#[test]
fn every_message_conforms() -> Result<()> {
    let folder = paths::scratch("conformance")?;
    let _busy = busy(&folder)?;
    let plain = Sink::start([])?;
    let rich = Sink::start([])?;
    let first = Setup::new("plain", &folder)?.otlp("http/protobuf", &plain.url());
    let first = first.env("OTEL_EXPORTER_OTLP_HEADERS", "x-test=a%20b").start()?;
    let second = Setup::new("rich", &folder)?.otlp("http/protobuf", &rich.url());
    let second = [
        "PROFILER_EXPORT_PID",
        "PROFILER_EXPORT_PAYLOAD",
        "PROFILER_EXPORT_SAMPLE_ATTRIBUTES",
        "PROFILER_TIMESTAMPS",
        "PROFILER_THREADS",
    ]
    .iter()
    .fold(second, |setup, option| setup.env(option, "true"))
    .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,team=a%2Cb")
    .start()?;
    wait_for("some exports", Duration::from_secs(40), || {
        Ok((exports(&plain).len() >= 3 && exports(&rich).len() >= 3).then_some(()))
    })?;
    first.stop()?.success()?;
    second.stop()?.success()?;
    for (name, sink) in [("plain", &plain), ("rich", &rich)] {
        let requests = exports(sink);
        let mut samples = 0;
        for (i, request) in requests.iter().enumerate() {
            let message = request.profiles()?;
            let report = profcheck::check_request(&message);
            ensure!(report.conforms(), "{name}, request {i}: {report}");
            for warning in report.warnings.iter().take(3) {
                figure(format!("{name}, request {i}: warning: {warning}"));
            }
            samples += report.samples;
            ensure!(request.header("content-type") == Some("application/x-protobuf"), "{:?}", request.headers);
            ensure!(
                request.header("user-agent").is_some_and(|u| u.to_lowercase().contains("profiler")),
                "{:?}",
                request.headers
            );
        }
        figure(format!("{name}: {} requests, {samples} samples conform", requests.len()));
    }
    let request = exports(&plain).pop().context("a request")?;
    ensure!(request.header("x-test") == Some("a b"), "headers: {:?}", request.headers);
    ensure!(exports(&rich).iter().all(|r| r.header("content-encoding") == Some("gzip")), "not compressed");
    // Plain: no attributes on samples, no two profiles of one resource in one millisecond.
    let profiles = received(&exports(&plain))?;
    ensure!(
        profiles.iter().flat_map(|p| &p.profile.samples).all(|s| s.attribute_indices.is_empty()),
        "attributes on samples"
    );
    let mut keys: Vec<_> =
        profiles.iter().map(|p| (p.resource.clone(), p.profile.time_unix_nano / 1_000_000)).collect();
    let all = keys.len();
    keys.sort();
    keys.dedup();
    ensure!(keys.len() == all, "{} of {all} profiles share resource and millisecond", all - keys.len());
    let deep = profiles.iter().find(|p| p.stacks.with("deep_frame") > 0).context("no profile of the workload")?;
    for key in ["service.name", "process.executable.name", "process.executable.path", "host.name", "os.type"] {
        ensure!(deep.resource.contains_key(key), "no {key}: {:?}", deep.resource);
    }
    ensure!(deep.resource["service.name"] == "unknown_service:deep", "{:?}", deep.resource);
    ensure!(!deep.resource.contains_key("process.pid"), "{:?}", deep.resource);
    // Rich: what was asked for.
    let profiles = received(&exports(&rich))?;
    let deep = profiles.iter().find(|p| p.stacks.with("deep_frame") > 0).context("no profile of the workload")?;
    ensure!(deep.resource.contains_key("process.pid") && deep.resource["team"] == "a,b", "{:?}", deep.resource);
    ensure!(deep.profile.samples.iter().any(|s| !s.timestamps_unix_nano.is_empty()), "no timestamps");
    ensure!(
        deep.profile.original_payload_format.to_lowercase().contains("pprof"),
        "{:?}",
        deep.profile.original_payload_format
    );
    let payload = pprof::stacks(&pprof::read(&deep.profile.original_payload)?)?;
    ensure!(payload.total() == deep.stacks.total(), "payload {}, profile {}", payload.total(), deep.stacks.total());
    for message in exports(&rich).iter().map(Request::profiles) {
        let message = message?;
        let dictionary = message.dictionary.as_ref().context("a dictionary")?;
        for location in dictionary.location_table.iter().skip(1) {
            let attributes = otlp::referred(dictionary, &location.attribute_indices)?;
            ensure!(attributes.contains_key("profile.frame.type") || location.mapping_index == 0, "{location:?}");
        }
        let ids = dictionary.mapping_table.iter().map(|m| otlp::referred(dictionary, &m.attribute_indices));
        let ids: Vec<_> = ids.collect::<Result<Vec<_>>>()?;
        ensure!(
            ids.iter().any(|a| a.keys().any(|k| k.starts_with("process.executable.build_id."))),
            "no build ids: {ids:?}"
        );
    }
    Ok(())
}

#[test]
fn a_receiver_that_refuses_is_tried_again_or_counted() -> Result<()> {
    let folder = paths::scratch("refusals")?;
    let _busy = busy(&folder)?;
    let sink = Sink::start([
        Answer::Status(503, Some(1)),
        Answer::Status(429, Some(1)),
        Answer::Accept,
        Answer::Status(400, None),
    ])?;
    let agent = Setup::new("agent", &folder)?.otlp("http/protobuf", &sink.url()).start()?;
    wait_for("six requests", Duration::from_secs(60), || Ok((exports(&sink).len() >= 6).then_some(())))?;
    let scrape = agent.scrape()?;
    let ledger = scrape.ledger()?;
    ledger.check()?;
    let requests = exports(&sink);
    // The first window came three times, the same bytes each time, and counts once.
    ensure!(
        requests[0].body == requests[1].body && requests[1].body == requests[2].body,
        "a retry sends something else"
    );
    let sent: Vec<u64> = requests
        .iter()
        .map(|r| Ok(received(std::slice::from_ref(r))?.iter().map(|p| p.stacks.total()).sum()))
        .collect::<Result<_>>()?;
    let refused = scrape.with("profiler_samples_dropped_total", "reason", "refused");
    figure(format!("sent {sent:?}, refused {refused}, {ledger:?}"));
    ensure!(refused == sent[3] as f64, "refused {refused}, the request had {}", sent[3]);
    let accepted: u64 = sent.iter().enumerate().filter(|(i, _)| ![0, 1, 3].contains(i)).map(|(_, n)| n).sum();
    let end = agent.stop()?.success()?;
    ensure!(accepted > 0 && !end.log.is_empty(), "nothing was accepted");
    Ok(())
}

#[test]
fn requests_are_split_and_lose_nothing() -> Result<()> {
    let folder = paths::scratch("split-requests")?;
    let _busy = busy(&folder)?;
    // Programs that start have many different stacks; two loops of them, so that a quiet machine has them as well.
    let script = "while :; do python3 -c 'import asyncio, decimal, json, unittest'; git --version; perl -e 1; done";
    let storm = |name| Start::new(name, "/bin/sh", &folder).args(["-c", script]).start();
    let _storms = (storm("storm-1")?, storm("storm-2")?);
    let (small, large) = (Sink::start([])?, Sink::start([])?);
    for (name, sink, request, limit) in [("small", &small, Some("64KiB"), 64 << 10), ("large", &large, None, 4 << 20)] {
        let setup = Setup::new(name, &folder)?.otlp("http/protobuf", &sink.url()).env("PROFILER_TIMESTAMPS", "true");
        let setup = setup.env("PROFILER_EXPORT_PAYLOAD", "true").env("PROFILER_FREQUENCY", "199");
        let setup =
            if let Some(bytes) = request { setup.env("PROFILER_EXPORT_MAX_REQUEST_BYTES", bytes) } else { setup };
        let agent = setup.start()?;
        agent.pprof(10)?;
        let end = agent.stop()?.success()?;
        let line = end.log.lines().rev().find(|l| l.contains("final ledger")).context("no final line")?;
        let value: serde_json::Value = serde_json::from_str(line)?;
        let requests = exports(sink);
        let sizes: Vec<usize> = requests.iter().map(|r| r.body.len()).collect();
        let sent: u64 = received(&requests)?.iter().map(|p| p.stacks.total()).sum();
        let biggest = sizes.iter().copied().max().unwrap_or(0);
        figure(format!("{name}: {} requests, the biggest of {biggest} bytes, {sent} samples", sizes.len()));
        ensure!(biggest < limit, "{name}: {biggest} bytes");
        let term = |key: &str| value[key].as_u64().with_context(|| format!("{key} in {line}"));
        ensure!(
            sent == term("exported")? && term("exported")? + term("dropped")? == term("taken")?,
            "{name}: sent {sent}, {line}"
        );
        ensure!(term("dropped")? == 0, "{name}: {line}");
        for request in &requests {
            let report = profcheck::check_request(&request.profiles()?);
            ensure!(report.conforms(), "{name}: {report}");
        }
    }
    let largest = exports(&large).iter().map(|r| r.body.len()).max().unwrap_or(0);
    ensure!(largest > 64 << 10, "the load was too small to be split: {largest} bytes");
    ensure!(exports(&small).len() > exports(&large).len(), "nothing was split");
    Ok(())
}

#[test]
fn pyroscope_takes_both_protocols() -> Result<()> {
    let folder = paths::scratch("pyroscope")?;
    let _busy = busy(&folder)?;
    let pyroscope = Pyroscope::start(&folder)?;
    for (name, protocol) in [("grpc", "grpc"), ("http", "http/protobuf")] {
        let agent = Setup::new(name, &folder)?.otlp(protocol, &pyroscope.url());
        let agent = agent.env("PROFILER_EXPORT_SERVICE_NAME", format!("all-{name}")).start()?;
        agent.pprof(6)?;
        let end = agent.stop()?.success()?;
        let line = end.log.lines().rev().find(|l| l.contains("final ledger")).context("no final line")?;
        let exported = serde_json::from_str::<serde_json::Value>(line)?["exported"].as_u64();
        let found = pyroscope.samples("all", &format!("{{service_name=\"all-{name}\"}}"), None)?;
        let services = pyroscope.label_values("service_name")?;
        figure(format!("{protocol}: exported {exported:?}, Pyroscope has {} of {services:?}", found.total()));
        ensure!(found.with("deep_frame") > 100 && Some(found.total()) == exported, "{}", found.heaviest(3));
    }
    let labels = pyroscope.label_values("process_executable_name")?;
    ensure!(labels.iter().any(|l| l == "deep"), "{labels:?}");
    Ok(())
}

#[test]
fn tls_with_a_token_and_an_own_ca_over_both_protocols() -> Result<()> {
    let folder = paths::scratch("tls")?;
    let _busy = busy(&folder)?;
    let collector = Collector::start(&folder)?;
    let token = format!("authorization=Bearer%20{TOKEN}");
    let ports = collector.ports;
    for (name, protocol, port) in [("grpc", "grpc", ports.tls_grpc), ("http", "http/protobuf", ports.tls_http)] {
        let before = collector.profiles("secure")?.len();
        let agent = Setup::new(name, &folder)?.otlp(protocol, &format!("https://127.0.0.1:{port}"));
        let agent = agent.env("OTEL_EXPORTER_OTLP_PROFILES_HEADERS", &token);
        let agent = agent.env("OTEL_EXPORTER_OTLP_CERTIFICATE", collector.ca()).start()?;
        // Both: what the agent before sent at its end may come late.
        wait_for("a profile over TLS", Duration::from_secs(30), || {
            let exported = agent.scrape()?.ledger()?.exported > 0.0;
            Ok((exported && collector.profiles("secure")?.len() > before).then_some(()))
        })
        .with_context(|| agent.running.errors())?;
        let ledger = agent.scrape()?.ledger()?;
        ledger.check()?;
        figure(format!("{protocol} over TLS with a token: {} samples exported", ledger.exported));
        agent.stop()?.success()?;
    }
    // Without the token, or without the CA, nothing arrives, and the agent goes on.
    // What the agents before sent at their end takes a moment to be in the file.
    std::thread::sleep(Duration::from_secs(2));
    for (name, with_ca) in [("no-token", true), ("no-ca", false)] {
        let before = collector.profiles("secure")?.len();
        let mut agent = Setup::new(name, &folder)?.otlp("grpc", &format!("https://127.0.0.1:{}", ports.tls_grpc));
        if with_ca {
            agent = agent.env("OTEL_EXPORTER_OTLP_CERTIFICATE", collector.ca());
        }
        let mut agent = agent.start()?;
        std::thread::sleep(Duration::from_secs(12));
        agent.running.still_runs()?;
        agent.scrape()?.ledger()?.check()?;
        ensure!(collector.profiles("secure")?.len() == before, "{name}: something arrived");
        figure(format!("{name}: nothing arrives"));
        agent.stop()?.success()?;
    }
    let secret = std::fs::read_to_string(folder.join("grpc.log"))?;
    ensure!(!secret.contains(TOKEN), "the log holds the token");
    Ok(())
}

#[test]
fn an_absent_collector_delays_nothing() -> Result<()> {
    let folder = paths::scratch("absent")?;
    let _busy = busy(&folder)?;
    let mut collector = Collector::prepare(&folder)?;
    let agent =
        Setup::new("agent", &folder)?.otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc)).start()?;
    agent.settle()?;
    let stacks = agent.pprof(6)?;
    figure(format!("without a Collector: {} samples in the pprof endpoint", stacks.total()));
    ensure!(stacks.with("deep_frame") > 100, "{}", stacks.heaviest(3));
    let ledger = agent.scrape()?.ledger()?;
    ledger.check()?;
    ensure!(ledger.exported == 0.0 && ledger.held > 0.0, "{ledger:?}");
    let warnings = agent.running.errors().lines().filter(|l| l.contains("WARN")).count();
    ensure!((1..20).contains(&warnings), "{warnings} warnings in the log: {}", agent.running.errors());
    collector.run()?;
    wait_for("what was held to arrive", Duration::from_secs(60), || {
        let ledger = agent.scrape()?.ledger()?;
        ledger.check()?;
        Ok((ledger.exported > stacks.total() as f64).then_some(()))
    })?;
    agent.stop()?.success()?;
    let profiles = collector.profiles("grpc")?;
    let early: u64 =
        e2e::agent::within(&profiles, stacks.from_unix_ns, stacks.to_unix_ns).iter().map(|p| p.stacks.total()).sum();
    figure(format!("after it came: {early} samples of that time, {} in all", otlp::merged(&profiles).total()));
    ensure!(early == stacks.total(), "{early} arrived of {}", stacks.total());
    Ok(())
}

#[test]
fn own_metrics_are_pushed_where_asked() -> Result<()> {
    let folder = paths::scratch("push-metrics")?;
    let collector = Collector::start(&folder)?;
    let agent = Setup::new("agent", &folder)?
        .otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc))
        .env("OTEL_METRICS_EXPORTER", "otlp")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "2000")
        .start()?;
    let wanted = ["profiler.ticks", "profiler.samples.taken", "profiler.samples.exported", "profiler.samples.held"];
    let names = wait_for("the metrics", Duration::from_secs(30), || {
        let names = collector.metric_names()?;
        Ok(wanted.iter().all(|w| names.iter().any(|n| n == w)).then_some(names))
    })?;
    figure(format!("{} instruments arrived", names.len()));
    agent.stop()?.success()?;
    Ok(())
}
