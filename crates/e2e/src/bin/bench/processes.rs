//! Points 2 and 3 with many processes on the machine: CPU time of the start, with the disk's cache of tables cold and warm, and memory.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::agent::Agent;
use e2e::bpf::Whose;
use e2e::collector::Collector;
use e2e::cost::{Cost, cpu_seconds, proportional_mb};

use crate::line::{Figure, Goal, Line};
use crate::page::Part;
use crate::plan::Plan;
use crate::theirs::Theirs;
use crate::{Bench, crowd, load, ours};

/// Processes on the machine besides what it runs anyway.
const PROCESSES: usize = 200;
const START: &str = "2, start-up";
const WARM_GOAL_S: f64 = 0.3;
const COLD_GOAL_S: f64 = 1.0;
const RSS_GOAL_MB: f64 = 40.0;
const RSS_FLOOR_MB: f64 = 64.0;

/// What a profiler's first seconds and its steady state took.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// CPU seconds until the start-up counts as over.
    first: f64,
    /// CPU seconds for one second, later.
    rate: f64,
    /// Resident memory when the start-up is over, and the most until then.
    early_mb: f64,
    /// In the steady state.
    rss: Cost,
    proportional_mb: f64,
    /// Maps, in MB, and their number.
    maps: (f64, u64),
}

impl Figures {
    /// The start alone: what the first seconds took above what so many seconds take later.
    fn start_up(&self, plan: &Plan, rate: f64) -> f64 {
        (self.first - rate * plan.start_up.as_secs_f64()).max(0.0)
    }
}

/// Measures.
pub(crate) fn section(bench: &Bench) -> Result<Part> {
    let (plan, folder) = (&bench.plan, bench.folder("processes")?);
    let collector = Collector::start(&folder)?;
    let crowd = crowd::mixed(PROCESSES, &folder)?;
    let load = load::mixture(&folder)?;
    // Interpreters start first.
    sleep(plan.warm_up.min(Duration::from_secs(10)));
    let kept = folder.join("cache");
    let _ = fs::remove_dir_all(&kept);
    let cold = of_ours("agent-cold", plan, &folder, &collector, false)?;
    let cached = fs::read_dir(&kept).map_or(0, Iterator::count);
    let warm = of_ours("agent-warm", plan, &folder, &collector, true)?;
    let theirs = match &bench.otel_profiler {
        Some(program) => Some(of_theirs(program, plan, &folder, &collector)?),
        None => None,
    };
    let processes =
        fs::read_dir("/proc")?.flatten().filter(|e| e.file_name().as_encoded_bytes()[0].is_ascii_digit()).count();
    drop((load, crowd));
    let with = |ours: f64, theirs: Option<f64>, decimals| Figure { ours, theirs, decimals };
    let start = theirs.map(|theirs| theirs.start_up(plan, theirs.rate));
    let (rss, their_rss) = (warm.rss.rss_mb, theirs.map(|theirs| theirs.rss.rss_mb));
    let what = |how: &str| format!("CPU s of the start-up, {PROCESSES} processes, {how} cache");
    let lines = vec![
        Line::judged(
            START,
            what("warm"),
            with(warm.start_up(plan, warm.rate), None, 2),
            Some(Goal::Most(WARM_GOAL_S)),
            None,
        ),
        Line::judged(
            START,
            what("cold"),
            with(cold.start_up(plan, warm.rate), start, 2),
            Some(Goal::Most(COLD_GOAL_S)),
            None,
        ),
        Line::judged(
            "3",
            format!("RSS MB, agent and worker, {PROCESSES} processes"),
            with(rss, their_rss, 1),
            Some(Goal::Most(RSS_GOAL_MB)),
            Some(RSS_FLOOR_MB),
        ),
        Line::stated(
            "3",
            "RSS MB at the end of the start-up",
            with(cold.early_mb, theirs.map(|theirs| theirs.early_mb), 1),
        ),
        Line::stated("3", "kernel memory of all maps, MB", with(warm.maps.0, theirs.map(|theirs| theirs.maps.0), 1)),
    ];
    let mut text = String::new();
    writeln!(
        text,
        "{processes} processes on the machine, {PROCESSES} of them ours to measure with (node, Perl, shells and Python with many \
         libraries, each awake once a second), all CPUs saturated, 99 Hz, all exports on. Start-up: CPU time of the first {} s, less what so many \
         seconds take in the steady state, which is measured for {} s after {} s of warm-up. The cold cache of tables is an empty \
         folder ({cached} files were in it afterwards); the files themselves are in the page cache both times. Memory is read at the \
         end of all that.\n",
        plan.start_up.as_secs(),
        plan.measured.as_secs(),
        plan.warm_up.as_secs(),
    )?;
    writeln!(
        text,
        "| what | first {} s: CPU s | then % of one CPU | start-up: CPU s | RSS MB then | RSS MB later | anonymous MB | proportional MB | maps | maps MB |",
        plan.start_up.as_secs()
    )?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let mut row = |name: &str, of: &Figures, rate: f64, steady: bool| {
        let later = |value: f64| if steady { format!("{value:.1}") } else { String::new() };
        writeln!(
            text,
            "| {name} | {:.3} | {} | {:.3} | {:.1} | {} | {} | {} | {} | {} |",
            of.first,
            if steady { format!("{:.2}", 100.0 * rate) } else { String::new() },
            of.start_up(plan, rate),
            of.early_mb,
            later(of.rss.rss_mb),
            later(of.rss.anonymous_mb),
            later(of.proportional_mb),
            if steady { of.maps.1.to_string() } else { String::new() },
            later(of.maps.0),
        )
    };
    row("profiler, cold", &cold, warm.rate, false)?;
    row("profiler, warm", &warm, warm.rate, true)?;
    if let Some(theirs) = &theirs {
        row("OpenTelemetry eBPF profiler", theirs, theirs.rate, true)?;
    }
    Ok(Part { lines, details: text })
}

fn of_ours(name: &str, plan: &Plan, folder: &Path, collector: &Collector, steady: bool) -> Result<Figures> {
    let begun = Instant::now();
    let agent: Agent = ours::full(name, folder, collector)?.start()?;
    sleep(plan.start_up.saturating_sub(begun.elapsed()));
    let (first, worker) = ours::both(&agent)?;
    let first = first.and(&worker);
    let mut figures = Figures { first: first.cpu, early_mb: first.rss_mb, ..Figures::default() };
    if steady {
        sleep(plan.warm_up);
        let (early, at) = (ours::both(&agent)?, Instant::now());
        ours::scraped_for(&agent, plan.measured)?;
        let (late, lasted) = (ours::both(&agent)?, at.elapsed());
        let grown = late.0.since(&early.0).and(&late.1.since(&early.1));
        figures.rate = grown.cpu / lasted.as_secs_f64();
        figures.rss = grown;
        figures.proportional_mb = proportional_mb(agent.running.pid())? + proportional_mb(agent.worker()?)?;
        let (bytes, count) = Whose::Process(agent.running.pid()).map_bytes()?;
        figures.maps = (bytes / 1e6, count);
    }
    agent.stop()?.success()?;
    Ok(figures)
}

fn of_theirs(program: &Path, plan: &Plan, folder: &Path, collector: &Collector) -> Result<Figures> {
    let begun = Instant::now();
    let them = Theirs::start(program, e2e::agent::RATE, collector.ports.grpc, folder)?;
    sleep(plan.start_up.saturating_sub(begun.elapsed()));
    let first = Cost::of(them.pid())?;
    sleep(plan.warm_up);
    let (early, at) = (cpu_seconds(them.pid())?, Instant::now());
    sleep(plan.measured);
    let rss = Cost::of(them.pid()).context("the OpenTelemetry profiler ended")?;
    let (bytes, count) = them.loaded.map_bytes()?;
    let figures = Figures {
        first: first.cpu,
        rate: (rss.cpu - early) / at.elapsed().as_secs_f64(),
        early_mb: first.rss_mb,
        rss,
        proportional_mb: proportional_mb(them.pid())?,
        maps: (bytes / 1e6, count),
    };
    them.stop()?;
    Ok(figures)
}
