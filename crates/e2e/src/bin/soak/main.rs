//! Ten minutes, or more, of a compile farm: this workspace is built again and again, with thousands of short processes and large
//! compilers, while the agent runs with all exports on.
//!
//! `cargo xtask soak farm` builds what this needs and starts it. **In**: minutes, samples per second. **Out**: what was seen, on
//! standard output; an exit code that is not 0 where something did not stay true: the ledger at every scrape, memory flat after the
//! warm-up, no process published to the kernel that is dead. **Units**: seconds, MB. **Limits**: needs root.

mod farm;
mod watch;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{Agent, Setup};
use e2e::bpf::Whose;
use e2e::collector::Collector;
use e2e::{figure, paths};
use farm::Farm;
use watch::{Look, Watch};

/// Between two looks.
const EVERY: Duration = Duration::from_secs(5);
/// What the agent remembers on purpose, for the page and of processes that are gone, it forgets after this share of the time: within
/// the warm-up, so that what still grows then is a leak.
const KEPT_SHARE: u32 = 5;
/// After the farm has ended, the agent has so long to forget its processes.
const FORGETTING: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            figure(format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<()> {
    let [minutes, hz] = words else { anyhow::bail!("soak MINUTES HZ") };
    let lasting = Duration::from_secs(minutes.parse::<u64>()? * 60);
    let kept = format!("{}s", (lasting / KEPT_SHARE).as_secs().max(60));
    let folder = paths::scratch("soak-farm")?;
    let collector = Collector::start(&folder)?;
    let agent = Setup::new("agent", &folder)?
        .otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc))
        .env("OTEL_METRICS_EXPORTER", "prometheus,otlp")
        .env("PROFILER_UNWIND_CACHE", folder.join("cache"))
        .env("PROFILER_FREQUENCY", hz)
        .env("PROFILER_KEEP", &kept)
        .env("PROFILER_IDENTITY_KEEP", &kept)
        .start()?;
    let mut farm = Farm::start(&folder)?;
    let mut watch = Watch::default();
    let begun = Instant::now();
    while begun.elapsed() < lasting {
        sleep(EVERY);
        farm.check()?;
        let look = look(&agent, begun)?;
        watch.add(look);
    }
    let builds = farm.stop()?;
    figure(format!("{builds} builds in {} s", begun.elapsed().as_secs()));
    sleep(FORGETTING);
    let last = look(&agent, begun)?;
    // Processes of others end at every moment: who is dead at both looks was forgotten.
    sleep(EVERY);
    let left = look(&agent, begun)?.dead.intersection(&last.dead).count();
    let published = last.published;
    watch.add(last);
    for dropped in agent.scrape()?.all("profiler_samples_dropped_total").filter(|point| point.value > 0.0) {
        figure(format!("dropped: {:.0} {:?}", dropped.value, dropped.labels.get("reason")));
    }
    let end = agent.stop()?.success()?;
    drop(collector);
    for line in watch.report() {
        figure(line);
    }
    figure(format!("after the farm: {left} of {published:?} published processes are dead"));
    ensure!(!end.log.contains("panicked"), "a thread of the agent panicked; see {}", folder.display());
    ensure!(builds > 0, "no build ended in this time: more minutes are needed");
    let mut faults = watch.faults(lasting);
    if left > 0 {
        faults.push(format!("{left} dead processes are still published {FORGETTING:?} after the farm ended"));
    }
    ensure!(faults.is_empty(), "{}", faults.join("; "));
    Ok(())
}

/// Everything that is looked at, once.
fn look(agent: &Agent, begun: Instant) -> Result<Look> {
    let scrape = agent.scrape()?;
    let ledger = scrape.ledger()?.check().err().map(|error| format!("{error:#}"));
    let loaded = Whose::Process(agent.running.pid());
    let published = loaded.published().context("the map of processes")?;
    let dead = published.iter().flatten().filter(|(tgid, start_ns)| !watch::alive(*tgid, *start_ns)).copied().collect();
    let gauge = |name: &str| scrape.sum(name).unwrap_or(0.0);
    Ok(Look {
        at: begun.elapsed(),
        ledger,
        agent_mb: rss_mb(agent.running.pid())?,
        // It may be replaced at this very moment; that is counted below.
        worker_mb: agent.worker().and_then(rss_mb).unwrap_or(0.0),
        maps_mb: loaded.map_bytes()?.0 / 1e6,
        published: published.map(|all| all.len()),
        dead,
        processes: gauge("profiler_processes"),
        restarts: gauge("profiler_worker_restarts_total"),
        dropped: scrape.ledger()?.dropped,
        taken: scrape.ledger()?.taken,
        walked: gauge("profiler_unwind_walked_total"),
        evicted: gauge("profiler_unwind_files_left_total"),
        tables_mb: gauge("profiler_unwind_tables_bytes") / 1e6,
        held_mb: gauge("profiler_objects_tables_bytes") / 1e6,
    })
}

fn rss_mb(pid: u32) -> Result<f64> {
    e2e::cost::Status::of(pid)?.mb("VmRSS:")
}
