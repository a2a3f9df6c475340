//! Point 5: what the agent would cost on a machine that is not here, from what one sample, one process and one birth cost on this
//! one. Writes docs/scaling.md; the table has its last lines.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::agent::{Agent, Setup};
use e2e::bpf::{self, Whose};
use e2e::collector::Collector;
use e2e::scrape::Scrape;

use crate::costs::{Costs, HIGH_HZ, LOW_HZ, Threads};
use crate::large::{CPUS, Large, PROCESSES, RATES, page};
use crate::line::{Line, percent};
use crate::page::Part;
use crate::plan::Plan;
use crate::{Bench, crowd, load, ours, repository};

/// One run: what passed in a second.
#[derive(Clone, Debug, Default)]
struct Rates {
    samples: f64,
    cpu: Threads,
    /// Nanoseconds in the eBPF program for a sample.
    sample_ns: f64,
    /// Bytes through the ring for a sample.
    sample_bytes: f64,
}

/// Measures, computes, writes the page where asked to.
pub(crate) fn section(bench: &Bench) -> Result<Part> {
    let costs = measured(bench)?;
    let page = page(bench, &costs)?;
    if bench.write {
        let path = repository().join("docs/scaling.md");
        fs::write(&path, &page).with_context(|| path.display().to_string())?;
    }
    let large = Large::at(&costs, RATES[RATES.len() - 1]);
    let here = format!("at {CPUS} CPUs, {PROCESSES} processes, {} Hz", large.hz);
    let lines = vec![
        Line::words("5", format!("eBPF, of each CPU, {here}"), percent(large.kernel)),
        Line::words(
            "5",
            format!("user space, {here}: CPUs; of the machine; the busiest thread, of one CPU"),
            format!(
                "{:.2}; {}; {} ({})",
                large.user,
                percent(large.user / CPUS),
                percent(large.busiest.1),
                large.busiest.0
            ),
        ),
        Line::words(
            "5",
            format!("RSS MB; kernel memory of maps MB, {here}"),
            format!("{:.0}; {:.0}", large.rss_mb, large.maps_mb),
        ),
        Line::words("5", format!("ring buffer, {here}"), large.ring.clone()),
    ];
    let details =
        "By arithmetic and simulation from costs measured on this machine: [scaling.md](scaling.md).\n".to_owned();
    Ok(Part { lines, details })
}

fn measured(bench: &Bench) -> Result<Costs> {
    let _measured = bpf::measure_runs()?;
    let (plan, folder) = (&bench.plan, bench.folder("scaling")?);
    let collector = Collector::start(&folder)?;
    let full = |name: &str, hz: u32| {
        Ok::<_, anyhow::Error>(ours::full(name, &folder, &collector)?.env("PROFILER_FREQUENCY", hz.to_string()))
    };
    let busy = load::mixture(&folder)?;
    let low = steady(full("agent-low", LOW_HZ)?, plan)?;
    let high = steady(full("agent-high", HIGH_HZ)?, plan)?;
    let snapshots = steady(full("agent-snapshots", LOW_HZ)?.env("PROFILER_UNWIND_TABLES", "off"), plan)?;
    drop(busy);
    let (few, many) = if plan.quick { (50, 500) } else { (200, 3000) };
    let few_cost = processes(few, "agent-few", plan, &folder, full("agent-few", LOW_HZ)?)?;
    let many_cost = processes(many, "agent-many", plan, &folder, full("agent-many", LOW_HZ)?)?;
    let more = (many - few) as f64;
    let birth = births(if plan.quick { 200 } else { 2000 }, full("agent-births", LOW_HZ)?, plan)?;
    let between = high.samples - low.samples;
    ensure!(between > 0.0, "no more samples at {HIGH_HZ} Hz than at {LOW_HZ} Hz");
    let slope = |thread: &String| {
        let at = |rates: &Rates| rates.cpu.get(thread).copied().unwrap_or(0.0);
        ((at(&high) - at(&low)) / between * 1e9).max(0.0)
    };
    let sample: Threads = high.cpu.keys().map(|thread| (thread.clone(), slope(thread))).collect();
    let of_samples = sample.values().sum::<f64>() * low.samples / 1e9;
    // What lies below the noise is nothing, not less.
    let one_more = |few: f64, many: f64| ((many - few) / more).max(0.0);
    let process_mb = one_more(few_cost.rss_mb, many_cost.rss_mb);
    let process_maps_mb = one_more(few_cost.maps_mb, many_cost.maps_mb);
    Ok(Costs {
        fixed: (low.cpu.values().sum::<f64>() - of_samples).max(0.0),
        sample,
        cold_ns: low.sample_ns,
        warm_ns: high.sample_ns,
        walked_bytes: high.sample_bytes,
        snapshot_bytes: snapshots.sample_bytes,
        rss_mb: few_cost.rss_mb - process_mb * few as f64,
        process_mb,
        maps_mb: few_cost.maps_mb - process_maps_mb * few as f64,
        process_maps_mb,
        process_start: one_more(few_cost.start, many_cost.start),
        process_rate: one_more(few_cost.rate, many_cost.rate),
        birth,
    })
}

fn by_thread(early: &Scrape, late: &Scrape, seconds: f64) -> Threads {
    let at = |scrape: &Scrape| {
        let mut all = Threads::new();
        for point in scrape.all("profiler_self_cpu_seconds_total") {
            let label = |name: &str| point.labels.get(name).cloned().unwrap_or_default();
            let process = label("process");
            let name = if process == "worker" { process } else { label("thread") };
            *all.entry(name).or_insert(0.0) += point.value;
        }
        all
    };
    let before = at(early);
    at(late)
        .into_iter()
        .map(|(name, cpu)| {
            let old = before.get(&name).copied().unwrap_or(0.0);
            (name, (cpu - old) / seconds)
        })
        .collect()
}

/// An agent under a load that runs, after its warm-up.
fn steady(setup: Setup, plan: &Plan) -> Result<Rates> {
    let agent: Agent = setup.start()?;
    let loaded = Whose::Process(agent.running.pid());
    sleep(plan.warm_up);
    let (early, runs, at) = (agent.scrape()?, loaded.runs()?, Instant::now());
    sleep(plan.measured);
    let (late, ran, lasted) = (agent.scrape()?, loaded.runs()?.since(&runs), at.elapsed().as_secs_f64());
    let grown = |name: &str| Ok::<f64, anyhow::Error>(late.sum(name)? - early.sum(name)?);
    let samples = grown("profiler_samples_taken_total")?;
    ensure!(samples > 0.0, "no samples");
    let rates = Rates {
        samples: samples / lasted,
        cpu: by_thread(&early, &late, lasted),
        sample_ns: (ran.ns + ran.other_ns) / samples,
        sample_bytes: grown("profiler_ring_written_bytes_total")? / samples,
    };
    agent.stop()?.success()?;
    Ok(rates)
}

/// CPU seconds of agent and worker so far.
fn cpu_of(agent: &Agent) -> Result<f64> {
    let (agent, worker) = ours::both(agent)?;
    Ok(agent.cpu + worker.cpu)
}

/// What so many sleeping processes cost.
#[derive(Clone, Copy, Debug)]
struct Asleep {
    rss_mb: f64,
    maps_mb: f64,
    start: f64,
    rate: f64,
}

fn processes(count: usize, name: &str, plan: &Plan, folder: &Path, setup: Setup) -> Result<Asleep> {
    let crowd = crowd::asleep(count, folder).with_context(|| format!("{name}: {count} processes"))?;
    let begun = Instant::now();
    let agent = setup.start()?;
    sleep(plan.start_up.saturating_sub(begun.elapsed()));
    let start = cpu_of(&agent)?;
    sleep(plan.start_up);
    let (early, at) = (cpu_of(&agent)?, Instant::now());
    sleep(plan.measured / 2);
    let rate = (cpu_of(&agent)? - early) / at.elapsed().as_secs_f64();
    let (first, worker) = ours::both(&agent)?;
    let maps_mb = Whose::Process(agent.running.pid()).map_bytes()?.0 / 1e6;
    let rss_mb = first.and(&worker).rss_mb;
    agent.stop()?.success()?;
    drop(crowd);
    Ok(Asleep { rss_mb, maps_mb, start, rate })
}

/// CPU seconds of the agent for one process that is born, executes a file that is known, and ends.
fn births(count: u32, setup: Setup, plan: &Plan) -> Result<f64> {
    let agent = setup.start()?;
    sleep(plan.start_up);
    let (early, at) = (cpu_of(&agent)?, Instant::now());
    sleep(plan.measured / 4);
    let idle = (cpu_of(&agent)? - early) / at.elapsed().as_secs_f64();
    let (early, at) = (cpu_of(&agent)?, Instant::now());
    for _ in 0..count {
        let status = Command::new("/bin/true").stdin(Stdio::null()).status()?;
        ensure!(status.success(), "/bin/true: {status}");
    }
    // Their records are worked off.
    sleep(Duration::from_secs(2));
    let cost = (cpu_of(&agent)? - early - idle * at.elapsed().as_secs_f64()) / f64::from(count);
    agent.stop()?.success()?;
    Ok(cost.max(0.0))
}
