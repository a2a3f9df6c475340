//! The shares that we tell are the workload's own, over the whole chain, and every sink tells the same.
#![cfg(feature = "live")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::agent::{self, Agent, Setup, within};
use e2e::collector::Collector;
use e2e::otlp::{Received, merged};
use e2e::process::{Running, Start};
use e2e::pyroscope::Pyroscope;
use e2e::stacks::{Stacks, differences};
use e2e::truth::Truth;
use e2e::{figure, page, paths, pprof};

/// How far a share may be off, in percentage points.
const TOLERANCE: f64 = 3.0;

/// A workload whose two functions share its CPU time, and its log.
struct Split {
    process: Running,
    truth: std::path::PathBuf,
}

impl Split {
    fn start(program: &str, name: &str, percent: u32, seconds: u32, folder: &Path) -> Result<Self> {
        let truth = folder.join(format!("{name}.truth"));
        let words = [truth.display().to_string(), percent.to_string(), seconds.to_string(), percent.to_string()];
        let process = Start::new(name, paths::workload(program)?, folder).args(words).start()?;
        Ok(Self { process, truth })
    }

    fn truth(&self) -> Result<Truth> {
        Truth::read(&self.truth)
    }
}

fn near(what: &str, ours: f64, truth: f64, samples: u64) -> Result<()> {
    figure(format!("{what}: {ours:.2} % of {samples} samples, truth {truth:.2} %"));
    ensure!((ours - truth).abs() <= TOLERANCE, "{what}: {ours:.2} % where the workload says {truth:.2} %");
    ensure!(samples > 1000, "{what}: only {samples} samples");
    Ok(())
}

/// Kernel threads are one resource where processes are resources: `theirs` knows them as `[kernel]`.
fn same(what: &str, ours: &Stacks, theirs: &Stacks) -> Result<()> {
    let known: BTreeSet<&str> = theirs.rows.iter().map(|r| r.process.as_str()).collect();
    let mut ours = ours.clone();
    for row in &mut ours.rows {
        if !known.contains(row.process.as_str()) {
            "[kernel]".clone_into(&mut row.process);
        }
    }
    let (a, b) = (&ours, theirs);
    figure(format!("{what}: {} and {} samples, {} stacks", a.total(), b.total(), a.by_stack().len()));
    let differ = differences(a, b);
    ensure!(
        differ.is_empty() && a.total() > 0,
        "{what}: {} stacks differ: {:#?}",
        differ.len(),
        &differ[..differ.len().min(5)]
    );
    Ok(())
}

/// The same with every name's first 900 letters.
fn shortened(stacks: &Stacks) -> Stacks {
    let mut stacks = stacks.clone();
    for frame in stacks.rows.iter_mut().flat_map(|r| &mut r.frames) {
        *frame = frame.chars().take(900).collect();
    }
    stacks
}

/// What the Collector has of the windows that the pprof endpoint told of.
fn of_span(all: &[Received], span: &Stacks) -> Stacks {
    let inside = merged(&within(all, span.from_unix_ns, span.to_unix_ns));
    let seconds = |ns: u64| (ns as f64 - span.from_unix_ns as f64) / 1e9;
    let mut exports: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for one in all {
        *exports.entry((one.stacks.from_unix_ns, one.stacks.to_unix_ns)).or_default() += one.stacks.total();
    }
    let told = exports.iter().map(|((from, to), n)| format!("{:.3}..{:.3}: {n}", seconds(*from), seconds(*to)));
    figure(format!("exports, in seconds from the file's beginning: {}", told.collect::<Vec<_>>().join(", ")));
    inside
}

/// Alpha's share of both instances together.
fn together(a: &Split, b: &Split, from: u64, to: u64) -> Result<f64> {
    let ((a1, b1), (a2, b2)) = (a.truth()?.seconds(from, to)?, b.truth()?.seconds(from, to)?);
    Ok(100.0 * (a1 + a2) / (a1 + a2 + b1 + b2))
}

#[test]
fn every_sink_tells_the_truth_and_the_same() -> Result<()> {
    let folder = paths::scratch("shares")?;
    let pyroscope = Pyroscope::start(&folder)?;
    let collector = Collector::start(&folder)?;
    let half = Split::start("split", "half", 50, 100, &folder)?;
    let most = Split::start("split", "most", 90, 100, &folder)?;
    let local = |port: u16| format!("http://127.0.0.1:{port}");
    let grpc = Setup::new("agent-grpc", &folder)?.otlp("grpc", &local(collector.ports.grpc));
    let grpc = grpc.start()?;
    let http = Setup::new("agent-http", &folder)?.otlp("http/protobuf", &local(collector.ports.http));
    let http = http.env("PROFILER_EXPORT_PID", "true").start()?;
    let direct = Setup::new("agent-direct", &folder)?.otlp("grpc", &pyroscope.url()).start()?;
    let ask = |agent: &Agent| {
        agent.settle()?;
        agent.pprof(60)
    };
    let (from_grpc, from_http, from_direct) = std::thread::scope(|s| {
        let (a, b, c) = (s.spawn(|| ask(&grpc)), s.spawn(|| ask(&http)), s.spawn(|| ask(&direct)));
        let joined = |t: std::thread::ScopedJoinHandle<'_, Result<Stacks>>| {
            t.join().unwrap_or_else(|_| anyhow::bail!("a thread died"))
        };
        Ok::<_, anyhow::Error>((joined(a)?, joined(b)?, joined(c)?))
    })?;
    let page = page::stacks(&grpc, from_grpc.from_unix_ns, from_grpc.to_unix_ns)?;
    // What is still on its way goes out at the end.
    let ends = [grpc.stop()?, http.stop()?, direct.stop()?];
    for end in ends {
        end.success()?;
    }
    sleep(Duration::from_secs(1));
    for (name, stacks) in
        [("pprof endpoint, agent grpc", &from_grpc), ("agent http", &from_http), ("agent direct", &from_direct)]
    {
        let (from, to) = (stacks.from_unix_ns, stacks.to_unix_ns);
        figure(format!("{name}: {:.1} s", (to - from) as f64 / 1e9));
        for (split, which) in [(&half, "50:50"), (&most, "90:10")] {
            let ours = stacks.of_pid(split.process.pid());
            near(
                &format!("{name}, {which}"),
                ours.percent("work_alpha", "work_beta"),
                split.truth()?.percent(from, to)?,
                ours.total(),
            )?;
        }
    }
    // The Collector: over gRPC without pids, over HTTP with.
    let (all_grpc, all_http) = (collector.profiles("grpc")?, collector.profiles("http")?);
    let collected = of_span(&all_grpc, &from_grpc);
    let (from, to) = (from_grpc.from_unix_ns, from_grpc.to_unix_ns);
    let both = together(&half, &most, from, to)?;
    let ours = collected.of("split");
    near("Collector over gRPC, both", ours.percent("work_alpha", "work_beta"), both, ours.total())?;
    same("pprof endpoint and Collector over gRPC", &from_grpc, &collected)?;
    let collected_http = of_span(&all_http, &from_http);
    let (from, to) = (from_http.from_unix_ns, from_http.to_unix_ns);
    for (split, which) in [(&half, "50:50"), (&most, "90:10")] {
        let ours = collected_http.of_pid(split.process.pid());
        let what = format!("Collector over HTTP, {which}");
        near(&what, ours.percent("work_alpha", "work_beta"), split.truth()?.percent(from, to)?, ours.total())?;
    }
    same("pprof endpoint and Collector over HTTP", &from_http, &collected_http)?;
    // The page cuts very long names.
    same("pprof endpoint and page", &shortened(&from_grpc), &shortened(&page))?;
    // Pyroscope, asked for the same base windows.
    ensure!(
        pyroscope.types()?.iter().any(|t| t == "process_cpu:cpu:nanoseconds:cpu:nanoseconds"),
        "{:?}",
        pyroscope.types()?
    );
    let (from, to) = (from_direct.from_unix_ns, from_direct.to_unix_ns);
    let services = pyroscope.label_values("service_name")?;
    ensure!(services.iter().any(|s| s == "unknown_service:split"), "services: {services:?}");
    let mut found = Stacks::default();
    for service in &services {
        let process = service.trim_start_matches("unknown_service:");
        found.rows.extend(pyroscope.samples(process, &format!("{{service_name={service:?}}}"), Some((from, to)))?.rows);
    }
    let ours = found.of("split");
    near("Pyroscope, both", ours.percent("work_alpha", "work_beta"), together(&half, &most, from, to)?, ours.total())?;
    let each = [&half, &most].map(|split| from_direct.of_pid(split.process.pid()).total());
    figure(format!("two instances of one executable: {each:?}, Pyroscope has {}", ours.total()));
    ensure!(each.iter().sum::<u64>() == ours.total(), "{each:?} are not {}", ours.total());
    same("pprof endpoint and Pyroscope", &from_direct, &found)?;
    Ok(())
}

#[test]
fn a_recorded_file_tells_the_truth_of_rust_and_go() -> Result<()> {
    let folder = paths::scratch("languages")?;
    let rust = Split::start("split_rust", "rust", 90, 90, &folder)?;
    let go = Split::start("split_go", "go", 50, 90, &folder)?;
    let profile = agent::record("record", &folder, ["--duration", "60s"])?;
    let stacks = pprof::stacks(&profile)?;
    let (from, to) = (stacks.from_unix_ns, stacks.to_unix_ns);
    let ours = stacks.of_pid(rust.process.pid());
    let (alpha, beta) = ("Spinner<split::Alpha>", "Spinner<split::Beta>");
    ensure!(ours.with(alpha) > 0, "no demangled generic: {}", ours.heaviest(3));
    near("Rust, 90:10", ours.percent(alpha, beta), rust.truth()?.percent(from, to)?, ours.total())?;
    let ours = stacks.of_pid(go.process.pid());
    near("Go, 50:50", ours.percent("main.workAlpha", "main.workBeta"), go.truth()?.percent(from, to)?, ours.total())?;
    Ok(())
}
