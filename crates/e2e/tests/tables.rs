//! Stacks that the kernel unwinds by tables: as whole, and the same, as those that are unwound from snapshots; for loads that
//! nobody made for a profiler, and for what is hard to unwind.
#![cfg(feature = "live")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{Agent, Setup};
use e2e::process::{Running, Start, free_port, wait_for};
use e2e::stacks::{Stacks, percent};
use e2e::walks::Walks;
use e2e::{figure, paths, stock};

/// Samples per second: enough to compare some thousand stacks of each load within seconds.
const HERTZ: &str = "499";
/// Before anything is counted: what a load executes has tables by then.
const WARM_UP: Duration = Duration::from_secs(4);
/// How long each load is looked at.
const SECONDS: u32 = 8;

/// Of all compared stacks, those that are the same both ways, at least, in percent.
const AGREEMENT: f64 = 99.5;
/// Of all stacks, those that reach their root, at least, in percent.
const ROOTS: f64 = 99.0;
/// The same where generated code has neither tables nor always frame pointers.
const ROOTS_OF_GENERATED: f64 = 95.0;
/// Of all samples with user registers, those that the kernel walked, at least, in percent.
const WALKED: f64 = 95.0;
/// Fewer samples than this say nothing.
const SAMPLES: u64 = 300;

/// Something that is sampled.
struct Load {
    name: &'static str,
    /// The beginnings of its processes' names.
    processes: Vec<&'static str>,
    /// Words for a shell in the test's folder; it goes on until it is stopped.
    text: String,
    roots: f64,
    /// Compared stacks, at least.
    compared: u64,
}

impl Load {
    fn new(name: &'static str, processes: &[&'static str], text: String) -> Self {
        Self { name, processes: processes.to_vec(), text, roots: ROOTS, compared: SAMPLES }
    }

    /// A program from `tests/workloads`, with the seconds that it takes.
    fn of(workload: &'static str) -> Result<Self> {
        Ok(Self::new(workload, &[workload], format!("exec {} 600", paths::workload(workload)?.display())))
    }
}

fn loads(folder: &Path) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for (name, processes, text) in stock::prepare(folder)? {
        let text = format!("while :; do ( {text} ); done");
        loads.push(Load::new(name, processes, text));
    }
    for name in ["thrower", "vdso", "deep_static", "deep_musl", "threads"] {
        loads.push(Load::of(name)?);
    }
    // Go and node keep frame pointers and little else: a comparison of guesses says nothing, and is not counted as one.
    loads.push(Load { compared: 0, ..Load::of("busy_go")? });
    let script = paths::source("js/busy.js");
    let node = Load::new("node", &["node"], format!("exec node {} 600", script.display()));
    loads.push(Load { roots: ROOTS_OF_GENERATED, compared: 0, ..node });
    loads.push(redis(folder)?);
    Ok(loads)
}

/// A server on a port of this machine, and what asks it. (Under the package's own name it would be started for the whole machine; the
/// file is the same.)
fn redis(folder: &Path) -> Result<Load> {
    let port = free_port()?;
    symlink("/usr/bin/redis-check-rdb", folder.join("redis-server"))?;
    let server = format!("./redis-server --port {port} --bind 127.0.0.1 --save '' --appendonly no");
    let asks =
        format!("redis-benchmark -h 127.0.0.1 -p {port} -q -l -P 8 -c 20 -r 10000 -t set,get,lpush,lrange_100,zadd");
    let text = format!("{server} & sleep 0.5; exec {asks}");
    Ok(Load::new("redis", &["redis-server", "redis-check-rdb"], text))
}

fn start(load: &Load, folder: &Path) -> Result<Running> {
    Start::new(load.name, "/bin/sh", folder).args(["-c", &load.text]).group().start()
}

/// An agent that samples what this test starts and nothing else, and compares every walked stack.
fn agent(folder: &Path) -> Result<Agent> {
    let own = std::process::id().to_string();
    Setup::new("agent", folder)?
        .env("PROFILER_FREQUENCY", HERTZ)
        .env("PROFILER_WINDOW", "1s")
        .env("PROFILER_SNAPSHOT_BYTES", "64KiB")
        .env("PROFILER_UNWIND_CHECK", "1/1")
        .env("PROFILER_LOG_LEVEL", "debug")
        .env("PROFILER_PID", own)
        .env("PROFILER_CHILDREN", "true")
        .start()
}

/// What one load came to.
fn judge(load: &Load, own: &Stacks, walks: &Walks) -> Vec<String> {
    let ends = own.ends();
    let due = own.count(|r| r.user);
    let root = ends.get("root").copied().unwrap_or(0);
    figure(format!(
        "{:<12} walked {:>5.1} % of {:>5} (else {:?}); agree {:>6.2} % of {:>5}, {} inconclusive, {} files taken off; roots {:>5.1} % of {due:>4}",
        load.name,
        walks.share(),
        walks.walked + walks.all_bridged(),
        walks.bridged,
        walks.agreement(),
        walks.compared(),
        walks.inconclusive,
        walks.taken_off,
        percent(root, due),
    ));
    if root != due {
        figure(format!("{:<12} ends: {ends:?}", ""));
    }
    let mut faults = Vec::new();
    let mut must = |holds: bool, what: String| {
        if !holds {
            faults.push(format!("{}: {what}", load.name));
        }
    };
    let lost = || own.only(|r| r.user && !r.root).heaviest(4);
    must(due >= SAMPLES, format!("only {due} samples: {}", own.heaviest(3)));
    must(percent(root, due) >= load.roots, format!("{root} of {due} reach their root: {ends:?}\n{}", lost()));
    must(walks.share() >= WALKED, format!("{:.1} % are walked: {walks:?}", walks.share()));
    must(walks.compared() >= load.compared, format!("only {} stacks were compared: {walks:?}", walks.compared()));
    must(
        walks.agreement() >= AGREEMENT || walks.compared() == 0,
        format!("{:.2} % agree, {} differ: {walks:?}", walks.agreement(), walks.differ),
    );
    must(walks.taken_off == 0, format!("{} files were taken off the tables", walks.taken_off));
    faults
}

#[test]
fn walked_stacks_are_whole_and_the_same_as_unwound_ones() -> Result<()> {
    let folder = paths::scratch("tables")?;
    let loads = loads(&folder)?;
    let mut agent = agent(&folder)?;
    let only = std::env::var("E2E_LOADS").unwrap_or_default();
    let mut faults = Vec::new();
    for load in loads.iter().filter(|l| only.is_empty() || only.split(',').any(|o| o == l.name)) {
        let told = agent.running.errors().len();
        let mut running = start(load, &folder)?;
        sleep(WARM_UP);
        running.still_runs()?;
        let before = Walks::of(&agent.scrape()?)?;
        let stacks = agent.pprof(SECONDS)?;
        let scrape = agent.scrape()?;
        scrape.ledger()?.check().with_context(|| load.name)?;
        running.still_runs()?;
        drop(running);
        let walks = Walks::of(&scrape)? - &before;
        let own = stacks.only(|r| load.processes.iter().any(|p| r.process.starts_with(p)));
        faults.extend(judge(load, &own, &walks));
        let log = agent.running.errors();
        for (cause, count) in differences(log.get(told..).unwrap_or_default()) {
            figure(format!("{:<12} differs {count} times: {cause}", ""));
        }
    }
    agent.running.still_runs()?;
    let end = agent.stop()?.success()?;
    ensure!(end.log.contains("exported"), "no final line");
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// What the agent's log tells of stacks that differed: the file whose table led on, and how often.
fn differences(log: &str) -> BTreeMap<String, u64> {
    let mut causes = BTreeMap::new();
    for line in log.lines().filter(|l| l.contains("a stack differs")) {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let text = |key: &str| line.get(key).map_or_else(|| "no file".to_owned(), ToString::to_string);
        *causes.entry(format!("{} at {}", text("file"), text("led_on"))).or_default() += 1;
    }
    causes
}

/// As containers of one image have them: other files, the same content.
#[test]
fn copies_of_a_program_have_one_table() -> Result<()> {
    let folder = paths::scratch("tables-copies")?;
    let agent = agent(&folder)?;
    let program = fs::canonicalize("/usr/bin/python3")?;
    let mut running = Vec::new();
    let mut took = Vec::new();
    for name in ["first", "second"] {
        let copy = folder.join(format!("python3-{name}"));
        fs::copy(&program, &copy)?;
        let before = agent.scrape()?.sum("profiler_unwind_tables_bytes")?;
        running.push(Start::new(name, &copy, &folder).args(["-c", "while True: sum(range(1000))"]).start()?);
        wait_for("a second in which every sample is walked", Duration::from_secs(30), || {
            let before = Walks::of(&agent.scrape()?)?;
            sleep(Duration::from_secs(1));
            let walks = Walks::of(&agent.scrape()?)? - &before;
            Ok((walks.walked > 50 && walks.all_bridged() == 0).then_some(()))
        })?;
        took.push(agent.scrape()?.sum("profiler_unwind_tables_bytes")? - before);
    }
    figure(format!("kernel memory of tables, bytes: the first copy {}, the second {} more", took[0], took[1]));
    ensure!(took[1] * 4.0 < took[0], "the second copy has a table of its own");
    agent.stop()?.success()?;
    Ok(())
}
