//! The port: metrics that Prometheus likes, health, and a flame graph in a real browser.
#![cfg(feature = "live")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::Setup;
use e2e::process::Start;
use e2e::truth::Truth;
use e2e::{browser, figure, page, paths};

#[test]
fn metrics_pass_the_lint() -> Result<()> {
    let folder = paths::scratch("lint")?;
    let agent = Setup::new("agent", &folder)?.otlp("grpc", "http://127.0.0.1:9").start()?;
    let text = agent.get("/metrics")?;
    let mut child = Command::new(paths::peer("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("an input")?.write_all(&text)?;
    let done = child.wait_with_output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success() && said.trim().is_empty(), "promtool check metrics: {}: {said}", done.status);
    let scrape = agent.scrape()?;
    figure(format!(
        "{} values of {} metrics",
        scrape.points.len(),
        String::from_utf8_lossy(&text).matches("# TYPE").count()
    ));
    for name in [
        "profiler_ticks_total",
        "profiler_samples_taken_total",
        "profiler_samples_exported_total",
        "profiler_samples_held",
        "profiler_samples_dropped_total",
        "profiler_samples_truncated_total",
        "profiler_frames_unnamed_total",
        "profiler_ring_written_bytes_total",
        "profiler_sideband_lost_total",
        "profiler_worker_restarts_total",
        "profiler_bpf_run_seconds_total",
        "profiler_self_cpu_seconds_total",
        "profiler_self_resident_memory_bytes",
        "profiler_self_kernel_memory_bytes",
        "profiler_self_threads",
        "profiler_self_bpf_seconds_total",
        "profiler_unwind_walked_total",
        "profiler_unwind_bridged_total",
        "profiler_unwind_agreement_total",
        "profiler_build_info",
    ] {
        scrape.sum(name)?;
    }
    for path in ["/healthz", "/readyz"] {
        ensure!(agent.status(path)? == 200, "{path}");
    }
    ensure!(agent.status("/nothing")? == 404, "an unknown path");
    ensure!(agent.status("/debug/pprof/profile?seconds=0")? == 400, "seconds=0");
    ensure!(agent.status("/debug/pprof/profile?seconds=100000")? == 400, "seconds=100000");
    agent.stop()?.success()?;
    Ok(())
}

#[test]
fn the_page_shows_boxes_as_wide_as_their_share() -> Result<()> {
    let folder = paths::scratch("page")?;
    let truth = folder.join("split.truth").display().to_string();
    let split = Start::new("split", paths::workload("split")?, &folder).args([&truth, "75", "120"]).start()?;
    let odd = folder.join("<img src=x onerror=document.title='bad'>");
    std::fs::copy(paths::workload("deep")?, &odd)?;
    let odd = Start::new("odd", &odd, &folder).args(["120"]).start()?;
    let agent = Setup::new("agent", &folder)?.start()?;
    let stacks = agent.pprof(20)?;
    let shown = page::stacks(&agent, stacks.from_unix_ns, stacks.to_unix_ns)?;
    ensure!(shown.total() == stacks.total(), "the page counts {}, the file {}", shown.total(), stacks.total());
    let dom = browser::elements(&folder, "page", &agent.url("/"), Duration::from_secs(8))?;
    browser::picture(&folder, "page", &agent.url("/"), Duration::from_secs(8))?;
    ensure!(!dom.contains("<title>bad") && !dom.contains("<img src=\"x\""), "a target's name became markup");
    let boxes = boxes(&dom);
    let root = boxes.iter().find(|b| b.kind == "everything").context("no box of the root")?;
    figure(format!("{} boxes, {} samples", boxes.len(), root.samples));
    ensure!(
        boxes.len() > 60 && root.samples >= stacks.total() as f64,
        "{} boxes, {} samples",
        boxes.len(),
        root.samples
    );
    for one in &boxes {
        let share = 100.0 * one.samples / root.samples;
        ensure!((one.width - share).abs() < 0.01, "{}: {} % wide, {share} % of the samples", one.name, one.width);
        ensure!((one.share * 100.0 - share).abs() < 0.01, "{}: says {}, is {share} %", one.name, one.share);
    }
    let samples = |name: &str| boxes.iter().filter(|b| b.name == name).map(|b| b.samples).sum::<f64>();
    let (alpha, beta) = (samples("work_alpha"), samples("work_beta"));
    let truth = Truth::read(&folder.join("split.truth"))?.percent(stacks.from_unix_ns, stacks.to_unix_ns)?;
    figure(format!(
        "on the page work_alpha has {:.2} % of {} samples, truth {truth:.2} %",
        100.0 * alpha / (alpha + beta),
        alpha + beta
    ));
    ensure!((100.0 * alpha / (alpha + beta) - truth).abs() <= 3.0, "alpha {alpha}, beta {beta}, truth {truth:.2} %");
    ensure!(boxes.iter().any(|b| b.name.contains("<img src=x")), "the odd name is not there");
    ensure!(boxes.iter().filter(|b| b.name == "deep_frame").count() >= 60, "the recursion is not there");
    drop((split, odd));
    agent.stop()?.success()?;
    Ok(())
}

/// A network namespace of the test's own, with an address that is not loopback between it and here.
struct Neighbour {
    name: String,
}

impl Neighbour {
    const HERE: &str = "10.213.77.1";

    fn new() -> Result<Self> {
        let name = format!("e2e{}", std::process::id());
        let made = Self { name: name.clone() };
        let (ours, theirs) = (format!("{name}a"), format!("{name}b"));
        ip(&["netns", "add", &name])?;
        ip(&["link", "add", &ours, "type", "veth", "peer", "name", &theirs, "netns", &name])?;
        ip(&["addr", "add", &format!("{}/30", Self::HERE), "dev", &ours])?;
        ip(&["link", "set", &ours, "up"])?;
        ip(&["-n", &name, "addr", "add", "10.213.77.2/30", "dev", &theirs])?;
        ip(&["-n", &name, "link", "set", &theirs, "up"])?;
        Ok(made)
    }

    /// The status that an address answers with, asked from over there.
    fn status(&self, url: &str) -> Result<String> {
        let words =
            ["netns", "exec", &self.name, "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url];
        let done = Command::new("ip").args(words).output()?;
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // The pair of interfaces goes with the namespace.
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let done = Command::new("ip").args(words).output()?;
    ensure!(done.status.success(), "ip {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn profiles_are_for_this_machine_only_unless_configured() -> Result<()> {
    let folder = paths::scratch("loopback")?;
    let neighbour = Neighbour::new()?;
    for (name, from, expected) in [("closed", "loopback", "403"), ("open", "any", "200")] {
        let agent = Setup::new(name, &folder)?;
        let agent = agent.listen("0.0.0.0").env("PROFILER_PROFILES_FROM", from).start()?;
        agent.pprof(1)?;
        for (path, expected) in [
            ("/metrics", "200"),
            ("/healthz", "200"),
            ("/", expected),
            ("/api/flame", expected),
            ("/api/profile.pb.gz?seconds=10", expected),
            ("/debug/pprof/profile?seconds=1", expected),
        ] {
            let url = format!("http://{}:{}{path}", Neighbour::HERE, agent.port);
            let status = neighbour.status(&url)?;
            figure(format!("profiles from {from}: {path} from another host: {status}"));
            ensure!(status == expected, "{path}: {status}");
        }
        ensure!(agent.status("/")? == 200, "the page from here");
        agent.stop()?.success()?;
    }
    Ok(())
}

/// A box of the flame graph, as the browser has it.
struct Box {
    name: String,
    kind: String,
    /// In percent of the graph.
    width: f64,
    samples: f64,
    share: f64,
}

fn boxes(dom: &str) -> Vec<Box> {
    let elements = dom.split("<div ").filter(|e| e.starts_with("class=\"frame"));
    elements
        .filter_map(|e| {
            let attribute = |name: &str| {
                let rest = &e[e.find(&format!(" {name}=\""))? + name.len() + 3..];
                let text = &rest[..rest.find('"')?];
                Some(text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
            };
            let style = attribute("style")?;
            let width = style
                .split(';')
                .find_map(|p| p.trim().strip_prefix("width:"))?
                .trim()
                .trim_end_matches('%')
                .parse()
                .ok()?;
            Some(Box {
                name: attribute("data-name")?,
                kind: attribute("data-kind")?,
                width,
                samples: attribute("data-samples")?.parse().ok()?,
                share: attribute("data-share")?.parse().ok()?,
            })
        })
        .collect()
}
