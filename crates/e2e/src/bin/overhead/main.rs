//! What profiling costs: our agent, and perf beside it, under the same load on the same machine in the same run; and what excluding
//! a saturating cgroup saves.
//!
//! `cargo xtask bench overhead` builds what it needs and starts it. **Out**: a table on standard output; with `--write`,
//! `docs/benchmarks.md`; an exit code that is not 0 where a floor is broken. **Units**: CPU seconds, MB of resident memory.

mod cost;
mod filtered;
mod ours;
mod spin;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cost::{Cost, status_mb};
use e2e::agent::{RATE, Setup};
use e2e::process::{Running, Start};
use e2e::{figure, paths};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use ours::Ours;

/// Agent and worker together may hold so much.
const MOST_RSS_MB: f64 = 150.0;
/// perf script may take so long.
const LONGEST: Duration = Duration::from_secs(900);

/// How long the phases are.
pub(crate) struct Plan {
    /// What passes before anything is counted.
    pub(crate) warm_up: Duration,
    /// What is counted.
    pub(crate) measured: Duration,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [word, file] = words.as_slice()
        && word == spin::WORD
    {
        return match spin::run(Path::new(file)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let has = |word: &str| words.iter().any(|w| w == word);
    let seconds = if has("--quick") { (5, 15) } else { (30, 60) };
    let plan = Plan { warm_up: Duration::from_secs(seconds.0), measured: Duration::from_secs(seconds.1) };
    match run(&plan, has("--write")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            figure(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan, write: bool) -> Result<()> {
    let folder = paths::scratch("bench-overhead")?;
    let load = load(&folder)?;
    let ours = Ours::measure(Setup::new("agent", &folder)?, plan, || Ok(()))?;
    let plain = perf(&["-g"], "perf-g", plan, &folder)?;
    let dwarf = perf(&["--call-graph", "dwarf"], "perf-dwarf", plan, &folder)?;
    let script = script("perf-dwarf", &folder)?;
    drop(load);
    let mut report = report(
        plan,
        &ours,
        &[("perf record -a -g", plain), ("perf record -a --call-graph dwarf", dwarf), ("perf script of that", script)],
    )?;
    let filtered = filtered::report(plan, &folder)?;
    report.push_str(&filtered.text);
    for line in report.lines() {
        figure(line);
    }
    if write {
        fs::write(repository().join("docs/benchmarks.md"), &report)?;
    }
    filtered.check()?;
    let (cpu, theirs) = (ours.all().cpu(), dwarf.and(&script).cpu());
    ensure!(cpu < theirs, "floor: {cpu:.2} CPU s are not less than perf's {theirs:.2}");
    let rss = ours.all().rss_mb;
    ensure!(rss < MOST_RSS_MB, "floor: {rss:.0} MB are not under {MOST_RSS_MB:.0}");
    Ok(())
}

fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Every CPU busy, with deep stacks, an interpreter, and code in Rust, by turns.
fn load(folder: &Path) -> Result<Vec<Running>> {
    let python =
        "import json\nd = {str(i): [i, {'k': i}] for i in range(2000)}\nwhile True: json.loads(json.dumps(d))\n";
    let truth = folder.join("rust.truth");
    let mut all = Vec::new();
    for i in 0..cpus() {
        let name = format!("load{i}");
        let start = match i % 3 {
            0 => Start::new(&name, paths::workload("deep")?, folder).args(["3600"]),
            1 => Start::new(&name, "/usr/bin/python3", folder).args(["-c", python]),
            _ => Start::new(&name, paths::workload("split_rust")?, folder).args([&truth]).args(["50", "3600"]),
        };
        all.push(start.start()?);
    }
    Ok(all)
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
        rss_mb = rss_mb.max(status_mb(child.id(), "VmHWM:").unwrap_or(0.0));
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
    Ok(Cost {
        user: seconds(after.user_time()) - seconds(before.user_time()),
        system: seconds(after.system_time()) - seconds(before.system_time()),
        rss_mb,
    })
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

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("CPU", |l| l.trim_start_matches([' ', '\t', ':']));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} x {model}, Linux {}", cpus(), kernel.trim())
}

fn report(plan: &Plan, ours: &Ours, others: &[(&str, Cost)]) -> Result<String> {
    let all = ours.all();
    let mut text = String::new();
    writeln!(text, "# Overhead\n")?;
    writeln!(text, "Made by `cargo xtask bench overhead --write`. {}; {RATE} Hz, all CPUs saturated;", machine())?;
    writeln!(
        text,
        "{} s after {} s of warm-up (perf: {0} s from its start).\n",
        plan.measured.as_secs(),
        plan.warm_up.as_secs()
    )?;
    writeln!(text, "| what | user s | system s | CPU s | % of one CPU | RSS MB | CPU against ours |")?;
    writeln!(text, "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")?;
    let mut row = |name: &str, cost: &Cost| {
        let share = 100.0 * cost.cpu() / plan.measured.as_secs_f64();
        let ratio = cost.cpu() / all.cpu().max(0.01);
        writeln!(
            text,
            "| {name} | {:.2} | {:.2} | {:.2} | {share:.2} | {:.0} | {ratio:.2} |",
            cost.user,
            cost.system,
            cost.cpu(),
            cost.rss_mb
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
        "Inside the eBPF program: {:.0} ns per sample, {:.4} s of CPU time in all (on top of the table; perf's",
        ours.bpf_ns(),
        ours.bpf_seconds
    )?;
    let ring_bytes = ours.ring_bytes / ours.samples.max(1.0);
    writeln!(text, "own time in the interrupt is not in it either). Ring buffer: {ring_bytes:.0} bytes per sample.")?;
    Ok(text)
}
