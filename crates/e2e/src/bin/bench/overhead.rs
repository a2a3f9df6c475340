//! Point 2, the steady state: CPU time of the whole agent with all CPUs busy and all exports on; perf and the other profiler under the
//! same load; and what excluding a saturating cgroup saves.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::RATE;
use e2e::collector::Collector;
use e2e::cost::{Cost, Status};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

use crate::line::{Figure, Goal, Line};
use crate::ours::{self, Ours};
use crate::page::Part;
use crate::plan::Plan;
use crate::theirs::Theirs;
use crate::{Bench, filtered, load};

/// Percent of one CPU, agent and worker.
const CPU_GOAL: f64 = 0.3;
const CPU_FLOOR: f64 = 0.6;
/// perf script may take so long.
const LONGEST: Duration = Duration::from_secs(900);

/// Measures.
pub(crate) fn section(bench: &Bench) -> Result<Part> {
    let (plan, folder) = (&bench.plan, bench.folder("overhead")?);
    let collector = Collector::start(&folder)?;
    let load = load::mixture(&folder)?;
    let ours = Ours::measure(ours::full("agent", &folder, &collector)?, plan, || Ok(()))?;
    let mut others = Vec::new();
    let mut theirs = None;
    if let Some(program) = &bench.otel_profiler {
        let them = Theirs::start(program, RATE, collector.ports.grpc, &folder)?;
        sleep(plan.warm_up);
        let before = Cost::of(them.pid())?;
        sleep(plan.measured);
        let cost = Cost::of(them.pid())?.since(&before);
        them.stop()?;
        others.push(("OpenTelemetry eBPF profiler", cost));
        theirs = Some(share(&cost, plan));
    }
    others.push(("perf record -a -g", perf(&["-g"], "perf-g", plan, &folder)?));
    let recorded = perf(&["--call-graph", "dwarf"], "perf-dwarf", plan, &folder)?;
    others.push(("perf record -a --call-graph dwarf", recorded));
    let script = script("perf-dwarf", &folder)?;
    others.push(("perf script of that", script));
    drop(load);
    drop(collector);
    let filtered = filtered::report(plan, &folder)?;
    let figure = |cost: &Cost, theirs| Figure { ours: share(cost, plan), theirs, decimals: 2 };
    let all = ours.all();
    let mut lines = vec![Line::judged(
        "2",
        "% of one CPU, agent and worker, all CPUs saturated",
        figure(&all, theirs),
        Some(Goal::Most(CPU_GOAL)),
        Some(CPU_FLOOR),
    )];
    lines.push(Line::stated("2", "of that, the worker", figure(&ours.worker, None)));
    lines.push(Line::judged(
        "2",
        "% of one CPU, against perf record and perf script",
        Figure { ours: share(&all, plan), theirs: None, decimals: 2 },
        None,
        Some(share(&recorded.and(&script), plan)),
    ));
    let missed = Figure { ours: (100.0 - filtered.filtered).max(0.0), theirs: None, decimals: 1 };
    let what = "ticks of an excluded cgroup that were not filtered, %";
    lines.push(Line::judged("2", what, missed, None, Some(filtered::MOST_UNFILTERED_PERCENT)));
    let mut text = details(plan, &ours, &others)?;
    text.push_str(&filtered.text);
    Ok(Part { lines, details: text })
}

/// Percent of one CPU.
fn share(cost: &Cost, plan: &Plan) -> f64 {
    100.0 * cost.cpu / plan.measured.as_secs_f64()
}

/// Runs a command to its end; what it and its children cost.
fn cost(command: &mut Command) -> Result<Cost> {
    let before = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let (start, mut rss_mb) = (Instant::now(), 0.0_f64);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        rss_mb = rss_mb.max(Status::of(child.id()).and_then(|s| s.mb("VmHWM:")).unwrap_or(0.0));
        if start.elapsed() > LONGEST {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("{command:?} takes longer than {LONGEST:?}");
        }
        sleep(Duration::from_millis(100));
    };
    ensure!(status.success(), "{command:?}: {status}");
    let after = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |t: nix::sys::time::TimeVal| t.num_microseconds() as f64 / 1e6;
    let user = seconds(after.user_time()) - seconds(before.user_time());
    let system = seconds(after.system_time()) - seconds(before.system_time());
    Ok(Cost { cpu: user + system, user, rss_mb, anonymous_mb: 0.0 })
}

/// perf has no state to warm up: it is measured from start to end, as one uses it.
fn perf(words: &[&str], name: &str, plan: &Plan, folder: &Path) -> Result<Cost> {
    let mut command = Command::new("perf");
    command.args(["record", "-q", "-a", "-e", "cpu-clock", "-F"]).arg(RATE.to_string()).args(words);
    command.args(["-o", &format!("{name}.data"), "--", "sleep"]).arg(plan.measured.as_secs().to_string());
    cost(command.current_dir(folder)).context("perf record")
}

fn script(name: &str, folder: &Path) -> Result<Cost> {
    let mut command = Command::new("perf");
    command.args(["script", "--no-inline", "-i", &format!("{name}.data")]);
    cost(command.current_dir(folder)).context("perf script")
}

fn details(plan: &Plan, ours: &Ours, others: &[(&str, Cost)]) -> Result<String> {
    let all = ours.all();
    let mut text = String::new();
    writeln!(
        text,
        "{RATE} Hz; {} s after {} s of warm-up (perf: {0} s from its start). Ours pushes profiles and metrics to a Collector every 15 s and \
         60 s, is scraped every 15 s and keeps its page; theirs pushes profiles every 5 s. User and system are divided by the kernel's ticks.\n",
        plan.measured.as_secs(),
        plan.warm_up.as_secs()
    )?;
    writeln!(text, "| what | user s | system s | CPU s | % of one CPU | RSS MB | CPU against ours |")?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let mut row = |name: &str, cost: &Cost| {
        let (share, ratio) = (share(cost, plan), cost.cpu / all.cpu.max(0.001));
        let Cost { cpu, user, rss_mb, .. } = cost;
        writeln!(
            text,
            "| {name} | {user:.2} | {:.2} | {cpu:.3} | {share:.2} | {rss_mb:.0} | {ratio:.2} |",
            cost.system()
        )
    };
    row("profiler: agent", &ours.agent)?;
    row("profiler: worker", &ours.worker)?;
    row("**profiler**", &all)?;
    for (name, cost) in others {
        row(name, cost)?;
    }
    writeln!(text, "\nSamples: {:.0}; ticks missed: {:.3} %.", ours.samples, ours.missed)?;
    writeln!(
        text,
        "Inside the eBPF program: {:.0} ns per sample, {:.4} s of CPU time in all (on top of the table; perf's own time in the interrupt \
         is not in it either). Ring buffer: {:.0} bytes per sample.",
        ours.bpf_ns(),
        ours.bpf_seconds,
        ours.ring_bytes / ours.samples.max(1.0)
    )?;
    Ok(text)
}
