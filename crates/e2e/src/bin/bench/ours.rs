//! Our own side: how it is started, what it cost, and what it says of itself.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use e2e::agent::{Agent, Setup};
use e2e::collector::Collector;
use e2e::cost::Cost;
use e2e::scrape::Scrape;

use crate::plan::Plan;

/// Samples that the kernel walked by tables.
pub(crate) const WALKED: &str = "profiler_unwind_walked_total";
/// User frames of these.
pub(crate) const WALKED_FRAMES: &str = "profiler_unwind_frames_total";
/// As often as Prometheus reads metrics when nobody says otherwise.
const SCRAPED: Duration = Duration::from_secs(15);

/// The agent without exports. What it keeps on disk is in the folder, and goes with that.
pub(crate) fn plain(name: &str, folder: &Path) -> Result<Setup> {
    Ok(Setup::new(name, folder)?.env("PROFILER_UNWIND_CACHE", folder.join("cache")))
}

/// The agent with all exports at their usual intervals: profiles and metrics to the Collector, metrics to be scraped, the page.
pub(crate) fn full(name: &str, folder: &Path, collector: &Collector) -> Result<Setup> {
    Ok(plain(name, folder)?
        .otlp("grpc", &format!("http://127.0.0.1:{}", collector.ports.grpc))
        .env("PROFILER_EXPORT_INTERVAL", "15s")
        .env("OTEL_METRICS_EXPORTER", "prometheus,otlp"))
}

/// Agent and worker so far.
pub(crate) fn both(agent: &Agent) -> Result<(Cost, Cost)> {
    let worker = agent.worker()?;
    Ok((Cost::of(agent.running.pid())?, Cost::of(worker).context("the worker was replaced while it was measured")?))
}

/// Waits, and reads the metrics as often as Prometheus would.
pub(crate) fn scraped_for(agent: &Agent, lasting: Duration) -> Result<()> {
    let end = Instant::now() + lasting;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left <= SCRAPED {
            sleep(left);
            return Ok(());
        }
        sleep(SCRAPED);
        agent.scrape()?;
    }
}

/// One run of the agent, after its warm-up.
pub(crate) struct Ours {
    /// The agent's own process.
    pub(crate) agent: Cost,
    /// Its worker.
    pub(crate) worker: Cost,
    /// Samples taken.
    pub(crate) samples: f64,
    /// Ticks that a filter refused.
    pub(crate) filtered: f64,
    /// Seconds inside the eBPF program, all ticks.
    pub(crate) bpf_seconds: f64,
    /// Bytes through the ring buffer.
    pub(crate) ring_bytes: f64,
    /// Ticks that the kernel did not deliver, in percent.
    pub(crate) missed: f64,
}

impl Ours {
    /// Starts an agent, lets it warm up, measures it, stops it. `marked` is called when measuring begins and when it ends.
    pub(crate) fn measure(setup: Setup, plan: &Plan, mut marked: impl FnMut() -> Result<()>) -> Result<Self> {
        let agent: Agent = setup.start()?;
        sleep(plan.warm_up);
        let ours = Self::of(&agent, plan.measured, &mut marked)?;
        agent.stop()?.success()?;
        Ok(ours)
    }

    /// Measures an agent that runs.
    pub(crate) fn of(agent: &Agent, lasting: Duration, mut marked: impl FnMut() -> Result<()>) -> Result<Self> {
        let (scrape, at) = (agent.scrape()?, both(agent)?);
        marked()?;
        scraped_for(agent, lasting)?;
        marked()?;
        let end = both(agent)?;
        let later = agent.scrape()?;
        let grown = |name: &str| Ok::<f64, anyhow::Error>(later.sum(name)? - scrape.sum(name)?);
        let state = |scrape: &Scrape| scrape.with("profiler_ticks_total", "state", "filtered");
        Ok(Self {
            agent: end.0.since(&at.0),
            worker: end.1.since(&at.1),
            samples: grown("profiler_samples_taken_total")?,
            filtered: state(&later) - state(&scrape),
            bpf_seconds: grown("profiler_bpf_run_seconds_total")?,
            ring_bytes: grown("profiler_ring_written_bytes_total")?,
            missed: 100.0 * later.ledger()?.missed_share(&scrape.ledger()?),
        })
    }

    /// Agent and worker.
    pub(crate) fn all(&self) -> Cost {
        self.agent.and(&self.worker)
    }

    /// Nanoseconds inside the eBPF program for each tick that found a CPU busy.
    pub(crate) fn bpf_ns(&self) -> f64 {
        self.bpf_seconds * 1e9 / (self.samples + self.filtered).max(1.0)
    }
}
